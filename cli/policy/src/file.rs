//! Files of policies and endpoints.

use std::path::{Path, PathBuf};

use mesh_policy_rules::{Policy, parse};
use mesh_source::Format;
use serde_json::Value;

use crate::{
    documents::documents,
    entry::Entry,
    problem::{Problem, read_each},
    world::World,
};

/// A file of policies, and the cluster whose they are; `None`: that is not said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFile {
    /// The file.
    pub path: PathBuf,
    /// The cluster: the name of the folder.
    pub cluster: Option<String>,
    /// Its content.
    pub text: String,
}

/// Reads the policies of files. What is refused of any of them is named, and there is no result then.
pub fn read_policies(
    world: &World,
    files: &[PolicyFile],
) -> Result<Vec<(String, Policy)>, Vec<Problem>> {
    let (mut policies, mut refused) = (Vec::<(String, Policy)>::new(), Vec::new());
    for file in files {
        let name = file.path.display().to_string();
        let cluster = match world.cluster_of(file.cluster.as_deref(), &name) {
            Ok(cluster) => cluster,
            Err(problem) => {
                let reason = "there are several clusters: put it in a folder of its cluster's name, or give --cluster";
                refused.push(Problem::new(problem.object, "", reason));
                continue;
            }
        };
        let known: Vec<&str> = world.clusters().collect();
        if file.cluster.is_some() && !known.is_empty() && !known.contains(&cluster.as_str()) {
            let known = known.join(", ");
            let reason = format!(
                "the folder is of cluster {cluster:?}, but endpoints are of {known}: if it has none, describe a namespace of it"
            );
            refused.push(Problem::new(name, "", reason));
            continue;
        }
        let format = Format::of(&file.path).unwrap_or(Format::Yaml);
        let documents = match documents(format, &file.text) {
            Ok(documents) => documents,
            Err(problem) => {
                let line = format!("line {}", problem.line);
                refused.push(Problem::new(name, &line, problem.reason));
                continue;
            }
        };
        for (line, object) in documents.iter().flat_map(|(line, one)| objects(*line, one)) {
            let Some(checked) = parse(object, &world.filter) else {
                refused.extend(not_a_policy(object, &format!("{name}, line {line}")));
                continue;
            };
            match checked.policy {
                Err(refusals) => refused.extend(refusals.into_iter().map(|refusal| {
                    let problem = Problem::of_policy(&checked.reference, refusal);
                    Problem { object: format!("{name}: {}", problem.object), ..problem }
                })),
                Ok(policy) => {
                    let same = |(of, one): &(String, Policy)| {
                        *of == cluster && one.reference == policy.reference
                    };
                    if policies.iter().any(same) {
                        let object = format!("{name}: {}", policy.reference);
                        refused.push(Problem::new(object, "metadata.name", "it is there twice"));
                    }
                    policies.push((cluster.clone(), policy));
                }
            }
        }
    }
    if refused.is_empty() { Ok(policies) } else { Err(refused) }
}

/// Kinds of groups with policies that are none.
const OTHER_KINDS: [&str; 10] = [
    "CiliumCIDRGroup",
    "CiliumEndpoint",
    "CiliumEndpointSlice",
    "CiliumIdentity",
    "CiliumLoadBalancerIPPool",
    "CiliumNode",
    "IPAddress",
    "Ingress",
    "IngressClass",
    "ServiceCIDR",
];

/// Other objects of a cluster may lie beside its policies. What may be meant as a policy of networks is refused.
fn not_a_policy(object: &Value, part: &str) -> Option<Problem> {
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    let Some(kind) = text("kind") else {
        return Some(Problem::new(part, "kind", "an object without a kind"));
    };
    let group =
        text("apiVersion").and_then(|version| version.split_once('/')).map(|(group, _)| group);
    let with_policies = group.is_some_and(|group| {
        ["networking.k8s.io", "cilium.io", "projectcalico.org"]
            .iter()
            .any(|one| group.ends_with(one))
    });
    let is_meant = kind.to_ascii_lowercase().contains("networkpolicy")
        || with_policies && !OTHER_KINDS.contains(&kind);
    let reason = || {
        format!(
            "{kind}: supported are NetworkPolicy, CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy"
        )
    };
    is_meant.then(|| Problem::new(part, "kind", reason()))
}

