//! A way that is gone for a moment: new connections leave, and those that are open outlive it.

use std::{thread, time::Duration};

use mesh_lab::workload::hang::Event;

use super::super::hanging::{Hanging, on_the_other};
use super::{metric, wait_until_probed};
use crate::{
    echo_service::{CLIENT, agent_status, two_clusters_with_echo},
    kernel,
    mesh::{Mesh, eventually, within},
};

/// With what it takes to cut and to heal, two seconds.
const BLIP: Duration = Duration::from_millis(1_700);
/// Until a way that was cut three times is used again: damping has it answer for four seconds.
const DAMPED: Duration = Duration::from_secs(30);

/// The other cluster is cut off for two seconds, three times within two minutes: no connection to its pods ends, whatever
/// damping says. Then it is cut off for good, and all end.
pub fn three_blips_end_no_socket(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let node = mesh.node_of(&one, CLIENT);
    let pins = mesh.pins(&one, &node);
    wait_until_probed(mesh, &one, &other);
    let mut clients = on_the_other(mesh, &one, &other);

    for _ in 0..3 {
        mesh.cut(&one, &other);
        thread::sleep(BLIP);
        mesh.heal();
        within(DAMPED, "it is in use again", || {
            let cut = kernel::cut(&pins);
            if cut.is_empty() { Ok(()) } else { Err(format!("{cut:?}")) }
        });
    }
    let cuts = metric(mesh, &one, &node, "peer_unreachable_events_total");
    assert!(cuts > 0, "new connections left");
    let ended = || {
        let counters = agent_status(mesh, &one, &node)["counters"].clone();
        ["tcp_sockets_ended", "udp_sockets_ended"].map(|name| counters[name].clone())
    };
    assert_eq!(ended(), [0, 0]);
    assert!(clients.iter_mut().all(Hanging::waits));

    mesh.cut(&one, &other);
    for client in &mut clients {
        assert!(matches!(client.event(), Event::Ended(_)));
        assert_eq!(client.answering(), one);
    }
    eventually("all are counted", || {
        let ended = ended();
        if ended == [2, 2] { Ok(()) } else { Err(format!("{ended:?}")) }
    });
}
