//! Applying manifests to a lab's cluster: what a scheduler, a kubelet and an API server would do, as far as pods,
//! deployments, services and namespaces go.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use mesh_files::{Access, write_atomic};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    cni::Attachment,
    command::enter,
    error::LabError,
    lab::Lab,
    machine,
    names::{self, NodeNumber},
    process::Liveness,
    state::{NodeState, PodState, ProcessState},
};

/// What an apply did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Pods that were started.
    pub started: Vec<String>,
    /// Pods that were stopped.
    pub stopped: Vec<String>,
    /// Other objects that were written.
    pub written: Vec<String>,
}

/// How long a pod may take to listen.
const LISTENING: Duration = Duration::from_secs(10);

/// A pod that a manifest asks for.
#[derive(Debug)]
struct WantedPod {
    namespace: String,
    name: String,
    node: Option<String>,
    object: Value,
}

impl Lab {
    /// Makes a cluster hold what a manifest says, and no longer what the manifest of that name said before. `source` is
    /// the manifest's name; `grace` is how long a pod goes on after it was withdrawn.
    pub fn apply(
        &mut self,
        cluster: &str,
        source: &str,
        text: &str,
        grace: Duration,
    ) -> Result<Applied, LabError> {
        self.state.cluster(cluster)?;
        let mut pods = Vec::new();
        let mut others = Vec::new();
        for object in documents(text)? {
            match field(&object, "kind") {
                "Pod" => pods.push(wanted_pod(object)),
                "Deployment" => pods.extend(deployment(&object)?),
                "Service" => others.push(self.service(cluster, object)?),
                _ => others.push(object),
            }
        }
        let mut applied = Applied::default();
        let manifests = self.state.cluster(cluster)?.directory.join("manifests");
        let file = manifests.join(format!("applied-{source}.json"));
        write_list(&file, &others)?;
        applied
            .written
            .extend(others.iter().map(|o| format!("{} {}", field(o, "kind"), name_of(o))));

        let keeps = |pod: &PodState| {
            pods.iter().any(|w| (&w.namespace, &w.name) == (&pod.namespace, &pod.name))
        };
        let gone: Vec<PodState> = self
            .state
            .cluster(cluster)?
            .pods
            .iter()
            .filter(|p| p.source == source && !keeps(p))
            .cloned()
            .collect();
        self.withdraw(cluster, &gone, grace)?;
        applied.stopped.extend(gone.into_iter().map(|pod| pod.name));
        for pod in pods {
            let known = self.state.cluster(cluster)?.pods.iter();
            if known.filter(|p| (&p.namespace, &p.name) == (&pod.namespace, &pod.name)).count() == 0
            {
                applied.started.push(pod.name.clone());
                self.start_pod(cluster, source, pod)?;
            }
        }
        Ok(applied)
    }

    /// Takes back what a manifest of that name made.
    pub fn delete(
        &mut self,
        cluster: &str,
        source: &str,
        grace: Duration,
    ) -> Result<Applied, LabError> {
        let manifests = self.state.cluster(cluster)?.directory.join("manifests");
        let file = manifests.join(format!("applied-{source}.json"));
        if !file.exists() {
            let known = fs::read_dir(&manifests).into_iter().flatten().flatten();
            let known = known.filter_map(|e| e.file_name().into_string().ok());
            let known = known.filter_map(|name| {
                Some(name.strip_prefix("applied-")?.strip_suffix(".json")?.to_owned())
            });
            let known = known.collect::<Vec<_>>().join(", ");
            return Err(LabError::Unknown { kind: "manifest", name: source.into(), known });
        }
        let applied = self.apply(cluster, source, "", grace)?;
        fs::remove_file(&file).map_err(LabError::io(file))?;
        Ok(applied)
    }

    /// A command that runs in a pod.
    pub fn command_in_pod(&self, pod: &str, command: &[String]) -> Result<Command, LabError> {
        let (cluster, pod) = self.state.pod(pod)?;
        let (program, arguments) =
            command.split_first().ok_or_else(|| LabError::Manifest("no command".into()))?;
        let mut command = Command::new(self.program(program));
        command.args(arguments).envs(environment(&cluster.name, pod));
        enter(&mut command, &pod.netns, &pod.cgroup)?;
        Ok(command)
    }

    /// A command that runs on a node, outside any pod.
    pub fn command_on_node(
        &self,
        cluster: &str,
        node: &str,
        command: &[String],
    ) -> Result<Command, LabError> {
        let cluster = self.state.cluster(cluster)?;
        let known = || cluster.nodes.iter().map(|n| n.name.clone()).collect::<Vec<_>>().join(", ");
        let found = cluster.nodes.iter().find(|n| n.name == node);
        let node = found.ok_or_else(|| LabError::Unknown {
            kind: "node",
            name: format!("{}/node/{node}", cluster.name),
            known: known(),
        })?;
        let (program, arguments) =
            command.split_first().ok_or_else(|| LabError::Manifest("no command".into()))?;
        let mut command = Command::new(self.program(program));
        command.args(arguments);
        enter(&mut command, &node.netns, &node.cgroup.join("system"))?;
        Ok(command)
    }

