//! `clustermesh policy` as users call it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    io::Write as _,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: default-deny}
spec: {podSelector: {}}
---
apiVersion: v1
kind: List
items:
- apiVersion: cilium.io/v2
  kind: CiliumNetworkPolicy
  metadata: {namespace: shop, name: db}
  spec:
    endpointSelector: {matchLabels: {app: db}}
    ingress:
    - fromEndpoints: [{matchLabels: {app: web, io.cilium.k8s.policy.cluster: west}}]
      toPorts: [{ports: [{port: \"5432\", protocol: TCP}]}]
";
const ENDPOINTS: &str = "
- {kind: namespace, cluster: east, name: shop}
- {kind: pod, cluster: east, namespace: shop, name: db, node: n1, ips: [10.1.0.1], labels: {app: db}}
- {kind: pod, cluster: east, namespace: shop, name: web, node: n1, ips: [10.1.0.2], labels: {app: web}}
- {kind: pod, cluster: west, namespace: shop, name: web-w, node: n1, ips: [10.2.0.2], labels: {app: web}}
- {kind: external, name: bank, ip: 203.0.113.1}
";

struct Folder(TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clustermesh"));
        command.arg("policy").args(args).current_dir(self.0.path());
        command.output().unwrap()
    }

    fn json(&self, args: &[&str], code: i32) -> Value {
        let output = self.run(&[args, &["-o", "json"]].concat());
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}{errors}");
        serde_json::from_str(&text).unwrap()
    }
}

fn both() -> Folder {
    Folder::new(&[("policies/east/all.yaml", POLICIES), ("endpoints.yaml", ENDPOINTS)])
}

fn sides(flows: &Value) -> Vec<String> {
    let text = |flow: &Value, side: &str| flow[side].as_str().unwrap().to_owned();
    let flows = flows.as_array().unwrap().iter();
    flows.map(|flow| [text(flow, "egress"), text(flow, "ingress")].join(" ")).collect()
}

const VERDICT: [&str; 5] = ["verdict", "--policies", "policies", "--endpoints", "endpoints.yaml"];

#[test]
fn flows_of_both_forms_are_answered_in_their_order() {
    let folder = both();
    let csv = "from,to,protocol,port\nweb,db,TCP,5432\nweb-w,east/shop/db,TCP,5432\nbank,shop/web,TCP,80\n10.1.0.2,203.0.113.1,UDP,53\n";
    let lines = r#"{"from": "web", "to": "db", "port": 5432}
{"from": "web-w", "to": "east/shop/db", "port": 5432}
{"from": "bank", "to": "shop/web", "port": 80}
{"from": "10.1.0.2", "to": "203.0.113.1", "protocol": "UDP", "port": 53}"#;
    for (name, text) in [("flows.csv", csv), ("flows.json", lines)] {
        fs::write(folder.path(name), text).unwrap();
        let answer = folder.json(&[&VERDICT[..], &["--flows", name]].concat(), 0);
        let wanted =
            ["allowed denied", "allowed allowed", "not-enforced denied", "allowed not-enforced"];
        assert_eq!(sides(&answer["flows"]), wanted, "{name}");
        assert_eq!(
            answer["flows"][1]["decidedBy"]["ingress"]["policies"],
            json!(["CiliumNetworkPolicy shop/db"])
        );
    }
}

#[test]
fn what_kubectl_prints_is_a_cluster() {
    let meta = |namespace: &str, name: &str, labels: Value| json!({ "namespace": namespace, "name": name, "labels": labels });
    let pod = |name: &str, ip: &str, labels: Value, host: bool, phase: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": meta("shop", name, labels),
            "spec": { "nodeName": "n1", "hostNetwork": host, "containers": [{ "name": "c", "ports": [{ "name": "http", "containerPort": 8080 }] }] },
            "status": { "phase": phase, "podIPs": [{ "ip": ip }], "podIP": ip },
        })
    };
    let slice = |name: &str, namespace: &str, service: &str, address: &str, port: u16| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": meta(namespace, name, json!({ "kubernetes.io/service-name": service })),
            "addressType": "IPv4", "endpoints": [{ "addresses": [address] }], "ports": [{ "name": "", "port": port, "protocol": "TCP" }],
        })
    };
    let service = |namespace: &str, name: &str, ip: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": meta(namespace, name, json!({})),
            "spec": { "clusterIP": ip, "clusterIPs": [ip], "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": "http", "protocol": "TCP" }] },
        })
    };
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop", "labels": { "team": "red" } } },
        { "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" }, "spec": { "podCIDRs": ["10.1.0.0/24"] },
          "status": { "addresses": [{ "type": "InternalIP", "address": "172.31.0.1" }] } },
        pod("web", "10.1.0.2", json!({ "app": "web" }), false, "Running"),
        pod("db", "10.1.0.3", json!({ "app": "db" }), false, "Running"),
        pod("proxy", "172.31.0.1", json!({ "app": "proxy" }), true, "Running"),
        pod("done", "10.1.0.2", json!({ "app": "job" }), false, "Succeeded"),
        service("shop", "web", "10.101.0.10"),
        slice("web-1", "shop", "web", "10.1.0.2", 8080),
        slice("kubernetes", "default", "kubernetes", "172.31.0.1", 6443),
    ] });
    let policy = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: shop, name: db}
