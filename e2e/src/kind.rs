//! A mesh of kind clusters: real kubelets, pods, API servers and kube-proxies. All scenarios share one fleet
//! (`e2e/kubernetes/mesh/up.sh`), one after another.

mod mesh;

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, Once, PoisonError},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    json,
    mesh::{Daemon, Mesh, output, within},
};

/// Clusters of the fleet, with nothing of earlier scenarios in them.
#[derive(Debug)]
pub struct Kind {
    clusters: Vec<String>,
    /// The fleet's folder.
    state: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

/// One scenario at a time has the fleet.
static TURN: Mutex<()> = Mutex::new(());
/// The fleet is brought up once a run.
static UP: Once = Once::new();
/// The namespace of the mesh.
const SYSTEM: &str = "clustermesh-system";
/// How long pods may take to run or to go, on a loaded machine.
const PODS: Duration = Duration::from_secs(120);
/// A container of a daemon: the label of its pod, and its name.
const APISERVER: (&str, &str) = ("clustermesh-apiserver", "apiserver");
const ETCD: (&str, &str) = ("clustermesh-apiserver", "etcd");
const AGENT: (&str, &str) = ("clustermesh-agent", "agent");

impl Kind {
    /// Brings up the clusters with the mesh installed, if they do not run yet, and removes what earlier scenarios left.
    pub fn up(clusters: &[&str]) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        UP.call_once(|| {
            let mut up = Command::new(repository().join("e2e/kubernetes/mesh/up.sh"));
            up.env("CLUSTERS", clusters.join(" ")).stdout(Stdio::null());
            let status = up.status().expect("the script runs");
            assert!(status.success(), "the fleet does not come up: {status}");
        });
        let state =
            env::var_os("CLUSTERMESH_KIND").map_or("/run/clustermesh-kind".into(), PathBuf::from);
        let clusters = clusters.iter().map(|&name| name.to_owned()).collect();
        let mesh = Self { clusters, state, _turn: turn };
        mesh.clear();
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

    /// Applies the text of manifests in the namespace `default`.
    pub fn apply_manifests(&self, cluster: &str, text: &str) {
        let mut apply =
            self.kubectl(cluster, &["apply", "--namespace", "default", "--filename", "-"]);
        let mut child =
            apply.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("kubectl runs");
        child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("kubectl reads");
        assert!(child.wait().expect("kubectl ends").success(), "{cluster} refuses {text}");
    }

    /// Waits until the pods of the namespace `default` are as its Deployments want them, and none is ending.
    pub fn settle(&self, cluster: &str) {
        within(PODS, &format!("the pods of {cluster} are as wanted"), || {
            let wanted: u64 = self
                .objects(cluster, "deployments", "default")
                .iter()
                .map(|found| found["spec"]["replicas"].as_u64().unwrap_or(1))
                .sum();
            let pods = self.objects(cluster, "pods", "default");
            let single =
                pods.iter().filter(|pod| pod["metadata"]["ownerReferences"].is_null()).count();
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            let wanted = usize::try_from(wanted).unwrap_or_default() + single;
            if pods.len() == wanted && ready == wanted {
                Ok(())
            } else {
                Err(format!("{ready} of {} are ready, {wanted} wanted", pods.len()))
            }
        });
    }

    /// Removes what scenarios leave: connections, cuts, and objects of the namespace `default`.
    fn clear(&self) {
        self.heal();
        for (at, one) in self.clusters.iter().enumerate() {
            for other in self.clusters.iter().skip(at + 1) {
                json::of(self.clustermesh(&[
                    "disconnect",
                    "--context",
                    one,
                    "--destination-context",
                    other,
                ]));
            }
        }
        for cluster in &self.clusters {
            let delete =
                ["delete", "deployments,services,pods", "--namespace", "default", "--wait=false"];
            self.kubectl_done(
                cluster,
                &[&delete[..], &["--field-selector", "metadata.name!=kubernetes"]].concat(),
            );
            self.settle(cluster);
        }
    }

    /// The process of a container, as this machine numbers it: the first one.
    fn process(
        &self,
        cluster: &str,
        namespace: &str,
        pod: impl Fn(&Value) -> bool,
        container: Option<&str>,
    ) -> Option<i32> {
        let pods = self.objects(cluster, "pods", namespace);
        let found = pods
            .into_iter()
            .find(|found| pod(found) && found["metadata"]["deletionTimestamp"].is_null())?;
        let statuses = found["status"]["containerStatuses"].as_array()?.clone();
        let status =
            statuses.iter().find(|status| container.is_none_or(|name| status["name"] == name))?;
        status["state"].get("running")?;
        let id = status["containerID"].as_str()?.strip_prefix("containerd://")?.to_owned();
        processes(&id).into_iter().min()
    }

    fn daemon(&self, daemon: &Daemon) -> Option<i32> {
        let (cluster, (label, container), node) = match daemon {
            Daemon::Etcd(cluster) => (cluster, ETCD, None),
            Daemon::Apiserver(cluster) => (cluster, APISERVER, None),
            Daemon::Agent(cluster, node) => (cluster, AGENT, Some(node)),
            Daemon::EtcdOf(..) | Daemon::ApiserverOf(..) => {
                panic!("the fleet has one replica: {daemon}")
            }
        };
        let is_it = |pod: &Value| {
            pod["metadata"]["labels"]["app.kubernetes.io/name"] == label
                && node.is_none_or(|node| pod["spec"]["nodeName"] == node.as_str())
        };
        self.process(cluster, SYSTEM, is_it, Some(container))
    }

    fn signal(&self, daemon: &Daemon, signal: Signal) {
        let pid = self.daemon(daemon).unwrap_or_else(|| panic!("{daemon} does not run"));
        kill(Pid::from_raw(pid), signal).expect("it runs");
    }

    /// The first process of a node.
    fn node_process(&self, node: &str) -> String {
        let mut inspect = Command::new(self.state.join("bin/docker"));
        inspect.args(["inspect", "--format", "{{.State.Pid}}", node]);
        output(inspect).unwrap_or_else(|e| panic!("node {node}: {e}")).trim().to_owned()
    }

    fn in_node(&self, node: &str, path: &str) -> PathBuf {
        Path::new("/proc").join(self.node_process(node)).join("root").join(path)
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

/// The processes of a container, by the name of its cgroup.
fn processes(container: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(container))
    })
    .collect()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
