//! The identity IDs of pods. Needs root.

use mesh_e2e::{Netns, scenario};

#[test]
fn relabelling() {
    scenario::pods_are_relabelled(&Netns::up("idsrelabel"));
}

#[test]
fn a_lost_journal() {
    scenario::a_journal_is_lost(&Netns::up("idsjournal"));
}
