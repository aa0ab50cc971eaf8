//! The files and annotations that the documents describe are those that the code knows.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{collections::BTreeSet, fs, path::Path};

use mesh_lab::contexts::Contexts;
use mesh_source::{Drain, cluster_directory::ClusterSettings};
use mesh_wire::{drained_peers::DrainedPeers, peer_file::PeerFile, users_file::UsersFile};
use serde_json::Value;

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A document's section, to the next one.
fn section<'a>(text: &'a str, title: &str) -> &'a str {
    let begin = text.find(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("no {title}"));
    let rest = text.get(begin + 4..).unwrap();
    rest.split("\n## ").next().unwrap()
}

fn example(section: &str) -> &str {
    section.split("```yaml").nth(1).and_then(|rest| rest.split("```").next()).expect("an example")
}

/// The words in backticks in the given cell of each row, for each table.
fn tables(section: &str, cell: usize) -> Vec<BTreeSet<String>> {
    let mut tables = Vec::new();
    let mut names = BTreeSet::new();
    for line in section.lines().chain([""]) {
        if line.starts_with('|') {
            let cell = line.split('|').nth(cell + 1).unwrap_or_default();
            names.extend(cell.split('`').skip(1).step_by(2).map(str::to_owned));
        } else if !names.is_empty() {
            tables.push(std::mem::take(&mut names));
        }
    }
    tables
}

fn set<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

fn keys(value: &impl serde::Serialize) -> BTreeSet<String> {
    let Value::Object(fields) = serde_json::to_value(value).unwrap() else { panic!("an object") };
    fields.into_iter().map(|(name, _)| name).collect()
}

/// The fields that a parser knows, from its error for an unknown one: "expected one of a, b, c at line 2, column 3".
fn expected(complaint: &str) -> BTreeSet<String> {
    let (_, names) = complaint.split_once("expected").unwrap_or_else(|| panic!("{complaint}"));
    let names = names.split(" at line ").next().unwrap_or_default();
    let names = names.trim_start_matches(" one of ").split([',', ' ']);
    let names = set(names.filter(|name| !matches!(*name, "" | "or")));
    assert!(!names.is_empty(), "{complaint}");
    names
}

#[test]
fn cluster_yaml() {
    let text = document("files.md");
    let section = section(&text, "cluster.yaml");
    let example = example(section);
    let settings = ClusterSettings::parse(example).unwrap();
    assert_eq!((settings.name.as_str(), settings.endpoints.len()), ("north", 1));
    let complaint = ClusterSettings::parse(&format!("{example}\nunknown: 1")).unwrap_err();
    assert_eq!(tables(section, 0), [expected(&complaint.to_string())]);
}

#[test]
fn peer_files() {
    let text = document("files.md");
    let section = section(&text, "Peer files");
    let file = PeerFile::parse(example(section)).unwrap();
    let grant = file.clustermesh.clone().unwrap();
    let budget = grant.budget.clone().unwrap();
    assert_eq!(tables(section, 0), [keys(&file), keys(&grant), keys(&budget)]);
    for (part, fields) in [("clustermesh", keys(&grant)), ("clustermesh: {budget", keys(&budget))] {
        let end = if part.contains('{') { "}}" } else { "}" };
        let text = format!("endpoints: [x]\n{part}: {{unknown: 1{end}");
        let complaint = PeerFile::parse(&text).unwrap_err().to_string();
        assert_eq!(expected(&complaint), fields, "{complaint}");
    }
}

/// What connects a Cilium: the user for it, its Helm values, and the peer file.
#[test]
fn files_for_a_cilium() {
    let text = document("cilium.md");
    let examples: Vec<&str> = text.split("```yaml").skip(1).collect();
    let [users, values, peer] = examples.as_slice() else { panic!("{}", examples.len()) };
    let yaml = |example: &str| example.split("```").next().unwrap().replace("\n   ", "\n");
    let users = UsersFile::parse(&yaml(users)).unwrap().users;
    assert_eq!(users.first().unwrap().name, "remote-south");
    assert!(yaml(values).contains("\n      - name: north\n"), "{}", yaml(values));
    let grant = PeerFile::parse(&yaml(peer)).unwrap().clustermesh.unwrap();
    assert_eq!((grant.pod_cidrs.len(), grant.uuid), (1, None), "a Cilium has no UUID");
}

#[test]
fn users_yaml() {
    let text = document("files.md");
    let section = section(&text, "users.yaml");
    let file = UsersFile::parse(example(section)).unwrap();
    assert_eq!((file.users.len(), tables(section, 0)), (1, vec![keys(&file)]));
    assert_eq!(keys(file.users.first().unwrap()), set(["name", "role"]));
}

#[test]
fn drain_yaml() {
    let text = document("files.md");
    let section = section(&text, "drain.yaml");
    let drain = Drain::parse(example(section)).unwrap();
    assert_eq!((drain.cluster, drain.nodes.len()), (false, 1));
    let complaint = Drain::parse("unknown: 1").unwrap_err().to_string();
    assert_eq!(tables(section, 0), [expected(&complaint)]);
}

#[test]
fn drained_peers_yaml() {
    let text = document("files.md");
    let section = section(&text, "drained-peers.yaml");
    let drained = DrainedPeers::parse(example(section)).unwrap();
    assert_eq!(drained.clusters.len(), 1);
    let complaint = DrainedPeers::parse("unknown: 1").unwrap_err().to_string();
    assert!(complaint.contains("clusters"), "{complaint}");
    assert_eq!(tables(section, 0), [set(["clusters"])]);
}

#[test]
fn contexts() {
    let text = document("files.md");
    let section = section(&text, "The contexts file");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("contexts.yaml");
    fs::write(&path, example(section)).unwrap();
    let contexts = Contexts::read(&path).unwrap();
    let context = contexts.contexts.first().unwrap();
    assert_eq!(tables(section, 0), [keys(context)]);
    assert_eq!(keys(context.agents.first().unwrap()), set(["node", "socket"]));
}

/// The annotations in the table and those in the code are the same.
#[test]
fn annotations() {
    let text = document("annotations.md");
    let names: BTreeSet<String> =
        [1, 2].into_iter().flat_map(|cell| tables(&text, cell)).flatten().collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut code = BTreeSet::new();
    let mut folders = vec![root.join("clustermesh-apiserver/source/src")];
    folders.push(root.join("clustermesh-apiserver/export/src"));
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let constants = text.lines().filter(|line| line.trim_start().contains("const "));
            let literals = constants.flat_map(|line| line.split('"').skip(1).step_by(2));
            code.extend(literals.filter(|text| is_annotation(text)).map(str::to_owned));
        }
    }
    assert!(code.len() > 8, "{code:?}");
    assert_eq!(names, code);
}

fn is_annotation(text: &str) -> bool {
    let domains =
        ["clustermesh.dev/", "service.cilium.io/", "clustermesh.cilium.io/", "io.cilium/"];
    domains.iter().any(|domain| text.strip_prefix(domain).is_some_and(|name| !name.is_empty()))
}
