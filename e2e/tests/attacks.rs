//! What a hostile cluster can say, and that nobody believes it. Needs root.

use mesh_e2e::{Netns, scenario};

#[test]
fn attacks() {
    scenario::false_records_are_rejected(&Netns::sized("e2eattacks", 3, 1));
}

#[test]
fn floods_and_strangers() {
    scenario::floods_and_strangers_are_stopped(&Netns::sized("e2efloods", 3, 1));
}
