//! Many questions, a line each.

use mesh_labels::LabelFilter;
use mesh_policy::Options;
use mesh_policy_rules::parse;
use mesh_source::{Format, documents_of};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    entry::Entry,
    flow::Flow,
    matrix::{Matrix, PortQuery, matrix},
    options::VerdictOptions,
    problem::{Problem, all, object_name, or_absent, read, read_each},
    verdict::{Verdict, judge},
    world::{SharedJudge, World},
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

/// A line. Its parts are read one by one, so that all that is refused is named by its part.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Line {
    #[serde(default)]
    #[expect(dead_code, reason = "read before the line is")]
    id: Value,
    #[serde(default, deserialize_with = "or_absent")]
    policies: Vec<Value>,
    #[serde(default, deserialize_with = "or_absent")]
    endpoints: Vec<Value>,
    #[serde(default, deserialize_with = "or_absent")]
    services: Vec<Value>,
    #[serde(default)]
    flows: Option<Vec<Value>>,
    #[serde(default)]
    all_pairs: Option<Value>,
    #[serde(default)]
    options: Option<Value>,
}

/// The same with its parts.
struct Question {
    policies: Vec<OfCluster>,
    endpoints: Vec<Entry>,
    services: Vec<OfCluster>,
    flows: Option<Vec<Flow>>,
    pairs: Option<Vec<PortQuery>>,
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

/// Answers a line by the model. Whatever it is, there is an answer.
pub fn answer_line(line: &str, defaults: Options, filter: &LabelFilter) -> BatchAnswer {
    answer_line_by(line, defaults, filter, None)
}

/// Answers a line, by another judge than the model where there is one. Whatever it is, there is an answer.
pub fn answer_line_by(
    line: &str,
    defaults: Options,
    filter: &LabelFilter,
    judge: Option<&SharedJudge>,
) -> BatchAnswer {
    let value = match documents_of(Format::Json, line) {
        Ok(documents) => documents.into_iter().next().map(|(_, value)| value).unwrap_or_default(),
        Err(problem) => {
            // A field that occurs twice leaves the rest as it is.
            let value: Value = serde_json::from_str(line).unwrap_or_default();
            let refused = vec![Problem::new("", "", problem.reason)];
            return BatchAnswer::refused(&value, refused);
        }
    };
    match answer(&value, defaults, filter, judge) {
        Ok((flows, matrix)) => BatchAnswer {
            id: id_of(&value),
            refused: Vec::new(),
            flows: flows.map(Some),
            matrix: matrix.map(Some),
        },
        Err(refused) => BatchAnswer::refused(&value, refused),
    }
}

type Answers = (Option<Vec<Verdict>>, Option<Matrix>);

fn answer(
    value: &Value,
    defaults: Options,
    filter: &LabelFilter,
    by: Option<&SharedJudge>,
) -> Result<Answers, Vec<Problem>> {
    let one = |problem| vec![problem];
    let line: Line = read(value, "").map_err(one)?;
    let Question { policies, endpoints, services, flows, pairs, options } = Question::read(&line)?;
    let mut world = World::new(options.over(defaults), filter.clone());
    if let Some(by) = by {
        world.set_judge(by.clone());
    }
    let clusters = policies.iter().chain(&services);
    clusters.filter_map(|one| one.cluster.as_ref()).for_each(|name| world.name_cluster(name));
    world.add(&endpoints, |index| format!("endpoints[{index}]")).map_err(one)?;

    let mut refused = Vec::new();
    for (index, OfCluster { cluster, object }) in services.iter().enumerate() {
        let part = format!("services[{index}]");
        let cluster = world.cluster_of(cluster.as_deref(), &part);
        let added = cluster.and_then(|cluster| world.add_service_object(&cluster, object, &part));
        refused.extend(added.err());
    }
    world.link_services();
    for (index, OfCluster { cluster, object }) in policies.iter().enumerate() {
        let part = format!("policies[{index}]");
        match world.cluster_of(cluster.as_deref(), &part) {
            Ok(cluster) => refused.extend(add_policy(&mut world, &cluster, object, &part)),
            Err(problem) => refused.push(problem),
        }
    }
    if !refused.is_empty() {
        return Err(refused);
    }
    let flows = flows.map(|flows| {
        let flows = flows.iter().enumerate();
        all(flows.map(|(index, flow)| judge(&world, flow, &format!("flows[{index}]"))))
    });
    let matrix = pairs.map(|ports| matrix(&world, &ports).map_err(one));
    match (flows, matrix) {
        (None, None) => Ok((Some(Vec::new()), None)),
        (flows, matrix) => Ok((flows.transpose()?, matrix.transpose()?)),
    }
}

/// Adds a policy, or says what is refused of it.
fn add_policy(world: &mut World, cluster: &str, object: &Value, part: &str) -> Vec<Problem> {
    let Some(checked) = parse(object, &world.filter) else {
        let reason = match object.get("kind") {
            Some(kind) => format!("{kind} is no kind of policy"),
            None => "an object without a kind".to_owned(),
        };
        return vec![Problem::new(object_name(object, part), "kind", reason)];
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

fn id_of(line: &Value) -> Value {
    line.get("id").cloned().unwrap_or_default()
}

// === impl Question ===

impl Question {
    /// Reads all parts of a line, or lists all that is refused of them.
    fn read(line: &Line) -> Result<Self, Vec<Problem>> {
        let mut refused = Vec::new();
        let options = line.options.as_ref().map(|options| read(options, "options"));
        let options = taken(options.transpose().map_err(|one| vec![one]), &mut refused);
        let policies = read_each(&line.policies, |index| format!("policies[{index}]"));
        let endpoints = read_each(&line.endpoints, |index| format!("endpoints[{index}]"));
        let services = read_each(&line.services, |index| format!("services[{index}]"));
        let flows = line.flows.as_ref();
        let flows = flows.map(|flows| read_each(flows, |index| format!("flows[{index}]")));
        let question = Self {
            policies: taken(policies, &mut refused),
            endpoints: taken(endpoints, &mut refused),
            services: taken(services, &mut refused),
            flows: taken(flows.transpose(), &mut refused),
            pairs: taken(line.all_pairs.as_ref().map(ports).transpose(), &mut refused),
            options: options.unwrap_or_default(),
        };
        if refused.is_empty() { Ok(question) } else { Err(refused) }
    }
}

fn ports(pairs: &Value) -> Result<Vec<PortQuery>, Vec<Problem>> {
    let AllPairs { ports } = read(pairs, "allPairs").map_err(|problem| vec![problem])?;
    all(ports.iter().enumerate().map(|(index, text)| {
        let refuse = |reason| Problem::new("allPairs", &format!("ports[{index}]"), reason);
        text.parse().map_err(refuse)
    }))
}

fn taken<T: Default>(read: Result<T, Vec<Problem>>, refused: &mut Vec<Problem>) -> T {
    read.unwrap_or_else(|problems| {
        refused.extend(problems);
        T::default()
    })
}

// === impl BatchAnswer ===

impl BatchAnswer {
    /// Nothing of a line is answered.
    fn refused(line: &Value, refused: Vec<Problem>) -> Self {
        let pairs = line.get("allPairs").is_some_and(|pairs| !pairs.is_null());
        Self { id: id_of(line), refused, flows: Some(None), matrix: pairs.then_some(None) }
    }
}
