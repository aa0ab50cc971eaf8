//! What the pods of an API server cost an apiserver: the memory to know them, and the time for a change of one.
//!
//! The benchmark writes the pods into the API server's etcd, which is also the cluster's, as the API server would: to create
//! fifty thousand by requests takes minutes.

use std::{
    fs,
    net::Ipv6Addr,
    path::PathBuf,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use mesh_lab::{KubeApiServer, KubeApiServerOptions, Lab};
use serde::Serialize;
use serde_json::json;

use crate::{
    bench_lab::{BenchLab, adopt, first_node},
    error::{BenchError, file},
    records::Entries,
    usage::{apiserver_metric, process_cpu, resident},
};

/// The parameters of [`source`].
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// The numbers of pods.
    pub pods: Vec<u32>,
    /// Pods that change in each of them.
    pub changes: u32,
    /// The folder with kube-apiserver and kubectl; `None`: they are in `$PATH`.
    pub programs: Option<PathBuf>,
}

/// What pods cost an apiserver.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceCost {
    /// The number of pods.
    pub pods: u32,
    /// Bytes of a pod in JSON, as the API server has it.
    pub json: u64,
    /// Resident bytes of the apiserver, less those without pods.
    pub resident: u64,
    /// The same for each pod.
    pub resident_each: f64,
    /// The ratio of that to the pod's JSON.
    pub ratio: f64,
    /// Pods that changed.
    pub changes: u32,
    /// CPU time of the apiserver for a change, in microseconds.
    pub change_micros: f64,
    /// Changes a second while pods changed one after the other.
    pub rate: f64,
    /// The part of a core that the apiserver used meanwhile.
    pub rate_cores: f64,
}

/// A kube-apiserver. It ends with the lab.
struct ApiServer {
    server: KubeApiServer,
    child: Child,
}

const PATIENCE: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(100);
/// How long the apiserver is idle before its memory is measured: its allocator returns what was freed.
const QUIET: Duration = Duration::from_secs(5);
/// Changes a second, in so many turns, and for how long.
const RATE: u32 = 50;
const TURNS: u32 = 10;
const RATE_SECONDS: u32 = 10;
/// Pods with the same labels.
const TOGETHER: u32 = 50;
/// What a user applies.
const MANIFESTS: [&str; 2] = [
    include_str!("../../../deploy/manifests/meshidentities.yaml"),
    include_str!("../../../deploy/manifests/apiserver-rbac.yaml"),
];

/// Measures what pods cost an apiserver whose source is an API server. Needs root.
pub fn source(
    lab: &str,
    options: &SourceOptions,
    mut progress: impl FnMut(u64, u64),
) -> Result<Vec<SourceCost>, BenchError> {
    let mut lab = BenchLab::apart(lab, 1, 1)?;
    let api_server = ApiServer::start(&lab, options.programs.clone())?;
    lab.lab("stop", &["a/apiserver"])?;
    let kubeconfig = api_server.server.kubeconfig().display().to_string();
    let variables = [
        ("CLUSTERMESH_SOURCE".to_owned(), "kubernetes".to_owned()),
        ("CLUSTERMESH_KUBECONFIG".to_owned(), kubeconfig),
        // The etcd is of the cluster whose objects were in a folder.
        ("CLUSTERMESH_ADOPT_IDENTITIES".to_owned(), "true".to_owned()),
    ];
    Lab::open(lab.name())?.set_environment(&["a/apiserver".to_owned()], &variables)?;
    let none = started(&mut lab, 0)?;
    let mut pods = options.pods.clone();
    pods.sort_unstable();
    let mut written = 0;
    let mut rows = Vec::new();
    let all = pods.last().copied().unwrap_or_default();
    for count in pods {
        lab.lab("stop", &["a/apiserver"])?;
        let entries: Entries = (written..count).map(|n| pod(n, 0)).collect();
        lab.write(lab.cluster(0)?, &entries, |done| {
            progress(u64::from(written) + done as u64, u64::from(all));
        })?;
        written = count;
        let resident = started(&mut lab, count)?.saturating_sub(none);
        let changes = options.changes.min(count);
        let one = pod(0, 0);
        let json = u64::try_from(one.1.len()).unwrap_or(u64::MAX);
        let resident_each = resident as f64 / f64::from(count.max(1));
        let change_micros = changed(&lab, changes, count)?;
        let (rate, rate_cores) = steadily(&lab, count)?;
        rows.push(SourceCost {
            pods: count,
            json,
            resident,
            resident_each,
            ratio: resident_each / json as f64,
            changes,
            change_micros,
            rate,
            rate_cores,
        });
    }
    drop(api_server);
    Ok(rows)
}

