//! What each version of etcd lets a peer do. Every cell of the two tables in `docs/etcd.md` is tried.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code"
)]

#[path = "etcd_versions/probes.rs"]
mod probes;

use std::{fs, path::Path, process::Command};

use mesh_e2e::{Etcd, EtcdVersion, json, netns::binary};
use probes::{ATTACKS, BEHAVIOURS, Probe, Scene};

/// The table below a heading of `docs/etcd.md`: the versions in its head, and its rows of cells.
fn table(heading: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/etcd.md");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (_, below) = text.split_once(&format!("\n## {heading}\n")).expect("the heading");
    let lines = below.lines().take_while(|line| !line.starts_with("## "));
    let rows = lines.filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let cells = |row: &str| row.split(" | ").map(str::to_owned).collect();
    let mut rows: Vec<Vec<String>> = rows.map(cells).collect();
    assert!(rows.len() > 2, "{heading}: a head and rows");
    (rows.remove(0).split_off(1), rows)
}

/// Tries each row of a table on each version, and compares the results with the cells.
async fn check_table(heading: &str, probes: &[Probe]) {
    let (versions, rows) = table(heading);
    let named: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    let known: Vec<&str> = probes.iter().map(|probe| probe.row).collect();
    assert_eq!(named, known, "{heading}: the rows");
    assert_eq!(versions.len(), EtcdVersion::ALL.len(), "{heading}: the columns");
    let mut wrong = Vec::new();
    for (column, version) in EtcdVersion::ALL.into_iter().enumerate() {
        let program = version.program();
        for (probe, row) in probes.iter().zip(&rows) {
            let scene = Scene::new(Etcd::running(&program, probe.flags)).await;
            assert_eq!(
                scene.version().await,
                versions[column],
                "{heading}: the column of {version:?}"
            );
            let found = (probe.try_it)(&scene).await;
            if found != row[column + 1] {
                let (row, cell) = (probe.row, &row[column + 1]);
                wrong.push(format!(
                    "{row}, {}: {found}, where the table has {cell}",
                    versions[column]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{heading}:\n{}", wrong.join("\n"));
}

/// Attacks by a peer with a valid certificate.
#[tokio::test]
async fn attacks_succeed_on_the_versions_that_the_document_names() {
    check_table("What a peer can do that it should not", &ATTACKS).await;
}

/// Behaviour that differs between versions, or that a user's role does not allow.
#[tokio::test]
async fn versions_behave_as_the_document_says() {
    check_table("Differences", &BEHAVIOURS).await;
}

/// A few random faults, as in the suite `chaos`, on the versions of etcd that it does not use. Needs root.
#[test]
fn every_version_recovers_from_faults() {
    for (version, lab) in [(EtcdVersion::V3_5, "e2eetcd35"), (EtcdVersion::V3_6, "e2eetcd36")] {
        let mut chaos = Command::new(binary());
        chaos.args(["lab", "chaos", "--lab", lab, "--seed", "1", "--faults", "2"]);
        chaos.env("CLUSTERMESH_LAB_ETCD", version.program());
        let (code, found, complaint) = json::run(chaos);
        assert_eq!(code, 0, "{version:?}: {found:#} {complaint}");
        let survived = found["survived"].as_array().map(Vec::len);
        assert_eq!(survived, Some(2), "{version:?}: {found:#}");
    }
}
