//! The apiserver with a real Kubernetes API server as its source.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code"
)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use mesh_e2e::{Apiserver, Etcd, Kubernetes, json, mesh::within, netns::binary};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

#[path = "kubernetes/policies.rs"]
mod policies;

/// Longer than the apiserver's longest pause between two attempts.
const PATIENCE: Duration = Duration::from_secs(60);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The cases: objects, each with its status.
fn cases() -> PathBuf {
    repository().join("e2e/kubernetes/cases")
}

/// Their texts by their names.
fn texts() -> BTreeMap<String, String> {
    let files = fs::read_dir(cases()).unwrap().map(|file| file.unwrap().path());
    let cases = files.filter(|file| file.extension().is_some_and(|ending| ending == "yaml"));
    let text = |file: PathBuf| {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(&file).unwrap())
    };
    cases.map(text).collect()
}

/// The keys of a cluster that follow from its objects, with what may differ between sources taken out: the names of slices,
/// the order in them, empty ones, UIDs, and what each Kubernetes has.
fn comparable(entries: impl IntoIterator<Item = (String, Value)>) -> BTreeMap<String, Value> {
    let mut keys = BTreeMap::new();
    for (key, mut value) in entries {
        let is_own = ["cilium/state/", "clustermesh/local/v1/"].iter().any(|p| key.starts_with(p));
        let namespace = key.strip_prefix("clustermesh/local/v1/namespaces/").unwrap_or_default();
        let is_kubernetes = key.ends_with("/default/kubernetes")
            || ["default", "clustermesh-system"].contains(&namespace)
            || namespace.starts_with("kube-");
        if !is_own || is_kubernetes || key.ends_with("/position") {
            continue;
        }
        if let Some(fields) = value.as_object_mut() {
            fields.remove("uid");
        }
        let Some((tree, _)) = key.split_once("endpointslices/") else {
            keys.insert(key, value);
            continue;
        };
        let tree = tree.to_owned();
        for list in ["endpoints", "ports"] {
            value[list].as_array_mut().unwrap().sort_by_key(ToString::to_string);
        }
        if value["endpoints"].as_array().unwrap().is_empty() {
            continue;
        }
        let fields = value.as_object_mut().unwrap();
        fields.remove("name");
        fields.remove("annotations");
        if let Some(Value::Object(labels)) = fields.remove("labels") {
            fields.insert("service".into(), labels["kubernetes.io/service-name"].clone());
        }
        let text = |field: &str| value[field].as_str().unwrap().to_owned();
        let slice = [text("namespace"), text("service"), text("addressType")].join("/");
        let key = format!("{tree}endpointslices/{slice} {}", value["ports"]);
        assert_eq!(keys.insert(key.clone(), value), None, "two slices like {key}");
    }
    keys
}

/// The keys that the cases must have, one a line.
fn wanted() -> BTreeMap<String, Value> {
    let text = fs::read_to_string(cases().join("keys.txt")).unwrap_or_default();
    let line = |line: &str| {
        let (key, value) = line.split_once('\t').unwrap();
        (key.to_owned(), serde_json::from_str(value).unwrap())
    };
    text.lines().map(line).collect()
}

/// The first keys in which two differ.
fn difference(found: &BTreeMap<String, Value>, wanted: &BTreeMap<String, Value>) -> Vec<String> {
    let keys = found.keys().chain(wanted.keys().filter(|key| !found.contains_key(*key)));
    let differing = keys.filter(|key| found.get(*key) != wanted.get(*key));
    let text = |value: Option<&Value>| value.map_or("nothing".into(), ToString::to_string);
    let line = |key: &String| {
        format!("{key}\n  is     {}\n  wanted {}", text(found.get(key)), text(wanted.get(key)))
    };
    differing.map(line).take(5).collect()
}

/// What `clustermesh etcd dump` prints: the entries, and what violates the wire format.
fn dumped(command: Command) -> (Vec<(String, Value)>, Value) {
    let (_, dump, _) = json::run(command);
    let entry = |entry: &Value| (entry["key"].as_str().unwrap().into(), entry["value"].clone());
    let entries = dump["entries"].as_array().into_iter().flatten().map(entry).collect();
    (entries, dump["deviations"].clone())
}

