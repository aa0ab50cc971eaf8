//! Policies that nodes enforce. Needs root.

use mesh_e2e::{Netns, scenario};

#[test]
fn default_deny_and_allow() {
    let mesh = Netns::configured("e2epolicy", &[("CLUSTERMESH_POLICY", "on")]);
    scenario::default_deny_and_allow_across_clusters(&mesh);
}
