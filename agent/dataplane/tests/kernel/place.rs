//! What a kernel test needs: a cgroup, a network namespace, pins, servers and clients.

use std::{
    fs,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use mesh_dataplane::{Kernel, KernelMaps, PinRoot, Programs, Sizes, Tables};
use mesh_layout::FrontendKey;
use mesh_model::{
    ClusterId, ClusterLimit, Protocol,
    lb::{Backend, Change, Frontend},
};

pub(crate) const SIZES: Sizes = Sizes { services: 64, backends: 256, slots: 1_024, groups: 16 };
/// A process is in one cgroup, so one test at a time.
static ONE: Mutex<()> = Mutex::new(());

/// A cgroup with this process in it, a network namespace with this thread in it, and a folder for pins.
pub(crate) struct Place {
    pub(crate) cgroup: PathBuf,
    origin: PathBuf,
    pub(crate) pins: PathBuf,
    _one: MutexGuard<'static, ()>,
}

impl Place {
    pub(crate) fn new(name: &str) -> Self {
        let is_root = nix::unistd::geteuid().is_root();
        assert!(is_root, "these tests make cgroups and load eBPF programs: run them as root");
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let cgroup2 = mesh_files::first_cgroup2().expect("a cgroup2 mount");
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|l| l.strip_prefix("0::/")).unwrap();
        let name = format!("clustermesh-kernel-test-{}-{name}", std::process::id());
        let cgroup = cgroup2.join(&name);
        fs::create_dir(&cgroup).expect("root, and a writable cgroup2");
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
        run("ip", &["link", "set", "lo", "up"]);
        let place = Self {
            cgroup,
            origin: cgroup2.join(own),
            pins: Path::new("/sys/fs/bpf").join(name),
            _one: one,
        };
        enter(&place.cgroup);
        place
    }

    pub(crate) fn load(&self) -> (Programs, Tables<KernelMaps>) {
        let (mut programs, maps) =
            Programs::load(PinRoot::open(&self.pins).unwrap(), SIZES).unwrap();
        let tables = Tables::restore(maps, Instant::now()).unwrap();
        programs.attach(&self.cgroup).unwrap();
        (programs, tables)
    }

    /// The tables once more, to write entries that no change causes.
    pub(crate) fn raw(&self) -> KernelMaps {
        KernelMaps::open(&PinRoot::open(&self.pins).unwrap(), SIZES).unwrap()
    }
}

/// What tests look up in the tables.
pub(crate) trait Raw: Kernel {
    /// A frontend's service.
    fn index_of(&self, frontend: Frontend) -> u32 {
        let ip = match frontend.address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let is_it = |key: &FrontendKey| {
            key.address() == ip.octets()
                && key.port() == frontend.port.to_be_bytes()
                && (key.protocol() == 6) == (frontend.protocol == Protocol::Tcp)
        };
        self.services().unwrap().iter().find(|(key, _)| is_it(key)).unwrap().1.index()
    }
}

impl Raw for KernelMaps {}

impl Drop for Place {
    fn drop(&mut self) {
        enter(&self.origin);
        let _ = fs::remove_dir_all(&self.pins);
        let _ = fs::remove_dir(&self.cgroup);
    }
}

/// Where a map is pinned, in whichever folder.
pub(crate) fn pinned(place: &Place, map: &str) -> PathBuf {
    let folders = fs::read_dir(&place.pins).unwrap().flatten().map(|entry| entry.path().join(map));
    let pins: Vec<PathBuf> = folders.filter(|pin| pin.exists()).collect();
    let [pin] = <[PathBuf; 1]>::try_from(pins).unwrap();
    pin
}

pub(crate) fn enter(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
}

pub(crate) fn run(command: &str, arguments: &[&str]) {
    assert!(Command::new(command).args(arguments).status().unwrap().success());
}

pub(crate) fn vip(last: u8, protocol: Protocol) -> Frontend {
    Frontend { address: Ipv4Addr::new(10, 96, 0, last).into(), port: 80, protocol }
}

pub(crate) fn vip6(protocol: Protocol) -> Frontend {
    Frontend { address: "fd00:96::1".parse().unwrap(), port: 80, protocol }
}

pub(crate) fn backend(server: SocketAddr, protocol: Protocol, cluster: u32) -> Backend {
    let cluster = ClusterId::new(cluster, ClusterLimit::Max255).unwrap();
    Backend { address: server.ip(), port: server.port(), protocol, cluster }
}

pub(crate) fn socket(frontend: Frontend) -> SocketAddr {
    (frontend.address, frontend.port).into()
}

/// A TCP server that greets each client with its own port.
pub(crate) fn tcp_server(ip: &str) -> SocketAddr {
    let listener = TcpListener::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            let _ = io::Write::write_all(&mut client, &address.port().to_be_bytes());
        }
    });
    address
}

/// A UDP server that answers each datagram with its own port.
pub(crate) fn udp_server(ip: &str) -> SocketAddr {
    let socket = UdpSocket::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((_, client)) = socket.recv_from(&mut [0; 16]) {
            let _ = socket.send_to(&address.port().to_be_bytes(), client);
        }
    });
    address
}

/// Which server answers a connection, and which peer address the client sees.
pub(crate) fn ask_tcp(to: SocketAddr) -> io::Result<(u16, SocketAddr)> {
    let mut client = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
    let mut port = [0; 2];
    client.read_exact(&mut port)?;
    Ok((u16::from_be_bytes(port), client.peer_addr()?))
}

pub(crate) fn ask_udp(to: SocketAddr) -> io::Result<(u16, SocketAddr)> {
    let client = UdpSocket::bind((if to.is_ipv4() { "0.0.0.0" } else { "::" }, 0))?;
    client.connect(to)?;
    client.set_read_timeout(Some(Duration::from_secs(2)))?;
    client.send(b"?")?;
    let mut port = [0; 2];
    client.recv(&mut port)?;
    Ok((u16::from_be_bytes(port), client.peer_addr()?))
}

pub(crate) fn apply(tables: &mut Tables<KernelMaps>, changes: &[Change]) {
    changes.iter().for_each(|change| tables.apply(*change, Instant::now()).unwrap());
    tables.commit(Instant::now());
}