/// What the etcd of an apiserver has.
fn dump_etcd(apiserver: &Apiserver) -> (Vec<(String, Value)>, Value) {
    let mut command = Command::new(binary());
    command.args(["etcd", "dump", "--endpoints", apiserver.endpoint()]);
    let pki = apiserver.folder().join("pki");
    for (flag, file) in [("--cacert", "ca.crt"), ("--cert", "admin.crt"), ("--key", "admin.key")] {
        command.arg(flag).arg(pki.join(file));
    }
    dumped(command)
}

fn dump(apiserver: &Apiserver) -> Vec<(String, Value)> {
    dump_etcd(apiserver).0
}

fn wait_for_keys(apiserver: &Apiserver, wanted: &BTreeMap<String, Value>) {
    within(PATIENCE, "the etcd has what follows from the objects", || {
        let (entries, deviations) = dump_etcd(apiserver);
        let mut differing = difference(&comparable(entries), wanted);
        if deviations != json!([]) {
            differing.push(deviations.to_string());
        }
        match differing.is_empty() {
            true => Ok(()),
            false => Err(format!("{}\n{}", differing.join("\n"), apiserver.log_text())),
        }
    });
}

/// An apiserver whose objects come from an API server, with the rights of its manifest only.
fn apiserver(etcd: &Etcd, kubernetes: &Kubernetes) -> Apiserver {
    let kubeconfig = format!("CLUSTERMESH_KUBECONFIG={}", kubernetes.kubeconfig().display());
    let wrapper =
        ["env", "CLUSTERMESH_SOURCE=kubernetes", &kubeconfig, "CLUSTERMESH_KUBE_CONTEXT=mesh"];
    Apiserver::wrapped(etcd, etcd.port(), &wrapper)
}

/// What a user applies before the apiserver starts.
fn install(kubernetes: &Kubernetes) {
    for name in ["meshidentities.yaml", "apiserver-rbac.yaml"] {
        kubernetes
            .apply(&fs::read_to_string(repository().join("deploy/manifests").join(name)).unwrap());
    }
    let crd = "crd/meshidentities.clustermesh.dev";
    kubernetes.must(&["wait", "--for=condition=Established", crd]);
}

/// The kinds of Cilium's policies, as a Cilium brings them.
fn install_cilium_policies(kubernetes: &Kubernetes) {
    let file = repository().join("e2e/kubernetes/cilium-policies.yaml");
    kubernetes.apply(&fs::read_to_string(file).unwrap());
    for kind in ["ciliumnetworkpolicies", "ciliumclusterwidenetworkpolicies"] {
        let crd = format!("crd/{kind}.cilium.io");
        kubernetes.must(&["wait", "--for=condition=Established", &crd]);
    }
}

/// One table of cases, for files read offline, for an apiserver with files, and for one with an API server whose
/// kube-controller-manager makes the slices.
#[test]
fn both_sources_write_the_same_keys() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let mut export = Command::new(binary());
    export.args(["export", "--cluster", "a", "--id", "1", "--local", "--objects"]).arg(cases());
    fs::write(&file, json::of(export).to_string()).unwrap();
    let mut dump_file = Command::new(binary());
    dump_file.args(["etcd", "dump", "--keys"]).arg(&file);
    let offline = comparable(dumped(dump_file).0);
    let wanted = wanted();
    let differing = difference(&offline, &wanted);
    if !differing.is_empty() {
        let lines = offline.iter().map(|(key, value)| format!("{key}\t{value}\n"));
        let (_, kept) = tempfile::NamedTempFile::new().unwrap().keep().unwrap();
        fs::write(&kept, lines.collect::<String>()).unwrap();
        panic!("{}\nall keys: {}; copy it after a review", differing.join("\n"), kept.display());
    }

    let etcd = Etcd::start();
    let files = Apiserver::start(&etcd);
    files.apply("node", "");
    for (name, text) in texts() {
        files.apply(&name, &text);
    }
    wait_for_keys(&files, &wanted);

    let kubernetes = Kubernetes::start().with_controllers();
    install(&kubernetes);
    install_cilium_policies(&kubernetes);
    kubernetes.apply(&texts().into_values().collect::<Vec<_>>().join("---\n"));
    let etcd = Etcd::start();
    let from_kubernetes = apiserver(&etcd, &kubernetes);
    wait_for_keys(&from_kubernetes, &wanted);
    from_kubernetes.wait_ready();
}

