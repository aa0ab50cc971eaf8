//! Connections of clusters in Kubernetes: `clustermesh-apiserver peer` with real API servers, and the rights of its manifest only.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code"
)]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use mesh_certs::{Ca, ClusterPki, CredentialFiles, request};
use mesh_e2e::{Apiserver, Etcd, Kubernetes, mesh::within, netns::binary};
use mesh_wire::peer_file::PeerFile;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longer than the longest pause between two attempts.
const PATIENCE: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "clustermesh-system";
const SECRET: &str = "secret/clustermesh-peers";
const USERS: &str = "configmap/clustermesh-users";
const DRAIN: &str = "configmap/clustermesh-drain";

/// A cluster: an API server with the apiserver's manifests, and a cluster directory.
struct Cluster {
    kubernetes: Kubernetes,
    directory: PathBuf,
    /// Of a cluster without an etcd of the mesh.
    _folder: Option<TempDir>,
}

impl Cluster {
    /// With the cluster directory of an etcd.
    fn at(directory: &Path) -> Self {
        let kubernetes = Kubernetes::start();
        for name in ["meshidentities.yaml", "apiserver-rbac.yaml"] {
            let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/manifests");
            kubernetes.apply(&fs::read_to_string(manifests.join(name)).unwrap());
        }
        let crd = "crd/meshidentities.clustermesh.dev";
        kubernetes.must(&["wait", "--for=condition=Established", crd]);
        Self { kubernetes, directory: directory.into(), _folder: None }
    }

    /// Without an etcd.
    fn new(name: &str, id: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pki = ClusterPki::new(&folder.path().join("pki"));
        pki.create(name, "clustermesh", &[], Ca::ISSUED_LIFETIME).unwrap();
        let settings = format!(
            "name: {name}\nid: {id}\npodCIDRs: [10.{id}.0.0/16]\nnodeCIDRs: [172.31.{id}.0/24]\n"
        );
        fs::write(folder.path().join("cluster.yaml"), settings).unwrap();
        let directory = folder.path().to_owned();
        Self { _folder: Some(folder), ..Self::at(&directory) }
    }

    /// Runs `peer` as the apiserver's service account. Returns its answer, or its error.
    fn run(&self, args: &[&str], input: &Value) -> Result<Value, String> {
        self.run_subcommand("peer", args, input)
    }

    fn run_subcommand(&self, name: &str, args: &[&str], input: &Value) -> Result<Value, String> {
        let mut command = Command::new(binary().with_file_name("clustermesh-apiserver"));
        command.arg(name).arg("--config-dir").arg(&self.directory);
        command.arg("--kubeconfig").arg(self.kubernetes.kubeconfig());
        command.args(["--kube-context", "mesh"]).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // One that needs no input may end before.
        let _ = child.stdin.take().unwrap().write_all(input.to_string().as_bytes());
        let output = child.wait_with_output().unwrap();
        match output.status.success() {
            // Some print nothing.
            true if output.stdout.is_empty() => Ok(Value::Null),
            true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
            false => Err(String::from_utf8(output.stderr).unwrap()),
        }
    }

    fn must(&self, args: &[&str], input: &Value) -> Value {
        self.run(args, input).unwrap_or_else(|error| panic!("{args:?}: {error}"))
    }

    fn describe(&self) -> Value {
        self.must(&["describe"], &Value::Null)
    }

    /// The entries of its Secret, keys included.
    fn entries(&self) -> serde_json::Map<String, Value> {
        let described = self.must(&["describe", "--include-keys"], &Value::Null);
        described["secret"]["entries"].as_object().unwrap().clone()
    }

    fn users(&self) -> Value {
        self.describe()["users"]["users"].clone()
    }

    fn patch(&self, object: &str, patch: &Value) {
        let patch = patch.to_string();
        self.kubernetes.must(&["patch", "-n", NAMESPACE, object, "--type=merge", "-p", &patch]);
    }

    /// The managers of entries of its Secret.
    fn managers(&self) -> Vec<String> {
        let secret = self.kubernetes.get(&["-n", NAMESPACE, SECRET, "--show-managed-fields"]);
        let fields = secret["metadata"]["managedFields"].as_array().unwrap().clone();
        let of_data = fields.into_iter().filter(|entry| entry["fieldsV1"]["f:data"].is_object());
        of_data.map(|entry| entry["manager"].as_str().unwrap().to_owned()).collect()
    }

