//! Nodes that reach each other through a router. Needs root.

use mesh_e2e::{Netns, scenario};

#[test]
fn router() {
    scenario::a_router_between_all_nodes(&Netns::up("e2erouter"), "cm-e2erouter-underlay");
}