/// A service with one pod, in a namespace that exists.
fn shop(name: &str, number: u8, app: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop, annotations: {{service.cilium.io/global: 'true'}}}}
spec: {{clusterIP: 10.101.20.{number}, selector: {{app: {app}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
---
{}",
        pod(name, number, app)
    )
}

fn pod(name: &str, number: u8, app: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}
spec: {{nodeName: n1, containers: [{{name: c, image: none}}]}}
status:
  phase: Running
  podIP: 10.1.1.{number}
  podIPs: [{{ip: 10.1.1.{number}}}]
  hostIP: 172.31.1.1
  hostIPs: [{{ip: 172.31.1.1}}]
  conditions: [{{type: Ready, status: 'True'}}]
"
    )
}

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus: {addresses: [{type: InternalIP, address: 172.31.1.1}]}\n";

/// An API server with the apiserver's manifests, a node, a namespace, and the service `web` with one pod.
fn shopping() -> Kubernetes {
    let kubernetes = Kubernetes::start().with_controllers();
    install(&kubernetes);
    kubernetes.apply(&format!("{NAMESPACE}---\n{}", shop("web", 1, "web")));
    kubernetes
}

/// The value of a key; null without it.
fn value(apiserver: &Apiserver, key: &str) -> Value {
    let found = dump(apiserver).into_iter().find(|(found, _)| found == key);
    found.map_or(Value::Null, |(_, value)| value)
}

fn backends(apiserver: &Apiserver, service: &str) -> Vec<String> {
    let service = value(apiserver, &format!("cilium/state/services/v1/a/shop/{service}"));
    service["backends"].as_object().into_iter().flatten().map(|(ip, _)| ip.clone()).collect()
}

fn wait_for_backends(apiserver: &Apiserver, service: &str, wanted: &[&str]) {
    within(PATIENCE, &format!("{service} has the backends {wanted:?}"), || {
        match backends(apiserver, service) {
            found if found == wanted => Ok(()),
            found => Err(format!("{found:?}; {}", apiserver.log_text())),
        }
    });
}

/// The identity of a pod's address; 0 without one.
fn identity(apiserver: &Apiserver, ip: &str) -> u64 {
    value(apiserver, &format!("cilium/state/ip/v1/default/{ip}"))["ID"].as_u64().unwrap_or(0)
}

/// The identity of a pod's address, once it has one: a service does not wait for its pods' identities.
fn wait_for_identity(apiserver: &Apiserver, ip: &str) -> u64 {
    within(PATIENCE, &format!("{ip} has an identity"), || match identity(apiserver, ip) {
        0 => Err(apiserver.log_text()),
        found => Ok(found),
    })
}

/// Keys that were deleted from an etcd below a prefix since its beginning.
fn deleted(watch: &mut mesh_e2e::etcd::Watch) -> Vec<String> {
    let changes = watch.revisions().into_values().flatten();
    changes.filter(|change| change.starts_with('-')).collect()
}

#[test]
fn an_api_server_that_dies_or_hangs_or_forgets_costs_no_key() {
    let mut kubernetes = shopping();
    let etcd = Etcd::start();
    let apiserver = apiserver(&etcd, &kubernetes);
    apiserver.wait_ready();
    wait_for_backends(&apiserver, "web", &["10.1.1.1"]);
    let mut watch = etcd.watch("admin", "cilium/state/");

    // It is killed: that is said, and what was exported stays.
    kubernetes.kill();
    apiserver.wait_unready("the API server does not answer");
    assert_eq!(backends(&apiserver, "web"), ["10.1.1.1"]);
    kubernetes.start_again();
    apiserver.wait_ready();
    kubernetes.apply(&shop("two", 2, "two"));
    wait_for_backends(&apiserver, "two", &["10.1.1.2"]);

    // It hangs: no connection is closed.
    kubernetes.signal(Signal::SIGSTOP);
    apiserver.wait_unready("the API server does not answer");
    kubernetes.signal(Signal::SIGCONT);
    apiserver.wait_ready();
    kubernetes.apply(&shop("three", 3, "three"));
    wait_for_backends(&apiserver, "three", &["10.1.1.3"]);
    assert_eq!(deleted(&mut watch), Vec::<String>::new());

    // Its packets are dropped: nothing is answered, and no connection is closed.
    let blackhole = kubernetes.blackhole();
    apiserver.wait_unready("the API server does not answer");
    assert_eq!(backends(&apiserver, "three"), ["10.1.1.3"]);
    drop(blackhole);
    apiserver.wait_ready();
    kubernetes.apply(&shop("five", 5, "five"));
    wait_for_backends(&apiserver, "five", &["10.1.1.5"]);
    assert_eq!(deleted(&mut watch), Vec::<String>::new());

    // The apiserver is away while objects change and the API server forgets what was between: it lists again.
    apiserver.signal(Signal::SIGSTOP);
    kubernetes.apply(&shop("four", 4, "four"));
    kubernetes.must(&[
        "delete",
        "-n",
        "shop",
        "--grace-period=0",
        "--force",
        "service/two",
        "pod/two",
    ]);
    kubernetes.kill();
    kubernetes.compact();
    kubernetes.start_again();
    apiserver.signal(Signal::SIGCONT);
    wait_for_backends(&apiserver, "four", &["10.1.1.4"]);
    within(PATIENCE, "the deleted service is gone", || {
        match value(&apiserver, "cilium/state/services/v1/a/shop/two") {
            Value::Null => Ok(()),
            value => Err(value.to_string()),
        }
    });
    assert!(deleted(&mut watch).iter().all(|key| key.contains("two") || key.contains("10.1.1.2")));
    apiserver.wait_ready();
}

