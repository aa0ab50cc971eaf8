//! Sockets to removed backends in the running kernel: real sockets of a pod and of the node, real programs, real
//! tables.
//!
//! Needs root, and a kernel with BPF, cgroup v2, BTF and SOCK_DESTROY. Where those are missing the tests fail and say
//! so.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod place;

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use mesh_model::{
    Protocol,
    lb::{Change, Group},
};
use mesh_sockets::{Netns, Reason};
use nix::errno::Errno;

use crate::place::{Place, backend, frontend, socket, tcp_server, udp_server};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

fn udp_from(bound: &str, to: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind(bound).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect(to).unwrap();
    client
}

fn udp(to: SocketAddr) -> UdpSocket {
    udp_from(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }, to)
}

fn udp_answers(client: &UdpSocket) -> io::Result<()> {
    client.send(b"?")?;
    client.recv(&mut [0; 4]).map(drop)
}

fn tcp(to: SocketAddr) -> TcpStream {
    let client = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

fn tcp_answers(mut client: &TcpStream) -> io::Result<()> {
    client.write_all(b"?")?;
    client.read_exact(&mut [0])
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Errno {
    Errno::from_raw(result.unwrap_err().raw_os_error().unwrap())
}

#[test]
fn a_connected_udp_socket_to_a_vanished_backend_ends_and_connects_elsewhere() {
    let place = Place::new("udp");
    let mut running = place.start();
    running.terminator.set_namespaces(vec![place.pod.clone()]);
    for (ip, vip, other_vip) in
        [("127.0.0.1", "10.96.0.1", "10.96.0.2"), ("::1", "fd00:96::1", "fd00:96::2")]
    {
        let before = running.terminator.counts();
        let (vip, other_vip) = (frontend(vip, Protocol::Udp), frontend(other_vip, Protocol::Udp));
        let gone = place.in_pod(|| udp_server(ip));
        let stays = place.in_pod(|| udp_server(ip));
        let of = |server| backend(server, Protocol::Udp, 2);
        running.serve(vip, &[of(gone)]);
        running.serve(other_vip, &[of(stays)]);

        let (waits, sends, other, itself) = place
            .in_pod(|| (udp(socket(vip)), udp(socket(vip)), udp(socket(other_vip)), udp(gone)));
        for client in [&waits, &sends, &other, &itself] {
            udp_answers(client).unwrap();
        }
        let waiting = thread::spawn(move || (errno(waits.recv(&mut [0; 4])), waits));

        running.apply(&[Change::RemoveBackend(vip, of(gone))]);
        let released = running.released();
        assert_eq!(released.len(), 1);
        running.terminator.end(released, Reason::Removed, Instant::now());
        let (errno_of_waiting, waits) = waiting.join().unwrap();
        assert_eq!(errno_of_waiting, Errno::ECONNABORTED);
        running.wait_for_passes(before.passes + 1);
        assert_eq!(errno(sends.send(b"?")), Errno::EDESTADDRREQ);
        // Those of another service, and those that connected to the server by itself, have noticed nothing.
        udp_answers(&other).unwrap();
        udp_answers(&itself).unwrap();
        assert_eq!(running.terminator.counts().removed.udp - before.removed.udp, 2);

        running.apply(&[Change::AddBackend(vip, of(stays), Group::FIRST)]);
        place.in_pod(|| waits.connect(socket(vip)).unwrap());
        udp_answers(&waits).unwrap();
        assert_eq!(waits.peer_addr().unwrap(), socket(vip));
    }
}

#[test]
fn sockets_of_the_node_itself_and_v4_mapped_ones_end_as_well() {
    let place = Place::new("node");
    let mut running = place.start();
    let vip = frontend("10.96.0.1", Protocol::Udp);
    let gone = backend(udp_server("127.0.0.1"), Protocol::Udp, 2);
    running.serve(vip, &[gone]);
    let mapped: SocketAddr = "[::ffff:10.96.0.1]:80".parse().unwrap();
    let clients =
        [udp(socket(vip)), udp_from("[::]:0", mapped), udp_from("127.0.0.1:0", socket(vip))];
    clients.iter().for_each(|client| udp_answers(client).unwrap());

    running.apply(&[Change::RemoveBackend(vip, gone)]);
    let released = running.released();
    running.terminator.end(released, Reason::Removed, Instant::now());
    running.wait_for_passes(1);
    for client in clients {
        assert_eq!(errno(client.recv(&mut [0; 4])), Errno::ECONNABORTED);
    }
    assert_eq!(running.terminator.counts().removed.udp, 3);
}

#[test]
fn tcp_connections_end_with_a_cluster_and_no_others_do() {
    let place = Place::new("tcp");
    let mut running = place.start();
    running.terminator.set_namespaces(vec![place.pod.clone()]);
    let vips = [2, 3].map(|last| frontend(&format!("10.96.0.{last}"), Protocol::Tcp));
    let servers = [2, 3].map(|_| place.in_pod(|| tcp_server("127.0.0.1")));
    for ((vip, server), cluster) in vips.into_iter().zip(servers).zip([2, 3]) {
        running.serve(vip, &[backend(server, Protocol::Tcp, cluster)]);
    }
    let (cut, other, itself) =
        place.in_pod(|| (tcp(socket(vips[0])), tcp(socket(vips[1])), tcp(servers[0])));
    for client in [&cut, &other, &itself] {
        tcp_answers(client).unwrap();
    }
    let targets = running.targets_in(2);
    assert_eq!(targets.len(), 1);
    running.terminator.end(targets, Reason::Unreachable, Instant::now());
    // One who waits for bytes that will not come.
    assert_eq!(errno((&cut).read(&mut [0])), Errno::ECONNABORTED);
    running.wait_for_passes(1);
    tcp_answers(&other).unwrap();
    tcp_answers(&itself).unwrap();
    let counts = running.terminator.counts();
    assert_eq!((counts.unreachable.tcp, counts.removed.tcp, counts.problem), (1, 0, None));
}

#[test]
fn a_cluster_that_is_back_in_time_keeps_its_sockets() {
    let place = Place::new("back");
    let mut running = place.start();
    let vips = [2, 3].map(|last| frontend(&format!("10.96.0.{last}"), Protocol::Tcp));
    let server = tcp_server("127.0.0.1");
    for (vip, cluster) in vips.into_iter().zip([2, 3]) {
        running.serve(vip, &[backend(server, Protocol::Tcp, cluster)]);
    }
    let [back, gone] = vips.map(|vip| tcp(socket(vip)));
    let later = Instant::now() + Duration::from_secs(3_600);
    // Counted from the last answer, it is not time yet; another answer comes before.
    running.terminator.end(running.targets_in(2), Reason::Unreachable, later);
    running.terminator.spare(|backend| backend.cluster.get() == 2);
    let all = running.targets_in(2).into_iter().chain(running.targets_in(3));
    running.terminator.end(all, Reason::Unreachable, later);
    running.terminator.spare(|backend| backend.cluster.get() == 2);
    running.terminator.end(running.targets_in(3), Reason::Unreachable, Instant::now());
    assert_eq!(errno((&gone).read(&mut [0])), Errno::ECONNABORTED);
    running.wait_for_passes(1);
    tcp_answers(&back).unwrap();
    assert_eq!(running.terminator.counts().unreachable.tcp, 1);
}

#[test]
fn a_namespace_that_is_gone_or_another_does_not_block_the_rest() {
    let place = Place::new("gone");
    let mut running = place.start();
    let vip = frontend("10.96.0.1", Protocol::Udp);
    let gone = backend(udp_server("127.0.0.1"), Protocol::Udp, 2);
    let there = place.in_pod(|| udp_server("127.0.0.1"));
    running.serve(vip, &[gone]);
    let here = udp(socket(vip));
    // Another namespace than the one that was attached: the sockets in there now are none of ours.
    let in_pod = place.in_pod(|| udp(socket(vip)));
    let Netns { path, inode } = place.pod.clone();
    running.terminator.set_namespaces(vec![
        Netns { path: "/run/netns/clustermesh-sockets-test-none".into(), inode: 1 },
        Netns { path: path.clone(), inode: inode + 1_000_000 },
    ]);
    running.apply(&[Change::RemoveBackend(vip, gone)]);
    let released = running.released();
    running.terminator.end(released.clone(), Reason::Removed, Instant::now());
    running.wait_for_passes(1);
    assert_eq!(errno(here.send(b"?")), Errno::EDESTADDRREQ);
    assert_eq!(running.terminator.counts().failures, 0);
    assert!(in_pod.send(b"?").is_ok(), "to the server at {there}'s address");

    assert_eq!(running.terminator.counts().missing, 2);

    // What is no namespace at all is reported, and what is in the others is found all the same.
    let file = std::fs::File::open("/etc/hostname").unwrap();
    let inode_of_file = std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap());
    let strange = Netns { path: "/etc/hostname".into(), inode: inode_of_file };
    let pod = Netns { path, inode };
    running.terminator.set_namespaces(vec![strange, pod.clone()]);
    let scans = running.terminator.counts().passes;
    running.terminator.end(released, Reason::Removed, Instant::now());
    running.wait_for_passes(scans + 1);
    assert_eq!(errno(in_pod.send(b"?")), Errno::EDESTADDRREQ);
    let counts = running.terminator.counts();
    assert!(counts.failures > 0);
    assert!(counts.problem.unwrap().contains("/etc/hostname: "));
    // It is tried again until it is not to be looked through any more.
    running.wait_for_passes(scans + 2);
    running.terminator.set_namespaces(vec![pod]);
    running.wait_for_passes(running.terminator.counts().passes + 1);
    let counts = running.terminator.counts();
    assert_eq!((counts.problem, counts.missing), (None, 0));
}

/// An agent starts: the backends that were removed while it was away are known before the node's pods are. A socket of
/// a pod ends as soon as they are known, and not only one that is opened later.
#[test]
fn what_is_due_before_the_namespaces_are_known_ends_when_they_are() {
    let place = Place::new("early");
    let mut running = place.start_without_namespaces();
    let vip = frontend("10.96.0.1", Protocol::Udp);
    let gone = backend(place.in_pod(|| udp_server("127.0.0.1")), Protocol::Udp, 2);
    let here = backend(udp_server("127.0.0.1"), Protocol::Udp, 2);
    running.serve(vip, &[gone]);
    let in_pod = place.in_pod(|| udp(socket(vip)));
    udp_answers(&in_pod).unwrap();
    running.apply(&[Change::AddBackend(vip, here, Group::FIRST), Change::RemoveBackend(vip, gone)]);
    let on_node = udp(socket(vip));
    udp_answers(&on_node).unwrap();
    running.apply(&[Change::RemoveBackend(vip, here)]);
    let released = running.released();
    running.terminator.end(released, Reason::Removed, Instant::now());
    running.wait_for_passes(2);
    // The node's own network is looked through at once.
    assert_eq!(errno(on_node.send(b"?")), Errno::EDESTADDRREQ);
    udp_answers(&in_pod).unwrap();
    running.terminator.set_namespaces(vec![place.pod.clone()]);
    assert_eq!(errno(in_pod.recv(&mut [0; 4])), Errno::ECONNABORTED);
    running.wait_until(|counts| counts.removed.udp == 2);
}

/// A backend that was removed and is there again before its sockets were ended: they stay.
#[test]
fn sockets_to_what_is_there_again_stay() {
    let place = Place::new("again");
    let mut running = place.start();
    let vips = [1, 2].map(|last| frontend(&format!("10.96.0.{last}"), Protocol::Udp));
    let servers = [1, 2].map(|_| backend(udp_server("127.0.0.1"), Protocol::Udp, 2));
    for (vip, server) in vips.into_iter().zip(servers) {
        running.serve(vip, &[server]);
    }
    let [stays, ends] = vips.map(|vip| udp(socket(vip)));
    for (vip, server) in vips.into_iter().zip(servers) {
        running.apply(&[Change::RemoveBackend(vip, server)]);
    }
    let released = running.released();
    let due = Instant::now() + Duration::from_millis(300);
    running.terminator.end(released, Reason::Removed, due);
    running.apply(&[Change::AddBackend(vips[0], servers[0], Group::FIRST)]);
    running.terminator.restored(|backend| *backend == servers[0]);
    assert_eq!(errno(ends.recv(&mut [0; 4])), Errno::ECONNABORTED);
    running.wait_for_passes(1);
    udp_answers(&stays).unwrap();
    assert_eq!(running.terminator.counts().removed.udp, 1);
}
