//! The imports between the packages are those that the table in `ARCHITECTURE.md` allows, and no file takes part in a
//! circle.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod logs;
mod modules;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

type Imports = BTreeMap<String, BTreeSet<String>>;

/// The packages of the workspace that each package imports, also in its tests.
fn actual() -> Imports {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut metadata = Command::new(env!("CARGO"));
    metadata.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    let output = metadata.current_dir(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let own: BTreeSet<String> = packages.iter().map(name).collect();
    let imports = |package: &Value| {
        let dependencies = package["dependencies"].as_array().unwrap();
        dependencies.iter().map(name).filter(|name| own.contains(name)).collect()
    };
    packages.iter().map(|package| (name(package), imports(package))).collect()
}

/// The rows of the table: `| package | what it may import |`.
fn allowed(text: &str) -> Imports {
    let after = text.split("## Allowed imports").nth(1).expect("the section");
    let section = after.split("\n## ").next().unwrap();
    let names =
        |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<String>>();
    let mut allowed = Imports::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').collect();
        for package in names(cells[1]) {
            let twice = allowed.insert(package.clone(), names(cells[2]).into_iter().collect());
            assert!(twice.is_none(), "{package} has two rows");
        }
    }
    allowed
}

/// Imports that are not allowed, and rows and entries that are not needed.
fn deviations(actual: &Imports, allowed: &Imports) -> Vec<String> {
    let mut found = Vec::new();
    for (package, imports) in actual {
        let Some(row) = allowed.get(package) else {
            found.push(format!("{package} has no row"));
            continue;
        };
        found.extend(
            imports.difference(row).map(|other| format!("{package} may not import {other}")),
        );
        found.extend(
            row.difference(imports).map(|other| format!("{package} does not import {other}")),
        );
    }
    found.extend(
        allowed
            .keys()
            .filter(|name| !actual.contains_key(*name))
            .map(|n| format!("{n} is not a package")),
    );
    found
}

#[test]
fn imports_are_those_that_the_table_allows() {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md");
    let allowed = allowed(&fs::read_to_string(text).unwrap());
    let found = deviations(&actual(), &allowed);
    assert!(found.is_empty(), "{found:#?}");
}

/// Imports that the table must not allow.
#[test]
fn some_imports_are_never_allowed() {
    let actual = actual();
    let mut reached = Imports::new();
    for package in actual.keys() {
        let (mut all, mut next) = (BTreeSet::new(), vec![package.clone()]);
        while let Some(name) = next.pop() {
            for import in &actual[&name] {
                if all.insert(import.clone()) {
                    next.push(import.clone());
                }
            }
        }
        reached.insert(package.clone(), all);
    }
    let binaries = ["clustermesh", "clustermesh-agent", "clustermesh-apiserver", "clustermesh-cni"];
    for (package, imports) in &reached {
        for binary in binaries {
            assert!(
                !imports.contains(binary),
                "{package} imports {binary}: nothing imports a binary"
            );
        }
    }
    // The lab starts daemons and writes files. It must not import the daemons' code: what a lab shows is what the daemons
    // do.
    for forbidden in ["mesh-dataplane", "mesh-etcd", "mesh-etcd-setup", "mesh-routes", "mesh-sys"] {
        assert!(!reached["mesh-lab"].contains(forbidden), "the lab imports {forbidden}");
    }
    // The stages of the agent do not import each other.
    let stages = [
        "mesh-follow",
        "mesh-merge",
        "mesh-balance",
        "mesh-health",
        "mesh-dataplane",
        "mesh-export",
        "mesh-routes",
        "mesh-pods",
    ];
    for stage in stages {
        for other in stages.iter().filter(|other| **other != stage) {
            assert!(!reached[stage].contains(*other), "{stage} imports {other}");
        }
    }
    assert!(reached["mesh-model"].is_empty(), "the vocabulary imports nothing");
}

#[test]
fn deviations_are_found() {
    let imports = |all: &[(&str, &[&str])]| -> Imports {
        all.iter()
            .map(|(name, of)| (name.to_string(), of.iter().map(|s| s.to_string()).collect()))
            .collect()
    };
    let actual = imports(&[("a", &["b"]), ("b", &[]), ("c", &[])]);
    let allowed =
        allowed("## Allowed imports\n| `a` | – |\n| `b` | `c` |\n| `d` | |\n## Next\n| `c` | |");
    let found = deviations(&actual, &allowed);
    let expected =
        ["a may not import b", "b does not import c", "c has no row", "d is not a package"];
    assert_eq!(found, expected);
}

/// Two files that need each other should be one file, or share a third one.
#[test]
fn no_files_import_each_other_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    let mut found = Vec::new();
    for source in sources(&root) {
        let files = modules::files(&source);
        let shown = |path: &Path| path.strip_prefix(&root).unwrap().display().to_string();
        for circle in files.circles() {
            let mut lines = vec![format!("circle of {} files:", circle.len())];
            for file in &circle {
                let edges =
                    files.edges[*file].iter().filter(|(to, _)| circle.contains(to.as_path()));
                lines.extend(
                    edges.map(|(to, names)| {
                        format!("  {} -> {}: {names:?}", shown(file), shown(to))
                    }),
                );
            }
            found.push(lines.join("\n"));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The root file of every crate, including the kernel programs.
fn sources(root: &Path) -> Vec<PathBuf> {
    listed(root, &["*/src/lib.rs", "*/src/main.rs", "*/src/*/main.rs"])
}

/// The files that git knows by these patterns.
fn listed(root: &Path, patterns: &[&str]) -> Vec<PathBuf> {
    let listed = Command::new("git").arg("-C").arg(root).arg("ls-files").args(patterns).output();
    let listed = listed.unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout).unwrap();
    let all: Vec<PathBuf> =
        listed.lines().map(|line| root.join(line)).filter(|path| path.exists()).collect();
    assert!(all.len() > 30, "{all:?}");
    all
}

/// From info on, logs are for operators.
#[test]
fn logs_have_words_and_no_names_of_types() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    let mut found = Vec::new();
    for file in listed(&root, &["*/src/*.rs"]) {
        let text = fs::read_to_string(&file).unwrap();
        let calls = logs::debug_output(text.parse().unwrap());
        found.extend(calls.into_iter().map(|call| format!("{}: {call}", file.display())));
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_log_of_a_types_name_is_found() {
    for (code, is_found) in [
        ("tracing::info!(peer = %name, ?kind, \"synced\");", true),
        ("select! { () = x => { warn!(kind = ?self.kind, \"synced\") } }", true),
        ("error!(\"{kind:?}\")", true),
        ("let span = tracing::info_span!(\"peer\", ?kind);", true),
        ("tracing::debug!(?kind, \"synced\");", false),
        ("tracing::info!(peer = %self.name()?, %kind, \"is it? yes\");", false),
        ("format!(\"{kind:?}\")", false),
    ] {
        assert_eq!(!logs::debug_output(code.parse().unwrap()).is_empty(), is_found, "{code}");
    }
}

/// With its admin API, and with its tests.
#[test]
fn the_agent_s_binary_is_only_wiring() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/bin/src")];
    let mut lines = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let path: PathBuf = entry.path();
            match path.is_dir() {
                true => folders.push(path),
                false => lines += fs::read_to_string(&path).unwrap().lines().count(),
            }
        }
    }
    assert!(
        (1_000..=2_500).contains(&lines),
        "{lines} lines: move code that is not wiring to a library"
    );
}
