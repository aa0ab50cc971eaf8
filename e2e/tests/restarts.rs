//! Restarts of agents under load: a few here, many in `make soak`.
#![allow(clippy::expect_used, reason = "all of this is test code")]

use mesh_e2e::{Netns, scenario};

/// The number of restarts without `RESTARTS`.
const FEW: usize = 10;

#[test]
fn restarts_end_no_connection() {
    let restarts = std::env::var("RESTARTS").ok();
    let restarts = restarts.map(|text| text.parse().expect("RESTARTS is a number"));
    scenario::restarts_end_no_connection(&Netns::up("e2erestarts"), restarts.unwrap_or(FEW));
}
