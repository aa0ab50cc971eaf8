//! The compiler and the reference decide alike.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use mesh_labels::LabelFilter;
use mesh_policy_reference::{Answer, World as Reference, generate};
use mesh_verdict::{Entry, Flow, Reason, Side, Verdict, VerdictOptions, World, judge, run_steps};
use proptest::prelude::*;
use serde_json::{Value, json};

fn filter() -> LabelFilter {
    LabelFilter::new([]).unwrap()
}

/// The world of the product's own code.
fn world(line: &Value) -> World {
    let options: VerdictOptions = serde_json::from_value(line["options"].clone()).unwrap();
    let mut world = World::new(options.over(mesh_policy::Options::default()), filter());
    let entries: Vec<Entry> = serde_json::from_value(line["endpoints"].clone()).unwrap();
    world.add(&entries, |index| index.to_string()).unwrap();
    for (cluster, range) in generate::pod_ranges() {
        world.add_pod_range(&cluster, range);
    }
    let of = |one: &Value| one["cluster"].as_str().unwrap().to_owned();
    for service in line["services"].as_array().unwrap() {
        world.add_service_object(&of(service), &service["object"], "").unwrap();
    }
    world.link_services();
    for policy in line["policies"].as_array().unwrap() {
        let checked = mesh_policy_rules::parse(&policy["object"], &filter()).unwrap();
        world.put_policy(&of(policy), checked.policy.unwrap());
    }
    world
}

type Shown = (String, Option<Reason>);

fn shown_by_product(side: Side, reason: Option<Reason>) -> Shown {
    let side = match side {
        Side::Allowed => "allowed",
        Side::Denied => "denied",
        Side::NotEnforced => "not-enforced",
    };
    (side.to_owned(), reason)
}

fn shown_by_reference(Answer { state, kind, policies, rule }: Answer) -> Shown {
    let reason = kind.map(|kind| Reason { kind: kind.as_str().to_owned(), policies, rule });
    (state.as_str().to_owned(), reason)
}

fn compare(world: &World, line: &Value, flows: &[Value]) -> Result<(), TestCaseError> {
    let reference = Reference::new(line, &generate::pod_ranges()).unwrap();
    for flow in flows {
        // A pod that is deleted has no name any more, and not every end names ports.
        let Ok(wanted) = reference.judge(flow) else { continue };
        let wanted = Ok([wanted.egress, wanted.ingress].map(shown_by_reference));
        let asked: Flow = serde_json::from_value(flow.clone()).unwrap();
        let found = judge(world, &asked, "").map(|verdict| {
            let Verdict { egress, ingress, decided_by, .. } = verdict;
            [(egress, decided_by.egress), (ingress, decided_by.ingress)]
                .map(|(side, reason)| shown_by_product(side, reason))
        });
        let policies = serde_json::to_string_pretty(&line["policies"]).unwrap();
        prop_assert_eq!(found, wanted, "{}\n{}\n{}", flow, line["options"], policies);
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
        let mut world = world(&line);
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
