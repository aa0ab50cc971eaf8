//! The life of a pod: scheduled, attached, running, removed. This is the work of a scheduler and a kubelet, and what an API
//! server shows of it.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use mesh_files::{Access, write_atomic};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    apply::{ApplyStep, Progress, environment},
    wanted::WantedPod,
};
use crate::{
    cni::{Attachment, Conflist, PLUGINS},
    error::LabError,
    host_setup,
    lab::Lab,
    process::{Liveness, stop_all},
    state::{NodeState, PodState, ProcessState},
};

/// A pod with a node, but without addresses.
#[derive(Debug)]
struct Scheduled {
    node: NodeState,
    pod: PodState,
    /// The object, as an API server would show it.
    object: Value,
}

/// The longest time for a pod to listen on its ports.
const LISTENING: Duration = Duration::from_secs(10);

impl Lab {
    /// Starts pods. All are scheduled before the first is attached, so that the apiserver sees them first.
    pub(super) fn start_pods(
        &mut self,
        cluster: &str,
        source: &str,
        wanted: Vec<WantedPod>,
        progress: Progress<'_>,
    ) -> Result<(), LabError> {
        let mut scheduled = Vec::new();
        for pod in wanted {
            let pod = self.schedule(cluster, source, pod, &scheduled)?;
            write_manifest(&pod.pod, &pod.object)?;
            scheduled.push(pod);
        }
        let all = scheduled.len();
        let mut left = scheduled.into_iter();
        while let Some(pod) = left.next() {
            let (name, started) = (pod.pod.name.clone(), all - left.len());
            progress(&ApplyStep::Starting { name, started, all });
            if let Err(error) = self.start_pod(cluster, pod) {
                // No kubelet would retry: the pods that were not started are deleted.
                left.for_each(|pod| drop(fs::remove_file(&pod.pod.manifest)));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Schedules a pod to the node that it names, or to the one with the fewest pods.
    fn schedule(
        &self,
        cluster: &str,
        source: &str,
        wanted: WantedPod,
        scheduled: &[Scheduled],
    ) -> Result<Scheduled, LabError> {
        let WantedPod { namespace, name, node, mut object } = wanted;
        let state = self.state.cluster(cluster)?;
        let node = match &node {
            Some(name) => self.node(cluster, name)?,
            None => {
                let all = || state.pods.iter().chain(scheduled.iter().map(|pod| &pod.pod));
                let pods = |node: &&NodeState| all().filter(|pod| pod.node == node.name).count();
                state.nodes.iter().min_by_key(pods).ok_or(LabError::Size)?.clone()
            }
        };
        let uid = Uuid::new_v4().to_string();
        let template = object.clone();
        if let Some(object) = object.as_object_mut() {
            object.insert("apiVersion".into(), json!("v1"));
            object.insert("kind".into(), json!("Pod"));
            let parts = [
                ("metadata", "namespace", &namespace),
                ("metadata", "uid", &uid),
                ("spec", "nodeName", &node.name),
            ];
            for (part, field, value) in parts {
                let part = object.entry(part).or_insert_with(|| json!({}));
                if let Some(part) = part.as_object_mut() {
                    part.insert(field.into(), json!(value));
                }
            }
            object.insert("status".into(), json!({ "phase": "Pending" }));
        }
        let manifests = state.directory.join("manifests");
        let pod = PodState {
            manifest: manifests.join(format!("pod-{namespace}.{name}.json")),
            netns: self.name.pod(cluster, &node.name, &namespace, &name),
            cgroup: node.cgroup.join("pods").join(format!("{namespace}.{name}")),
            namespace,
            name,
            uid,
            node: node.name.clone(),
            ips: Vec::new(),
            source: source.into(),
            template,
            process: None,
        };
        Ok(Scheduled { node, pod, object })
    }

    fn start_pod(&mut self, cluster: &str, scheduled: Scheduled) -> Result<(), LabError> {
        let Scheduled { node, mut pod, mut object } = scheduled;
        host_setup::make_pod(&pod.netns, &pod.cgroup)?;
        if let Err(error) = self.attach(&node, &mut pod) {
            let _ = self.detach(&node, &pod);
            let _ = fs::remove_file(&pod.manifest);
            host_setup::remove_cgroup(&pod.cgroup)?;
            host_setup::remove_netns(&pod.netns)?;
            return Err(error);
        }
        if let Some(command) = container_command(&object) {
            let mut process = self.pod_process(cluster, &pod, command);
            process.start()?;
            let listening = wait_listening(&process, &container_ports(&object));
            pod.process = Some(process);
            if let Err(error) = listening {
                // It is saved in the state, so that it is removed with the lab.
                self.state.cluster_mut(cluster)?.pods.push(pod);
                self.save()?;
                return Err(error);
            }
        }
        if let Some(object) = object.as_object_mut() {
            object.insert("status".into(), running(&pod));
        }
        write_manifest(&pod, &object)?;
        self.state.cluster_mut(cluster)?.pods.push(pod);
        self.save()
    }

    fn attach(&self, node: &NodeState, pod: &mut PodState) -> Result<(), LabError> {
        let chain = Conflist::read(&node.conflist())?;
        let added = self.with_attachment(node, pod, |attachment| attachment.add(&chain))?;
        let file = node.cni_result(&pod.netns);
        write_atomic(&file, added.result.to_string().as_bytes(), Access::Owner)
            .map_err(LabError::io(&file))?;
        pod.ips = added.ips()?;
        Ok(())
    }

    fn detach(&self, node: &NodeState, pod: &PodState) -> Result<(), LabError> {
        let chain = Conflist::read(&node.conflist())?;
        let file = node.cni_result(&pod.netns);
        let result = fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        self.with_attachment(node, pod, |attachment| attachment.delete(&chain, result.as_ref()))?;
        let _ = fs::remove_file(file);
        Ok(())
    }

    /// Runs CNI CHECK for a pod, as a kubelet's runtime may do.
    pub fn check_pod(&self, pod: &str) -> Result<(), LabError> {
        let (cluster, pod) = self.state.pod(pod)?;
        let node = self.node(&cluster.name, &pod.node)?;
        let chain = Conflist::read(&node.conflist())?;
        let file = node.cni_result(&pod.netns);
        let text = fs::read(&file).map_err(LabError::io(&file))?;
        let wrong = |e: serde_json::Error| LabError::State { path: file, reason: e.to_string() };
        let result = serde_json::from_slice(&text).map_err(wrong)?;
        self.with_attachment(&node, pod, |attachment| attachment.check(&chain, &result))
    }

    fn with_attachment<T>(
        &self,
        node: &NodeState,
        pod: &PodState,
        call: impl FnOnce(&Attachment<'_>) -> T,
    ) -> T {
        call(&Attachment {
            container: &pod.netns,
            pod_netns: &pod.netns,
            node_netns: &node.netns,
            namespace: &pod.namespace,
            name: &pod.name,
            uid: &pod.uid,
            plugins: &[PathBuf::from(PLUGINS), self.state.bin_dir.clone()],
            log: &self.name.folder().join("logs/cni.log"),
        })
    }

    fn pod_process(&self, cluster: &str, pod: &PodState, command: Vec<String>) -> ProcessState {
        let name = format!("{cluster}/{}/{}", pod.namespace, pod.name);
        let program = command.first().map(|p| self.program(p).display().to_string());
        ProcessState {
            log: self.name.folder().join("logs").join(format!("{}.log", name.replace('/', "-"))),
            name,
            command: program.into_iter().chain(command.into_iter().skip(1)).collect(),
            netns: pod.netns.clone(),
            cgroup: pod.cgroup.clone(),
            environment: environment(cluster, pod),
            pid: 0,
            start_time: 0,
        }
    }

    /// Ends pods at the same time, as Kubernetes does: marks them as terminating, waits, stops them, and removes their
    /// manifests.
    pub(super) fn withdraw(
        &mut self,
        cluster: &str,
        pods: &[PodState],
        grace: Duration,
        progress: Progress<'_>,
    ) -> Result<(), LabError> {
        if pods.is_empty() {
            return Ok(());
        }
        progress(&ApplyStep::Ending(pods.len()));
        for pod in pods {
            mark_terminating(pod)?;
        }
        thread::sleep(grace);
        let mut pods = pods.to_vec();
        let mut processes: Vec<_> =
            pods.iter_mut().filter_map(|pod| pod.process.as_mut()).collect();
        stop_all(&mut processes, Signal::SIGTERM, &mut |_| {});
        for (pod, ended) in pods.iter().zip(1..) {
            progress(&ApplyStep::Ended { name: pod.name.clone(), ended, all: pods.len() });
            fs::remove_file(&pod.manifest).map_err(LabError::io(&pod.manifest))?;
            self.detach(&self.node(cluster, &pod.node)?, pod)?;
            host_setup::remove_cgroup(&pod.cgroup)?;
            host_setup::remove_netns(&pod.netns)?;
            self.state.cluster_mut(cluster)?.pods.retain(|other| other.netns != pod.netns);
            self.save()?;
        }
        Ok(())
    }

    /// A node of a cluster by its name.
    pub(super) fn node(&self, cluster: &str, name: &str) -> Result<NodeState, LabError> {
        let cluster = self.state.cluster(cluster)?;
        let known = || cluster.nodes.iter().map(|n| n.name.clone()).collect::<Vec<_>>().join(", ");
        let found = cluster.nodes.iter().find(|node| node.name == name);
        found.cloned().ok_or_else(|| LabError::Unknown {
            kind: "node",
            name: format!("{}/node/{name}", cluster.name),
            known: known(),
        })
    }
}

/// Sets the deletion timestamp in a pod's manifest.
fn mark_terminating(pod: &PodState) -> Result<(), LabError> {
    let text = fs::read(&pod.manifest).map_err(LabError::io(&pod.manifest))?;
    let mut object: Value =
        serde_json::from_slice(&text).map_err(|e| LabError::Manifest(e.to_string()))?;
    let now = jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("deletionTimestamp".into(), now.to_string().into());
    }
    write_manifest(pod, &object)
}

fn write_manifest(pod: &PodState, object: &Value) -> Result<(), LabError> {
    let text = serde_json::to_vec_pretty(object).map_err(|e| LabError::Manifest(e.to_string()))?;
    write_atomic(&pod.manifest, &text, Access::All).map_err(LabError::io(&pod.manifest))
}

fn container_command(pod: &Value) -> Option<Vec<String>> {
    let container = pod.pointer("/spec/containers/0")?;
    let words = |key: &str| -> Vec<String> {
        let words = container.get(key).and_then(Value::as_array).into_iter().flatten();
        words.filter_map(|word| word.as_str().map(str::to_owned)).collect()
    };
    let command = [words("command"), words("args")].concat();
    (!command.is_empty()).then_some(command)
}

/// The ports in the manifest of a pod's container.
fn container_ports(pod: &Value) -> Vec<u16> {
    let ports =
        pod.pointer("/spec/containers/0/ports").and_then(Value::as_array).into_iter().flatten();
    let ports = ports.filter_map(|port| port.get("containerPort")?.as_u64());
    ports.filter_map(|port| u16::try_from(port).ok()).collect()
}

/// Waits until a socket of the process's network namespace is bound to each port, in place of a readiness probe.
fn wait_listening(process: &ProcessState, ports: &[u16]) -> Result<(), LabError> {
    let deadline = Instant::now() + LISTENING;
    loop {
        let tables = ["tcp", "tcp6", "udp", "udp6"].map(|table| {
            fs::read_to_string(format!("/proc/{}/net/{table}", process.pid)).unwrap_or_default()
        });
        // proc_net(5): the second field is the local address, with the port in hexadecimal after the colon.
        let local = tables.iter().flat_map(|table| table.lines()).filter_map(|line| {
            u16::from_str_radix(line.split_whitespace().nth(1)?.rsplit_once(':')?.1, 16).ok()
        });
        let local: BTreeSet<u16> = local.collect();
        if ports.iter().all(|port| local.contains(port)) {
            return Ok(());
        }
        if process.liveness() != Liveness::Running {
            return Err(LabError::Died { name: process.name.clone(), log: process.last_words() });
        }
        if Instant::now() >= deadline {
            return Err(LabError::Timeout(process.name.clone()));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The status of a running pod.
fn running(pod: &PodState) -> Value {
    let ips: Vec<_> = pod.ips.iter().map(|ip| json!({ "ip": ip.to_string() })).collect();
    json!({
        "phase": "Running",
        "podIP": pod.ips.first().map(ToString::to_string),
        "podIPs": ips,
        "conditions": [{ "type": "Ready", "status": "True" }],
    })
}
