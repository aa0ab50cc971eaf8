//! Attacks by a hostile peer, none of which an agent accepts. Needs root.

use mesh_e2e::{Netns, scenario};

#[test]
fn false_records() {
    scenario::false_records_are_rejected(&Netns::sized("e2eattacks", 3, 1));
}

#[test]
fn floods() {
    scenario::floods_are_stopped(&Netns::sized("e2efloods", 3, 1));
}

#[test]
fn unconfirmed_or_not_granted() {
    scenario::what_is_not_confirmed_or_granted_is_left_out(&Netns::sized("e2eunconf", 3, 1));
}

#[test]
fn strangers() {
    scenario::strangers_are_refused(&Netns::sized("e2estrange", 3, 1));
}
