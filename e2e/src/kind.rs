//! A mesh of kind clusters: real kubelets, pods, API servers and kube-proxies. All scenarios share one fleet
//! (`e2e/kubernetes/mesh/up.sh`), one after another.

mod evidence;
mod mesh;
mod processes;

use std::{
    collections::BTreeSet,
    env,
    io::Write as _,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use serde_json::Value;

use self::processes::SYSTEM;
use crate::{
    json,
    mesh::{Mesh, output, within},
};

/// Clusters of the fleet, with nothing of earlier scenarios in them.
#[derive(Debug)]
pub struct Kind {
    clusters: Vec<String>,
    /// Whether the pods of `echo` have numbers, as a lab's have: then a StatefulSet makes them.
    numbered: bool,
    /// The fleet's folder.
    state: PathBuf,
    /// The clusters that this run has brought up. One scenario at a time has the fleet.
    up: MutexGuard<'static, BTreeSet<String>>,
}

static UP: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
/// How long pods may take to run or to go, on a loaded machine.
const PODS: Duration = Duration::from_secs(120);
/// The namespaces that no scenario made.
const NAMESPACES: [&str; 6] =
    ["default", "kube-system", "kube-public", "kube-node-lease", "local-path-storage", SYSTEM];

impl Kind {
    /// Brings up the clusters with the mesh installed, if they do not run yet, and removes what earlier scenarios left.
    pub fn up(clusters: &[&str]) -> Self {
        let mut up = UP.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted: BTreeSet<String> = clusters.iter().map(|&name| name.to_owned()).collect();
        if !wanted.is_subset(&up) {
            let all: Vec<String> = wanted.union(&up).cloned().collect();
            let mut script = Command::new(repository().join("e2e/kubernetes/mesh/up.sh"));
            script.env("CLUSTERS", all.join(" ")).stdout(Stdio::null());
            let status = script.status().expect("the script runs");
            assert!(status.success(), "the fleet does not come up: {status}");
            up.extend(all);
        }
        let state =
            env::var_os("CLUSTERMESH_KIND").map_or("/run/clustermesh-kind".into(), PathBuf::from);
        let clusters = clusters.iter().map(|&name| name.to_owned()).collect();
        let mesh = Self { clusters, numbered: false, state, up };
        mesh.clear();
        mesh
    }

    /// The same, with numbered pods.
    pub fn numbered(clusters: &[&str]) -> Self {
        let mut mesh = Self::up(clusters);
        mesh.numbered = true;
        mesh
    }

    /// A command of kubectl for a cluster.
    pub fn kubectl(&self, cluster: &str, args: &[&str]) -> Command {
        let mut command = Command::new(self.state.join("bin/kubectl"));
        command.arg("--kubeconfig").arg(self.state.join("kubeconfig"));
        command.args(["--context", cluster]).args(args);
        command.env("KUBECACHEDIR", self.state.join("kubectl"));
        command
    }

    /// Runs a command of kubectl, which must succeed. Returns what it printed.
    pub fn kubectl_done(&self, cluster: &str, args: &[&str]) -> String {
        output(self.kubectl(cluster, args))
            .unwrap_or_else(|e| panic!("kubectl {args:?} in {cluster}: {e}"))
    }

    /// The objects of a kind in a namespace.
    pub fn objects(&self, cluster: &str, kind: &str, namespace: &str) -> Vec<Value> {
        let text = self
            .kubectl_done(cluster, &["get", kind, "--namespace", namespace, "--output", "json"]);
        let list: Value = serde_json::from_str(&text).expect("a list");
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// Applies the text of manifests, in the namespace `default` if they name none.
    pub fn apply_manifests(&self, cluster: &str, text: &str) {
        let mut apply = self.kubectl(cluster, &["apply", "--filename", "-"]);
        let mut child =
            apply.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("kubectl runs");
        child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("kubectl reads");
        assert!(child.wait().expect("kubectl ends").success(), "{cluster} refuses {text}");
    }

    /// Waits until the pods of the namespace `default` are as its Deployments want them, and none is ending.
    pub fn settle(&self, cluster: &str) {
        within(PODS, &format!("the pods of {cluster} are as wanted"), || {
            let wanted: u64 = self
                .objects(cluster, "deployments,statefulsets", "default")
                .iter()
                .map(|found| found["spec"]["replicas"].as_u64().unwrap_or(1))
                .sum();
            let pods = self.objects(cluster, "pods", "default");
            let is_single = |pod: &&Value| pod["metadata"]["ownerReferences"].is_null();
            let single = pods.iter().filter(is_single).count();
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            let wanted = usize::try_from(wanted).unwrap_or_default() + single;
            if pods.len() == wanted && ready == wanted {
                Ok(())
            } else {
                Err(format!("{ready} of {} are ready, {wanted} wanted", pods.len()))
            }
        });
    }

    /// Removes what scenarios leave: stopped nodes, cuts, connections, drains, and objects.
    fn clear(&self) {
        self.revive();
        for cluster in self.up.iter() {
            let ready = ["wait", "--for", "condition=Ready", "nodes", "--all", "--timeout", "120s"];
            self.kubectl_done(cluster, &ready);
            self.wait_for_mesh(cluster);
        }
        self.heal();
        for cluster in self.up.iter() {
            let drain = ["patch", "configmap", "clustermesh-drain", "--namespace", SYSTEM];
            let nothing = ["--type", "merge", "--patch", r#"{"data":null}"#];
            self.kubectl_done(cluster, &[&drain[..], &nothing].concat());
            self.kubectl_done(cluster, &["annotate", "nodes", "--all", "clustermesh.dev/drain-"]);
            let delete =
                ["delete", "--wait=false", "--field-selector", "metadata.name!=kubernetes"];
            let kinds = "deployments,statefulsets,daemonsets,services,pods";
            self.kubectl_done(cluster, &[&delete[..], &["--namespace", "default", kinds]].concat());
            let all = self.objects(cluster, "namespaces", "default");
            for made in all.iter().map(name).filter(|name| !NAMESPACES.contains(&name.as_str())) {
                self.kubectl_done(cluster, &["delete", "namespace", &made]);
            }
            self.kubectl_done(cluster, &["uncordon", "--selector", "kubernetes.io/os=linux"]);
            let label = ["label", "nodes", "--all", "topology.kubernetes.io/zone-"];
            self.kubectl_done(cluster, &label);
        }
        for cluster in self.up.iter() {
            for peer in self.peers(cluster) {
                let ends = ["--context", cluster, "--destination-context", &peer];
                let (code, _, complaint) =
                    json::run(self.clustermesh(&[&["disconnect"], &ends[..]].concat()));
                // A cluster of an earlier run may not be up.
                let is_up = self.up.contains(&peer);
                assert!(code == 0 || code == 3 && !is_up, "{cluster} and {peer}: {complaint}");
            }
        }
        for cluster in self.up.iter() {
            self.settle(cluster);
        }
    }

    /// Waits until the pods of the mesh run. After the death of a node they are started again some seconds after it is ready.
    fn wait_for_mesh(&self, cluster: &str) {
        for part in ["deployment/clustermesh-apiserver", "daemonset/clustermesh-agent"] {
            let status = ["rollout", "status", "--timeout", "120s", "--namespace", SYSTEM, part];
            self.kubectl_done(cluster, &status);
        }
    }

    /// The clusters that a cluster has entries of, or had.
    fn peers(&self, cluster: &str) -> Vec<String> {
        let secrets = self.objects(cluster, "secrets", SYSTEM);
        let peers = secrets.iter().find(|secret| name(secret) == "clustermesh-peers");
        let data = peers.and_then(|secret| secret["data"].as_object());
        let names = data.into_iter().flat_map(|data| data.keys());
        names.filter(|name| !name.contains('.')).cloned().collect()
    }
}

impl Drop for Kind {
    fn drop(&mut self) {
        if thread::panicking() {
            // A panic that leaves this would end all tests.
            let kept = panic::catch_unwind(AssertUnwindSafe(|| self.keep_evidence()));
            if kept.is_err() {
                println!("not all could be kept");
            }
        }
    }
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready =
        conditions.iter().any(|found| found["type"] == "Ready" && found["status"] == "True");
    ready && pod["metadata"]["deletionTimestamp"].is_null()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
