//! What a kernel test needs: a cgroup, a network namespace, one of a pod beside it, pins, servers.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use mesh_dataplane::{KernelMaps, PinRoot, Programs, Sizes, Tables};
use mesh_model::{
    ClusterId, ClusterLimit, Protocol,
    lb::{Backend, Change, Frontend, Group, Settings},
};
use mesh_sockets::{Counts, Netns, SocketTerminator, Target};

const SIZES: Sizes = Sizes { services: 64, groups: 16, backends: 256, slots: 1_024 };
/// A process is in one cgroup, so one test at a time.
static ONE: Mutex<()> = Mutex::new(());

/// A cgroup with this process in it, a network namespace with this thread in it, one for a pod, and a folder for pins.
pub(crate) struct Place {
    pub(crate) pod: Netns,
    cgroup: PathBuf,
    origin: PathBuf,
    pins: PathBuf,
    home: File,
    _one: MutexGuard<'static, ()>,
}

/// Everything that is running there.
pub(crate) struct Running {
    _programs: Programs,
    pub(crate) tables: Tables<KernelMaps>,
    pub(crate) terminator: SocketTerminator,
}

impl Place {
    pub(crate) fn new(name: &str) -> Self {
        let is_root = nix::unistd::geteuid().is_root();
        assert!(is_root, "these tests make cgroups and load eBPF programs: run them as root");
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let cgroup2 = mounts.lines().find(|l| l.split(' ').nth(2) == Some("cgroup2"));
        let cgroup2 = Path::new(cgroup2.expect("a cgroup2 mount").split(' ').nth(1).unwrap());
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|l| l.strip_prefix("0::/")).unwrap();
        let name = format!("clustermesh-sockets-test-{}-{name}", std::process::id());
        let cgroup = cgroup2.join(&name);
        fs::create_dir(&cgroup).expect("root, and a writable cgroup2");
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["netns", "add", &name]);
        run("ip", &["-n", &name, "link", "set", "lo", "up"]);
        let path = Path::new("/run/netns").join(&name);
        let inode = fs::metadata(&path).unwrap().ino();
        let place = Self {
            pod: Netns { path, inode },
            cgroup,
            origin: cgroup2.join(own),
            pins: Path::new("/sys/fs/bpf").join(name),
            home: File::open("/proc/thread-self/ns/net").unwrap(),
            _one: one,
        };
        enter(&place.cgroup);
        place
    }

    pub(crate) fn start(&self) -> Running {
        let running = self.start_without_namespaces();
        running.terminator.set_namespaces(Vec::new());
        running
    }

    /// The same, before it is known which pods there are.
    pub(crate) fn start_without_namespaces(&self) -> Running {
        let (mut programs, maps) =
            Programs::load(PinRoot::open(&self.pins).unwrap(), SIZES).unwrap();
        let tables = Tables::restore(maps, Instant::now()).unwrap();
        programs.attach(&self.cgroup).unwrap();
        let sockets = programs.take_sockets().unwrap();
        let terminator = SocketTerminator::start(move |protocol| sockets.read(protocol)).unwrap();
        Running { _programs: programs, tables, terminator }
    }

    /// Does something in the pod's network.
    pub(crate) fn in_pod<T>(&self, there: impl FnOnce() -> T) -> T {
        let network = nix::sched::CloneFlags::CLONE_NEWNET;
        nix::sched::setns(File::open(&self.pod.path).unwrap(), network).unwrap();
        let done = there();
        nix::sched::setns(&self.home, network).unwrap();
        done
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        enter(&self.origin);
        let _ = Command::new("ip")
            .args(["netns", "del"])
            .arg(self.pod.path.file_name().unwrap())
            .status();
        let _ = fs::remove_dir_all(&self.pins);
        let _ = fs::remove_dir(&self.cgroup);
    }
}

impl Running {
    /// A service at an address with these backends.
    pub(crate) fn serve(&mut self, frontend: Frontend, backends: &[Backend]) {
        self.apply(&[Change::SetFrontend(frontend, Settings::default())]);
        for backend in backends {
            self.apply(&[Change::AddBackend(frontend, *backend, Group::FIRST)]);
        }
    }

    pub(crate) fn apply(&mut self, changes: &[Change]) {
        changes.iter().for_each(|change| self.tables.apply(*change, Instant::now()).unwrap());
        self.tables.commit(Instant::now());
    }

    /// What no frontend leads to any more.
    pub(crate) fn released(&mut self) -> Vec<Target> {
        let released = self.tables.take_released().into_iter();
        released.map(|gone| Target { id: gone.id, backend: gone.backend }).collect()
    }

    /// What frontends lead to of a cluster.
    pub(crate) fn targets_in(&self, cluster: u32) -> Vec<Target> {
        let found = self.tables.backends_in(cluster_id(cluster));
        found.map(|found| Target { id: found.id, backend: found.backend }).collect()
    }

    /// Waits until so many scans are over.
    pub(crate) fn wait_for_passes(&self, passes: u64) {
        self.wait_until(|counts| counts.passes >= passes);
    }

    pub(crate) fn wait_until(&self, is_so: impl Fn(&Counts) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_so(&self.terminator.counts()) {
            assert!(Instant::now() < deadline, "{:?}", self.terminator.counts());
            thread::yield_now();
        }
    }
}

fn enter(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
}

fn run(command: &str, arguments: &[&str]) {
    assert!(Command::new(command).args(arguments).status().unwrap().success());
}

fn cluster_id(cluster: u32) -> ClusterId {
    ClusterId::new(cluster, ClusterLimit::Max255).unwrap()
}

pub(crate) fn frontend(address: &str, protocol: Protocol) -> Frontend {
    Frontend { address: address.parse().unwrap(), port: 80, protocol }
}

pub(crate) fn backend(server: SocketAddr, protocol: Protocol, cluster: u32) -> Backend {
    let cluster = cluster_id(cluster);
    Backend { address: server.ip(), port: server.port(), protocol, cluster }
}

pub(crate) fn socket(frontend: Frontend) -> SocketAddr {
    (frontend.address, frontend.port).into()
}

/// A UDP server in this thread's network that sends everything back.
pub(crate) fn udp_server(ip: &str) -> SocketAddr {
    let socket = UdpSocket::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], client);
        }
    });
    address
}

/// A TCP server in this thread's network that sends everything back.
pub(crate) fn tcp_server(ip: &str) -> SocketAddr {
    let listener = TcpListener::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((client, _)) = listener.accept() {
            thread::spawn(move || io::copy(&mut &client, &mut &client));
        }
    });
    address
}
