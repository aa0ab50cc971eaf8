//! The test in clusters of a kubeconfig: its objects are in a namespace of their own, which is made and removed.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, Pod, Service},
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
};
use mesh_lab::contexts::Context;
use serde_json::{Map, Value, json};

use super::{NAMESPACE, check, site::Site};
use crate::{
    ask, contexts,
    kube_exec::{Cluster, Component},
};

/// The label of what the test made.
const MADE_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "clustermesh-connectivity-test");
/// How long pods may take to start, and a namespace of an earlier test to be gone.
const START: Duration = Duration::from_secs(120);
/// How often it is looked whether they have.
const LOOK: Duration = Duration::from_millis(500);
/// How long a command in a client may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A cluster, and the image of its agents, which has this program.
struct Place {
    cluster: Cluster,
    image: String,
}

/// Clusters of a kubeconfig.
pub(super) struct PodsSite {
    clusters: Vec<String>,
    places: BTreeMap<String, Place>,
    /// The contexts, with the names of the clusters.
    contexts: Vec<Context>,
}

impl PodsSite {
    /// Asks the clusters for their names.
    ///
    /// # Errors
    /// A cluster does not answer, or two have the same name; or a namespace of this name is not the test's.
    pub(super) fn new(contexts: Vec<Context>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut site = Self { clusters: Vec::new(), places: BTreeMap::new(), contexts: Vec::new() };
        for context in contexts {
            let Some(cluster) = contexts::cluster_of(&context)? else {
                bail!("{} is no context of a kubeconfig", context.name)
            };
            let status = runtime.block_on(ask::status(&context.apiserver));
            let status =
                status.map_err(|why| anyhow::anyhow!("the apiserver of {} {why}", context.name))?;
            let place = Place { image: image(&cluster)?, cluster };
            if site.places.insert(status.cluster.clone(), place).is_some() {
                bail!("two of the contexts are of a cluster {}", status.cluster);
            }
            site.clusters.push(status.cluster.clone());
            site.contexts.push(Context { name: status.cluster, ..context });
        }
        for place in site.places.values() {
            place.wait_for_room()?;
        }
        Ok(site)
    }

    pub(super) fn contexts(&self) -> &[Context] {
        &self.contexts
    }

    fn place(&self, cluster: &str) -> anyhow::Result<&Place> {
        self.places.get(cluster).with_context(|| format!("there is no cluster {cluster}"))
    }
}

/// The image of the agents.
fn image(cluster: &Cluster) -> anyhow::Result<String> {
    let pod = cluster.usable(Component::Agent)?;
    let (namespace, name) = (cluster.namespace().to_owned(), pod.name);
    let pod = cluster.request(move |client| async move {
        Api::<Pod>::namespaced(client, &namespace).get(&name).await
    })?;
    let containers = pod.spec.map(|spec| spec.containers).unwrap_or_default();
    let agent = containers.into_iter().find(|container| container.name == "agent");
    agent.and_then(|agent| agent.image).context("the agents have no image")
}

impl Place {
    /// Waits until a namespace of an earlier test is gone.
    fn wait_for_room(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let found = self.cluster.request(|client| async move {
                Api::<Namespace>::all(client).get_opt(NAMESPACE).await
            })?;
            let Some(found) = found else { return Ok(()) };
            let context = self.cluster.context();
            let (label, value) = MADE_BY;
            let labels = found.metadata.labels.unwrap_or_default();
            if labels.get(label).map(String::as_str) != Some(value) {
                bail!("{context}: there is a namespace {NAMESPACE} that this test did not make");
            }
            if found.metadata.deletion_timestamp.is_none() {
                // An earlier test was killed; its objects are used again.
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!(
                    "{context}: the namespace {NAMESPACE} of an earlier test is still being removed"
                );
            }
            thread::sleep(LOOK);
        }
    }

    /// Makes or changes an object.
    fn apply(&self, object: Value) -> anyhow::Result<()> {
        self.cluster.request(|client| async move { apply(client, object).await })
    }

    fn pod(&self, name: &'static str) -> anyhow::Result<Pod> {
        self.cluster.request(move |client| async move {
            Api::<Pod>::namespaced(client, NAMESPACE).get(name).await
        })
    }

    /// Waits until the client and the echo servers are ready.
    fn wait_for_pods(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let client = self.pod("client")?.status.unwrap_or_default();
            let echo = self.cluster.request(|client| async move {
                Api::<Deployment>::namespaced(client, NAMESPACE).get("echo").await
            })?;
            let wanted = echo.spec.and_then(|spec| spec.replicas).unwrap_or_default();
            let status = echo.status.unwrap_or_default();
            let is_current = status.observed_generation >= echo.metadata.generation;
            let ready = status.ready_replicas.unwrap_or_default();
            let runs = client.phase.as_deref() == Some("Running") && client.pod_ips.is_some();
            if runs && is_current && ready == wanted {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!(
                    "{}: the pods in namespace {NAMESPACE} do not start within {START:?}: the client is {}, {ready} of {wanted} echo servers are ready",
                    self.cluster.context(),
                    client.phase.unwrap_or_else(|| "not there".into())
                );
            }
            thread::sleep(LOOK);
        }
    }
}