    /// Sends it everything by which it follows `a`, from the answers of `a`.
    fn follow(&self, a: &Self) {
        let requested = self.must(&["request", "--peer", "a"], &Value::Null);
        let asked = json!({ "peer": "b", "request": requested["request"] });
        let signed = a.must(&["sign"], &asked);
        self.must(&["accept"], &json!({ "peer": "a", "file": FILE, "signed": signed }));
    }
}

const FILE: &str = "endpoints: ['https://a.mesh.cilium.io:12379']
trusted-ca-file: a.etcd-client-ca.crt
cert-file: a.etcd-client.crt
key-file: a.etcd-client.key
cilium-host-aliases: [{hostname: a.mesh.cilium.io, ips: [127.0.0.1]}]
clustermesh: {id: 1, podCIDRs: [10.1.0.0/16], nodeCIDRs: [172.31.1.0/24]}
";

fn apiserver(etcd: &Etcd, kubernetes: &Kubernetes) -> Apiserver {
    let kubeconfig = format!("CLUSTERMESH_KUBECONFIG={}", kubernetes.kubeconfig().display());
    let wrapper =
        ["env", "CLUSTERMESH_SOURCE=kubernetes", &kubeconfig, "CLUSTERMESH_KUBE_CONTEXT=mesh"];
    Apiserver::wrapped(etcd, etcd.port(), &wrapper)
}

fn wait_for_user(etcd: &Etcd, apiserver: &Apiserver, user: &str, wanted: bool) {
    within(PATIENCE, &format!("user {user} in the etcd: {wanted}"), || {
        let users = etcd.etcdctl("admin", &["user", "list"]);
        match users.as_ref().is_ok_and(|users| users.lines().any(|found| found == user) == wanted) {
            true => Ok(()),
            false => Err(format!("{users:?} {}", apiserver.log_text())),
        }
    });
}

