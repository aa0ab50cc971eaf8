//! Applying manifests to a lab's cluster: what a scheduler, a kubelet and an API server would do, as far as pods,
//! deployments, services and namespaces go.

use std::{net::IpAddr, path::PathBuf, process::Command, time::Duration};

use serde_json::{Value, json};

use super::{
    applied::{AppliedFiles, Change, ObjectId},
    wanted::{Rollout, Wanted, field, is_of, name_of, namespace_of},
};
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
    /// Pods with an image and no command: a lab runs commands, and no images.
    pub without_command: Vec<String>,
}

/// What an apply is doing, for those who wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplyStep {
    /// So many pods are terminating, side by side.
    Ending(usize),
    /// One of them has ended.
    Ended {
        /// The pod.
        name: String,
        /// How many have.
        ended: usize,
        /// How many will.
        all: usize,
    },
    /// A pod starts.
    Starting {
        /// The pod.
        name: String,
        /// Which one it is, from 1 on.
        started: usize,
        /// How many do.
        all: usize,
    },
    /// A Deployment's pod makes room for one with the new template; the one before is ready.
    Replacing {
        /// The pod.
        name: String,
        /// Which one it is, from 1 on.
        replaced: usize,
        /// How many there are.
        all: usize,
    },
}

/// Who is notified of what is being done.
pub(super) type Progress<'a> = &'a mut dyn FnMut(&ApplyStep);

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
    /// in force. `grace` is how long a pod goes on after it is marked as terminating. Where a Deployment's template changed, its
    /// pods are replaced one after another: the new one is ready before the next one ends.
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

    /// Takes back the objects that a manifest names, from whichever manifest they were applied.
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

// === impl Source ===

impl<'a> Source<'a> {
    fn name(self) -> &'a str {
        match self {
            Self::Manifest(name) => name,
            Self::Stream => "stdin",
        }
    }
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