/// The objects of a document: the items of a List.
fn objects(line: usize, document: &Value) -> Vec<(usize, &Value)> {
    let kind = document.get("kind").and_then(Value::as_str).unwrap_or_default();
    match document.get("items").and_then(Value::as_array) {
        Some(items) if kind.ends_with("List") => items.iter().map(|item| (line, item)).collect(),
        _ => vec![(line, document)],
    }
}

/// The files of policies below a folder, or the file itself. `clusters` are known: with several, each folder in it is a
/// cluster's; with one, folders are where one of them has its name. Without any they are only folders.
///
/// # Errors
/// What cannot be read.
pub fn policy_files(path: &Path, clusters: &[&str]) -> Result<Vec<PolicyFile>, Problem> {
    if !path.is_dir() {
        return Ok(vec![open(path, None)?]);
    }
    let inside = inside(path)?;
    let of_clusters = match clusters {
        [] => false,
        [one] => inside.iter().any(|(path, name)| name == one && path.is_dir()),
        _ => true,
    };
    let mut files = Vec::new();
    for (path, name) in inside {
        collect(&path, Some(name.as_str()).filter(|_| of_clusters), &mut files)?;
    }
    Ok(files)
}

/// The files of policies below a folder, each folder's as a cluster's, whatever their names.
///
/// # Errors
/// What cannot be read.
pub fn policy_files_of_all(path: &Path) -> Result<Vec<PolicyFile>, Problem> {
    policy_files(path, &["", ""])
}

/// What is in a folder, in the order of the names, without hidden files.
fn inside(folder: &Path) -> Result<Vec<(PathBuf, String)>, Problem> {
    let unreadable =
        |error: std::io::Error| Problem::new(folder.display().to_string(), "", error.to_string());
    let mut inside = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        if !name.starts_with('.') {
            inside.push((path, name));
        }
    }
    inside.sort();
    Ok(inside)
}

/// The files at or below a path. `cluster` is whose they are if it is a folder.
fn collect(path: &Path, cluster: Option<&str>, files: &mut Vec<PolicyFile>) -> Result<(), Problem> {
    if path.is_dir() {
        for (path, _) in inside(path)? {
            match path.is_dir() {
                true => collect(&path, cluster, files)?,
                false if Format::of(&path).is_some() => files.push(open(&path, cluster)?),
                false => {}
            }
        }
    } else if Format::of(path).is_some() {
        files.push(open(path, None)?);
    }
    Ok(())
}

fn open(path: &Path, cluster: Option<&str>) -> Result<PolicyFile, Problem> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Problem::new(path.display().to_string(), "", error.to_string()))?;
    Ok(PolicyFile { path: path.into(), cluster: cluster.map(ToOwned::to_owned), text })
}

/// The entries of a file that is a list of endpoints, or has some as documents; `None`: it has objects of Kubernetes.
///
/// # Errors
/// All that is not understood.
pub fn entries(path: &Path, text: &str) -> Result<Option<Vec<Entry>>, Vec<Problem>> {
    let part = path.display().to_string();
    let format = Format::of(path).unwrap_or(Format::Yaml);
    let documents = documents(format, text).map_err(|problem| {
        vec![Problem::new(part.clone(), &format!("line {}", problem.line), problem.reason)]
    })?;
    let mut values = Vec::new();
    for (_, document) in documents {
        match document {
            Value::Array(list) => values.extend(list),
            // Kinds of Kubernetes begin with a capital letter.
            entry if is_of_a_list(&entry) => values.push(entry),
            _ if values.is_empty() => return Ok(None),
            other => values.push(other),
        }
    }
    read_each(&values, |index| format!("{part}[{index}]")).map(Some)
}

fn is_of_a_list(entry: &Value) -> bool {
    let kind = entry.get("kind").and_then(Value::as_str);
    kind.is_some_and(|kind| kind.starts_with(|first: char| first.is_lowercase()))
}
