//! Files of policies, endpoints and flows, and what `lint` finds in them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use mesh_labels::LabelFilter;
use mesh_policy::Options;
use mesh_policy_rules::Policy;
use mesh_verdict::{
    Finding, Problem, World, entries, flows, lint, policy_files, policy_files_of_all, read_policies,
};
use tempfile::TempDir;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn world(endpoints: &str) -> World {
    let mut world = World::new(Options::default(), LabelFilter::new([]).unwrap());
    let list = entries(Path::new("e.yaml"), endpoints).unwrap().unwrap();
    world.add(&list, |index| format!("e[{index}]")).unwrap();
    world
}

fn policies(world: &World, folder: &TempDir) -> Result<Vec<(String, Policy)>, Vec<Problem>> {
    let clusters: Vec<&str> = world.clusters().collect();
    read_policies(world, &policy_files(folder.path(), &clusters).unwrap())
}

fn policy(name: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}, namespace: shop}}, spec: {{podSelector: {{}}}}}}"
    )
}

const EAST: &str = "- {kind: pod, cluster: east, namespace: shop, name: web, ips: [10.1.0.1], labels: {app: web}}\n";
const WEST: &str =
    "- {kind: pod, cluster: west, namespace: shop, name: db, ips: [10.2.0.1], labels: {app: db}}\n";
const UNNAMED: &str = "- {kind: pod, namespace: shop, name: web, ips: [10.1.0.1]}\n";

#[test]
fn a_folder_is_a_clusters_where_there_are_several() {
    let (p, q) = (policy("p"), policy("q"));
    let by_cluster = folder(&[("east/p.yaml", &p), ("west/deep/q.yaml", &q)]);
    let plain =
        folder(&[("shop/p.yaml", &p), ("q.yaml", &q), ("notes.txt", "x"), (".hidden.yaml", "x")]);
    let both = format!("{EAST}{WEST}");
    let of = |endpoints: &str, folder: &TempDir| {
        let all = policies(&world(endpoints), folder).map_err(|all| all[0].reason.clone())?;
        Ok(all
            .into_iter()
            .map(|(cluster, policy)| format!("{cluster} {}", policy.reference.name))
            .collect())
    };
    let cases = [
        (both.as_str(), &by_cluster, Ok(vec!["east p", "west q"])),
        (EAST, &plain, Ok(vec!["east q", "east p"])),
        (UNNAMED, &plain, Ok(vec!["default q", "default p"])),
        (UNNAMED, &by_cluster, Ok(vec!["default p", "default q"])),
        // With a folder of the only cluster's name, another is of another cluster, and not of this one.
        (EAST, &by_cluster, Err("cluster \"west\"")),
        (&both, &plain, Err("there are several clusters")),
    ];
    for (endpoints, folder, wanted) in cases {
        let read: Result<Vec<String>, String> = of(endpoints, folder);
        match (wanted, read) {
            (Ok(wanted), Ok(read)) => assert_eq!(read, wanted),
            (Err(part), Err(reason)) => assert!(reason.contains(part), "{reason}"),
            (wanted, read) => panic!("{read:?}, not {wanted:?}"),
        }
    }
    let all = policy_files_of_all(by_cluster.path()).unwrap();
    let clusters: Vec<_> = all.iter().map(|file| file.cluster.as_deref()).collect();
    assert_eq!(clusters, [Some("east"), Some("west")]);
}

#[test]
fn documents_of_all_forms_are_policies() {
    let json = |name: &str| serde_json::json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": name, "namespace": "shop" }, "spec": { "podSelector": {} } });
    let list =
        serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": [json("c"), json("d")] })
            .to_string();
    let folder = folder(&[
        ("1.yaml", &format!("---\n{}\n---\n{}\n---\n", policy("a"), policy("b"))),
        ("2.json", &list),
        ("3.json", &format!("{}\n{}", json("e"), json("f"))),
        (
            "4.yml",
            "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n---\n{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i}}\n---\n{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: v}}",
        ),
        ("5.yaml", "# nothing\n"),
    ]);
    let read = policies(&world(UNNAMED), &folder).unwrap();
    let names: Vec<_> = read.iter().map(|(_, policy)| policy.reference.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "d", "e", "f"]);
}

