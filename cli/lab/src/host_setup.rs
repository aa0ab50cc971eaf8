//! Sets up what hardware and an operating system would provide: links, addresses, forwarding, cgroups.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    command::{enter_netns, ip_batch, run},
    error::LabError,
    names::{ClusterNumber, LabName, NodeNumber},
    state::{ClusterState, NodeState},
};

/// The path of the first cgroup2 mount.
pub(crate) fn cgroup2() -> Result<PathBuf, LabError> {
    mesh_files::first_cgroup2().ok_or(LabError::NoCgroup2)
}

/// Creates the network between the nodes: a bridge in a network namespace.
pub(crate) fn make_underlay(lab: &LabName) -> Result<(), LabError> {
    let underlay = lab.underlay();
    ip_batch(&[format!("netns add {underlay}")])?;
    sysctl(&underlay, &[("net.ipv6.conf.all.disable_ipv6", "1")])?;
    in_netns(&underlay, &["link add br0 type bridge".into(), "link set br0 up".into()])
}

/// Creates a node: a network namespace with a link to the underlay. It forwards packets, and, as with most CNIs, masquerades
/// what its pods send to other networks.
pub(crate) fn make_node(
    lab: &LabName,
    cluster: &ClusterState,
    number: ClusterNumber,
    node: &NodeState,
    node_number: NodeNumber,
) -> Result<(), LabError> {
    let link = lab.link(&cluster.name, &node.name);
    let netns = &node.netns;
    ip_batch(&[format!("netns add {netns}")])?;
    sysctl(
        netns,
        &[
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv6.conf.default.forwarding", "1"),
            // Otherwise each address waits two seconds for duplicate address detection.
            ("net.ipv6.conf.all.accept_dad", "0"),
            ("net.ipv6.conf.default.accept_dad", "0"),
        ],
    )?;
    let underlay = lab.underlay();
    in_netns(
        &underlay,
        &[
            format!("link add {link} type veth peer name eth0 netns {netns}"),
            format!("link set {link} master br0 up"),
        ],
    )?;
    let mut lines = vec!["link set lo up".to_owned(), "link set eth0 up".to_owned()];
    for (ip, length) in number.node_ips(node_number) {
        let family = if ip.is_ipv4() { "" } else { " nodad" };
        lines.push(format!("address add {ip}/{length} dev eth0{family}"));
    }
    in_netns(netns, &lines)?;
    masquerade(netns, number, node_number)?;
    make_cgroup(&node.cgroup.join("agent"))?;
    make_cgroup(&node.cgroup.join("system"))?;
    make_cgroup(&node.cgroup.join("pods"))
}

/// Creates a pod's network namespace and cgroup. Nothing is attached yet.
pub(crate) fn make_pod(netns: &str, cgroup: &Path) -> Result<(), LabError> {
    ip_batch(&[format!("netns add {netns}")])?;
    sysctl(
        netns,
        &[("net.ipv6.conf.all.accept_dad", "0"), ("net.ipv6.conf.default.accept_dad", "0")],
    )?;
    in_netns(netns, &["link set lo up".into()])?;
    make_cgroup(cgroup)
}

pub(crate) fn remove_netns(netns: &str) -> Result<(), LabError> {
    ip_batch(&[format!("netns delete {netns}")])
}

/// Kills all processes in a cgroup and below, and removes it.
pub(crate) fn remove_cgroup(cgroup: &Path) -> Result<(), LabError> {
    if !cgroup.exists() {
        return Ok(());
    }
    // cgroup.kill kills all at once, so that none can start another in between.
    fs::write(cgroup.join("cgroup.kill"), "1").map_err(LabError::io(cgroup))?;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match remove_tree(cgroup) {
            Ok(()) => return Ok(()),
            // EBUSY: the processes have not ended yet.
            Err(error) if error.raw_os_error() == Some(16) && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(source) => return Err(LabError::Io { path: cgroup.into(), source }),
        }
    }
}

/// The addresses of a node.
pub(crate) fn node_ips(number: ClusterNumber, node: NodeNumber) -> Vec<IpAddr> {
    number.node_ips(node).map(|(ip, _)| ip).into()
}

/// Removes a cgroup. In cgroupfs only folders can be removed, from the leaves up; their files go with them.
fn remove_tree(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_tree(&path)?;
        }
    }
    fs::remove_dir(cgroup)
}

fn make_cgroup(cgroup: &Path) -> Result<(), LabError> {
    make_folder(cgroup)
}

fn in_netns(netns: &str, lines: &[String]) -> Result<(), LabError> {
    let mut command = Command::new("ip");
    command.args(["-netns", netns, "-batch", "-"]);
    run(command, &(lines.join("\n") + "\n")).map(|_| ())
}

/// Sets sysctls of a network namespace.
fn sysctl(netns: &str, settings: &[(&str, &str)]) -> Result<(), LabError> {
    let mut command = Command::new("sysctl");
    command.arg("-q").arg("-w").args(settings.iter().map(|(key, value)| format!("{key}={value}")));
    enter_netns(&mut command, netns)?;
    run(command, "").map(|_| ())
}

/// Masquerades connections of the node's pods, as a CNI would. The mesh must exempt its traffic from this.
fn masquerade(netns: &str, number: ClusterNumber, node: NodeNumber) -> Result<(), LabError> {
    let mut rules = String::new();
    for range in number.node_pod_cidrs(node) {
        let family = if range.addr().is_ipv4() { "ip" } else { "ip6" };
        rules.push_str(&format!(
            "table {family} lab-cni {{
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    {family} saddr {range} {family} daddr != {range} masquerade
  }}
}}
"
        ));
    }
    let mut command = Command::new("nft");
    command.args(["-f", "-"]);
    enter_netns(&mut command, netns)?;
    run(command, &rules).map(|_| ())
}

/// Creates a folder below one that all labs share. Another lab that is removed may remove the shared folder at any time
/// while it is empty; then it is created again.
pub(crate) fn make_folder(path: &Path) -> Result<(), LabError> {
    let mut tries = 0..100;
    loop {
        match fs::create_dir_all(path) {
            // `create_dir_all` returns AlreadyExists if the folder was removed between its attempt and its check.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists
                ) && tries.next().is_some() => {}
            result => return result.map_err(LabError::io(path)),
        }
    }
}