/// Starts the apiserver, and waits until it has exported this many pods. Returns its resident bytes.
fn started(lab: &mut BenchLab, pods: u32) -> Result<u64, BenchError> {
    lab.lab("start", &["a/apiserver"])?;
    lab.refresh()?;
    let node = first_node(lab.cluster(0)?)?.clone();
    let pid = lab.pid("a/apiserver")?;
    // Each pod has a key for all clusters, and one for its node.
    wait("the apiserver has not exported all pods", || {
        let has = |name: &str| apiserver_metric(&node, name).unwrap_or_default();
        has("clustermesh_apiserver_objects") > u64::from(pods)
            && has("clustermesh_apiserver_desired_keys") > 2 * u64::from(pods)
    })?;
    if pods > 0 {
        wait_for(lab, pods - 1, 0)?;
    }
    thread::sleep(QUIET);
    resident(pid)
}

/// Gives pods other addresses. Returns the CPU time of the apiserver for each, in microseconds.
fn changed(lab: &BenchLab, changes: u32, pods: u32) -> Result<f64, BenchError> {
    let pid = lab.pid("a/apiserver")?;
    let step = (pods / changes.max(1)).max(1);
    let numbers: Vec<u32> = (0..changes).map(|n| n * step).collect();
    let entries: Entries = numbers.iter().map(|n| pod(*n, 1)).collect();
    let before = process_cpu(pid)?;
    lab.write(lab.cluster(0)?, &entries, |_| {})?;
    if let Some(last) = numbers.last() {
        wait_for(lab, *last, 1)?;
    }
    let used = process_cpu(pid)?.saturating_sub(before);
    Ok(used.as_nanos() as f64 / 1e3 / f64::from(changes.max(1)))
}

/// Changes pods for a while. Returns the changes a second, and the part of a core that the apiserver used.
fn steadily(lab: &BenchLab, pods: u32) -> Result<(f64, f64), BenchError> {
    let pid = lab.pid("a/apiserver")?;
    let (began, before) = (Instant::now(), process_cpu(pid)?);
    let mut changes = 0;
    for turn in 0..TURNS * RATE_SECONDS {
        let of_turn = changes..changes + RATE / TURNS;
        let generation = |n: u32| u16::try_from(2 + n / pods.max(1)).unwrap_or(u16::MAX);
        let entries: Entries = of_turn.map(|n| pod(n % pods.max(1), generation(n))).collect();
        lab.write(lab.cluster(0)?, &entries, |_| {})?;
        changes += RATE / TURNS;
        thread::sleep(
            (Duration::from_secs(1) / TURNS * (turn + 1)).saturating_sub(began.elapsed()),
        );
    }
    let (used, passed) = (process_cpu(pid)?.saturating_sub(before), began.elapsed());
    Ok((f64::from(changes) / passed.as_secs_f64(), used.as_secs_f64() / passed.as_secs_f64()))
}

/// Waits until the etcd has a pod's address.
fn wait_for(lab: &BenchLab, n: u32, generation: u16) -> Result<(), BenchError> {
    let key = format!("cilium/state/ip/v1/default/{}", address(n, generation));
    let mut get = lab.etcdctl(lab.cluster(0)?)?;
    get.args(["get", &key]);
    wait("a pod's address has not come to the etcd", || {
        get.output().is_ok_and(|found| !found.stdout.is_empty())
    })
}