/// From nothing to a cluster that reads the other's etcd, and back. Each step may be repeated: a command that is stopped after
/// any of them is given again.
#[test]
fn a_cluster_follows_another_and_gives_it_up() {
    let mut etcd = Etcd::protected(&[]);
    let a = Cluster::at(etcd.folder());
    let b = Cluster::new("b", 2);
    let running = apiserver(&etcd, &a.kubernetes);
    running.wait_ready();

    let described = b.describe();
    let uid = b.kubernetes.get(&["namespace/kube-system"])["metadata"]["uid"].clone();
    assert_eq!((&described["name"], &described["uuid"]), (&json!("b"), &uid), "{described}");
    assert_eq!(described["podCIDRs"], json!(["10.2.0.0/16"]));
    assert_eq!(described["secret"]["entries"], json!({}));

    // A key is made in b, and stays there.
    let requested = b.must(&["request", "--peer", "a"], &Value::Null);
    let entries = b.entries();
    let key = entries["a.etcd-client.key.next"].as_str().unwrap();
    assert!(key.contains("PRIVATE KEY") && !requested.to_string().contains("PRIVATE KEY"));
    let described = b.describe();
    assert_eq!(described["secret"]["pending"], json!(["a"]));
    assert!(!described.to_string().contains("PRIVATE KEY"), "{described}");
    b.must(&["request", "--peer", "a"], &Value::Null);
    assert_eq!(b.entries(), entries, "the key that waits is used again");

    // It is signed for the user of b, and no other.
    let asked = |peer: &str| json!({ "peer": peer, "request": requested["request"] });
    let refused = a.run(&["sign"], &asked("c")).unwrap_err();
    assert!(refused.contains("remote-b") && refused.contains("remote-c"), "{refused}");
    assert!(a.run(&["sign"], &asked("a")).unwrap_err().contains("this cluster"));
    assert_eq!(a.users(), json!([]));
    let signed = a.must(&["sign"], &asked("b"));
    a.must(&["sign"], &asked("b"));
    assert_eq!(a.users(), json!([{ "name": "remote-b", "role": "remote" }]));
    wait_for_user(&etcd, &running, "remote-b", true);

    // Only what fits the key is accepted.
    let accept = |signed: &Value, file: &str| {
        b.run(&["accept"], &json!({ "peer": "a", "file": file, "signed": signed }))
    };
    let other = request("remote-b").unwrap().certificate;
    let other = a.must(&["sign"], &json!({ "peer": "b", "request": other }));
    let mut other_ca = signed.clone();
    other_ca["ca"] = b.describe()["ca"].clone();
    for (signed, file, says) in [
        (&other, FILE, "another private key"),
        (&other_ca, FILE, "did not sign"),
        (&signed, "endpoints: []", "peer file"),
        (&signed, &FILE.replace("a.etcd-client.key", "c.etcd-client.key"), "c.etcd-client.key"),
        (&signed, &FILE.replace("10.1.0.0/16", ""), "podCIDRs"),
        (&Value::Null, FILE, "request a certificate first"),
    ] {
        let refused = accept(signed, file).unwrap_err();
        assert!(refused.contains(says), "{says}: {refused}");
        assert_eq!(b.entries(), entries, "nothing is changed");
    }
    accept(&signed, FILE).unwrap();
    let accepted = b.entries();
    accept(&signed, FILE).unwrap();
    assert_eq!(b.entries(), accepted);
    assert_eq!(accepted["a.etcd-client.key"].as_str().unwrap(), key);
    assert_eq!(accepted.len(), 4);
    assert_eq!(b.describe()["secret"]["keys"], json!(["a"]));
    assert_eq!(b.managers(), ["clustermesh-peer-a"]);

    // The folder that agents mount has a peer, whose etcd can be read with it.
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in &accepted {
        fs::write(folder.path().join(name), text.as_str().unwrap()).unwrap();
    }
    let file = PeerFile::parse(accepted["a"].as_str().unwrap()).unwrap();
    assert_eq!(file.clustermesh.unwrap().id, Some(1));
    let of = |name: &str| folder.path().join(format!("a.etcd-client{name}"));
    let files = CredentialFiles { ca: of("-ca.crt"), certificate: of(".crt"), key: of(".key") };
    assert_eq!(files.load(SystemTime::now()).unwrap().subject(), "CN=remote-b");
    let read = || {
        let mut get = Command::new("etcdctl");
        get.env("ETCDCTL_API", "3").arg("--endpoints").arg(running.endpoint());
        get.arg("--cacert").arg(&files.ca).arg("--cert").arg(&files.certificate);
        get.arg("--key").arg(&files.key).args(["get", "--prefix", "--keys-only", "cilium/state/"]);
        let output = get.output().unwrap();
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    };
    within(PATIENCE, "b reads a's etcd", read);

    // A broken, empty or missing list removes no user, and is named. After the etcd lost its data, the user is made again.
    a.patch(USERS, &json!({ "data": { "users.yaml": "users: [" } }));
    running.wait_problem("clustermesh-users");
    assert!(a.run(&["sign"], &asked("b")).unwrap_err().contains("correct it first"));
    a.patch(USERS, &json!({ "data": { "users.yaml": "" } }));
    running.wait_problem("for no users");
    a.kubernetes.must(&["delete", "-n", NAMESPACE, USERS]);
    etcd.kill();
    fs::remove_dir_all(etcd.data()).unwrap();
    etcd.start_again();
    wait_for_user(&etcd, &running, "remote-b", true);
    let missing = a.run(&["sign"], &asked("b")).unwrap_err();
    assert!(missing.contains("apply deploy/manifests/apiserver-rbac.yaml"), "{missing}");
    a.kubernetes.apply(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: clustermesh-users, namespace: clustermesh-system}\n",
    );

    // Both give the other up.
    b.follow(&a);
    let removed = b.must(&["remove", "--peer", "a", "--user"], &Value::Null);
    assert_eq!((&removed["user"], &removed["kept"]), (&json!(false), &json!({})), "{removed}");
    assert_eq!(removed["entries"].as_array().unwrap().len(), 4);
    assert_eq!(b.entries(), serde_json::Map::new());
    assert_eq!(b.managers(), Vec::<String>::new());
    b.must(&["remove", "--peer", "a", "--user"], &Value::Null);
    let drains = json!({ "data": { "drain.yaml": "nodes: [n1]\n", "drained-peers.yaml": "clusters: [b, c]\n" } });
    a.patch(DRAIN, &drains);
    assert_eq!(a.describe()["drainedPeers"], json!(["b", "c"]));
    let removed = a.must(&["remove", "--peer", "b", "--user"], &Value::Null);
    assert_eq!((&removed["user"], &removed["drained"]), (&json!(true), &json!(true)), "{removed}");
    assert_eq!(a.describe()["drainedPeers"], json!(["c"]));
    let drains = a.kubernetes.get(&["-n", NAMESPACE, DRAIN]);
    assert_eq!(drains["data"]["drain.yaml"], json!("nodes: [n1]\n"));
    let removed = a.must(&["remove", "--peer", "b", "--user"], &Value::Null);
    assert_eq!(removed["drained"], json!(false), "{removed}");
    wait_for_user(&etcd, &running, "remote-b", false);
}