#[test]
fn an_api_server_whose_etcd_is_restored_is_listed_anew() {
    let mut kubernetes = shopping();
    let etcd = Etcd::start();
    let apiserver = apiserver(&etcd, &kubernetes);
    wait_for_backends(&apiserver, "web", &["10.1.1.1"]);
    let web = wait_for_identity(&apiserver, "10.1.1.1");
    kubernetes.back_up();
    // As after some time: the API server does not catch up by what it writes at its start.
    kubernetes.age(500);
    kubernetes.apply(&shop("later", 2, "later"));
    kubernetes.must(&["delete", "-n", "shop", "service/web"]);
    wait_for_backends(&apiserver, "later", &["10.1.1.2"]);
    within(PATIENCE, "the deleted service is gone", || match backends(&apiserver, "web") {
        found if found.is_empty() => Ok(()),
        found => Err(format!("{found:?}")),
    });
    let mut watch = etcd.watch("admin", "cilium/state/identities/");
    kubernetes.restore();
    wait_for_backends(&apiserver, "web", &["10.1.1.1"]);
    within(PATIENCE, "what the backup has not is gone", || {
        match value(&apiserver, "cilium/state/services/v1/a/shop/later") {
            Value::Null => Ok(()),
            value => Err(value.to_string()),
        }
    });
    // New objects have versions that others had before the restore.
    kubernetes.apply(&shop("new", 3, "new"));
    wait_for_backends(&apiserver, "new", &["10.1.1.3"]);
    assert_eq!(wait_for_identity(&apiserver, "10.1.1.1"), web);
    let gone = deleted(&mut watch);
    assert!(!gone.iter().any(|key| key.ends_with(&format!("/{web}"))), "{gone:?}");
}

