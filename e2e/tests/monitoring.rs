//! The alert rules in `deploy/monitoring`, checked by `promtool`, and the metrics that daemons export, compared with
//! `docs/metrics.md`. The test of a mesh needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use mesh_admin::metrics::conventions::violations;
use mesh_e2e::{
    Apiserver, Etcd, Mesh as _, Netns,
    mesh::{connect, eventually, output, wait_ready},
};

const DOCUMENTATION: &str = include_str!("../../docs/metrics.md");
const ALERTS: &str = include_str!("../../deploy/monitoring/alerts.yaml");
const ALERT_TESTS: &str = include_str!("../../deploy/monitoring/alerts_test.yaml");

/// The exit code of `promtool check metrics` for a text that it can read.
const BROKEN_CONVENTIONS: i32 = 3;

/// Runs `promtool` in the folder of the rules. Returns its exit code and output.
fn promtool(args: &[&str], input: &str) -> (Option<i32>, String) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring");
    let mut command = Command::new("promtool");
    command.args(args).current_dir(folder);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool is there: `make setup` installs it");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// The names of metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| c != '_' && !c.is_ascii_alphanumeric());
    words
        .filter(|word| {
            ["clustermesh_agent_", "clustermesh_apiserver_", "process_"]
                .iter()
                .any(|prefix| word.starts_with(prefix) && word.len() > prefix.len())
        })
        .collect()
}

/// Each alert's name and rule.
fn alerts() -> Vec<(&'static str, &'static str)> {
    let rules = ALERTS.split("- alert: ").skip(1);
    rules.map(|rule| rule.split_once('\n').unwrap()).collect()
}

#[test]
fn alert_rules_pass_their_tests() {
    for args in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]] {
        let (code, text) = promtool(&args, "");
        assert_eq!(code, Some(0), "{args:?}: {text}");
    }
}

#[test]
fn each_alert_has_an_action_and_tests_of_firing_and_not_firing() {
    let alerts = alerts();
    assert!(alerts.len() > 10, "{alerts:?}");
    for (name, rule) in alerts {
        for part in ["severity: ", "summary: ", "description: ", "action: "] {
            assert_eq!(rule.matches(part).count(), 1, "{name}: {part}");
        }
        let heading = format!("\n    name: {name}\n");
        let tests = ALERT_TESTS.split(&heading).skip(1);
        let tests: Vec<&str> =
            tests.map(|test| test.split("\n    name: ").next().unwrap()).collect();
        assert!(
            tests.iter().any(|test| test.contains("exp_samples: []")),
            "{name}: no test in which it does not fire"
        );
        assert!(
            tests.iter().any(|test| test.contains("value: 1")),
            "{name}: no test in which it fires"
        );
    }
}

#[test]
fn metrics_in_alerts_are_documented() {
    let rows = DOCUMENTATION.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    // Rules must not use the names in the table of former names.
    let former = DOCUMENTATION.split("## Former names").nth(1).unwrap();
    let documented: BTreeSet<&str> =
        rows.filter(|name| !former.contains(&format!("| `{name}` | "))).collect();
    let named = metrics_in(ALERTS);
    assert!(named.len() > 10, "{named:?}");
    let unknown: Vec<&&str> = named.difference(&documented).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn an_apiserver_exports_the_documented_metrics() {
    let etcd = Etcd::protected(&[]);
    let apiserver = Apiserver::start(&etcd);
    apiserver.wait_ready();
    let text = apiserver.metrics();
    check(&text, "clustermesh_apiserver");
    for series in [
        "clustermesh_apiserver_ready 1\n",
        "clustermesh_apiserver_etcd_connected 1\n",
        "clustermesh_apiserver_identities_limit 65536\n",
        "clustermesh_apiserver_drained 0\n",
        "/pki/admin.crt\"} ",
        "/pki/ca.crt\"} ",
    ] {
        assert!(text.contains(series), "no {series} in {text}");
    }
}

#[test]
fn a_mesh_exports_the_documented_metrics() {
    let mesh = Netns::up("metrics");
    let [one, other] = <[String; 2]>::try_from(mesh.clusters()).unwrap();
    connect(&mesh, &one, &other);
    wait_ready(&mesh);
    let node = mesh.nodes(&one)[0].clone();
    let text = eventually("the agent exports its connected peer", || {
        let text = scrape(&mesh, &one, &node, 9981)?;
        let ready = format!("clustermesh_agent_peer_ready{{peer=\"{other}\"}} 1\n");
        if text.contains(&ready) { Ok(text) } else { Err(text) }
    });
    check(&text, "clustermesh_agent");
    for series in [
        format!("clustermesh_agent_peer_last_seen_seconds{{peer=\"{other}\"}} 0.0\n"),
        format!("clustermesh_agent_peer_stale{{peer=\"{other}\"}} 0\n"),
        "clustermesh_agent_ready 1\n".into(),
        "clustermesh_agent_staleness_budget_seconds 900\n".into(),
        "clustermesh_agent_connections_total{kind=\"no_backend\"} ".into(),
        // Metrics are also exported with their former names.
        format!("clustermesh_health_cluster_cut{{peer=\"{other}\"}} 0\n"),
        "clustermesh_agent_table_entries_limit{table=\"cm_slots\"} ".into(),
    ] {
        assert!(text.contains(&series), "no {series} in {text}");
    }
    for peer in [&one, &other] {
        let certificates = text.lines().filter(|line| {
            line.starts_with("clustermesh_agent_certificate_not_after_timestamp_seconds{")
                && line.contains(&format!("peer=\"{peer}\""))
        });
        let ends: Vec<f64> =
            certificates.map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect();
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        assert!(ends.len() == 2 && ends.iter().all(|end| *end > now), "{peer}: {ends:?}");
    }
}

/// The metrics that a daemon on a node exports.
fn scrape(mesh: &Netns, cluster: &str, node: &str, port: u16) -> Result<String, String> {
    let url = format!("http://127.0.0.1:{port}/metrics");
    output(mesh.on_node(cluster, node, &["curl", "--silent", "--show-error", &url]))
}

/// Checks the metrics of a daemon against our conventions, those of `promtool`, and the documentation.
fn check(text: &str, prefix: &str) {
    assert_eq!(violations(text, prefix, DOCUMENTATION), Vec::<String>::new());
    // Former names may break conventions: `promtool` only has to parse them.
    let families = text.split("# HELP ").skip(1);
    let today = families.filter(|family| !family.contains(" deprecated: "));
    let today: String = today.map(|family| format!("# HELP {family}")).collect();
    for (text, allowed) in [(today.as_str(), None), (text, Some(BROKEN_CONVENTIONS))] {
        let (code, complaints) = promtool(&["check", "metrics"], text);
        assert!(code == Some(0) || code == allowed.or(Some(0)), "{complaints}");
    }
}

#[test]
fn names_of_metrics_are_found() {
    let found = metrics_in("a clustermesh_agent_x{b=\"c\"} - process_y_total/clustermesh_agent_");
    assert_eq!(found, ["clustermesh_agent_x", "process_y_total"].into());
}
