//! A link fails for a moment: new connections avoid it, and established connections survive.

use std::{thread, time::Duration};

use mesh_lab::workload::hang::Event;

use super::super::hanging::{Hanging, on_the_other};
use super::{metric, wait_until_probed};
use crate::{
    echo_service::{CLIENT, agent_status, two_clusters_with_echo},
    kernel,
    mesh::{Mesh, eventually, within},
};

/// The duration of a blip: two seconds, including the time to cut and to heal.
const BLIP: Duration = Duration::from_millis(1_700);
/// How long until a link that failed three times is used again: damping requires answers for four seconds.
const DAMPED: Duration = Duration::from_secs(30);

/// The other cluster is unreachable for two seconds, three times within two minutes. No connection to its pods ends,
/// although damping keeps the cluster unused for longer. Then it is cut permanently, and all connections end.
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
    assert!(cuts > 0, "new connections avoided it");
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
