//! The compiler and the reference decide alike.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod common;

use common::{by_product, by_reference, product};
use mesh_policy_reference::{World as Reference, generate};
use mesh_verdict::{World, run_steps};
use proptest::prelude::*;
use serde_json::{Value, json};

fn compare(world: &World, line: &Value, flows: &[Value]) -> Result<(), TestCaseError> {
    let reference = Reference::new(line, &generate::pod_ranges()).unwrap();
    for flow in flows {
        // A pod that is deleted has no name any more, and not every end names ports.
        let Ok(wanted) = by_reference(&reference, flow) else { continue };
        let found = by_product(world, flow);
        let policies = || serde_json::to_string_pretty(&line["policies"]).unwrap();
        prop_assert_eq!(found, Ok(wanted), "{}\n{}\n{}", flow, line["options"], policies());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        max_shrink_iters: 3_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_world_and_its_changes(
        line in generate::world(),
        flows in prop::collection::vec(generate::flow(), 30),
        changes in prop::collection::vec(generate::change(), 0..8),
    ) {
        let mut line = line;
        let mut world = product(&line);
        compare(&world, &line, &flows)?;
        for change in &changes {
            if let Some(step) = generate::apply(&mut line, change) {
                let done = run_steps(&mut world, &json!([step]));
                prop_assert!(done.is_ok(), "{:?}", done);
                compare(&world, &line, &flows)?;
            }
        }
    }
}
