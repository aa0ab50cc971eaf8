//! The daemons' ports, by their defaults: free, or used by the daemon itself.

use std::{fs, path::Path};

use mesh_admin::ports;
use mesh_model::Protocol;

use super::{Check, Level, Row};

/// A port, and whose it is.
struct DaemonPort {
    check: Check,
    protocol: Protocol,
    number: u16,
    program: &'static str,
    /// What it means that another program has it.
    taken: Level,
    /// What to do then.
    remedy: &'static str,
}

const PORTS: [DaemonPort; 4] = [
    DaemonPort {
        check: Check::EtcdPort,
        protocol: Protocol::Tcp,
        number: 2379,
        program: "etcd",
        taken: Level::Failed,
        remedy: "have the cluster's etcd listen at another port, and name it: endpoints in cluster.yaml, --etcd-endpoint of the apiserver",
    },
    DaemonPort {
        check: Check::ProbePort,
        protocol: Protocol::Udp,
        number: ports::PROBE,
        program: "clustermesh-agent",
        // It tries again, and the kernel answers where it can.
        taken: Level::Warning,
        remedy: "stop that program, or start the agents of all nodes with another --probe-port",
    },
    DaemonPort {
        check: Check::AgentMetricsPort,
        protocol: Protocol::Tcp,
        number: ports::AGENT_METRICS,
        program: "clustermesh-agent",
        taken: Level::Failed,
        remedy: "start the agent with another --metrics-address",
    },
    DaemonPort {
        check: Check::ApiserverMetricsPort,
        protocol: Protocol::Tcp,
        number: ports::APISERVER_METRICS,
        program: "clustermesh-apiserver",
        taken: Level::Failed,
        remedy: "start the apiserver with another --metrics-address",
    },
];

/// Nothing is bound for it: a daemon that starts meanwhile would fail.
pub(super) fn rows() -> Vec<Row> {
    PORTS.iter().map(|port| port.row(port.holder())).collect()
}

/// The program that uses a port; `None` for one that cannot be seen from here.
type Holder = Option<(String, u32)>;

impl DaemonPort {
    /// Who uses it, if it is used.
    fn holder(&self) -> Option<Holder> {
        let kind = self.protocol.as_str().to_lowercase();
        let tables = [kind.clone(), format!("{kind}6")].map(|table| format!("/proc/net/{table}"));
        let mut texts = tables.iter().filter_map(|table| fs::read_to_string(table).ok());
        texts.find_map(|text| self.sockets(&text).first().copied()).map(holder_of)
    }

    /// The inodes of the sockets that wait at it, in the content of `/proc/net/tcp` or `udp` (proc_net(5)).
    fn sockets(&self, table: &str) -> Vec<u64> {
        // TCP_LISTEN; and TCP_CLOSE, which a UDP socket has that is not connected.
        let waits = if self.protocol == Protocol::Tcp { "0A" } else { "07" };
        let inode = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (_, port) = fields.get(1)?.rsplit_once(':')?;
            let is_it = u16::from_str_radix(port, 16) == Ok(self.number);
            (is_it && fields.get(3) == Some(&waits)).then(|| fields.get(9)?.parse().ok())?
        };
        table.lines().filter_map(inode).collect()
    }

    fn row(&self, holder: Option<Holder>) -> Row {
        let port = format!("{} {}", self.protocol, self.number);
        match holder {
            None => Row::ok(self.check, format!("{port} is free")),
            Some(Some((program, process))) => {
                let found = format!("{port} is used by {program} (process {process})");
                match program == self.program {
                    true => Row::ok(self.check, found),
                    false => {
                        Row { level: self.taken, ..Row::failed(self.check, found, self.remedy) }
                    }
                }
            }
            Some(None) => Row::warning(
                self.check,
                format!("{port} is used, by a program that cannot be seen from here"),
                "run this as root, outside of containers",
            ),
        }
    }
}

/// The process that has a socket.
fn holder_of(inode: u64) -> Holder {
    let socket = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let has_it = |process: &Path| {
        let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        let mut targets = files.filter_map(|file| fs::read_link(file.path()).ok());
        targets.any(|target| target.as_os_str() == socket.as_str())
    };
    let with_id =
        |entry: fs::DirEntry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()));
    let (process, path) =
        processes.filter_map(with_id).find(|(_, path): &(u32, _)| has_it(path))?;
    let command = fs::read_to_string(path.join("cmdline")).ok()?;
    let program = Path::new(command.split('\0').next()?).file_name()?;
    Some((program.to_string_lossy().into_owned(), process))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn port(protocol: Protocol, number: u16) -> DaemonPort {
        let [port, ..] = PORTS;
        DaemonPort { protocol, number, ..port }
    }

    #[test]
    fn who_waits_at_a_port_is_found() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:094B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0 100
   1: 0100007F:094B 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 222 1 0 20
   2: 00000000:2700 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 333 2 0 0
   3: 00000000000000000000000000000000:094B 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 444 1 0
   broken
";
        assert_eq!(port(Protocol::Tcp, 2379).sockets(table), [111, 444]);
        assert_eq!(port(Protocol::Udp, 9984).sockets(table), [333]);
        assert!(port(Protocol::Tcp, 9984).sockets(table).is_empty());
    }

    #[test]
    fn this_process_is_the_holder_of_its_sockets() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let datagrams = UdpSocket::bind("[::1]:0").unwrap();
        for (protocol, address) in [
            (Protocol::Tcp, listener.local_addr().unwrap()),
            (Protocol::Udp, datagrams.local_addr().unwrap()),
        ] {
            let (program, process) = port(protocol, address.port()).holder().unwrap().unwrap();
            assert_eq!(process, std::process::id());
            assert!(program.starts_with("clustermesh"), "{program}");
        }
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(port(Protocol::Tcp, address.port()).holder(), None);
    }

    #[test]
    fn a_port_may_be_used_by_its_own_daemon_alone() {
        let etcd = port(Protocol::Tcp, 2379);
        for (holder, level) in [
            (None, Level::Ok),
            (Some(Some(("etcd".into(), 7))), Level::Ok),
            (Some(Some(("nginx".into(), 7))), Level::Failed),
            (Some(None), Level::Warning),
        ] {
            let row = etcd.row(holder);
            assert_eq!(row.level, level, "{row:?}");
        }
    }
}
