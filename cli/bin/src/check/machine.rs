//! What an operating system brings along: mounts, limits, settings, the clock, programs.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use mesh_admin::ProblemCode;
use mesh_certs::rfc_3339;
use mesh_files::{BPF_FS, FolderWatch, MOUNT_CGROUP2, first_cgroup2, is_bpf_fs, watch_fallback};
use mesh_lab::LabError;
use mesh_routes::{
    Interface, InterfaceKind, Interfaces, SysctlProblem, has_kube_proxy_here, sysctl_problems,
};
use mesh_sys::is_clock_synchronised;

use super::{Check, Row};

/// The cgroup namespace of the host, which the kernel numbers so (`PROC_CGROUP_INIT_INO`).
const HOST_CGROUPS: &str = "cgroup:[4026531835]";
/// Links that carry no address of a node.
const NO_UPLINKS: [&str; 2] = ["veth", "dummy"];
/// What `sysdump` and labs run.
const TOOLS: [&str; 2] = ["ip", "nft"];

pub(super) fn rows() -> anyhow::Result<Vec<Row>> {
    let mut rows = vec![
        cgroup2(first_cgroup2(), fs::read_link("/proc/self/ns/cgroup").ok().as_deref()),
        bpf_fs(is_bpf_fs(Path::new(BPF_FS))),
        inotify(),
    ];
    rows.extend(sysctls()?);
    rows.push(nftables(has_kube_proxy_here()));
    let written = env::current_exe().and_then(|exe| exe.metadata()?.modified()).ok();
    rows.push(clock(SystemTime::now(), written, is_clock_synchronised()));
    rows.extend(tools(&env::var_os("PATH").unwrap_or_default()));
    Ok(rows)
}

/// The programs are attached at the first mount's root, for all below it.
fn cgroup2(root: Option<PathBuf>, namespace: Option<&Path>) -> Row {
    let Some(root) = root else {
        return Row::failed(Check::Cgroup2, "no cgroup2 is mounted", MOUNT_CGROUP2);
    };
    let root = root.display();
    match namespace == Some(Path::new(HOST_CGROUPS)) {
        true => Row::ok(Check::Cgroup2, format!("{root} has all processes of this machine")),
        false => Row::warning(
            Check::Cgroup2,
            format!(
                "{root} is seen from a cgroup namespace: only connections of the processes in it are balanced"
            ),
            "start the agent in the host's cgroup namespace, or mount the host's cgroup2 and name it with --cgroup-root",
        ),
    }
}

fn bpf_fs(is_one: io::Result<bool>) -> Row {
    match is_one {
        Ok(true) => Row::ok(Check::BpfFs, BPF_FS),
        Ok(false) => Row::warning(
            Check::BpfFs,
            format!(
                "none is mounted at {BPF_FS}: the agent mounts one, and in a container its tables end with it"
            ),
            format!("mount -t bpf bpf {BPF_FS}"),
        ),
        Err(error) => {
            let remedy =
                "mount sysfs: mount -t sysfs none /sys; or name another place with --pin-root";
            Row::failed(Check::BpfFs, format!("{BPF_FS}: {error}"), remedy)
        }
    }
}

/// As daemons watch their folders.
fn inotify() -> Row {
    let limit = |name: &str| {
        let limit = fs::read_to_string(format!("/proc/sys/fs/inotify/max_user_{name}"));
        limit.map_or_else(|error| error.to_string(), |limit| limit.trim().to_owned())
    };
    let _watch = FolderWatch::shallow(Path::new("/"));
    match watch_fallback() {
        None => Row::ok(
            Check::Inotify,
            format!(
                "folders are watched; {} instances, {} watches",
                limit("instances"),
                limit("watches")
            ),
        ),
        Some(problem) => Row::warning(Check::Inotify, problem, ProblemCode::FileWatch.remedy()),
    }
}

/// One for each setting that is in the way.
fn sysctls() -> anyhow::Result<Vec<Row>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _entered = runtime.enter();
    let interfaces = match Interfaces::open() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            return Ok(vec![Row::warning(Check::Sysctls, error.to_string(), "run this as root")]);
        }
    };
    let uplinks = interfaces.all().filter(|interface| may_be_uplink(interface));
    let problems = sysctl_problems(Path::new("/proc"), uplinks);
    if problems.is_empty() {
        return Ok(vec![Row::ok(
            Check::Sysctls,
            "packets are forwarded, and reverse paths not strict",
        )]);
    }
    let row = |problem: &SysctlProblem| {
        Row::warning(Check::Sysctls, problem.to_string(), problem.remedy())
    };
    Ok(problems.iter().map(row).collect())
}

/// Whether it may be one that carries an address of the node, which is not known here.
fn may_be_uplink(interface: &Interface) -> bool {
    let is_other = match &interface.kind {
        InterfaceKind::Ethernet { driver: Some(driver) } => NO_UPLINKS.contains(&driver.as_str()),
        InterfaceKind::Ethernet { driver: None } | InterfaceKind::Layer3 { .. } => false,
        InterfaceKind::Loopback => true,
    };
    interface.is_up && !interface.addresses.is_empty() && !is_other
}

fn nftables(kube_proxy: io::Result<bool>) -> Row {
    match kube_proxy {
        Ok(true) => Row::ok(Check::Nftables, "the kernel has it; a kube-proxy has rules here"),
        Ok(false) => Row::ok(Check::Nftables, "the kernel has it; no kube-proxy has rules here"),
        Err(error) => Row::warning(
            Check::Nftables,
            format!(
                "its rules cannot be read: {error}; where a CNI masquerades, other clusters see the node's address"
            ),
            "load the module: modprobe nf_tables (CONFIG_NF_TABLES); or run this as root",
        ),
    }
}