#[test]
fn replicas_agree_on_identities_that_outlive_their_custom_resource() {
    let kubernetes = shopping();
    let etcds = [Etcd::start(), Etcd::start()];
    let replicas = etcds.each_ref().map(|etcd| apiserver(etcd, &kubernetes));
    // New label sets for both at the same time.
    let pods = (10..30_u8).map(|n| pod(&format!("p{n}"), n, &format!("app{n}")));
    kubernetes.apply(&pods.collect::<Vec<_>>().join("---\n"));
    let all = |replica: &Apiserver| -> Vec<u64> {
        (10..30_u8).map(|n| identity(replica, &format!("10.1.1.{n}"))).collect()
    };
    within(PATIENCE, "both replicas have the same identities", || {
        let [one, other] = replicas.each_ref().map(all);
        match one == other && !one.contains(&0) {
            true => Ok(()),
            false => Err(format!("{one:?} {other:?}")),
        }
    });
    let ids = all(&replicas[0]);
    let objects = kubernetes.get(&["meshidentities"]);
    assert_eq!(objects["items"].as_array().unwrap().len(), 21, "one for each label set");
    let refused = kubernetes.kubectl(&[
        "patch",
        "meshidentity",
        &ids[0].to_string(),
        "--type=merge",
        "-p",
        r#"{"spec":{"labels":{"k8s:app":"other"}}}"#,
    ]);
    assert!(refused.unwrap_err().contains("the labels of an ID never change"));

    // The custom resource is deleted, and with it all objects.
    let mut watches = etcds.each_ref().map(|etcd| etcd.watch("admin", "cilium/state/"));
    kubernetes.must(&["delete", "crd", "meshidentities.clustermesh.dev"]);
    let missing = "apply deploy/manifests/meshidentities.yaml";
    replicas[0].wait_problem(missing);
    assert_eq!(all(&replicas[0]), ids);
    install(&kubernetes);
    let restored = || kubernetes.get(&["meshidentities"])["items"].as_array().unwrap().len();
    within(PATIENCE, "the objects are back", || match restored() {
        21 => Ok(()),
        found => Err(format!("{found}: {}", replicas[0].log_text())),
    });
    assert_eq!(replicas.each_ref().map(all), [ids.clone(), ids.clone()]);
    for watch in &mut watches {
        assert_eq!(deleted(watch), Vec::<String>::new());
    }
    kubernetes.apply(&pod("last", 40, "last"));
    within(PATIENCE, "a new label set has an ID", || match identity(&replicas[1], "10.1.1.40") {
        0 => Err(replicas[1].log_text()),
        _ => Ok(()),
    });
}

