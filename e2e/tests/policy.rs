//! Policies that nodes enforce. Needs root.

use mesh_e2e::{Netns, scenario};

const ON: [(&str, &str); 1] = [("CLUSTERMESH_POLICY", "on")];

#[test]
fn an_agent_dies() {
    scenario::policies_outlive_their_agent(&Netns::configured("e2epoldies", &ON));
}

#[test]
fn default_deny_and_allow() {
    let mesh = Netns::configured("e2epolicy", &ON);
    scenario::default_deny_and_allow_across_clusters(&mesh);
}

#[test]
fn the_api_server() {
    scenario::the_api_server_is_an_entity(&Netns::configured("e2epolapi", &ON));
}
