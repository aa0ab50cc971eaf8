//! Applies manifests to a lab's cluster: does the work of a scheduler, a kubelet and an API server for pods, deployments,
//! services and namespaces.

use std::{net::IpAddr, path::PathBuf, process::Command, time::Duration};

use serde_json::{Value, json};

use super::{
    applied::{AppliedFiles, Change, ObjectId},
    wanted::{Rollout, Wanted, field, is_of, name_of, namespace_of},
};
use crate::{command::enter, error::LabError, lab::Lab, state::PodState};

/// The result of an apply or delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The names of the pods that were started.
    pub started: Vec<String>,
    /// The names of the pods that were stopped.
    pub stopped: Vec<String>,
    /// Other objects, as `Service shop/web`, and how they were changed.
    pub objects: Vec<(String, Change)>,
    /// Objects of unknown kinds.
    pub ignored: Vec<String>,
    /// Pods with an image and no command: a lab runs commands, but no images.
    pub without_command: Vec<String>,
}

/// A step of an apply, for progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplyStep {
    /// This many pods are terminating at the same time.
    Ending(usize),
    /// A pod has ended.
    Ended {
        /// The name of the pod.
        name: String,
        /// How many have ended.
        ended: usize,
        /// How many will end in all.
        all: usize,
    },
    /// A pod is being started.
    Starting {
        /// The name of the pod.
        name: String,
        /// Its position among the started pods, counted from 1.
        started: usize,
        /// How many will be started.
        all: usize,
    },
    /// A Deployment's pod is being replaced by one with the new template. The pod replaced before it is ready.
    Replacing {
        /// The name of the pod.
        name: String,
        /// Its position among the replaced pods, counted from 1.
        replaced: usize,
        /// How many will be replaced.
        all: usize,
    },
}

/// The callback for progress.
pub(super) type Progress<'a> = &'a mut dyn FnMut(&ApplyStep);

/// The source of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    /// The manifest with this name: objects that it had before and does not have any more are deleted.
    Manifest(&'a str),
    /// A stream: objects that it does not have are not changed.
    Stream,
}

impl Lab {
    /// Applies a manifest to a cluster. An object is identified by kind, namespace and name, and its last apply counts.
    /// `grace` is how long a pod keeps running after it is marked as terminating. If a Deployment's template changed, its
    /// pods are replaced one after another: the new pod is ready before the next one ends.
    pub fn apply(
        &mut self,
        cluster: &str,
        source: Source<'_>,
        text: &str,
        grace: Duration,
        progress: &mut dyn FnMut(&ApplyStep),
    ) -> Result<Applied, LabError> {
        self.state.cluster(cluster)?;
        let Wanted { pods, deployments, others, ignored, without_command } = Wanted::read(text)?;
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
        let mut applied = Applied { objects, ignored, without_command, ..Applied::default() };

        for pod in &mut self.state.cluster_mut(cluster)?.pods {
            if pods.iter().any(|wanted| wanted.is(pod)) {
                pod.source = source.name().into();
            }
        }
        self.save()?;
        let known = &self.state.cluster(cluster)?.pods;
        let Rollout { gone, new, replaced } =
            Rollout::plan(known, pods, &deployments, prune.then(|| source.name()));
        self.withdraw(cluster, &gone, grace, progress)?;
        applied.stopped.extend(gone.into_iter().map(|pod| pod.name));
        applied.started.extend(new.iter().map(|pod| pod.name.clone()));
        self.start_pods(cluster, source.name(), new, progress)?;
        let all = replaced.len();
        for ((old, new), replaced) in replaced.into_iter().zip(1..) {
            let name = old.name.clone();
            progress(&ApplyStep::Replacing { name: name.clone(), replaced, all });
            self.withdraw(cluster, &[old], grace, &mut |_| {})?;
            self.start_pods(cluster, source.name(), vec![new], &mut |_| {})?;
            applied.stopped.push(name.clone());
            applied.started.push(name);
        }
        Ok(applied)
    }

    /// Deletes the objects that a manifest names, whatever manifest they were applied from.
    pub fn delete(
        &mut self,
        cluster: &str,
        text: &str,
        grace: Duration,
        progress: &mut dyn FnMut(&ApplyStep),
    ) -> Result<Applied, LabError> {
        let Wanted { pods, deployments, others, ignored, .. } = Wanted::read(text)?;
        let ids: Vec<ObjectId> = others.iter().map(ObjectId::of).collect();
        let deleted = self.applied_files(cluster)?.delete(&ids)?;
        let objects = deleted.iter().map(|id| (id.to_string(), Change::Deleted)).collect();
        let is_gone =
            |pod: &&PodState| is_of(&deployments, pod) || pods.iter().any(|wanted| wanted.is(pod));
        let all = &self.state.cluster(cluster)?.pods;
        let gone: Vec<PodState> = all.iter().filter(is_gone).cloned().collect();
        self.withdraw(cluster, &gone, grace, progress)?;
        let stopped = gone.into_iter().map(|pod| pod.name).collect();
        Ok(Applied { stopped, objects, ignored, ..Applied::default() })
    }

    fn applied_files(&self, cluster: &str) -> Result<AppliedFiles, LabError> {
        AppliedFiles::read(&self.state.cluster(cluster)?.directory.join("manifests"))
    }

    /// The cluster IPs of a service, IPv4 first.
    ///
    /// # Errors
    /// The cluster or the service does not exist.
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

    /// A command to run in a pod.
    pub fn command_in_pod(&self, pod: &str, command: &[String]) -> Result<Command, LabError> {
        let (cluster, pod) = self.state.pod(pod)?;
        let (program, arguments) =
            command.split_first().ok_or_else(|| LabError::Manifest("no command".into()))?;
        let mut command = Command::new(self.program(program));
        command.args(arguments).envs(environment(&cluster.name, pod));
        enter(&mut command, &pod.netns, &pod.cgroup)?;
        Ok(command)
    }

    /// A command to run on a node, in no pod.
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

    /// The path of a program. For the mesh's programs it is that of the lab's binaries, whatever `$PATH` has.
    pub(super) fn program(&self, program: &str) -> PathBuf {
        let own = self.state.bin_dir.join(program);
        if program.starts_with("clustermesh") && own.is_file() { own } else { program.into() }
    }

    /// A service with cluster IPs, as an API server allocates them. A service that had some keeps them.
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

// === impl Source ===

impl<'a> Source<'a> {
    fn name(self) -> &'a str {
        match self {
            Self::Manifest(name) => name,
            Self::Stream => "stdin",
        }
    }
}

/// The environment variables of a pod, like those of Kubernetes' downward API.
pub(super) fn environment(cluster: &str, pod: &PodState) -> Vec<(String, String)> {
    let own = [
        ("CLUSTER_NAME", cluster.to_owned()),
        ("NODE_NAME", pod.node.clone()),
        ("POD_NAMESPACE", pod.namespace.clone()),
        ("POD_NAME", pod.name.clone()),
    ];
    own.map(|(key, value)| (key.to_owned(), value)).into()
}
