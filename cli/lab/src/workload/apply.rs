//! Applying manifests to a lab's cluster: what a scheduler, a kubelet and an API server would do, as far as pods,
//! deployments, services and namespaces go.

use std::{net::IpAddr, path::PathBuf, process::Command, time::Duration};

use mesh_model::object::Kind;
use serde_json::{Value, json};

use super::applied::{AppliedFiles, Change, ObjectId};
use crate::{command::enter, error::LabError, lab::Lab, state::PodState};

/// What an apply did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Pods that were started.
    pub started: Vec<String>,
    /// Pods that were stopped.
    pub stopped: Vec<String>,
    /// Other objects, as `Service shop/web`, and what was done to them.
    pub objects: Vec<(String, Change)>,
    /// Objects of kinds that a lab does not know.
    pub ignored: Vec<String>,
}

/// A pod that a manifest asks for.
#[derive(Debug)]
pub(super) struct WantedPod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) node: Option<String>,
    pub(super) object: Value,
}

/// What a manifest asks for.
#[derive(Debug, Default)]
struct Wanted {
    pods: Vec<WantedPod>,
    /// Deployments, by namespace and name: pods called after them are theirs.
    deployments: Vec<(String, String)>,
    others: Vec<Value>,
    ignored: Vec<String>,
}

/// Where objects are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    /// A manifest by its name: what it said before and does not say now goes.
    Manifest(&'a str),
    /// A stream: what it does not speak of stays.
    Stream,
}

impl Lab {
    /// Makes a cluster hold what a manifest says. An object is known by its kind, namespace and name: the newest apply of it is
    /// in force. `grace` is how long a pod goes on after it is marked as terminating.
    pub fn apply(
        &mut self,
        cluster: &str,
        source: Source<'_>,
        text: &str,
        grace: Duration,
    ) -> Result<Applied, LabError> {
        self.state.cluster(cluster)?;
        let Wanted { mut pods, deployments, others, ignored } = Wanted::read(text)?;
        let mut services = Vec::new();
        for object in others {
            services.push(match field(&object, "kind") {
                "Service" => self.service(cluster, object)?,
                _ => object,
            });
        }
        let prune = source != Source::Stream;
        let changes = self.applied_files(cluster)?.put(source.name(), services, prune)?;
        let objects = changes.into_iter().map(|(id, change)| (id.to_string(), change)).collect();
        let mut applied = Applied { objects, ignored, ..Applied::default() };

        // One whose template changed is another pod, as a Deployment would have it.
        let is_gone = |pod: &&PodState| match pods.iter().find(|wanted| wanted.is(pod)) {
            Some(wanted) => wanted.is_changed(pod),
            None => prune && pod.source == source.name() || is_of(&deployments, pod),
        };
        let all = &self.state.cluster(cluster)?.pods;
        let gone: Vec<PodState> = all.iter().filter(is_gone).cloned().collect();
        self.withdraw(cluster, &gone, grace)?;
        applied.stopped.extend(gone.into_iter().map(|pod| pod.name));
        for pod in &mut self.state.cluster_mut(cluster)?.pods {
            if pods.iter().any(|wanted| wanted.is(pod)) {
                pod.source = source.name().into();
            }
        }
        self.save()?;
        let known = &self.state.cluster(cluster)?.pods;
        pods.retain(|wanted| !known.iter().any(|pod| wanted.is(pod)));
        applied.started.extend(pods.iter().map(|pod| pod.name.clone()));
        self.start_pods(cluster, source.name(), pods)?;
        Ok(applied)
    }

    /// Takes back the objects that a manifest names, from whichever manifest they were applied.
    pub fn delete(
        &mut self,
        cluster: &str,
        text: &str,
        grace: Duration,
    ) -> Result<Applied, LabError> {
        let Wanted { pods, deployments, others, ignored } = Wanted::read(text)?;
        let ids: Vec<ObjectId> = others.iter().map(ObjectId::of).collect();
        let deleted = self.applied_files(cluster)?.delete(&ids)?;
        let objects = deleted.iter().map(|id| (id.to_string(), Change::Deleted)).collect();
        let is_gone =
            |pod: &&PodState| is_of(&deployments, pod) || pods.iter().any(|wanted| wanted.is(pod));
        let all = &self.state.cluster(cluster)?.pods;
        let gone: Vec<PodState> = all.iter().filter(is_gone).cloned().collect();
        self.withdraw(cluster, &gone, grace)?;
        let stopped = gone.into_iter().map(|pod| pod.name).collect();
        Ok(Applied { stopped, objects, ignored, ..Applied::default() })
    }

    fn applied_files(&self, cluster: &str) -> Result<AppliedFiles, LabError> {
        AppliedFiles::read(&self.state.cluster(cluster)?.directory.join("manifests"))
    }

    /// The cluster IPs that a service was given, an IPv4 one first.
    ///
    /// # Errors
    /// The cluster or the service is not there.
    pub fn service_addresses(
        &self,
        cluster: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Vec<IpAddr>, LabError> {
        let services = &self.state.cluster(cluster)?.services;
        let key = format!("{namespace}/{name}");
        let last = services.get(&key).ok_or_else(|| LabError::Unknown {
            kind: "service",
            name: key.clone(),
            known: services.keys().cloned().collect::<Vec<_>>().join(", "),
        })?;
        Ok(self.number(cluster)?.service_ips(*last).into())
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

// === impl Wanted ===

impl Wanted {
    fn read(text: &str) -> Result<Self, LabError> {
        let mut wanted = Self::default();
        for object in documents(text)? {
            match field(&object, "kind") {
                "Pod" => wanted.pods.push(wanted_pod(object)),
                "Deployment" => {
                    wanted.deployments.push((namespace_of(&object), name_of(&object)));
                    wanted.pods.extend(deployment(&object)?);
                }
                kind if is_known(kind) => wanted.others.push(object),
                _ => wanted.ignored.push(ObjectId::of(&object).to_string()),
            }
        }
        Ok(wanted)
    }
}

/// Whether daemons read objects of this kind.
fn is_known(kind: &str) -> bool {
    Kind::ALL.iter().any(|known| known.as_str() == kind)
}

/// Whether a pod is one of these deployments.
fn is_of(deployments: &[(String, String)], pod: &PodState) -> bool {
    deployments.iter().any(|(namespace, name)| {
        let index = pod.name.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix('-'));
        let is_index = |index: &str| index.parse::<u64>().is_ok();
        *namespace == pod.namespace && index.is_some_and(is_index)
    })
}

// === impl WantedPod ===

impl WantedPod {
    fn is(&self, pod: &PodState) -> bool {
        (&self.namespace, &self.name) == (&pod.namespace, &pod.name)
    }

    fn is_changed(&self, pod: &PodState) -> bool {
        !pod.template.is_null() && pod.template != self.object
    }
}

// === impl Source ===

impl<'a> Source<'a> {
    fn name(self) -> &'a str {
        match self {
            Self::Manifest(name) => name,
            Self::Stream => "stdin",
        }
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

fn field<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn name_of(object: &Value) -> String {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().into()
}

fn namespace_of(object: &Value) -> String {
    object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default").into()
}
