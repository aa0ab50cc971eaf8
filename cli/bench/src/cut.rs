//! How long a cluster that becomes unreachable still gets new connections, from the beginning of the partition.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use mesh_lab::{ClusterState, Lab, printed_json};
use serde::Serialize;

use crate::{
    bench_lab::BenchLab,
    error::{BenchError, io},
    propagation::{PATIENCE, nanos, write},
    stats::Distribution,
};

/// The parameters of the benchmark.
#[derive(Clone, Copy, Debug)]
pub struct CutOptions {
    /// How often the cluster is made unreachable.
    pub rounds: u32,
}

/// The result of the benchmark.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionDetection {
    /// From just before the partition to the write that takes the cluster out of use.
    pub written: Distribution,
    /// To the beginning of the last connection to the cluster.
    pub avoided: Distribution,
    /// The duration of three probes, one every 100 ms: the least time to detect a partition that begins with a probe.
    pub three_probes_nanos: u64,
    /// The ratio of the median of `avoided` to three probes.
    pub ratio: f64,
    /// Connections attempted in all rounds, with those that were lost.
    pub connections: u64,
    /// Connections of them that failed.
    pub lost: u64,
}

/// The pause between two connections of the client, and the time that each may take.
const PAUSE: Duration = Duration::from_millis(5);
const DEADLINE: Duration = Duration::from_millis(500);
/// How long connections are observed after the cluster was taken out of use.
const AFTER: Duration = Duration::from_secs(2);
/// The interval of checks of the kernel's tables.
const LOOK: Duration = Duration::from_micros(500);
const THREE_PROBES: Duration = Duration::from_millis(300);

const ECHO: &str = include_str!("../../../deploy/examples/echo.yaml");
const CLIENT: &str = include_str!("../../../deploy/examples/client.yaml");

/// A client's report of a connection.
enum Report {
    Made,
    /// It was begun at this time, in nanoseconds since the epoch, and failed.
    Lost(u64),
}

/// Makes one of two clusters unreachable, again and again. Needs root.
pub fn cut(
    lab: &str,
    options: CutOptions,
    mut progress: impl FnMut(u64, u64),
) -> Result<PartitionDetection, BenchError> {
    let mut mesh = BenchLab::up(lab, 2, 2)?;
    let folder = mesh.cluster(0)?.directory.clone();
    for (name, text) in [("echo", ECHO), ("client", CLIENT)] {
        let file = folder.join(format!("{name}.yaml"));
        write(&file, text)?;
        let file = file.display().to_string();
        for cluster in ["a", "b"].iter().filter(|cluster| name == "echo" || **cluster == "b") {
            mesh.lab("apply", &["--cluster", cluster, "--file", &file])?;
        }
    }
    mesh.refresh()?;
    let reader = mesh.cluster(1)?.clone();
    let node = reader.pods.iter().find(|pod| pod.name == "client").map(|pod| pod.node.clone());
    let node = node.ok_or_else(|| BenchError::Unexpected("the lab has no client".into()))?;
    let dump = mesh.dump_of(&reader, &node)?;
    let mut result = CutSamples::default();
    for round in 0..options.rounds {
        progress(u64::from(round), u64::from(options.rounds));
        mesh.clustermesh(&["status", "--wait", "--allow-degraded"])?;
        mesh.lab("check-history", &["--wait"])?;
        let target = service_address(&mesh, &reader)?;
        let (mut client, reports) = mesh.client(target)?;
        // The first connection was made: from here on none should be lost.
        let ready = reports.recv_timeout(PATIENCE);
        ready.map_err(|_| BenchError::late("the client made no connection"))?;
        thread::sleep(Duration::from_millis(300));
        let (began, epoch) = (Instant::now(), unix_nanos());
        Lab::open(lab)?.cut(["a", "b"], None, None)?;
        let written = loop {
            if dump.cut().contains(&1) {
                break began.elapsed();
            }
            if began.elapsed() > PATIENCE {
                return Err(BenchError::late("the agent did not notice that cluster a is cut off"));
            }
            thread::sleep(LOOK);
        };
        thread::sleep(AFTER);
        let _ = client.kill();
        let _ = client.wait();
        result.take(written, epoch, reports.iter());
        Lab::open(lab)?.heal(None)?;
        // Agents are restarted, since they would take the repeated partitions for a flapping link.
        mesh.lab("stop", &["agent"])?;
        mesh.lab("start", &["agent"])?;
    }
    Ok(result.summed_up())
}