fn wait(what: &str, mut is_done: impl FnMut() -> bool) -> Result<(), BenchError> {
    let began = Instant::now();
    while !is_done() {
        if began.elapsed() > PATIENCE {
            return Err(BenchError::late(what));
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

fn address(n: u32, generation: u16) -> Ipv6Addr {
    // In the pod range of the lab's first cluster.
    let first: u128 = Ipv6Addr::new(0xfd00, 0x10, 1, 1, generation, 0, 0, 0).into();
    Ipv6Addr::from(first + 0x100 + u128::from(n))
}

/// A pod's key and value in the API server's etcd.
fn pod(n: u32, generation: u16) -> (String, Vec<u8>) {
    let app = format!("app-{}", n / TOGETHER);
    let (name, ip) = (format!("{app}-5f7d9c8b6-{n:05}"), address(n, generation).to_string());
    let uid = format!("00000000-0000-4000-8000-{n:012x}");
    let conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];
    let conditions = conditions.map(|kind| {
        json!({ "type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" })
    });
    let object = json!({
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "generateName": format!("{app}-5f7d9c8b6-"),
            "namespace": "default",
            "uid": uid,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": { "app": app, "pod-template-hash": "5f7d9c8b6", "tier": "backend" },
            "annotations": { "example.com/checksum": "0123456789abcdef0123456789abcdef" },
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{app}-5f7d9c8b6"),
                "uid": uid, "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": {
            "nodeName": "n1",
            "serviceAccountName": "default",
            "containers": [{
                "name": "server",
                "image": "registry.example.com/team/server:1.2.3",
                "ports": [{ "name": "http", "containerPort": 8080, "protocol": "TCP" }],
                "env": [{ "name": "LEVEL", "value": "info" }, { "name": "MODE", "value": "fast" }],
                "resources": { "requests": { "cpu": "100m", "memory": "128Mi" } },
                "volumeMounts": [{ "name": "config", "mountPath": "/etc/server", "readOnly": true }],
            }],
            "volumes": [{ "name": "config", "configMap": { "name": "server" } }],
            "restartPolicy": "Always",
            "dnsPolicy": "ClusterFirst",
        },
        "status": {
            "phase": "Running",
            "conditions": conditions,
            "hostIP": "172.31.1.1",
            "hostIPs": [{ "ip": "172.31.1.1" }],
            "podIP": ip,
            "podIPs": [{ "ip": ip }],
            "startTime": "2026-01-01T00:00:00Z",
            "qosClass": "Burstable",
        },
    });
    (format!("/registry/pods/default/{name}"), object.to_string().into_bytes())
}

// === impl ApiServer ===

impl ApiServer {
    /// Starts it on the cluster's etcd, and applies what the apiserver needs.
    fn start(lab: &BenchLab, programs: Option<PathBuf>) -> Result<Self, BenchError> {
        let cluster = lab.cluster(0)?;
        let node = first_node(cluster)?;
        let folder = lab.folder().join("kubernetes");
        fs::create_dir_all(&folder).map_err(file(&folder))?;
        let manifests = folder.join("manifests.yaml");
        fs::write(&manifests, MANIFESTS.join("---\n")).map_err(file(&manifests))?;
        let server = KubeApiServer::new(KubeApiServerOptions {
            programs,
            folder,
            pki: cluster.directory.join("pki"),
            etcd_port: 2379,
            port: 6443,
            flags: Vec::new(),
            wrapper: ["ip", "netns", "exec", &node.netns].map(str::to_owned).into(),
        })?;
        let child = server.start()?;
        adopt(&child, node)?;
        let mut started = Self { server, child };
        let mut ended = false;
        wait("kube-apiserver is not ready", || {
            ended = started.child.try_wait().is_ok_and(|status| status.is_some());
            ended || started.server.is_ready().is_ok()
        })?;
        if ended {
            let last = started.server.log(1);
            return Err(BenchError::Unexpected(format!("kube-apiserver has ended: {last}")));
        }
        started.server.kubectl(&["apply", "-f", &manifests.display().to_string()])?;
        let established = "--for=condition=Established";
        started.server.kubectl(&["wait", established, "crd/meshidentities.clustermesh.dev"])?;
        Ok(started)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
