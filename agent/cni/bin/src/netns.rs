//! Looking into a pod's network namespace.
#![expect(unsafe_code, reason = "getsockopt(2) of an option that no crate here has")]

use std::{
    fs::File,
    io,
    net::{IpAddr, UdpSocket},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::MetadataExt as _,
    },
    path::Path,
    thread,
};

use mesh_cni::{CniError, Netns};
use nix::{
    ifaddrs::getifaddrs,
    sched::{CloneFlags, setns},
};

use crate::registry::failed;

/// An interface in a namespace, with an address; or without, for each interface has one such entry at least.
pub(crate) type Entry = (String, Option<IpAddr>);

/// The values that identify a namespace.
pub(crate) fn identify(path: &Path) -> Result<Netns, CniError> {
    let inode = File::open(path).and_then(|file| file.metadata()).map_err(failed(path))?.ino();
    let cookie = inside(path, cookie).map_err(failed(path))?;
    Ok(Netns { path: path.into(), inode, cookie })
}

/// The interfaces in a namespace, and their addresses.
pub(crate) fn interfaces(path: &Path) -> Result<Vec<Entry>, CniError> {
    let entries = inside(path, || {
        let entry = |found: nix::ifaddrs::InterfaceAddress| {
            let address = found.address.as_ref();
            let v4 = address.and_then(|a| a.as_sockaddr_in()).map(|a| IpAddr::from(a.ip()));
            let v6 = address.and_then(|a| a.as_sockaddr_in6()).map(|a| IpAddr::from(a.ip()));
            (found.interface_name, v4.or(v6))
        };
        Ok(getifaddrs()?.map(entry).collect())
    });
    entries.map_err(failed(path))
}

/// Does something in a namespace: in a thread, which is thrown away, so that the process stays where it is.
fn inside<T: Send>(path: &Path, look: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let file = File::open(path)?;
    let look = move || {
        setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
        look()
    };
    let died = |_| io::Error::other("the thread that entered it died");
    thread::scope(|scope| scope.spawn(look).join().map_err(died))?
}

/// The number by which kernel programs know the namespace that this thread is in.
fn cookie() -> io::Result<u64> {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).or_else(|_| UdpSocket::bind(("::", 0)))?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or_default();
    // SAFETY: both pointers are to variables of this function, and `length` is the size of the first.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_looked_into_and_left() {
        let own = Path::new("/proc/self/ns/net");
        let before = std::fs::read_link(own).unwrap();
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
        assert_eq!(std::fs::read_link(own).unwrap(), before);
    }

    #[test]
    fn what_is_no_namespace_says_so() {
        let error = identify(Path::new("/run/netns/no-such")).unwrap_err();
        assert_eq!((error.code(), error.to_string().contains("/run/netns/no-such")), (5, true));
        assert_eq!(identify(Path::new("/dev/null")).unwrap_err().code(), 5);
    }
}