spec:
  endpointSelector: {matchLabels: {app: db}}
  egress:
  - toEntities: [kube-apiserver]
  - toEndpoints: [{matchLabels: {app: web}}]
    toPorts: [{ports: [{port: \"8080\"}]}]
";
    let flows = "from,to,port\ndb,10.101.0.10,80\ndb,172.31.0.1,6443\ndb,10.1.0.77,80\nproxy,db,80\ndb,proxy,1\n";
    let folder = Folder::new(&[
        ("policy.yaml", policy),
        ("east.json", &list.to_string()),
        ("flows.csv", flows),
    ]);
    let args = [
        "verdict",
        "--policies",
        "policy.yaml",
        "--endpoints",
        "east=east.json",
        "--flows",
        "flows.csv",
    ];
    let answer = folder.json(&args, 0);
    let wanted = [
        "allowed allowed",
        "allowed not-enforced",
        "denied not-enforced",
        "not-enforced allowed",
        "allowed not-enforced",
    ];
    assert_eq!(sides(&answer["flows"]), wanted);
    let backend = &answer["flows"][0]["backends"][0];
    assert_eq!((&backend["backend"], &backend["port"]), (&json!("east/shop/web"), &json!(8080)));
    fs::write(folder.path("flows.csv"), "from,to,port\ndb,10.101.0.99,80\n").unwrap();
    let refused = folder.json(&[&args[..], &["--service-cidr", "10.101.0.0/16"]].concat(), 2);
    assert!(
        refused["refused"][0]["reason"].as_str().unwrap().contains("no service has it"),
        "{refused}"
    );
}

#[test]
fn nothing_is_half_evaluated() {
    let folder = both();
    let unsupported = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: shop, name: names}
spec:
  endpointSelector: {}
  egress: [{toFQDNs: [{matchName: example.com}]}]
  ingress: [{fromNodes: [{}]}]
";
    fs::write(folder.path("policies/east/more.yaml"), unsupported).unwrap();
    fs::write(folder.path("policies/east/broken.yaml"), "kind: [").unwrap();
    fs::write(folder.path("flows.csv"), "from,to,port\nweb,db,1\n").unwrap();
    for args in [&[&VERDICT[..], &["--flows", "flows.csv"]].concat()[..], &["validate", "policies"]]
    {
        let answer = folder.json(args, 2);
        assert!(answer.get("flows").is_none(), "{answer}");
        let text = answer["refused"].to_string();
        for part in [
            "broken.yaml",
            "spec.egress[0].toFQDNs",
            "spec.ingress[0].fromNodes",
            "CiliumNetworkPolicy shop/names",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

#[test]
fn steps_change_what_is_answered() {
    let folder = both();
    let steps = "
- flows: [{from: web, to: db, port: 5432}]
- apply: {kind: pod, cluster: east, namespace: shop, name: web, ips: [10.1.0.2], labels: {app: web}, node: n1}
  flows: [{from: web-w, to: db, port: 5432}]
- cluster: east
  delete: {kind: CiliumNetworkPolicy, metadata: {namespace: shop, name: db}}
  flows: [{from: web-w, to: db, port: 5432}]
- cluster: east
  delete: {kind: NetworkPolicy, metadata: {namespace: shop, name: default-deny}}
  flows: [{from: web-w, to: db, port: 5432}, {from: bank, to: db, port: 1}]
- delete: web-w
- flows: []
";
    fs::write(folder.path("steps.yaml"), steps).unwrap();
    let answer = folder.json(&[&VERDICT[..], &["--steps", "steps.yaml"]].concat(), 0);
    let after = |step: usize| sides(&answer["steps"][step]["flows"]);
    assert_eq!(after(0), ["allowed denied"]);
    assert_eq!(after(1), ["allowed allowed"]);
    assert_eq!(after(2), ["allowed denied"]);
    assert_eq!(after(3), ["allowed allowed", "not-enforced allowed"]);
}

#[test]
fn a_batch_answers_every_line_and_ends_with_0() {
    let folder = both();
    let endpoints = json!([{ "kind": "pod", "name": "x", "ips": ["10.1.0.1"] }]);
    let lines = [
        json!({ "id": "one", "endpoints": endpoints, "flows": [{ "from": "x", "to": "x", "port": 1 }] }).to_string(),
        "no json".to_owned(),
        json!({ "id": 3, "endpoints": endpoints, "flow": [] }).to_string(),
        String::new(),
        json!({ "id": 4, "endpoints": endpoints, "allPairs": { "ports": ["80/TCP"] } }).to_string(),
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_clustermesh"));
    command.args(["policy", "verdict", "--batch", "-", "-o", "json"]);
    let mut batch = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    batch.stdin.take().unwrap().write_all(lines.join("\n").as_bytes()).unwrap();
    let output = batch.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: Vec<&Value> = answers.iter().map(|answer| &answer["id"]).collect();
    assert_eq!(ids, [&json!("one"), &Value::Null, &json!(3), &json!(4)]);
    assert_eq!(answers[0]["flows"][0]["decidedBy"]["egress"]["kind"], "same-pod");
    assert_eq!(
        (&answers[2]["flows"], answers[2]["refused"].as_array().unwrap().len()),
        (&Value::Null, 1)
    );
    assert_eq!(answers[3]["matrix"]["x"]["x"], json!(["AA"]));
    drop(folder);
}

#[test]
fn lint_says_what_changes_and_where() {
    let folder = both();
    let lint = folder.json(&["lint", "policies", "--endpoints", "endpoints.yaml"], 0);
    let changes = lint["changes"].as_array().unwrap();
    let across: Vec<&str> = changes.iter().filter_map(|change| change["across"].as_str()).collect();
    assert!(across.contains(&"west → east") && !across.contains(&"east → west"), "{changes:#?}");
    let to_db = changes
        .iter()
        .find(|one| {
            one["from"] == json!(["west/shop/web-w"]) && one["to"] == json!(["east/shop/db"])
        })
        .unwrap();
    assert!(!to_db["ports"].to_string().contains("5432"), "that port stays allowed: {to_db}");
    // Against themselves they change nothing.
    let same = folder
        .json(&["lint", "policies", "--endpoints", "endpoints.yaml", "--against", "policies"], 0);
    assert_eq!(same["changes"], json!([]));
    // Without the default deny more is allowed.
    fs::remove_file(folder.path("policies/east/all.yaml")).unwrap();
    fs::create_dir_all(folder.path("before/east")).unwrap();
    fs::write(folder.path("before/east/all.yaml"), POLICIES).unwrap();
    let less = folder
        .json(&["lint", "policies", "--endpoints", "endpoints.yaml", "--against", "before"], 0);
    assert!(
        less["changes"].as_array().unwrap().iter().all(|one| one["now"] == "allowed"),
        "{less}"
    );
    let odd = POLICIES
        .replace("app: db}", "app: nothing}")
        .replace("namespace: shop, name: default-deny", "namespace: gone, name: default-deny");
    fs::write(folder.path("policies/east/odd.yaml"), odd).unwrap();
    let odd = folder.json(&["lint", "policies", "--endpoints", "endpoints.yaml"], 0);
    let reasons = odd["findings"].to_string();
    assert!(
        reasons.contains("has no namespace") && reasons.contains("it selects no pod"),
        "{reasons}"
    );
}

#[test]
fn ten_thousand_flows_are_read_and_answered() {
    let folder = both();
    let mut flows = String::from("from,to,protocol,port\n");
    (0..10_000).for_each(|number| flows.push_str(&format!("web,db,TCP,{}\n", number % 60_000 + 1)));
    fs::write(folder.path("flows.csv"), flows).unwrap();
    let answer = folder.json(&[&VERDICT[..], &["--flows", "flows.csv"]].concat(), 0);
    assert_eq!(answer["flows"].as_array().unwrap().len(), 10_000);
}

#[test]
fn what_a_flow_names_must_be_clear() {
    let folder = both();
    let twice = format!(
        "{ENDPOINTS}- {{kind: pod, cluster: west, namespace: shop, name: web, ips: [10.2.0.9]}}\n"
    );
    fs::write(folder.path("endpoints.yaml"), twice).unwrap();
    for (flow, reason) in [
        ("shop/web,db,1", "east/shop/web, west/shop/web"),
        ("nobody,db,1", "is no endpoint"),
        ("db,bank,", "it is missing"),
    ] {
        fs::write(folder.path("flows.csv"), format!("from,to,port\n{flow}\n")).unwrap();
        let answer = folder.json(&[&VERDICT[..], &["--flows", "flows.csv"]].concat(), 2);
        assert!(answer["refused"].to_string().contains(reason), "{flow}: {answer}");
    }
    assert!(Path::new(&folder.path("endpoints.yaml")).exists());
}

/// The example of endpoints in the documents.
#[test]
fn the_documented_endpoints_are_understood() {
    let document =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/policy.md")).unwrap();
    let blocks = document.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let endpoints = blocks.clone().find(|block| block.contains("kind: namespace")).unwrap();
    let steps = blocks.clone().find(|block| block.contains("- apply:")).unwrap();
    let policy = POLICIES.replace("default-deny}", "default-deny, labels: {a: b}}");
    let folder = Folder::new(&[
        ("policies/east/p.yaml", &policy),
        ("endpoints.yaml", endpoints),
        ("steps.yaml", steps),
    ]);
    let answer = folder.json(&[&VERDICT[..], &["--steps", "steps.yaml"]].concat(), 0);
    assert_eq!(answer["steps"].as_array().unwrap().len(), 2, "{answer}");
}

#[test]
fn lint_names_what_a_node_cannot_hold() {
    let rule = |n: usize| {
        format!(
            "  - fromEndpoints: [{{matchLabels: {{app: a{n}}}}}]\n    toPorts: [{{ports: [{{port: \"{}\", protocol: TCP}}]}}]\n",
            n + 1
        )
    };
    let rules: String = (0..2_100).map(rule).collect();
    let policy = format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{namespace: shop, name: many}}\nspec:\n  endpointSelector: {{}}\n  ingress:\n{rules}"
    );
    let folder = Folder::new(&[
        ("policies/east/many.yaml", &policy),
        (
            "endpoints.yaml",
            "[{kind: pod, cluster: east, namespace: shop, name: db, ips: [10.1.0.1]}]",
        ),
    ]);
    let lint = folder.json(&["lint", "policies", "--endpoints", "endpoints.yaml"], 0);
    let findings = lint["findings"].to_string();
    assert!(
        findings.contains("2100 different selectors")
            && findings.contains("2100 rules in one direction"),
        "{findings}"
    );
}

/// Where no cluster is named there is one, and folders are folders.
#[test]
fn one_cluster_needs_no_name() {
    let endpoints = "
- {kind: pod, namespace: shop, name: web, ips: [10.1.0.2], labels: {app: web}}
- {kind: pod, namespace: shop, name: db, ips: [10.1.0.1], labels: {app: db}}
";
    let folder = Folder::new(&[("policies/base/p.yaml", POLICIES), ("endpoints.yaml", endpoints)]);
    fs::write(folder.path("flows.csv"), "from,to,port\nweb,db,5432\n").unwrap();
    for more in [&[][..], &["--cluster", "east"]] {
        let args = [&VERDICT[..], &["--flows", "flows.csv"], more].concat();
        assert_eq!(sides(&folder.json(&args, 0)["flows"]), ["allowed denied"], "{more:?}");
    }
    let wide = [
        &VERDICT[..],
        &["--flows", "flows.csv", "--enforcement-mode", "never", "--default-local-cluster=false"],
    ]
    .concat();
    assert_eq!(sides(&folder.json(&wide, 0)["flows"]), ["allowed allowed"]);
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Flows, steps, batches and all pairs, between ends of all kinds.
#[test]
fn the_kernel_answers_as_the_model_does() {
    if !is_root() {
        println!("skipped: the kernel's programs, which only root may load");
        return;
    }
    let folder = both();
    let csv = "from,to,protocol,port,icmpType\nweb,db,TCP,5432,\nweb-w,db,TCP,5432,\nweb-w,db,UDP,5432,\nbank,web,TCP,80,\nweb,bank,UDP,53,\nweb,web,TCP,1,\nbank,db,ICMP,,8\n10.1.0.99,db,TCP,5432,\n";
    fs::write(folder.path("flows.csv"), csv).unwrap();
    let steps = r#"
- delete: {kind: NetworkPolicy, metadata: {namespace: shop, name: default-deny}}
  cluster: east
  flows: [{from: bank, to: web, port: 80}, {from: web, to: db, port: 5432}]
- apply: {kind: pod, cluster: east, namespace: shop, name: new, node: n1, ips: ["fd00:1::9"], labels: {app: db}}
  flows: [{from: web, to: new, port: 5432}, {from: web-w, to: new, port: 5432}]
"#;
    fs::write(folder.path("steps.yaml"), steps).unwrap();
    // Two lines with other policies, so that tables are filled again.
    let policy = |name: &str, spec: Value| {
        json!({ "cluster": "east", "object": {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "namespace": "shop", "name": name }, "spec": spec,
    } })
    };
    let endpoints = json!([
        { "kind": "pod", "cluster": "east", "namespace": "shop", "name": "a", "labels": { "app": "a" } },
        { "kind": "pod", "cluster": "west", "namespace": "shop", "name": "b", "labels": { "app": "b" } },
        { "kind": "node", "cluster": "east", "name": "n" },
    ]);
    let line = |id: u32, policies: Value| {
        json!({ "id": id, "policies": policies, "endpoints": endpoints, "allPairs": { "ports": ["80", "icmp:8"] },
            "flows": [{ "from": "b", "to": "a", "port": 80 }, { "from": "n", "to": "a", "port": 80 }] })
    };
    let batch = [
        line(1, json!([policy("none", json!({ "podSelector": {} }))])),
        line(2, json!([policy("any", json!({ "podSelector": {}, "ingress": [{}] }))])),
        line(3, json!([])),
    ];
    let batch: Vec<String> = batch.iter().map(ToString::to_string).collect();
    fs::write(folder.path("batch"), batch.join("\n")).unwrap();
    for args in [
        [&VERDICT[..], &["--flows", "flows.csv", "--steps", "steps.yaml"]].concat(),
        [&VERDICT[..], &["--all-pairs", "--ports", "5432,53/UDP,icmp:8"]].concat(),
        [&VERDICT[..], &["--flows", "flows.csv", "--enforcement-mode", "always"]].concat(),
        [&VERDICT[..], &["--flows", "flows.csv", "--enforcement-mode", "never"]].concat(),
        vec!["verdict", "--batch", "batch"],
    ] {
        let [model, kernel] = ["model", "kernel"].map(|engine| {
            let output = folder.run(&[&args[..], &["--engine", engine, "-o", "json"]].concat());
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(0), "{args:?} {engine}: {errors}");
            String::from_utf8(output.stdout).unwrap()
        });
        assert!(kernel.contains("\"egress\"") || kernel.contains("\"matrix\""), "{kernel}");
        assert!(!kernel.contains("judged by the model"), "{kernel}");
        assert_eq!(kernel, model, "{args:?}");
    }
}

#[test]
fn without_rights_the_kernel_is_skipped_by_name() {
    let folder = both();
    fs::write(folder.path("flows.csv"), "from,to,port\nweb,db,5432\n").unwrap();
    let args = [&VERDICT[..], &["--flows", "flows.csv", "--engine", "kernel"]].concat();
    let mut command = Command::new(env!("CARGO_BIN_EXE_clustermesh"));
    command.arg("policy").args(args).current_dir(folder.0.path());
    if is_root() {
        // Nobody, who may still read the folder and the program.
        let (program, link) = (Path::new(env!("CARGO_BIN_EXE_clustermesh")), folder.path("cm"));
        fs::copy(program, &link).unwrap();
        let all = fs::Permissions::from_mode(0o755);
        fs::set_permissions(folder.0.path(), all.clone()).unwrap();
        fs::set_permissions(&link, all).unwrap();
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        command = Command::new(link);
        command.args(args).current_dir(folder.0.path()).uid(65_534).gid(65_534);
    }
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("--engine kernel is skipped"), "{errors}");
    assert!(errors.contains("only root"), "{errors}");
    assert!(output.stdout.is_empty());
}