    /// The mesh's own programs are the lab's, wherever the shell would find others.
    fn program(&self, program: &str) -> PathBuf {
        let own = self.state.bin_dir.join(program);
        if program.starts_with("clustermesh") && own.is_file() { own } else { program.into() }
    }

    fn start_pod(
        &mut self,
        cluster: &str,
        source: &str,
        wanted: WantedPod,
    ) -> Result<(), LabError> {
        let node = self.schedule(cluster, wanted.node.as_deref())?;
        let at = NodeNumber::new(node.number)?;
        let number = self.number(cluster)?;
        let WantedPod { namespace, name, object, .. } = wanted;
        let netns = self.name.pod(cluster, &node.name, &namespace, &name);
        let cgroup = node.cgroup.join("pods").join(format!("{namespace}.{name}"));
        machine::make_pod(&netns, &cgroup)?;
        let data = self.name.folder().join("ipam").join(format!("{cluster}-{}", node.name));
        let ips = Attachment {
            container: &netns,
            pod_netns: &netns,
            node_netns: &node.netns,
            ranges: &number.node_pod_cidrs(at),
            data: &data,
        }
        .add()?;
        let manifests = self.state.cluster(cluster)?.directory.join("manifests");
        let mut pod = PodState {
            manifest: manifests.join(format!("pod-{namespace}.{name}.json")),
            namespace,
            name,
            node: node.name.clone(),
            netns,
            ips,
            cgroup,
            source: source.into(),
            process: None,
        };
        if let Some(command) = container_command(&object) {
            let mut process = self.pod_process(cluster, &pod, command);
            process.start()?;
            let listening = wait_listening(&process, &container_ports(&object));
            pod.process = Some(process);
            if let Err(error) = listening {
                // It is remembered, so that it is taken away with the lab.
                self.state.cluster_mut(cluster)?.pods.push(pod);
                self.save()?;
                return Err(error);
            }
        }
        let object = running(object, &pod, &node);
        let text =
            serde_json::to_vec_pretty(&object).map_err(|e| LabError::Manifest(e.to_string()))?;
        write_atomic(&pod.manifest, &text, Access::All).map_err(LabError::io(&pod.manifest))?;
        self.state.cluster_mut(cluster)?.pods.push(pod);
        self.save()
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

    /// Withdraws pods, lets them go on for a while, and then ends them.
    fn withdraw(
        &mut self,
        cluster: &str,
        pods: &[PodState],
        grace: Duration,
    ) -> Result<(), LabError> {
        if pods.is_empty() {
            return Ok(());
        }
        for pod in pods {
            fs::remove_file(&pod.manifest).map_err(LabError::io(&pod.manifest))?;
        }
        thread::sleep(grace);
        for pod in pods {
            let mut pod = pod.clone();
            if let Some(process) = &mut pod.process {
                process.stop(Signal::SIGTERM);
            }
            let number = self.number(cluster)?;
            let node = self.schedule(cluster, Some(&pod.node))?;
            Attachment {
                container: &pod.netns,
                pod_netns: &pod.netns,
                node_netns: &node.netns,
                ranges: &number.node_pod_cidrs(NodeNumber::new(node.number)?),
                data: &self.name.folder().join("ipam").join(format!("{cluster}-{}", node.name)),
            }
            .delete()?;
            machine::remove_cgroup(&pod.cgroup)?;
            machine::remove_netns(&pod.netns)?;
            self.state.cluster_mut(cluster)?.pods.retain(|other| other.netns != pod.netns);
            self.save()?;
        }
        Ok(())
    }

    /// The node that a pod names, or the one with the fewest pods.
    fn schedule(&self, cluster: &str, node: Option<&str>) -> Result<NodeState, LabError> {
        let cluster = self.state.cluster(cluster)?;
        let pods =
            |node: &NodeState| cluster.pods.iter().filter(|pod| pod.node == node.name).count();
        let found = match node {
            Some(name) => cluster.nodes.iter().find(|node| node.name == name),
            None => cluster.nodes.iter().min_by_key(|node| pods(node)),
        };
        let known = || cluster.nodes.iter().map(|n| n.name.clone()).collect::<Vec<_>>().join(", ");
        let unknown = || LabError::Unknown {
            kind: "node",
            name: node.unwrap_or_default().into(),
            known: known(),
        };
        found.cloned().ok_or_else(unknown)
    }

    /// A service with cluster IPs, as an API server gives them: the same ones as before to one that had some.
    fn service(&mut self, cluster: &str, mut object: Value) -> Result<Value, LabError> {
        let has_ip = object
            .pointer("/spec/clusterIP")
            .and_then(Value::as_str)
            .is_some_and(|ip| !ip.is_empty());
        if has_ip {
            return Ok(object);
        }
        let number = self.number(cluster)?;
        let key = format!("{}/{}", namespace_of(&object), name_of(&object));
        let state = self.state.cluster_mut(cluster)?;
        let last = match state.services.get(&key) {
            Some(last) => *last,
            None => {
                state.last_service += 1;
                state.services.insert(key, state.last_service);
                state.last_service
            }
        };
        let single =
            object.pointer("/spec/ipFamilyPolicy").and_then(Value::as_str) == Some("SingleStack");
        let ips: Vec<String> = number.service_ips(last).iter().map(ToString::to_string).collect();
        let ips = if single { ips.into_iter().take(1).collect() } else { ips };
        if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("clusterIP".into(), json!(ips.first()));
            spec.insert("clusterIPs".into(), json!(ips));
        }
        self.save()?;
        Ok(object)
    }
}

