//! Looking into a pod's network namespace.

use std::{fs, net::IpAddr, os::unix::fs::MetadataExt as _, path::Path};

use mesh_cni::{CniError, Netns};
use mesh_files::{in_netns, netns_cookie};

use crate::registry::failed;

/// An interface in a namespace, with an address; or without, for each interface has one such entry at least.
pub(crate) type Entry = (String, Option<IpAddr>);

/// The values that identify a namespace.
pub(crate) fn identify(path: &Path) -> Result<Netns, CniError> {
    let inode = fs::metadata(path).map_err(failed(path))?.ino();
    let cookie = in_netns(path, netns_cookie).map_err(failed(path))?;
    Ok(Netns { path: path.into(), inode, cookie })
}

/// The interfaces in a namespace, and their addresses.
pub(crate) fn interfaces(path: &Path) -> Result<Vec<Entry>, CniError> {
    in_netns(path, mesh_files::interfaces).map_err(failed(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_looked_into_and_left() {
        let own = Path::new("/proc/self/ns/net");
        let before = fs::read_link(own).unwrap();
        let netns = match identify(own) {
            Ok(netns) => netns,
            // Entering a namespace is root's, even if it is one's own.
            Err(_) if !nix::unistd::Uid::effective().is_root() => return,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(before, Path::new(&format!("net:[{}]", netns.inode)));
        assert_ne!(netns.cookie, 0);
        let found = interfaces(own).unwrap();
        assert!(found.contains(&("lo".into(), Some("127.0.0.1".parse().unwrap()))), "{found:?}");
        assert_eq!(fs::read_link(own).unwrap(), before);
    }

    #[test]
    fn what_is_no_namespace_says_so() {
        let error = identify(Path::new("/run/netns/no-such")).unwrap_err();
        assert_eq!((error.code(), error.to_string().contains("/run/netns/no-such")), (5, true));
        assert_eq!(identify(Path::new("/dev/null")).unwrap_err().code(), 5);
    }
}
