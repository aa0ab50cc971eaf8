//! Services without backends, and services that another proxy serves.

use mesh_layout::{LOCAL_PLAIN_PASSES, LOCAL_UNSYNCED};

use crate::{
    clients::{Bound, Client, Family, Way, tcp_server},
    place::Raw as _,
    *,
};

/// What a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// No server is there.
    Refused,
    /// The server that has the address itself answers.
    Itself,
    /// A backend answers.
    Backend,
}
use Answer::{Backend as B, Itself as I, Refused as R};

/// Plain, pass if empty, the local state; what a client gets without a backend, and what with one.
const TABLE: [(bool, bool, u32, Answer, Answer); 12] = [
    (false, false, 0, R, B),
    // The local cluster is not synced: it is not known that there is no backend.
    (false, false, LOCAL_UNSYNCED, I, B),
    // `default/kubernetes` is never refused.
    (false, true, 0, I, B),
    (false, true, LOCAL_UNSYNCED, I, B),
    // A plain service is ours as long as the local etcd is reachable.
    (true, false, 0, R, B),
    (true, false, LOCAL_UNSYNCED, I, B),
    (true, true, 0, I, B),
    // And another proxy's, where there is one, as soon as it is not.
    (true, false, LOCAL_PLAIN_PASSES, I, I),
    (true, true, LOCAL_PLAIN_PASSES, I, I),
    (true, false, LOCAL_PLAIN_PASSES | LOCAL_UNSYNCED, I, I),
    // Which is nothing to global ones.
    (false, false, LOCAL_PLAIN_PASSES, R, B),
    (false, true, LOCAL_PLAIN_PASSES, I, B),
];

#[test]
fn a_service_without_a_backend_is_refused_only_where_that_is_sure() {
    let place = Place::new("empty");
    let (_programs, mut tables) = place.load();
    for way in [
        Way::Tcp,
        Way::UdpConnected,
        Way::UdpSendTo,
        Way::UdpSendMsg,
        Way::TcpByRing,
        Way::UdpByRing,
    ] {
        for family in Family::ALL {
            let protocol = way.protocol();
            let server = || match protocol {
                Protocol::Tcp => tcp_server(family.loopback()),
                _ => udp_server(&family.loopback().to_string()),
            };
            let (itself, other) = (server(), server());
            let frontend = Frontend { address: itself.ip(), port: itself.port(), protocol };
            let there = backend(other, protocol, 2);
            for (plain, pass_if_empty, local, empty, full) in TABLE {
                let ask = || {
                    let client = Client::open(way, family, Bound::Nothing);
                    match client.ask(family.named(itself)) {
                        Ok((port, _)) if port == itself.port() => I,
                        Ok((port, _)) if port == other.port() => B,
                        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => R,
                        other => panic!("{other:?}"),
                    }
                };
                apply(
                    &mut tables,
                    &[Change::SetFrontend(
                        frontend,
                        Settings { plain, pass_if_empty, session_affinity: 0 },
                    )],
                );
                let mut raw = place.raw();
                let index = raw.index_of(frontend);
                raw.set_settings(index, mesh_layout::Settings::new(0, plain, pass_if_empty));
                raw.set_local_state(local);
                assert_eq!(ask(), empty, "{way:?} {family:?}: {plain} {pass_if_empty} {local}");
                apply(&mut tables, &[Change::AddBackend(frontend, there, Group::FIRST)]);
                assert_eq!(ask(), full, "{way:?} {family:?}: {plain} {pass_if_empty} {local}");
                raw.set_local_state(0);
                apply(&mut tables, &[Change::RemoveBackend(frontend, there)]);
            }
        }
    }
}