#[test]
fn what_may_be_meant_as_a_policy_is_refused() {
    for (text, part) in [
        (
            "{apiVersion: networking.k8s.io/v1, kind: NetworkPolcy, metadata: {name: x}}",
            "NetworkPolcy",
        ),
        (
            "{apiVersion: policy.networking.k8s.io/v1alpha1, kind: AdminNetworkPolicy, metadata: {name: x}}",
            "AdminNetworkPolicy",
        ),
        (
            "{apiVersion: crd.projectcalico.org/v1, kind: GlobalNetworkPolicy, metadata: {name: x}}",
            "GlobalNetworkPolicy",
        ),
        (
            "{apiVersion: cilium.io/v2, kind: CiliumEgressGatewayPolicy, metadata: {name: x}}",
            "CiliumEgressGatewayPolicy",
        ),
        ("{metadata: {name: x}}", "without a kind"),
        ("x", "without a kind"),
    ] {
        let folder = folder(&[("p.yaml", text)]);
        let refused = policies(&world(UNNAMED), &folder).unwrap_err();
        assert!(refused.len() == 1 && refused[0].to_string().contains(part), "{refused:?}");
        assert!(refused[0].object.contains("p.yaml"), "{refused:?}");
    }
}

#[test]
fn endpoints_are_a_list_or_documents() {
    let count = |text: &str| entries(Path::new("e.yaml"), text).unwrap().map(|list| list.len());
    assert_eq!(count(&format!("{EAST}{WEST}")), Some(2));
    assert_eq!(count(&format!("{EAST}---\n{WEST}")), Some(2));
    assert_eq!(count("{kind: pod, name: a}\n---\n{kind: node, name: b}\n"), Some(2));
    assert_eq!(count("[]"), Some(0));
    assert_eq!(count("{apiVersion: v1, kind: Pod, metadata: {name: a}}"), None);
    let refused = entries(Path::new("e.yaml"), "- {kind: pod, nam: a}\n- {kind: host, name: b}\n")
        .unwrap_err();
    let text: Vec<String> = refused.iter().map(ToString::to_string).collect();
    assert!(
        text.len() == 2
            && text[0].contains("e.yaml[0]: nam")
            && text[1].contains("e.yaml[1]: kind"),
        "{text:?}"
    );
}

#[test]
fn flows_are_lines_of_json_or_csv() {
    let json = "{\"from\":\"a\",\"to\":\"b\",\"port\":80}\n\n{\"from\":\"a\",\"to\":\"b\",\"protocol\":\"UDP\",\"portName\":\"dns\"}\n{\"from\":\"a\",\"to\":\"b\",\"icmpType\":8}\n";
    let csv = "# what must pass\nfrom, to, protocol, port, portName, icmpType\na,b,,80\na,b,UDP,,dns\n\na,b,,,,8\n";
    let read = |text: &str| -> Vec<_> {
        flows("f", text).unwrap().into_iter().map(|(_, flow)| flow).collect()
    };
    assert_eq!(read(json), read(csv));
    assert_eq!(
        read("a,b,TCP,80\na,b,UDP,53\n"),
        read("to,from,port,protocol\nb,a,80,TCP\nb,a,53,UDP\n")
    );
    assert_eq!(read(""), []);
    for (text, wanted) in [
        ("from,to,dport\na,b,80\na,b,81\n", vec!["f, line 2", "f, line 3"]),
        ("from,to,port\na,b,80,x\n", vec!["f, line 2"]),
        ("from,to,port\na,b,http\na,b,70000\n", vec!["f, line 2", "f, line 3"]),
        ("{\"from\":\"a\"}\n{\"from\":\"a\",\"to\":\"b\",\"port\":1}\n{\n", vec!["f, line 3"]),
        ("a,b\n", vec![]),
    ] {
        let refused = flows("f", text).err().unwrap_or_default();
        let parts: Vec<_> = refused.iter().map(|one| one.object.as_str()).collect();
        assert_eq!(parts, wanted, "{text}: {refused:?}");
    }
}