#[derive(Default)]
struct CutSamples {
    written: Vec<u64>,
    avoided: Vec<u64>,
    connections: u64,
    lost: u64,
}

impl CutSamples {
    fn take(&mut self, written: Duration, epoch: u64, reports: impl Iterator<Item = Report>) {
        let mut last = epoch;
        for report in reports {
            self.connections += 1;
            if let Report::Lost(begun) = report {
                self.lost += 1;
                last = last.max(begun);
            }
        }
        self.written.push(nanos(written));
        self.avoided.push(last - epoch);
    }

    fn summed_up(self) -> PartitionDetection {
        let three_probes_nanos = nanos(THREE_PROBES);
        let avoided = Distribution::of(self.avoided);
        PartitionDetection {
            written: Distribution::of(self.written),
            avoided,
            three_probes_nanos,
            ratio: avoided.p50_nanos as f64 / three_probes_nanos as f64,
            connections: self.connections,
            lost: self.lost,
        }
    }
}

impl BenchLab {
    /// Starts a client in the pod that connects again and again.
    fn client(&self, to: SocketAddr) -> Result<(Child, Receiver<Report>), BenchError> {
        let mut command = self.lab_command("exec");
        command.args(["b/client", "--", "clustermesh", "bench"]);
        command.args(["cut-client", &to.to_string()]).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(io("the client"))?;
        let output = child.stdout.take();
        let output =
            output.ok_or_else(|| BenchError::Unexpected("a client without output".into()))?;
        let (sender, reports) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let report = match line.strip_prefix("lost ").map(str::parse) {
                    Some(Ok(begun)) => Report::Lost(begun),
                    _ => Report::Made,
                };
                if sender.send(report).is_err() {
                    return;
                }
            }
        });
        Ok((child, reports))
    }
}

/// The client: connects again and again, and prints the result of each connection.
pub fn cut_client(to: SocketAddr) -> Result<(), BenchError> {
    loop {
        thread::spawn(move || {
            let begun = unix_nanos();
            let report = match TcpStream::connect_timeout(&to, DEADLINE) {
                Ok(_) => "made\n".to_owned(),
                Err(_) => format!("lost {begun}\n"),
            };
            let _ = std::io::stdout().write_all(report.as_bytes());
        });
        thread::sleep(PAUSE);
    }
}

/// The IPv4 address of the service for clients of a cluster.
fn service_address(mesh: &BenchLab, cluster: &ClusterState) -> Result<SocketAddr, BenchError> {
    let name = cluster.name.as_str();
    let show = ["service", "show", "echo", "--context", name, "--output", "json"];
    let shown = mesh.clustermesh(&show)?;
    let shown: serde_json::Value =
        printed_json("service show", &shown).map_err(BenchError::Unexpected)?;
    let frontends = shown.pointer("/services/0/frontends").and_then(|found| found.as_array());
    let address = frontends.into_iter().flatten().find_map(|frontend| {
        let text = |name: &str| frontend.get(name).and_then(|value| value.as_str());
        let address: std::net::Ipv4Addr = text("address")?.parse().ok()?;
        (text("protocol")? == "TCP").then_some(address)
    });
    let address = address.ok_or_else(|| {
        BenchError::Unexpected(format!(
            "cluster {name} has no IPv4 address for the service default/echo"
        ))
    })?;
    Ok((address, 80).into())
}

fn unix_nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_connection_that_was_lost_counts() {
        let mut measured = CutSamples::default();
        let reports = [Report::Made, Report::Lost(1_300), Report::Lost(1_700), Report::Made];
        measured.take(Duration::from_nanos(650), 1_000, reports.into_iter());
        measured.take(Duration::from_nanos(50), 1_000, [Report::Made].into_iter());
        let off = measured.summed_up();
        assert_eq!((off.written.max_nanos, off.avoided.max_nanos), (650, 700));
        assert_eq!((off.avoided.p50_nanos, off.connections, off.lost), (0, 5, 2));
    }
}
