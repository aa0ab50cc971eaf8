//! Network namespaces of pods that the CNI plugin did not report: those that were there before it was installed, and all of
//! a node without it. They are found where the container runtime mounts them, with the addresses of their interfaces.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io, mem,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use mesh_cni::Netns;
use mesh_files::{in_netns, interfaces, is_linked_to, netns_cookie};

/// A network namespace with an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodNetns {
    /// The namespace.
    pub netns: Netns,
    /// The first interface with an address that is not only of the machine or a link.
    pub interface: String,
    /// All such addresses.
    pub addresses: Vec<IpAddr>,
}

/// The folder with the namespaces, and what was found in them.
#[derive(Debug)]
pub(crate) struct Namespaces {
    folder: PathBuf,
    /// By file, with the inode.
    seen: BTreeMap<PathBuf, (u64, Seen)>,
}

/// What a namespace is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// A pod's of this node.
    Pod(PodNetns),
    /// It has no address, or cannot be entered: its container is being made.
    Incomplete,
    /// No interface in it leads to the node's network: another machine's, as in a lab.
    Elsewhere,
}

// === impl Namespaces ===

impl Namespaces {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, seen: BTreeMap::new() }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Looks into those that are new, and those that had no address; the other ones keep what they had. Whether anything
    /// has changed.
    pub(crate) fn scan(&mut self) -> bool {
        let Ok(node) = File::open("/proc/thread-self/ns/net") else { return false };
        let own = node.metadata().map(|file| file.ino()).ok();
        let before = mem::take(&mut self.seen);
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let inode = fs::metadata(&path).map(|file| file.ino()).ok();
            // The node's own network is no pod's.
            let Some(inode) = inode.filter(|inode| Some(*inode) != own) else { continue };
            let seen = match before.get(&path) {
                Some((same, seen)) if *same == inode && *seen != Seen::Incomplete => seen.clone(),
                _ => look(&path, inode, &node).unwrap_or(Seen::Incomplete),
            };
            self.seen.insert(path, (inode, seen));
        }
        pods(&before).ne(pods(&self.seen))
    }

    /// Whether one has no address: its container is being made.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.seen.values().any(|(_, seen)| *seen == Seen::Incomplete)
    }

    /// Those of pods.
    pub(crate) fn found(&self) -> Vec<PodNetns> {
        pods(&self.seen).cloned().collect()
    }
}

fn pods(seen: &BTreeMap<PathBuf, (u64, Seen)>) -> impl Iterator<Item = &PodNetns> {
    seen.values().filter_map(|(_, seen)| match seen {
        Seen::Pod(found) => Some(found),
        Seen::Incomplete | Seen::Elsewhere => None,
    })
}

fn look(path: &Path, inode: u64, node: &File) -> io::Result<Seen> {
    let look = || Ok((netns_cookie()?, interfaces()?, is_linked_to(node)?));
    let (cookie, interfaces, is_linked) = in_netns(path, look)?;
    let mut addresses: Vec<(String, IpAddr)> = interfaces
        .into_iter()
        .filter_map(|(interface, address)| Some((interface, address?)))
        .filter(|(_, address)| is_routable(*address))
        .collect();
    addresses.sort();
    let Some((interface, _)) = addresses.first().cloned() else { return Ok(Seen::Incomplete) };
    if !is_linked {
        return Ok(Seen::Elsewhere);
    }
    let addresses = addresses.into_iter().map(|(_, address)| address).collect();
    let netns = Netns { path: path.into(), inode, cookie };
    Ok(Seen::Pod(PodNetns { netns, interface, addresses }))
}

fn is_routable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn ip(arguments: &str) {
        let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
        assert!(status.success(), "ip {arguments}");
    }

    struct Removed(String);

    impl Drop for Removed {
        fn drop(&mut self) {
            ip(&format!("netns delete {}", self.0));
        }
    }

    /// Needs root.
    #[test]
    fn namespaces_are_found_once_they_have_an_address_until_they_are_gone() {
        let name = format!("cm-pods-{}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        let mut namespaces = Namespaces::new(folder.path().into());
        assert!(!namespaces.scan() && !namespaces.is_incomplete());
        let made = [name.clone(), format!("{name}-other")].map(|name| {
            ip(&format!("netns add {name}"));
            std::os::unix::fs::symlink(
                Path::new("/run/netns").join(&name),
                folder.path().join(&name),
            )
            .unwrap();
            Removed(name)
        });
        assert!(!namespaces.scan() && namespaces.is_incomplete());

        let pid = std::process::id();
        ip(&format!("link add cmp{pid} type veth peer name eth0 netns {name}"));
        ip(&format!("-n {name} address add 10.9.9.9/32 dev eth0"));
        ip(&format!("-n {name} address add fd00:9::9/128 dev eth0 nodad"));
        // Another machine's, in a lab: its interface has its peer elsewhere.
        ip(&format!("-n {name}-other link add eth0 type veth peer name eth1"));
        ip(&format!("-n {name}-other address add 10.9.9.9/32 dev eth0"));
        assert!(namespaces.scan() && !namespaces.is_incomplete());
        let found = namespaces.found();
        let [PodNetns { netns, interface, addresses }] = &found[..] else { panic!("{found:?}") };
        let inode = fs::metadata(Path::new("/run/netns").join(&name)).unwrap().ino();
        assert_eq!((netns.inode, interface.as_str()), (inode, "eth0"));
        assert!(netns.cookie != 0 && netns.path.ends_with(&name));
        assert_eq!(
            addresses[..],
            ["10.9.9.9", "fd00:9::9"].map(|ip| ip.parse::<IpAddr>().unwrap())
        );
        assert!(!namespaces.scan(), "nothing changed");

        drop(made);
        assert!(namespaces.scan());
        assert_eq!(namespaces.found(), []);
    }
}
