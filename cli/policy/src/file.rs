//! Files of policies and endpoints.

use std::path::{Path, PathBuf};

use mesh_policy_rules::{Policy, parse};
use mesh_source::{Format, documents_of};
use serde_json::Value;

use crate::{
    entry::Entry,
    problem::{Problem, read},
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
        let format = Format::of(&file.path).unwrap_or(Format::Yaml);
        let documents = match documents_of(format, &file.text) {
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

/// Other objects of a cluster may lie beside its policies. What may be meant as a policy is refused.
fn not_a_policy(object: &Value, part: &str) -> Option<Problem> {
    let kind = object.get("kind").and_then(Value::as_str);
    match kind {
        None => Some(Problem::new(part, "kind", "an object without a kind")),
        Some(kind) if kind.to_ascii_lowercase().contains("policy") => {
            let reason = format!(
                "{kind}: supported are NetworkPolicy, CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy"
            );
            Some(Problem::new(part, "kind", reason))
        }
        Some(_) => None,
    }
}

/// The objects of a document: the items of a List.
fn objects(line: usize, document: &Value) -> Vec<(usize, &Value)> {
    let kind = document.get("kind").and_then(Value::as_str).unwrap_or_default();
    match document.get("items").and_then(Value::as_array) {
        Some(items) if kind.ends_with("List") => items.iter().map(|item| (line, item)).collect(),
        _ => vec![(line, document)],
    }
}

/// The files of policies below a folder, or the file itself. A folder in it is a cluster's where `is_cluster` says so.
///
/// # Errors
/// What cannot be read.
pub fn policy_files(
    path: &Path,
    is_cluster: &dyn Fn(&str) -> bool,
) -> Result<Vec<PolicyFile>, Problem> {
    let mut files = Vec::new();
    if path.is_dir() {
        collect(path, None, Some(is_cluster), &mut files)?;
        files.sort_by(|one, other| one.path.cmp(&other.path));
    } else {
        files.push(open(path, None)?);
    }
    Ok(files)
}

fn collect(
    folder: &Path,
    cluster: Option<&str>,
    is_cluster: Option<&dyn Fn(&str) -> bool>,
    files: &mut Vec<PolicyFile>,
) -> Result<(), Problem> {
    let unreadable =
        |error: std::io::Error| Problem::new(folder.display().to_string(), "", error.to_string());
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            let own = is_cluster.filter(|is_cluster| is_cluster(name)).map(|_| name);
            collect(&path, own.or(cluster), None, files)?;
        } else if Format::of(&path).is_some() {
            files.push(open(&path, cluster)?);
        }
    }
    Ok(())
}

fn open(path: &Path, cluster: Option<&str>) -> Result<PolicyFile, Problem> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Problem::new(path.display().to_string(), "", error.to_string()))?;
    Ok(PolicyFile { path: path.into(), cluster: cluster.map(ToOwned::to_owned), text })
}

/// The entries of a file that is a list of endpoints; `None`: it has objects of Kubernetes.
///
/// # Errors
/// What is not understood.
pub fn entries(path: &Path, text: &str) -> Result<Option<Vec<Entry>>, Problem> {
    let part = path.display().to_string();
    let format = Format::of(path).unwrap_or(Format::Yaml);
    let documents = documents_of(format, text).map_err(|problem| {
        Problem::new(part.clone(), &format!("line {}", problem.line), problem.reason)
    })?;
    match documents.as_slice() {
        [(_, Value::Array(list))] => {
            let entries = list.iter().enumerate();
            let entries = entries.map(|(index, entry)| read(entry, &format!("{part}[{index}]")));
            entries.collect::<Result<_, _>>().map(Some)
        }
        _ => Ok(None),
    }
}