fn findings(policy: &str) -> Vec<String> {
    let endpoints = format!(
        "{EAST}{WEST}- {{kind: pod, cluster: west, namespace: shop, name: job, ips: [10.2.0.2], labels: {{app: job}}}}\n"
    );
    let folder = folder(&[("east/p.yaml", policy)]);
    let read = policies(&world(&endpoints), &folder).unwrap();
    let lint = lint(world(&endpoints), world(&endpoints), &read, &[]).unwrap();
    lint.findings
        .into_iter()
        .map(|Finding { object, reason }| format!("{object}: {reason}"))
        .collect()
}

fn cilium(rules: &str) -> String {
    format!(
        "{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {{name: c, namespace: shop}}, spec: {{endpointSelector: {{}}, {rules}}}}}"
    )
}

#[test]
fn lint_finds_what_reaches_other_clusters_and_what_selects_nothing() {
    let cases = [
        (cilium("ingress: [{fromEndpoints: [{matchLabels: {app: web}}]}]"), vec![]),
        (
            cilium("ingress: [{fromEndpoints: [{matchLabels: {app: db}}]}]"),
            vec!["ingress[0] selects no pod", "pods of west have these labels"],
        ),
        (
            cilium(
                "egress: [{toEndpoints: [{matchLabels: {app: db, io.cilium.k8s.policy.cluster: west}}]}]",
            ),
            vec!["egress[0] allows flows to pods of cluster west"],
        ),
        (
            cilium("ingress: [{fromEntities: [cluster-mesh]}]"),
            vec!["ingress[0] allows flows from pods of cluster west"],
        ),
        (
            cilium("ingressDeny: [{fromEntities: [cluster-mesh]}]"),
            vec!["ingressDeny[0] denies flows from pods of cluster west"],
        ),
        (
            format!(
                "{}\n---\n{}",
                policy("deny"),
                cilium("ingress: [{fromEntities: [cluster-mesh]}]")
            ),
            vec![
                "another engine that enforces NetworkPolicies would deny them by NetworkPolicy shop/deny",
            ],
        ),
        (
            policy("p").replace("namespace: shop", "namespace: gone"),
            vec!["has no namespace \"gone\""],
        ),
        (
            cilium("egress: [{}]")
                .replace("endpointSelector: {}", "endpointSelector: {matchLabels: {app: nothing}}"),
            vec!["it selects no pod"],
        ),
    ];
    for (policy, wanted) in cases {
        let found = findings(&policy);
        assert_eq!(found.is_empty(), wanted.is_empty(), "{policy}: {found:?}");
        for part in wanted {
            assert!(found.iter().any(|one| one.contains(part)), "{part:?} {policy}: {found:?}");
        }
    }
}

#[test]
fn limits_are_looked_at_where_no_cluster_is_named() {
    let selectors = (0..2_100).map(|number| format!("{{matchLabels: {{app: a{number}}}}}"));
    let rules: Vec<String> = selectors.map(|one| format!("{{fromEndpoints: [{one}]}}")).collect();
    let folder = folder(&[("p.yaml", &cilium(&format!("ingress: [{}]", rules.join(", "))))]);
    let read = policies(&world(UNNAMED), &folder).unwrap();
    let lint = lint(world(UNNAMED), world(UNNAMED), &read, &[]).unwrap();
    let of = |object: &str| lint.findings.iter().any(|one| one.object == object);
    assert!(of("cluster default") && of("pod default/shop/web"), "{:?}", lint.findings.last());
}
