//! Applying manifests to a lab's cluster: what a scheduler, a kubelet and an API server would do, as far as pods,
//! deployments, services and namespaces go.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use mesh_files::{Access, write_atomic};
use serde_json::{Value, json};

use crate::{command::enter, error::LabError, lab::Lab, state::PodState};

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

/// A pod that a manifest asks for.
#[derive(Debug)]
pub(super) struct WantedPod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) node: Option<String>,
    pub(super) object: Value,
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
        let known = &self.state.cluster(cluster)?.pods;
        pods.retain(|wanted| {
            let is_it = |p: &PodState| (&p.namespace, &p.name) == (&wanted.namespace, &wanted.name);
            !known.iter().any(is_it)
        });
        applied.started.extend(pods.iter().map(|pod| pod.name.clone()));
        self.start_pods(cluster, source, pods)?;
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
        let node = self.node(cluster, node)?;
        let (program, arguments) =
            command.split_first().ok_or_else(|| LabError::Manifest("no command".into()))?;
        let mut command = Command::new(self.program(program));
        command.args(arguments);
        enter(&mut command, &node.netns, &node.cgroup.join("system"))?;
        Ok(command)
    }

    /// The mesh's own programs are the lab's, wherever the shell would find others.
    pub(super) fn program(&self, program: &str) -> PathBuf {
        let own = self.state.bin_dir.join(program);
        if program.starts_with("clustermesh") && own.is_file() { own } else { program.into() }
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

/// What a pod gets to know of itself, as by Kubernetes' downward API.
pub(super) fn environment(cluster: &str, pod: &PodState) -> Vec<(String, String)> {
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
