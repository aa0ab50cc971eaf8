//! The contexts of a kubeconfig as contexts of this program: the sockets of the daemons are in pods.

use std::path::PathBuf;

use anyhow::bail;
use mesh_lab::contexts::{AgentSocket, Context};

use crate::kube_exec::{Cluster, Component, MeshPod, Place, Remote, opening};

/// How the clusters of kubeconfigs are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kubernetes {
    /// The kubeconfig; `None`: `$KUBECONFIG`, else `~/.kube/config`.
    pub(crate) file: Option<PathBuf>,
    /// The namespace of the mesh.
    pub(crate) namespace: String,
}

/// The namespace in the manifests.
pub(crate) const NAMESPACE: &str = "clustermesh-system";
/// What stands in place of the cluster directory: `kubernetes:NAMESPACE/CONTEXT`. The sockets are below it.
const SCHEME: &str = "kubernetes:";

impl Default for Kubernetes {
    fn default() -> Self {
        Self { file: None, namespace: NAMESPACE.into() }
    }
}

impl Kubernetes {
    /// The context of this name. Its daemons are asked by commands in their pods.
    ///
    /// # Errors
    /// The API server does not answer, refuses to list pods, or has none of the mesh.
    pub(crate) fn context(&self, name: &str) -> anyhow::Result<Context> {
        let cluster = self.cluster(name)?;
        let (apiservers, agents) = cluster.daemons()?;
        if apiservers.is_empty() && agents.is_empty() {
            bail!(
                "{name}: the namespace {} has no pods of the mesh: install it there, or name its namespace with --mesh-namespace",
                self.namespace
            );
        }
        Ok(context(&cluster, &apiservers, &agents))
    }

    /// The cluster of a kubeconfig's context.
    pub(crate) fn cluster(&self, name: &str) -> anyhow::Result<Cluster> {
        Cluster::open(name, self.file.as_deref(), &self.namespace)
    }
}

/// The name in the kubeconfig, if the context is one's.
pub(crate) fn name_of(context: &Context) -> Option<&str> {
    let of_scheme = context.directory.to_str()?.strip_prefix(SCHEME)?;
    of_scheme.split_once('/').map(|(_, name)| name)
}

/// Makes the context, and has its sockets stand for the daemons in the pods.
fn context(cluster: &Cluster, apiservers: &[MeshPod], agents: &[MeshPod]) -> Context {
    let directory = PathBuf::from(format!("{SCHEME}{}/{}", cluster.namespace(), cluster.context()));
    let socket = |name: String, component, place, pod: Option<&MeshPod>| {
        let socket = directory.join(name);
        let remote = Remote { cluster: cluster.clone(), component, place, pod: pod.cloned() };
        mesh_admin::bridge(socket.clone(), move || opening(remote.clone()));
        socket
    };
    let apiserver = |index: usize| {
        let name = if index == 0 { "apiserver".into() } else { format!("apiserver{}", index + 1) };
        let pod = apiservers.get(index);
        socket(name, Component::Apiserver, Place::Index(index), pod)
    };
    // A pod that replaces another one is beside it for a while.
    let mut nodes: Vec<&MeshPod> = agents.iter().collect();
    nodes.dedup_by_key(|pod| &pod.node);
    let agent = |pod: &&MeshPod| {
        let node = pod.node.clone();
        let place = Place::Node(node.clone());
        AgentSocket {
            socket: socket(format!("agent/{node}"), Component::Agent, place, Some(pod)),
            node,
        }
    };
    Context {
        name: cluster.context().into(),
        apiserver: apiserver(0),
        replicas: (1..apiservers.len()).map(apiserver).collect(),
        agents: nodes.iter().map(agent).collect(),
        netns: None,
        directory: directory.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_stand_for_pods() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        let text = "contexts: [{name: 'arn:x:cluster/a', context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\n";
        std::fs::write(&file, text).unwrap();
        let kubernetes = Kubernetes { file: Some(file), namespace: "mesh".into() };
        let cluster = kubernetes.cluster("arn:x:cluster/a").unwrap();
        let pod = |component, name: &str, node: &str| MeshPod {
            component,
            name: name.into(),
            node: node.into(),
            unusable: Some("no node".into()),
        };
        let agents = [("x", "n1"), ("y", "n2"), ("z", "n2")];
        let agents = agents.map(|(name, node)| pod(Component::Agent, name, node));
        let apiservers = ["p", "q"].map(|name| pod(Component::Apiserver, name, "n1"));
        let made = context(&cluster, &apiservers, &agents);
        assert_eq!(
            (made.name.as_str(), name_of(&made)),
            ("arn:x:cluster/a", Some("arn:x:cluster/a"))
        );
        let at = "kubernetes:mesh/arn:x:cluster/a";
        assert_eq!(made.replicas, [PathBuf::from(format!("{at}/apiserver2"))]);
        let nodes: Vec<&str> = made.agents.iter().map(|agent| agent.node.as_str()).collect();
        assert_eq!(nodes, ["n1", "n2"]);
        // What the API server does not answer is the whole message.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let failed = runtime.block_on(mesh_admin::connect(&made.agents[0].socket)).unwrap_err();
        let says =
            "arn:x:cluster/a: the API server does not answer: nothing listens at its address";
        assert_eq!(failed.to_string(), says);
        let plain = Context { directory: "/etc/clustermesh".into(), ..made };
        assert_eq!(name_of(&plain), None);
    }
}