async fn apply(client: Client, object: Value) -> kube::Result<()> {
    let by = PatchParams::apply("clustermesh-connectivity-test").force();
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (name, kind) = (text("/metadata/name").to_owned(), text("/kind").to_owned());
    let patch = Patch::Apply(object);
    match kind.as_str() {
        "Namespace" => Api::<Namespace>::all(client).patch(&name, &by, &patch).await.map(drop),
        "Pod" => {
            Api::<Pod>::namespaced(client, NAMESPACE).patch(&name, &by, &patch).await.map(drop)
        }
        "Service" => {
            Api::<Service>::namespaced(client, NAMESPACE).patch(&name, &by, &patch).await.map(drop)
        }
        _ => Api::<Deployment>::namespaced(client, NAMESPACE)
            .patch(&name, &by, &patch)
            .await
            .map(drop),
    }
}

/// The objects of a cluster, for Kubernetes: with an image, and with what a namespace that is `restricted` asks for.
fn objects(
    cluster: &str,
    clusters: &[String],
    replicas: u32,
    image: &str,
) -> anyhow::Result<Vec<Value>> {
    let list: Value =
        serde_json::from_str(&check::manifest(NAMESPACE, cluster, clusters, replicas))?;
    let (label, value) = MADE_BY;
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {
            "name": NAMESPACE, "labels": { label: value },
            "annotations": { "clustermesh.cilium.io/global": "true" },
        },
    });
    let mut objects = vec![namespace];
    let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    for mut object in items {
        let spec = match object.get("kind").and_then(Value::as_str) {
            Some("Pod") => object.pointer_mut("/spec"),
            Some("Deployment") => object.pointer_mut("/spec/template/spec"),
            _ => None,
        };
        if let Some(spec) = spec.and_then(Value::as_object_mut) {
            complete(spec, cluster, image);
        }
        objects.push(object);
    }
    Ok(objects)
}

/// Completes the spec of a pod.
fn complete(spec: &mut Map<String, Value>, cluster: &str, image: &str) {
    spec.insert("terminationGracePeriodSeconds".into(), json!(1));
    spec.insert("automountServiceAccountToken".into(), json!(false));
    let security = json!({
        "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" },
    });
    spec.insert("securityContext".into(), security);
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let containers = spec.get_mut("containers").and_then(Value::as_array_mut);
    let first = containers.and_then(|all| all.first_mut()).and_then(Value::as_object_mut);
    let Some(container) = first else { return };
    container.insert("image".into(), json!(image));
    let security = json!({
        "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
    });
    container.insert("securityContext".into(), security);
    let environment = json!([
        field("POD_NAME", "metadata.name"), field("NODE_NAME", "spec.nodeName"),
        { "name": "CLUSTER_NAME", "value": cluster },
    ]);
    container.insert("env".into(), environment);
    // The client only waits for commands.
    let wait = json!(["clustermesh", "lab-pod", "serve", "--tcp", "8081"]);
    container.entry("command").or_insert(wait);
}

impl Site for PodsSite {
    fn clusters(&self) -> &[String] {
        &self.clusters
    }

    fn apply(&self, cluster: &str, replicas: u32) -> anyhow::Result<()> {
        let place = self.place(cluster)?;
        for object in objects(cluster, &self.clusters, replicas, &place.image)? {
            place.apply(object)?;
        }
        place.wait_for_pods()
    }

    fn remove(&self) -> Vec<anyhow::Error> {
        let remove = |place: &Place| {
            let removed = place.cluster.request(|client| async move {
                match Api::<Namespace>::all(client)
                    .delete(NAMESPACE, &DeleteParams::default())
                    .await
                {
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                    removed => removed.map(drop),
                }
            });
            removed.err()
        };
        self.places.values().filter_map(remove).collect()
    }

    fn client(&self, cluster: &str) -> anyhow::Result<Vec<IpAddr>> {
        let status = self.place(cluster)?.pod("client")?.status.unwrap_or_default();
        let addresses = status.pod_ips.unwrap_or_default().into_iter();
        Ok(addresses.filter_map(|address| address.ip.parse().ok()).collect())
    }

    fn service(&self, cluster: &str, name: &str) -> anyhow::Result<Vec<IpAddr>> {
        let name = name.to_owned();
        let service = self.place(cluster)?.cluster.request(move |client| async move {
            Api::<Service>::namespaced(client, NAMESPACE).get(&name).await
        })?;
        let addresses = service.spec.and_then(|spec| spec.cluster_ips).unwrap_or_default();
        Ok(addresses.into_iter().filter_map(|address| address.parse().ok()).collect())
    }

    fn run(&self, cluster: &str, words: &[&str]) -> anyhow::Result<Vec<u8>> {
        let place = &self.place(cluster)?.cluster.in_namespace(NAMESPACE);
        place.exec_in(("client", "client"), words, &[], LIMIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_complete_for_kubernetes() {
        let clusters = ["a".to_owned(), "b".to_owned()];
        let all = objects("a", &clusters, 1, "clustermesh:1").unwrap();
        let kinds: Vec<&str> = all.iter().filter_map(|object| object["kind"].as_str()).collect();
        assert_eq!(kinds, ["Namespace", "Pod", "Deployment", "Service", "Service", "Service"]);
        assert_eq!(all[0]["metadata"]["annotations"]["clustermesh.cilium.io/global"], "true");
        for spec in [&all[1]["spec"], &all[2]["spec"]["template"]["spec"]] {
            let container = &spec["containers"][0];
            assert_eq!(container["image"], "clustermesh:1");
            assert_eq!(container["command"][0], "clustermesh");
            assert_eq!(container["env"][2]["value"], "a");
            assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL");
            assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        }
        // All parse as what they are.
        let _: Pod = serde_json::from_value(all[1].clone()).unwrap();
        let _: Deployment = serde_json::from_value(all[2].clone()).unwrap();
        let _: Service = serde_json::from_value(all[3].clone()).unwrap();
    }
}
