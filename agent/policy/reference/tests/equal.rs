//! The compiler, the kernel's programs and the reference decide alike.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod common;

use common::{by_product, by_reference, kernel, product};
use mesh_policy_reference::{World as Reference, generate};
use mesh_verdict::{World, run_steps};
use proptest::{
    prelude::*,
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
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

/// A world, and the same one judged by the kernel where that may be asked.
fn worlds(line: &Value) -> Vec<World> {
    let mut worlds = vec![product(line)];
    if let Some(kernel) = kernel() {
        let mut world = product(line);
        world.set_judge(kernel);
        worlds.push(world);
    }
    worlds
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
        let mut worlds = worlds(&line);
        for world in &worlds {
            compare(world, &line, &flows)?;
        }
        for change in &changes {
            let Some(step) = generate::apply(&mut line, change) else { continue };
            for world in &mut worlds {
                let done = run_steps(world, &json!([step]));
                prop_assert!(done.is_ok(), "{:?}", done);
                compare(world, &line, &flows)?;
            }
        }
    }
}

/// Where no packet can be made the model answers in the kernel's place. That must be rare, or the comparison says little.
#[test]
fn the_kernel_judges_nearly_all_itself() {
    let Some(kernel) = kernel() else { return };
    let mut runner = TestRunner::deterministic();
    let worlds = (generate::world(), prop::collection::vec(generate::flow(), 40));
    let (mut by_kernel, mut all) = (0, 0);
    for _ in 0..60 {
        let (line, flows) = worlds.new_tree(&mut runner).unwrap().current();
        let mut world = product(&line);
        world.set_judge(kernel.clone());
        for flow in &flows {
            let flow = serde_json::from_value(flow.clone()).unwrap();
            let Ok(verdict) = mesh_verdict::judge(&world, &flow, "") else { continue };
            all += 1;
            let by_model = verdict.note.is_some_and(|note| note.contains("judged by the model"));
            by_kernel += u32::from(!by_model);
        }
    }
    assert!(all > 1_000 && by_kernel * 10 > all * 8, "{by_kernel} of {all}");
}