/// Certificates are valid by the clock.
fn clock(now: SystemTime, program_written: Option<SystemTime>, kept: io::Result<bool>) -> Row {
    let shown = rfc_3339(now);
    let run_one =
        "run a time service, as chrony or systemd-timesyncd: certificates depend on the clock";
    match kept {
        _ if program_written.is_some_and(|written| now < written) => Row::failed(
            Check::Clock,
            format!("it is {shown}, which is before this program was written"),
            "set the clock",
        ),
        Ok(true) => Row::ok(Check::Clock, format!("a time service keeps it right: it is {shown}")),
        Ok(false) => Row::warning(
            Check::Clock,
            format!("no time service keeps it right: it is {shown}"),
            run_one,
        ),
        Err(error) => Row::warning(
            Check::Clock,
            format!("it is {shown}; whether that is right: {error}"),
            run_one,
        ),
    }
}

/// No daemon runs another program.
fn tools(path: &std::ffi::OsStr) -> Vec<Row> {
    let is_there = |tool: &&str| env::split_paths(path).any(|folder| folder.join(tool).is_file());
    let (there, missing): (Vec<&str>, Vec<&str>) = TOOLS.into_iter().partition(is_there);
    let row = |tool: &str| {
        Row::warning(
            Check::Tools,
            format!("no daemon needs {tool}, but `clustermesh sysdump` and labs do"),
            LabError::Missing(tool.to_owned()).to_string(),
        )
    };
    match missing.is_empty() {
        true => vec![Row::ok(Check::Tools, there.join(", "))],
        false => missing.into_iter().map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, ffi::OsStr, time::Duration};

    use super::*;
    use crate::check::Level;

    #[test]
    fn mounts_that_are_missing_say_what_to_do() {
        let root = || Some(PathBuf::from("/sys/fs/cgroup"));
        let room = Path::new("cgroup:[4026532000]");
        for (row, level, remedy) in [
            (cgroup2(root(), Some(Path::new(HOST_CGROUPS))), Level::Ok, ""),
            (cgroup2(root(), Some(room)), Level::Warning, "--cgroup-root"),
            (cgroup2(root(), None), Level::Warning, "--cgroup-root"),
            (cgroup2(None, Some(room)), Level::Failed, "mount -t cgroup2"),
            (bpf_fs(Ok(true)), Level::Ok, ""),
            (bpf_fs(Ok(false)), Level::Warning, "mount -t bpf bpf /sys/fs/bpf"),
            (bpf_fs(Err(io::ErrorKind::NotFound.into())), Level::Failed, "--pin-root"),
            (nftables(Ok(false)), Level::Ok, ""),
            (nftables(Err(io::ErrorKind::Unsupported.into())), Level::Warning, "modprobe"),
        ] {
            assert!(row.level == level && row.remedy.contains(remedy), "{row:?}");
            assert_eq!(row.remedy.is_empty(), level == Level::Ok, "{row:?}");
        }
    }

    #[test]
    fn a_clock_is_right_where_it_is_kept_and_not_before_the_program() {
        let (now, hour) = (SystemTime::now(), Duration::from_secs(3_600));
        let levels = [
            clock(now, Some(now - hour), Ok(true)),
            clock(now, None, Ok(false)),
            clock(now, None, Err(io::ErrorKind::PermissionDenied.into())),
            clock(now, Some(now + hour), Ok(true)),
        ]
        .map(|row| row.level);
        assert_eq!(levels, [Level::Ok, Level::Warning, Level::Warning, Level::Failed]);
    }

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let folder = tempfile::tempdir().unwrap();
        let rows = tools(folder.path().as_os_str());
        let remedies: Vec<&str> = rows.iter().map(|row| row.remedy.as_str()).collect();
        let wanted = ["iproute2", "nftables"];
        assert!(remedies.iter().zip(wanted).all(|(remedy, package)| remedy.ends_with(package)));
        assert_eq!(rows.len(), 2, "{rows:?}");
        for tool in TOOLS {
            fs::write(folder.path().join(tool), "").unwrap();
        }
        let path = env::join_paths([Path::new("/nowhere"), folder.path()]).unwrap();
        assert_eq!(tools(&path), [Row::ok(Check::Tools, "ip, nft")]);
        assert_eq!(tools(OsStr::new("")).len(), 2);
    }

    #[test]
    fn links_to_pods_are_no_uplinks() {
        let interface = |kind: InterfaceKind, is_up: bool, address: &str| Interface {
            index: 2,
            name: "eth0".into(),
            kind,
            is_up,
            mac: Vec::new(),
            master: None,
            addresses: address.parse().into_iter().collect::<BTreeSet<_>>(),
        };
        let ethernet = |driver: &str| InterfaceKind::Ethernet { driver: Some(driver.into()) };
        let card = || InterfaceKind::Ethernet { driver: None };
        for (interface, may_be) in [
            (interface(card(), true, "172.31.1.1/16"), true),
            (interface(ethernet("bond"), true, "172.31.1.1/16"), true),
            (interface(ethernet("veth"), true, "10.1.1.1/32"), false),
            (interface(card(), false, "172.31.1.1/16"), false),
            (interface(card(), true, "none"), false),
            (interface(InterfaceKind::Loopback, true, "127.0.0.1/8"), false),
        ] {
            assert_eq!(may_be_uplink(&interface), may_be, "{interface:?}");
        }
    }
}
