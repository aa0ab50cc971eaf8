//! Upgrades from an earlier release, built from its commit, and back. Needs root, and the commit in the clone.

use mesh_e2e::{Netns, Releases, release::UNGROUPED, scenario};

#[test]
fn the_release_before_groups_and_back() {
    let releases = Releases::new(UNGROUPED, "upgrade");
    releases.use_earlier();
    let mesh = Netns::beside("e2eupgrade", releases.clustermesh());
    scenario::agents_of_the_release_before_groups_take_turns(&mesh, &releases);
}