impl NodeNumber {
    fn new(number: u8) -> Result<Self, LabError> {
        names::nodes(number.into())?.last().copied().ok_or(LabError::Size)
    }
}

/// The objects in a manifest.
fn documents(text: &str) -> Result<Vec<Value>, LabError> {
    let manifest = |e: serde_saphyr::Error| LabError::Manifest(e.without_snippet().to_string());
    let all: Vec<Option<Value>> = serde_saphyr::from_multiple(text).map_err(manifest)?;
    let mut objects = Vec::new();
    for object in all.into_iter().flatten() {
        match object.get("items").and_then(Value::as_array) {
            Some(items) if field(&object, "kind") == "List" => {
                objects.extend(items.iter().cloned())
            }
            _ => objects.push(object),
        }
    }
    Ok(objects)
}

fn deployment(object: &Value) -> Result<Vec<WantedPod>, LabError> {
    let name = name_of(object);
    let template = object.pointer("/spec/template");
    let template = template
        .ok_or_else(|| LabError::Manifest(format!("Deployment {name}: no spec.template")))?;
    let replicas = object.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1);
    let pod = |index: u64| {
        let mut pod = template.clone();
        let metadata =
            pod.as_object_mut().map(|p| p.entry("metadata").or_insert_with(|| json!({})));
        if let Some(metadata) = metadata.and_then(Value::as_object_mut) {
            metadata.insert("name".into(), json!(format!("{name}-{index}")));
            metadata.insert("namespace".into(), json!(namespace_of(object)));
        }
        wanted_pod(pod)
    };
    Ok((0..replicas).map(pod).collect())
}

fn wanted_pod(object: Value) -> WantedPod {
    let node = object.pointer("/spec/nodeName").and_then(Value::as_str).map(str::to_owned);
    WantedPod { namespace: namespace_of(&object), name: name_of(&object), node, object }
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

/// The ports that a pod's container says it listens on.
fn container_ports(pod: &Value) -> Vec<u16> {
    let ports =
        pod.pointer("/spec/containers/0/ports").and_then(Value::as_array).into_iter().flatten();
    let ports = ports.filter_map(|port| port.get("containerPort")?.as_u64());
    ports.filter_map(|port| u16::try_from(port).ok()).collect()
}

/// Waits until a process's network has a socket on each port: what a readiness probe would find out.
fn wait_listening(process: &ProcessState, ports: &[u16]) -> Result<(), LabError> {
    let deadline = Instant::now() + LISTENING;
    loop {
        let tables = ["tcp", "tcp6", "udp", "udp6"].map(|table| {
            fs::read_to_string(format!("/proc/{}/net/{table}", process.pid)).unwrap_or_default()
        });
        // proc_net(5): the local address is the second field, its port in hexadecimal after the colon.
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

/// A pod as the API server shows it once it runs.
fn running(mut object: Value, pod: &PodState, node: &NodeState) -> Value {
    let ips: Vec<_> = pod.ips.iter().map(|ip| json!({ "ip": ip.to_string() })).collect();
    if let Some(object) = object.as_object_mut() {
        object.insert("apiVersion".into(), json!("v1"));
        object.insert("kind".into(), json!("Pod"));
        let spec = object.entry("spec").or_insert_with(|| json!({}));
        if let Some(spec) = spec.as_object_mut() {
            spec.insert("nodeName".into(), json!(node.name));
        }
        let status = json!({
            "phase": "Running",
            "podIP": pod.ips.first().map(ToString::to_string),
            "podIPs": ips,
            "conditions": [{ "type": "Ready", "status": "True" }],
        });
        object.insert("status".into(), status);
    }
    object
}

/// What a pod is told of itself, as by Kubernetes' downward API.
fn environment(cluster: &str, pod: &PodState) -> Vec<(String, String)> {
    let own = [
        ("CLUSTER_NAME", cluster.to_owned()),
        ("NODE_NAME", pod.node.clone()),
        ("POD_NAMESPACE", pod.namespace.clone()),
        ("POD_NAME", pod.name.clone()),
    ];
    own.map(|(key, value)| (key.to_owned(), value)).into()
}

fn write_list(path: &Path, items: &[Value]) -> Result<(), LabError> {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    let text = serde_json::to_vec_pretty(&list).map_err(|e| LabError::Manifest(e.to_string()))?;
    write_atomic(path, &text, Access::All).map_err(LabError::io(path))
}

fn field<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn name_of(object: &Value) -> String {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().into()
}

fn namespace_of(object: &Value) -> String {
    object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default").into()
}
