//! Looking into other network namespaces.
#![expect(unsafe_code, reason = "getsockopt(2) of an option that no crate here has")]

use std::{
    fs::File,
    io,
    net::{IpAddr, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    thread,
};

use nix::{
    ifaddrs::getifaddrs,
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket},
};

/// Where `ip netns` and container runtimes mount the network namespaces of a machine.
pub const NETNS_FOLDER: &str = "/var/run/netns";

/// Does something in the network namespace that is mounted at a path: in a thread, which is thrown away, so that the process
/// stays where it is.
///
/// # Errors
/// If there is no such namespace, or it may not be entered; and those of `look`.
pub fn in_netns<T: Send>(
    path: &Path,
    look: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let file = File::open(path)?;
    let look = move || {
        setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
        look()
    };
    let died = |_| io::Error::other("the thread that entered it died");
    thread::scope(|scope| scope.spawn(look).join().map_err(died))?
}

/// The interfaces of the calling thread's network namespace, each once for each of its addresses, or once without.
///
/// # Errors
/// If the kernel does not list them.
pub fn interfaces() -> io::Result<Vec<(String, Option<IpAddr>)>> {
    let entry = |found: nix::ifaddrs::InterfaceAddress| {
        let address = found.address.as_ref();
        let v4 = address.and_then(|a| a.as_sockaddr_in()).map(|a| IpAddr::from(a.ip()));
        let v6 = address.and_then(|a| a.as_sockaddr_in6()).map(|a| IpAddr::from(a.ip()));
        (found.interface_name, v4.or(v6))
    };
    Ok(getifaddrs()?.map(entry).collect())
}

/// The number by which kernel programs know the calling thread's network namespace.
///
/// # Errors
/// If no socket can be opened in it, or the kernel is older than 5.14.
pub fn netns_cookie() -> io::Result<u64> {
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

/// Whether an interface of the calling thread's network namespace has its other end, or its lower device, in another one: in
/// that of `other`, a file as `/proc/PID/ns/net`. Call [`interfaces`] before: the kernel numbers such namespaces when it
/// lists the interfaces that lead there.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn is_linked_to(other: &File) -> io::Result<bool> {
    // The family with its padding: of any.
    let mut request = vec![0; 4];
    request.extend(8_u16.to_ne_bytes());
    request.extend(NETNSA_FD.to_ne_bytes());
    request.extend(other.as_raw_fd().to_ne_bytes());
    let answer = ask(libc::RTM_GETNSID, &request)?;
    number(&answer).map(|number| number >= 0).ok_or_else(|| io::Error::other("an unknown answer"))
}

/// The index of the other end of a veth interface of the calling thread's network namespace, in the namespace in which that
/// is; `None` if it has none, or is of another kind.
///
/// # Errors
/// If there is no such interface, or the kernel cannot be asked.
pub fn veth_peer(interface: &str) -> io::Result<Option<u32>> {
    let index = nix::net::if_::if_nametoindex(interface)?;
    // `struct ifinfomsg`: family, padding, type, index, flags, change.
    let mut request = vec![0; 4];
    request.extend(index.to_ne_bytes());
    request.extend([0; 8]);
    let answer = ask(libc::RTM_GETLINK, &request)?;
    let kind = answer.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes);
    if kind != Some(libc::RTM_NEWLINK) {
        return Err(io::Error::other("an unknown answer"));
    }
    let attributes = || attributes(answer.get(32..).unwrap_or_default());
    let is_veth = attributes().any(|(kind, value)| {
        kind == libc::IFLA_LINKINFO
            && self::attributes(value)
                .any(|(kind, value)| kind == libc::IFLA_INFO_KIND && value.starts_with(b"veth"))
    });
    let peer = attributes().find(|(kind, _)| *kind == libc::IFLA_LINK);
    let peer =
        peer.and_then(|(_, value)| value.first_chunk::<4>()).copied().map(u32::from_ne_bytes);
    Ok(peer.filter(|_| is_veth))
}

/// One request to the kernel's netlink, and the answer with its header.
fn ask(kind: u16, request: &[u8]) -> io::Result<Vec<u8>> {
    let kernel = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    // `struct nlmsghdr`: length, type, flags, sequence and sender. One request on this socket.
    let length = u32::try_from(HEADER + request.len()).unwrap_or_default();
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(u16::try_from(libc::NLM_F_REQUEST).unwrap_or_default().to_ne_bytes());
    message.extend([0; 8]);
    message.extend(request);
    send(kernel.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut answer = vec![0; 16 * 1024];
    let length = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    answer.truncate(length);
    Ok(answer)
}

/// The attributes of a message, each with its kind (`struct nlattr`). What is cut short ends them.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (kind, _) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        // The upper bits say how it is to be read.
        Some((u16::from_ne_bytes(*kind) & 0x3fff, value))
    })
}

/// The length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Attributes of these messages (`linux/net_namespace.h`).
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

/// The number in an answer; -1 where the kernel has given none.
fn number(answer: &[u8]) -> Option<i32> {
    let kind = answer.get(4..6)?.try_into().ok().map(u16::from_ne_bytes)?;
    if kind != libc::RTM_NEWNSID {
        return None;
    }
    let (_, value) = attributes(answer.get(20..)?).find(|(kind, _)| *kind == NETNSA_NSID)?;
    value.first_chunk::<4>().map(|number| i32::from_ne_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_a_number_is_none() {
        let answer =
            |kind: u16, rest: &[u8]| [&[0; 4], &kind.to_ne_bytes()[..], &[0; 14], rest].concat();
        let nsid = |n: i32| [&[8, 0, 1, 0], &n.to_ne_bytes()[..]].concat();
        let other = [&[6, 0, 2, 0, 1, 2, 0, 0], &nsid(3)[..]].concat();
        assert_eq!(number(&answer(libc::RTM_NEWNSID, &nsid(-1))), Some(-1));
        assert_eq!(number(&answer(libc::RTM_NEWNSID, &other)), Some(3));
        for bad in [answer(2, &nsid(3)), answer(libc::RTM_NEWNSID, &[8, 0]), vec![], vec![0; 24]] {
            assert_eq!(number(&bad), None, "{bad:?}");
        }
    }
}
