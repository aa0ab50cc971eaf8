//! What is generated is worth a comparison: flows meet rules, and every kind of answer occurs.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;

use mesh_policy_reference::{World, generate};
use proptest::{
    collection::vec,
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};

#[test]
fn every_kind_of_answer_is_frequent() {
    let mut runner = TestRunner::deterministic();
    let worlds = (generate::world(), vec(generate::flow(), 40));
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    let mut total = 0;
    for _ in 0..200 {
        let (line, flows) = worlds.new_tree(&mut runner).unwrap().current();
        let world = World::new(&line, &generate::pod_ranges()).unwrap();
        for flow in &flows {
            let answers = match world.judge(flow) {
                Ok(decision) => [decision.egress.kind, decision.ingress.kind]
                    .map(|kind| kind.map_or("not-enforced", |kind| kind.as_str())),
                Err(_) => ["no answer"; 2],
            };
            for answer in answers {
                *counts.entry(answer).or_default() += 1;
                total += 1;
            }
        }
    }
    // Of a thousand answers.
    for (kind, least) in [
        ("allow-rule", 60),
        ("deny-rule", 25),
        ("default-deny", 80),
        ("default-allow", 80),
        ("enforcement-off", 20),
        ("same-pod", 10),
        ("allow-localhost", 1),
    ] {
        let found = counts.get(kind).copied().unwrap_or_default();
        assert!(found * 1_000 >= least * total, "{kind}: {counts:?} of {total}");
    }
    let unanswered = counts.get("no answer").copied().unwrap_or_default();
    assert!(unanswered * 20 < total, "{counts:?} of {total}");
}
