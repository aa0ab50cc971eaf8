//! Many questions, a line each.

use mesh_labels::LabelFilter;
use mesh_policy::Options;
use mesh_policy_rules::parse;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    entry::Entry,
    flow::Flow,
    matrix::{Matrix, PortQuery, matrix},
    options::VerdictOptions,
    problem::{Problem, read},
    verdict::{Verdict, judge},
    world::World,
};

/// The answer to a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BatchAnswer {
    /// As in the line.
    pub id: Value,
    /// What is refused. If there is anything, nothing is answered.
    pub refused: Vec<Problem>,
    /// The answers, in the order of the flows; `null` if something is refused.
    #[serde(skip_serializing_if = "is_not_asked")]
    pub flows: Asked<Vec<Verdict>>,
    /// Of all pairs.
    #[serde(skip_serializing_if = "is_not_asked")]
    pub matrix: Asked<Matrix>,
}

/// `None`: it was not asked for. `Some(None)`: something is refused.
pub type Asked<T> = Option<Option<T>>;

/// A line.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Line {
    #[serde(default)]
    #[expect(dead_code, reason = "read before the line is")]
    id: Value,
    #[serde(default)]
    policies: Vec<OfCluster>,
    #[serde(default)]
    endpoints: Vec<Value>,
    #[serde(default)]
    services: Vec<OfCluster>,
    #[serde(default)]
    flows: Option<Vec<Value>>,
    #[serde(default)]
    all_pairs: Option<AllPairs>,
    #[serde(default)]
    options: VerdictOptions,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfCluster {
    #[serde(default)]
    cluster: Option<String>,
    object: Value,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AllPairs {
    ports: Vec<String>,
}

fn is_not_asked<T>(asked: &Asked<T>) -> bool {
    asked.is_none()
}

/// Answers a line. Whatever it is, there is an answer.
pub fn answer_line(line: &str, defaults: Options, filter: &LabelFilter) -> BatchAnswer {
    let value: Value = match serde_json::from_str(line) {
        Ok(value) => value,
        Err(error) => {
            let problem = Problem::new("", "", format!("the line is no JSON: {error}"));
            return BatchAnswer::refused(Value::Null, vec![problem], false);
        }
    };
    let id = value.get("id").cloned().unwrap_or(Value::Null);
    let pairs = value.get("allPairs").is_some();
    match answer(&value, defaults, filter) {
        Ok((flows, matrix)) => BatchAnswer {
            id,
            refused: Vec::new(),
            flows: flows.map(Some),
            matrix: matrix.map(Some),
        },
        Err(refused) => BatchAnswer::refused(id, refused, pairs),
    }
}

type Answers = (Option<Vec<Verdict>>, Option<Matrix>);

fn answer(value: &Value, defaults: Options, filter: &LabelFilter) -> Result<Answers, Vec<Problem>> {
    let one = |problem| vec![problem];
    let line: Line = read(value, "").map_err(one)?;
    let mut world = World::new(line.options.over(defaults), filter.clone());
    let entries = line.endpoints.iter().enumerate();
    let entries: Vec<Entry> = entries
        .map(|(index, entry)| read(entry, &format!("endpoints[{index}]")))
        .collect::<Result<_, _>>()
        .map_err(one)?;
    let clusters = line.policies.iter().chain(&line.services);
    clusters.filter_map(|one| one.cluster.as_ref()).for_each(|name| world.name_cluster(name));
    world.add(&entries, |index| format!("endpoints[{index}]")).map_err(one)?;

    let mut refused = Vec::new();
    for (index, OfCluster { cluster, object }) in line.services.iter().enumerate() {
        let part = format!("services[{index}]");
        let cluster = world.cluster_of(cluster.as_deref(), &part);
        let added = cluster.and_then(|cluster| world.add_service_object(&cluster, object, &part));
        refused.extend(added.err());
    }
    world.link_services();
    for (index, OfCluster { cluster, object }) in line.policies.iter().enumerate() {
        let part = format!("policies[{index}]");
        match world.cluster_of(cluster.as_deref(), &part) {
            Ok(cluster) => refused.extend(add_policy(&mut world, &cluster, object, &part)),
            Err(problem) => refused.push(problem),
        }
    }
    if !refused.is_empty() {
        return Err(refused);
    }
    let flows = line.flows.map(|flows| {
        let flows = flows.iter().enumerate().map(|(index, flow)| {
            let part = format!("flows[{index}]");
            let flow: Flow = read(flow, &part)?;
            judge(&world, &flow, &part)
        });
        flows.collect::<Result<Vec<Verdict>, Problem>>()
    });
    let matrix = line.all_pairs.map(|AllPairs { ports }| {
        let ports = ports.iter().enumerate().map(|(index, text)| {
            let refuse = |reason| Problem::new("allPairs", &format!("ports[{index}]"), reason);
            text.parse::<PortQuery>().map_err(refuse)
        });
        matrix(&world, &ports.collect::<Result<Vec<_>, _>>()?)
    });
    match (flows, matrix) {
        (None, None) => Ok((Some(Vec::new()), None)),
        (flows, matrix) => Ok((flows.transpose().map_err(one)?, matrix.transpose().map_err(one)?)),
    }
}

/// Adds a policy, or says what is refused of it.
fn add_policy(world: &mut World, cluster: &str, object: &Value, part: &str) -> Vec<Problem> {
    let Some(checked) = parse(object, &world.filter) else {
        let kind = object.get("kind").map(ToString::to_string).unwrap_or_default();
        let reason = format!("{kind}: it is no kind of policy");
        return vec![Problem::new(part, "kind", reason)];
    };
    match checked.policy {
        Err(refusals) => {
            let of = |refusal| Problem::of_policy(&checked.reference, refusal);
            refusals.into_iter().map(of).collect()
        }
        Ok(policy) if world.has_policy(cluster, &policy.reference) => {
            vec![Problem::new(checked.reference.to_string(), "metadata.name", "it is there twice")]
        }
        Ok(policy) => {
            world.put_policy(cluster, policy);
            Vec::new()
        }
    }
}

// === impl BatchAnswer ===

impl BatchAnswer {
    fn refused(id: Value, refused: Vec<Problem>, pairs: bool) -> Self {
        Self { id, refused, flows: Some(None), matrix: pairs.then_some(None) }
    }
}
