//! Changes in order, with flows after each.

use mesh_policy_rules::parse;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    entry::Entry,
    flow::Flow,
    problem::{Problem, all, or_absent, read, read_each},
    verdict::{Verdict, judge},
    world::World,
};

/// One change.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    #[serde(default)]
    cluster: Option<String>,
    /// A policy that is there from now on, or an endpoint or namespace as the list of endpoints has them.
    #[serde(default)]
    apply: Option<Value>,
    /// A policy by kind, namespace and name, or an endpoint by its name.
    #[serde(default)]
    delete: Option<Value>,
    /// What is asked afterwards.
    #[serde(default, deserialize_with = "or_absent")]
    flows: Vec<Value>,
}

/// The answers after a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepAnswer {
    /// Its number, from 0.
    pub step: usize,
    /// In the order of its flows.
    pub flows: Vec<Verdict>,
}

/// Makes the changes one after another, and answers the flows after each.
///
/// # Errors
/// What is not understood or refused; there are no answers then.
pub fn run_steps(world: &mut World, steps: &Value) -> Result<Vec<StepAnswer>, Vec<Problem>> {
    let Some(steps) = steps.as_array() else {
        return Err(vec![Problem::new("steps", "", "it is not a list of steps")]);
    };
    let mut answers = Vec::new();
    for (index, value) in steps.iter().enumerate() {
        let part = format!("steps[{index}]");
        let step: Step = read(value, &part).map_err(|problem| vec![problem])?;
        if let Some(applied) = &step.apply {
            apply(world, step.cluster.as_deref(), applied, &part)?;
        }
        if let Some(deleted) = &step.delete {
            delete(world, step.cluster.as_deref(), deleted, &part).map_err(|one| vec![one])?;
        }
        let of = |at: usize| format!("{part}.flows[{at}]");
        let flows: Vec<Flow> = read_each(&step.flows, of)?;
        let flows = flows.iter().enumerate();
        let flows = all(flows.map(|(at, flow)| judge(world, flow, &of(at))))?;
        answers.push(StepAnswer { step: index, flows });
    }
    Ok(answers)
}

fn apply(
    world: &mut World,
    cluster: Option<&str>,
    applied: &Value,
    part: &str,
) -> Result<(), Vec<Problem>> {
    let one = |problem| vec![problem];
    let Some(checked) = parse(applied, &world.filter) else {
        let mut entry: Entry = read(applied, &format!("{part}.apply")).map_err(one)?;
        entry.cluster = entry.cluster.or_else(|| cluster.map(ToOwned::to_owned));
        return world.replace(&entry, &format!("{part}.apply")).map_err(one);
    };
    let cluster = world.cluster_of(cluster, part).map_err(one)?;
    match checked.policy {
        Ok(policy) => {
            world.put_policy(&cluster, policy);
            Ok(())
        }
        Err(refusals) => {
            let of = |refusal| Problem::of_policy(&checked.reference, refusal);
            Err(refusals.into_iter().map(of).collect())
        }
    }
}

fn delete(
    world: &mut World,
    cluster: Option<&str>,
    deleted: &Value,
    part: &str,
) -> Result<(), Problem> {
    if let Some(name) = deleted.as_str() {
        return world.remove(name, part);
    }
    let cluster = world.cluster_of(cluster, part)?;
    world.remove_policy(&cluster, deleted, part)
}
