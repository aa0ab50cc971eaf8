//! Backends that leave in good order: nobody loses a request for it.

use super::super::{CLIENT, ECHO, client_ips, two_with_echo, wait_for_backends};
use crate::{
    load::{Assert as _, Traffic},
    mesh::Mesh,
};

/// A Deployment is taken down and brought back, in one cluster and in the other: its pods are turned terminating, led
/// nowhere any more, and gone when those who talk to them have been served.
pub fn a_deployment_is_drained(mesh: &impl Mesh) {
    let (one, other) = two_with_echo(mesh);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    for (leaves, stays) in [(&other, &one), (&one, &other)] {
        mesh.apply(leaves, "echo", Some(0));
        wait_for_backends(mesh, &[stays]);
        mesh.apply(leaves, "echo", None);
        wait_for_backends(mesh, &[&one, &other]);
    }
    // One pod after another, and more than there were.
    for replicas in [1, 3, 2] {
        mesh.apply(&other, "echo", Some(replicas));
        wait_for_backends(mesh, &[&one, &other]);
    }
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
    assert!(report.over_flows > 0 && report.reopened > 0, "flows ended in good order: {report:#?}");
}