#[test]
fn what_others_manage_and_what_is_full_and_what_is_forbidden_is_named() {
    let (a, b) = (Cluster::new("a", 1), Cluster::new("b", 2));
    // Another manager has the peer's entries: nothing is overwritten.
    let of_flux = b.directory.join("flux.json");
    let secret = |data: Value| {
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": "clustermesh-peers", "namespace": NAMESPACE }, "data": data,
        })
    };
    fs::write(&of_flux, secret(json!({ "a": "eA==" })).to_string()).unwrap();
    let of_flux = of_flux.to_str().unwrap();
    let apply = ["apply", "--server-side", "--field-manager=flux", "-f", of_flux];
    b.kubernetes.must(&apply);
    let requested = b.must(&["request", "--peer", "a"], &Value::Null);
    let signed = a.must(&["sign"], &json!({ "peer": "b", "request": requested["request"] }));
    let accept = || b.run(&["accept"], &json!({ "peer": "a", "file": FILE, "signed": signed }));
    let conflict = accept().unwrap_err();
    assert!(conflict.contains("flux") && conflict.contains(".data.a"), "{conflict}");
    assert_eq!(b.entries()["a"], json!("x"));
    let removed = b.must(&["remove", "--peer", "a"], &Value::Null);
    assert_eq!(removed["kept"], json!({ "a": ["flux"] }), "{removed}");
    let mut nothing = secret(Value::Null);
    nothing.as_object_mut().unwrap().remove("data");
    fs::write(of_flux, nothing.to_string()).unwrap();
    b.kubernetes.must(&apply);
    b.follow(&a);

    // A peer beside it is left alone, and each has a manager of its own.
    b.must(&["request", "--peer", "c"], &Value::Null);
    assert_eq!(b.managers().len(), 2);
    b.must(&["remove", "--peer", "c"], &Value::Null);
    assert_eq!(b.entries().len(), 4);

    // 1 MiB is the end: another peer finds no room, what is there can still be changed and removed.
    let used = b.describe()["secret"]["bytes"].as_u64().unwrap();
    // Three bytes each.
    let filler = "eHh4".repeat((1024 * 1024 - 64 - usize::try_from(used).unwrap()) / 3);
    let secret = secret(json!({ "filler": filler }));
    b.kubernetes.apply(&secret.to_string());
    let full = b.run(&["request", "--peer", "c"], &Value::Null).unwrap_err();
    assert!(full.contains("is full") && full.contains("1048576"), "{full}");
    assert!(b.run(&["request", "--peer", "a"], &Value::Null).unwrap_err().contains("is full"));
    b.must(&["remove", "--peer", "a"], &Value::Null);
    b.patch(SECRET, &json!({ "data": { "filler": null } }));

    // With one right missing at a time, the message names it.
    let role = |kind: &str| b.kubernetes.get(&["-n", NAMESPACE, kind]);
    let sign = json!({ "peer": "a", "request": request("remote-a").unwrap().certificate });
    let describe: &[&str] = &["describe"];
    for (kind, resource, verb, command, says) in [
        ("role", "secrets", "get", describe, "get on secrets named clustermesh-peers"),
        (
            "role",
            "secrets",
            "patch",
            &["request", "--peer", "a"],
            "patch on secrets named clustermesh-peers",
        ),
        ("role", "configmaps", "get", describe, "get on configmaps named clustermesh-users"),
        ("role", "configmaps", "patch", &["sign"], "patch on configmaps named clustermesh-users"),
        ("clusterrole", "services", "list", describe, "list on services"),
        ("clusterrole", "pods", "list", describe, "list on pods"),
        ("clusterrole", "nodes", "list", describe, "list on nodes"),
        ("clusterrole", "namespaces", "list", describe, "namespaces"),
    ] {
        let name = format!("{kind}/clustermesh-apiserver");
        let whole = role(&name);
        let mut less = whole.clone();
        let mut rules = less["rules"].as_array().unwrap().clone();
        // A rule of several resources is as one for each.
        for rule in &mut rules.clone() {
            let resources = rule["resources"].as_array_mut().unwrap();
            if resources.len() > 1 && resources.contains(&json!(resource)) {
                resources.retain(|found| found != resource);
                rules.push(rule.clone());
            }
        }
        for rule in &mut rules {
            if rule["resources"].as_array().unwrap().contains(&json!(resource)) {
                rule["resources"] = json!([resource]);
                rule["verbs"].as_array_mut().unwrap().retain(|found| found != verb);
            }
        }
        rules.retain(|rule| !rule["verbs"].as_array().unwrap().is_empty());
        less["rules"] = Value::Array(rules);
        less["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        b.kubernetes.replace(&less);
        within(PATIENCE, &format!("{verb} {resource} is missed"), || match b.run(command, &sign) {
            Err(error) if error.contains(says) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let mut whole = whole;
        whole["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        b.kubernetes.replace(&whole);
        within(PATIENCE, "the right is back", || b.run(describe, &Value::Null).map(drop));
    }
}

/// The steps of an exchange of the CA, each with the manifest's rights, and twice. Without the right to change the Secret, that
/// is named and nothing is changed.
#[test]
fn a_ca_is_exchanged_in_its_secret() {
    let a = Cluster::new("a", 1);
    a.kubernetes.apply(
        &json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": "clustermesh-local", "namespace": NAMESPACE },
        })
        .to_string(),
    );
    fs::remove_dir_all(a.directory.join("pki")).unwrap();
    let init = ["--cluster-name", "a", "--cluster-id", "1", "--pod-cidr", "10.1.0.0/16"];
    a.run_subcommand("init", &init, &Value::Null).unwrap();
    let ca = |args: &[&str]| a.run_subcommand("ca", args, &Value::Null);
    let subjects = |state: &Value, what: &str| -> Vec<String> {
        let all = mesh_certs::details(state[what].as_str().unwrap()).unwrap();
        all.into_iter().map(|found| found.subject).collect()
    };
    let issuer = |state: &Value, leaf: &str| {
        let text = state["certificates"][leaf].as_str().unwrap();
        mesh_certs::details(text).unwrap()[0].issuer.clone()
    };
    let [old, new] = ["CN=clustermesh authority of a", "CN=clustermesh authority of a 2"];
    let first = ca(&["renew"]).unwrap();
    assert_eq!(
        (subjects(&first, "trusted"), issuer(&first, "local")),
        (vec![old.into()], old.into())
    );
    assert!(first["etcdError"].as_str().is_some_and(|error| !error.is_empty()), "none runs");

    let role = a.kubernetes.get(&["-n", NAMESPACE, "role/clustermesh-apiserver"]);
    let mut less = role.clone();
    for rule in less["rules"].as_array_mut().unwrap() {
        if rule["resourceNames"] == json!(["clustermesh-ca"]) {
            rule["verbs"] = json!(["get"]);
        }
    }
    let replace = |role: &Value| {
        let mut role = role.clone();
        role["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        a.kubernetes.replace(&role);
    };
    replace(&less);
    within(PATIENCE, "the missing right is named", || match ca(&["succeed"]) {
        Err(error) if error.contains("the verb patch on secrets named clustermesh-ca") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(ca(&["describe"]).unwrap()["trusted"], first["trusted"]);
    replace(&role);
    within(PATIENCE, "the right is back", || ca(&["succeed"]).map(drop));

    let both = vec![old.to_owned(), new.to_owned()];
    for (step, trusted, signer) in [
        ("succeed", &both, old),
        ("sign", &both, new),
        ("sign", &both, new),
        ("forget", &vec![new.to_owned()], new),
        ("forget", &vec![new.to_owned()], new),
    ] {
        let state = ca(&[step]).unwrap();
        assert_eq!(subjects(&state, "trusted"), *trusted, "{step}");
        assert_eq!(subjects(&state, "signer"), [signer], "{step}");
        let state = ca(&["renew"]).unwrap();
        assert_eq!(subjects(&state, "inPod"), *trusted, "{step}");
        for leaf in ["server", "admin", "local"] {
            assert_eq!(issuer(&state, leaf), signer, "{step}: {leaf}");
        }
        assert!(!state.to_string().contains("PRIVATE KEY"));
    }
    let error = a.run_subcommand("ca", &["renew", "--again", "ca"], &Value::Null).unwrap_err();
    assert!(error.contains("[possible values: server, admin, local]"), "{error}");
}
