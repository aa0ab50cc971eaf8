//! The compiler and the reference decide alike.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod generate;

use generate::name_of;
use mesh_labels::LabelFilter;
use mesh_policy_reference::{Answer, State};
use mesh_verdict::{Entry, Flow, Reason, Side, Verdict, VerdictOptions, World, judge, run_steps};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Pod ranges, in which some addresses are nobody's.
fn ranges() -> Vec<(String, ipnet::IpNet)> {
    let range = |cluster: &str, range: &str| (cluster.to_owned(), range.parse().unwrap());
    vec![
        range("a", "10.1.0.0/16"),
        range("b", "10.2.0.0/16"),
        range("a", "fd00:1::/32"),
        range("b", "fd00:2::/32"),
    ]
}

fn world(line: &Value) -> World {
    let options: VerdictOptions = serde_json::from_value(line["options"].clone()).unwrap();
    let mut world =
        World::new(options.over(mesh_policy::Options::default()), LabelFilter::new([]).unwrap());
    let entries: Vec<Entry> = serde_json::from_value(line["endpoints"].clone()).unwrap();
    world.add(&entries, |index| index.to_string()).unwrap();
    for (cluster, range) in ranges() {
        world.add_pod_range(&cluster, range);
    }
    for service in line["services"].as_array().unwrap() {
        world
            .add_service_object(service["cluster"].as_str().unwrap(), &service["object"], "")
            .unwrap();
    }
    world.link_services();
    for policy in line["policies"].as_array().unwrap() {
        let checked =
            mesh_policy_rules::parse(&policy["object"], &LabelFilter::new([]).unwrap()).unwrap();
        world.put_policy(policy["cluster"].as_str().unwrap(), checked.policy.unwrap());
    }
    world
}

fn plain(side: Side, reason: Option<&Reason>) -> Answer {
    let state = match side {
        Side::Allowed => State::Allowed,
        Side::Denied => State::Denied,
        Side::NotEnforced => State::NotEnforced,
    };
    match reason {
        Some(Reason { kind, policies, rule }) => {
            Answer { state, kind: kind.clone(), policies: policies.clone(), rule: rule.clone() }
        }
        None => Answer { state, kind: String::new(), policies: Vec::new(), rule: None },
    }
}

fn compare(world: &World, line: &Value, flows: &[Value]) -> Result<(), TestCaseError> {
    for flow in flows {
        let asked: Flow = serde_json::from_value(flow.clone()).unwrap();
        // One that is deleted has no name any more.
        let Ok(verdict) = judge(world, &asked, "") else { continue };
        let Verdict { egress, ingress, decided_by, .. } = &verdict;
        let found = (
            plain(*egress, decided_by.egress.as_ref()),
            plain(*ingress, decided_by.ingress.as_ref()),
        );
        let wanted = mesh_policy_reference::judge(line, &ranges(), flow);
        prop_assert_eq!(
            found,
            wanted,
            "{}\n{}",
            flow,
            serde_json::to_string_pretty(&line["policies"]).unwrap()
        );
    }
    Ok(())
}

/// The change in a line, as a step of `--steps`; `None`: there is nothing to delete.
fn change(line: &mut Value, change: &Value) -> Option<Value> {
    if let Some(index) = change.get("deletePolicy").and_then(Value::as_u64) {
        let policies = line["policies"].as_array_mut()?;
        let index = usize::try_from(index).ok()?.checked_rem(policies.len())?;
        let gone = policies.remove(index);
        return Some(json!({ "cluster": gone["cluster"], "delete": gone["object"] }));
    }
    let endpoints = |line: &mut Value, name: &Value, kind: &str, cluster: Option<&Value>| {
        let same = |one: &Value| {
            one["name"] == *name
                && one["kind"] == kind
                && cluster.is_none_or(|of| one["cluster"] == *of)
        };
        let all = line["endpoints"].as_array_mut().unwrap();
        let position = all.iter().position(same);
        position.map(|at| all.remove(at))
    };
    if let Some(name) = change.get("delete") {
        endpoints(line, name, "pod", None)?;
        return Some(change.clone());
    }
    let applied = change["apply"].clone();
    if applied.get("apiVersion").is_some() {
        let policy = json!({ "cluster": change["cluster"], "object": applied });
        let policies = line["policies"].as_array_mut()?;
        policies.retain(|one| name_of(one) != name_of(&policy));
        policies.push(policy);
    } else {
        let kind = applied["kind"].as_str()?.to_owned();
        endpoints(line, &applied["name"], &kind, Some(&applied["cluster"]));
        line["endpoints"].as_array_mut()?.push(applied);
    }
    Some(change.clone())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_world_and_what_becomes_of_it(
        line in generate::world(),
        flows in prop::collection::vec(generate::flow(), 30),
        changes in prop::collection::vec(generate::change(), 0..8),
    ) {
        let mut line = line;
        let mut world = world(&line);
        compare(&world, &line, &flows)?;
        for one in &changes {
            if let Some(step) = change(&mut line, one) {
                let done = run_steps(&mut world, &json!([step]));
                prop_assert!(done.is_ok(), "{:?}", done);
                compare(&world, &line, &flows)?;
            }
        }
    }
}
