//! Agents that start, are killed or stopped, or run out of table space while there is traffic. Needs root.

use mesh_e2e::{Netns, scenario};

#[test]
fn cold_start() {
    scenario::a_node_starts_from_its_snapshot(&Netns::up("e2ecold"));
}

#[test]
fn quarantine() {
    scenario::a_peer_over_its_budget_costs_nothing_more(&Netns::up("e2equar"));
}

#[test]
fn ten_kills() {
    scenario::traffic_outlives_ten_kills_of_an_agent(&Netns::up("e2edeaths"));
}

#[test]
fn stopped_agents() {
    scenario::agents_that_are_stopped_leave_everything(&Netns::up("apistop"));
}

#[test]
fn other_table_sizes() {
    scenario::tables_get_other_sizes_under_load(&Netns::up("e2esizes"));
}

#[test]
fn tables_of_another_release() {
    scenario::tables_of_another_release_are_replaced_under_load(&Netns::up("e2erelease"));
}

#[test]
fn full_table() {
    scenario::a_full_table_is_named_and_filled_when_there_is_room(&Netns::up("e2etable"));
}

#[test]
fn churn() {
    scenario::an_agent_starts_while_pods_are_removed(&Netns::up("e2echurn"));
}