/// Refuses identities of labels that begin with `bad`.
const REFUSING: &str = "apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: refusing}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
    - {apiGroups: [clustermesh.dev], apiVersions: ['*'], operations: [CREATE], resources: [meshidentities]}
  validations:
  - {expression: \"!object.spec.labels.exists(key, object.spec.labels[key].startsWith('bad'))\", message: these labels are refused}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: refusing}
spec: {policyName: refusing, validationActions: [Deny]}
";

#[test]
fn identities_that_the_api_server_refuses_keep_no_other_pod_waiting() {
    let kubernetes = shopping();
    kubernetes.apply(REFUSING);
    let bad = json!({
        "apiVersion": "clustermesh.dev/v1alpha1",
        "kind": "MeshIdentity",
        "metadata": { "name": "70000" },
        "spec": { "labels": { "k8s:app": "bad" }, "state": "used", "since": "2026-01-01T00:00:00Z" },
    });
    within(PATIENCE, "the policy is in force", || match kubernetes.admits("default", &bad) {
        Err(why) if why.contains("these labels are refused") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let etcd = Etcd::start();
    let apiserver = apiserver(&etcd, &kubernetes);
    wait_for_backends(&apiserver, "web", &["10.1.1.1"]);
    // More than the requests that are made at a time.
    let bad = (10..40_u8).map(|n| pod(&format!("bad{n}"), n, &format!("bad{n}")));
    kubernetes.apply(&bad.collect::<Vec<_>>().join("---\n"));
    apiserver.wait_problem("these labels are refused");
    kubernetes.apply(&pod("good", 50, "good"));
    wait_for_identity(&apiserver, "10.1.1.50");
    assert!((10..40_u8).all(|n| identity(&apiserver, &format!("10.1.1.{n}")) == 0));
    // Once they are accepted, all have one.
    kubernetes.must(&["delete", "validatingadmissionpolicybinding/refusing"]);
    for n in 10..40_u8 {
        wait_for_identity(&apiserver, &format!("10.1.1.{n}"));
    }
}

#[test]
fn our_pods_are_admitted_where_pods_are_restricted() {
    let kubernetes = Kubernetes::restricted();
    let manifests = repository().join("deploy/manifests");
    let manifests = manifests.to_str().unwrap();
    kubernetes.must(&["apply", "--server-side", "-k", manifests]);
    let found = kubernetes.get(&["-n", "clustermesh-system", "deployments,daemonsets"]);
    let workloads = found["items"].as_array().unwrap();
    assert!(workloads.len() >= 2, "the apiserver and the agents: {found:#}");
    for workload in workloads {
        let mut pod = workload["spec"]["template"].clone();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = workload["metadata"]["name"].clone();
        assert_eq!(kubernetes.admits("clustermesh-system", &pod), Ok(()), "{pod:#}");
        // The same elsewhere: the level is enforced.
        let refused = kubernetes.admits("default", &pod).unwrap_err();
        assert!(refused.contains("violates PodSecurity \"restricted"), "{refused}");
    }
}

#[test]
fn a_missing_right_is_named() {
    let kubernetes = shopping();
    let etcd = Etcd::start();
    let mut apiserver = apiserver(&etcd, &kubernetes);
    apiserver.wait_ready();
    let rules = [
        ("clusterrole/clustermesh-apiserver", "namespaces", "namespaces"),
        ("clusterrole/clustermesh-apiserver", "nodes", "nodes"),
        ("clusterrole/clustermesh-apiserver", "pods", "pods"),
        ("clusterrole/clustermesh-apiserver", "services", "services"),
        ("clusterrole/clustermesh-apiserver", "endpointslices", "endpointslices.discovery.k8s.io"),
        (
            "clusterrole/clustermesh-apiserver",
            "networkpolicies",
            "networkpolicies.networking.k8s.io",
        ),
        ("clusterrole/clustermesh-apiserver", "meshidentities", "meshidentities.clustermesh.dev"),
        ("role/clustermesh-apiserver", "configmaps", "the ConfigMap clustermesh-drain"),
    ];
    for (role, resource, named) in rules {
        let before = kubernetes.get(&["-n", "clustermesh-system", role]);
        let mut without = before.clone();
        for rule in without["rules"].as_array_mut().unwrap() {
            rule["resources"].as_array_mut().unwrap().retain(|one| one != resource);
            if rule["resources"] == json!([]) {
                rule["resources"] = json!(["nothing"]);
            }
        }
        kubernetes.replace(&without);
        apiserver.kill();
        apiserver.start_again();
        within(PATIENCE, &format!("the missing right on {resource} is named"), || {
            let problems = apiserver.status()["problems"].to_string();
            let wanted = format!("the verbs list and watch on {named}");
            match problems.contains(&wanted) {
                true => Ok(()),
                false => Err(format!("{problems}: {}", apiserver.log_text())),
            }
        });
        assert_eq!(backends(&apiserver, "web"), ["10.1.1.1"], "without {resource}");
        let mut again = before;
        again["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        kubernetes.replace(&again);
        within(PATIENCE, "the right is used", || {
            match apiserver.status()["problems"].to_string() {
                problems if problems == "[]" => Ok(()),
                problems => Err(problems),
            }
        });
    }
}

#[test]
fn a_drain_is_in_a_config_map_for_all_replicas() {
    let kubernetes = shopping();
    let etcds = [Etcd::start(), Etcd::start()];
    let mut replicas = etcds.each_ref().map(|etcd| apiserver(etcd, &kubernetes));
    for replica in &replicas {
        wait_for_backends(replica, "web", &["10.1.1.1"]);
    }
    let drain = |replica: &Apiserver, words: &[&str]| {
        let mut command = Command::new(binary());
        command.args(words).env("CLUSTERMESH_CONTEXTS", replica.contexts());
        json::of(command)
    };
    drain(&replicas[0], &["drain", "a"]);
    let map = || kubernetes.get(&["-n", "clustermesh-system", "configmap/clustermesh-drain"]);
    assert!(map()["data"]["drain.yaml"].as_str().unwrap().contains("cluster: true"));
    for replica in &replicas {
        wait_for_backends(replica, "web", &[]);
    }
    // One that starts now exports nothing as ready, not even for a moment.
    let revision = || {
        let key = "cilium/state/services/v1/a/shop/web";
        let found = etcds[1].etcdctl("admin", &["get", "-w", "json", key]).unwrap();
        let found: Value = serde_json::from_str(&found).unwrap();
        found["kvs"][0]["mod_revision"].as_i64().unwrap()
    };
    let write = |drain: &str| {
        let patch = json!({ "data": { "drain.yaml": drain } }).to_string();
        let map = ["patch", "-n", "clustermesh-system", "configmap/clustermesh-drain"];
        kubernetes.must(&[&map[..], &["--type=merge", "-p", &patch]].concat());
    };
    replicas[1].kill();
    let written = revision();
    replicas[1].start_again();
    replicas[1].wait_ready();
    write("clusters: [a]");
    replicas[0].wait_problem("ConfigMap clustermesh-drain: drain.yaml");
    assert_eq!(backends(&replicas[0], "web"), Vec::<String>::new(), "it stays drained");
    assert_eq!(revision(), written, "the service was not written again");
    write("cluster: true");
    within(PATIENCE, "the ConfigMap is read", || {
        match replicas[0].status()["problems"].to_string() {
            problems if problems.contains("ConfigMap") => Err(problems),
            _ => Ok(()),
        }
    });
    drain(&replicas[0], &["undrain", "a"]);
    for replica in &replicas {
        wait_for_backends(replica, "web", &["10.1.1.1"]);
    }
}

#[test]
fn what_changes_in_the_api_server_changes_in_the_etcd() {
    let kubernetes = shopping();
    let etcd = Etcd::start();
    let apiserver = apiserver(&etcd, &kubernetes);
    wait_for_backends(&apiserver, "web", &["10.1.1.1"]);
    let service = "cilium/state/services/v1/a/shop/web";
    let wait = |wanted: bool, what: &str| {
        within(PATIENCE, what, || match value(&apiserver, service).is_object() {
            is if is == wanted => Ok(()),
            _ => Err(apiserver.log_text()),
        });
    };
    // A service that becomes a name elsewhere has no backends, and comes back with another address.
    let patch = |patch: &str| {
        kubernetes.must(&["patch", "-n", "shop", "service/web", "--type=merge", "-p", patch]);
    };
    patch(
        r#"{"spec":{"type":"ExternalName","externalName":"example.com","clusterIP":null,"clusterIPs":null}}"#,
    );
    wait(false, "a service with an external name is not exported");
    patch(r#"{"spec":{"type":"ClusterIP","externalName":null,"clusterIP":"10.101.20.77"}}"#);
    wait(true, "it is exported again");
    assert!(value(&apiserver, service)["frontends"]["10.101.20.77"].is_object());
    wait_for_backends(&apiserver, "web", &["10.1.1.1"]);

    // A namespace leaves the mesh and joins it again.
    let annotation = "clustermesh.cilium.io/global";
    kubernetes.must(&["annotate", "namespace/shop", &format!("{annotation}=false")]);
    wait(false, "the namespace's services are not exported");
    within(PATIENCE, "its addresses are not exported", || match identity(&apiserver, "10.1.1.1") {
        0 => Ok(()),
        found => Err(found.to_string()),
    });
    kubernetes.must(&["annotate", "namespace/shop", &format!("{annotation}-")]);
    wait(true, "they are again");

    // Several slices of hundreds of endpoints, of a service without a selector.
    let many = |slice: u32| {
        let endpoint =
            |n: u32| format!("- {{addresses: [10.1.{}.{}], nodeName: n1}}\n", 50 + slice, n);
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: many-{slice}, namespace: shop, labels: {{kubernetes.io/service-name: many}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints:\n{}",
            (1..=250).map(endpoint).collect::<String>()
        )
    };
    let slices = (0..4).map(many).collect::<Vec<_>>().join("---\n");
    kubernetes.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: many, namespace: shop, annotations: {{service.cilium.io/global: 'true'}}}}\nspec: {{clusterIP: 10.101.20.90, ports: [{{name: http, port: 80}}]}}\n---\n{slices}"
    ));
    let count = |wanted: usize| {
        within(PATIENCE, &format!("{wanted} backends"), || {
            match backends(&apiserver, "many").len() {
                found if found == wanted => Ok(()),
                found => Err(found.to_string()),
            }
        });
    };
    count(1_000);
    kubernetes.must(&["delete", "-n", "shop", "endpointslice/many-2"]);
    count(750);

    // What cannot be read costs itself, and is named.
    kubernetes.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop, annotations: {service.cilium.io/global: 'true', clustermesh.dev/weights: 'a=many'}}\nspec: {clusterIP: 10.101.20.77, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}\n",
    );
    apiserver.wait_problem("shop/web");
    wait(true, "the service is exported as far as it can be");

    // A namespace that is deleted takes its objects along.
    kubernetes.must(&["delete", "pod", "-n", "shop", "--all", "--grace-period=0", "--force"]);
    kubernetes.must(&["delete", "namespace/shop", "--wait=false"]);
    wait(false, "a deleted namespace's services are gone");
    within(PATIENCE, "nothing of the namespace is left", || {
        let left = dump(&apiserver).into_iter().map(|(key, _)| key);
        let left: Vec<String> = left.filter(|key| key.contains("/shop/")).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}
