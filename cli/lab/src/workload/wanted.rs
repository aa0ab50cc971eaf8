//! The pods and objects in a manifest, and the changes that a cluster's pods need.

use std::fmt;

use mesh_model::object::Kind;
use serde_json::{Value, json};

use super::applied::ObjectId;
use crate::{error::LabError, state::PodState};

/// A pod in a manifest.
#[derive(Debug)]
pub(super) struct WantedPod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) node: Option<String>,
    pub(super) object: Value,
}

/// The contents of a manifest.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) pods: Vec<WantedPod>,
    /// Deployments, by namespace and name. Their pods have this name and an index.
    pub(super) deployments: Vec<(String, String)>,
    pub(super) others: Vec<Value>,
    pub(super) ignored: Vec<String>,
    pub(super) without_command: Vec<String>,
}

/// The pods that an apply ends and starts.
#[derive(Debug, Default)]
pub(super) struct Rollout {
    /// Pods that end at the same time.
    pub(super) gone: Vec<PodState>,
    /// Pods that start afterwards.
    pub(super) new: Vec<WantedPod>,
    /// Pods of Deployments whose template changed, each with its replacement; they are replaced one after another.
    pub(super) replaced: Vec<(PodState, WantedPod)>,
}

// === impl Wanted ===

impl Wanted {
    pub(super) fn read(text: &str) -> Result<Self, LabError> {
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
        let is_without = |pod: &&WantedPod| runs_an_image(&pod.object);
        let without = wanted.pods.iter().filter(is_without);
        wanted.without_command = without.map(WantedPod::to_string).collect();
        Ok(wanted)
    }
}

// === impl Rollout ===

impl Rollout {
    /// Computes the changes from the known pods to the wanted ones. All other pods of the manifest `pruned` end.
    pub(super) fn plan(
        known: &[PodState],
        wanted: Vec<WantedPod>,
        deployments: &[(String, String)],
        pruned: Option<&str>,
    ) -> Self {
        let is_wanted = |pod: &PodState| wanted.iter().any(|wanted| wanted.is(pod));
        let is_gone = |pod: &&PodState| {
            !is_wanted(pod) && (pruned == Some(pod.source.as_str()) || is_of(deployments, pod))
        };
        let gone = known.iter().filter(is_gone).cloned().collect();
        let mut rollout = Self { gone, ..Self::default() };
        for wanted in wanted {
            // A pod whose template changed is replaced.
            match known.iter().find(|pod| wanted.is(pod)).cloned() {
                None => rollout.new.push(wanted),
                Some(pod) if !wanted.is_changed(&pod) => {}
                Some(pod) if is_of(deployments, &pod) => rollout.replaced.push((pod, wanted)),
                Some(pod) => {
                    rollout.gone.push(pod);
                    rollout.new.push(wanted);
                }
            }
        }
        rollout
    }
}

/// Whether daemons read objects of this kind.
fn is_known(kind: &str) -> bool {
    Kind::ALL.iter().any(|known| known.as_str() == kind)
}

/// Whether a pod belongs to one of these Deployments.
pub(super) fn is_of(deployments: &[(String, String)], pod: &PodState) -> bool {
    deployments.iter().any(|(namespace, name)| {
        let index = pod.name.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix('-'));
        let is_index = |index: &str| index.parse::<u64>().is_ok();
        *namespace == pod.namespace && index.is_some_and(is_index)
    })
}

// === impl WantedPod ===

impl WantedPod {
    pub(super) fn is(&self, pod: &PodState) -> bool {
        (&self.namespace, &self.name) == (&pod.namespace, &pod.name)
    }

    fn is_changed(&self, pod: &PodState) -> bool {
        !pod.template.is_null() && pod.template != self.object
    }
}

impl fmt::Display for WantedPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pod {}/{}", self.namespace, self.name)
    }
}

/// The objects in a manifest, with the elements of lists.
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

/// Whether a pod's first container has an image and no command: a lab runs nothing in it.
fn runs_an_image(pod: &Value) -> bool {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    let Some(first) = containers.and_then(|all| all.first()) else { return false };
    let has = |key: &str| first.get(key).is_some_and(|value| !value.is_null());
    has("image") && !has("command") && !has("args")
}

pub(super) fn field<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn name_of(object: &Value) -> String {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().into()
}

pub(super) fn namespace_of(object: &Value) -> String {
    object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Deployment `web` in the namespace shop, and a pod `client`.
    fn manifest(replicas: usize, version: &str) -> String {
        let labels = json!({ "app": "web", "version": version });
        let container = json!({ "name": "x", "command": ["sleep", "1"] });
        let spec = json!({ "containers": [container] });
        let items = json!([
            {
                "kind": "Deployment", "metadata": { "name": "web", "namespace": "shop" },
                "spec": {
                    "replicas": replicas,
                    "template": { "metadata": { "labels": labels }, "spec": spec },
                },
            },
            {
                "kind": "Pod", "metadata": { "name": "client", "namespace": "shop", "labels": labels },
                "spec": spec,
            },
        ]);
        json!({ "kind": "List", "items": items }).to_string()
    }

    /// The pods of a manifest, as they are after it was applied from a file called `shop`.
    fn applied(text: &str) -> Vec<PodState> {
        let pod = |WantedPod { namespace, name, object, .. }| PodState {
            namespace,
            name,
            uid: String::new(),
            node: "n1".into(),
            netns: String::new(),
            ips: Vec::new(),
            cgroup: "/".into(),
            source: "shop".into(),
            manifest: "/".into(),
            template: object,
            process: None,
        };
        Wanted::read(text).unwrap().pods.into_iter().map(pod).collect()
    }

    /// The names of pods that end, start and are replaced.
    fn planned(known: &[PodState], text: &str, pruned: Option<&str>) -> [String; 3] {
        let Wanted { pods, deployments, .. } = Wanted::read(text).unwrap();
        let Rollout { gone, new, replaced } = Rollout::plan(known, pods, &deployments, pruned);
        let names = |all: Vec<String>| all.join(" ");
        [
            names(gone.into_iter().map(|pod| pod.name).collect()),
            names(new.into_iter().map(|pod| pod.name).collect()),
            names(replaced.into_iter().map(|(pod, _)| pod.name).collect()),
        ]
    }

    #[test]
    fn a_deployments_pods_are_replaced_one_after_another_and_others_at_once() {
        let known = applied(&manifest(2, "one"));
        assert_eq!(planned(&known, &manifest(2, "one"), Some("shop")), ["", "", ""]);
        let changed = planned(&known, &manifest(3, "two"), Some("shop"));
        assert_eq!(changed, ["client", "web-2 client", "web-0 web-1"]);
        assert_eq!(planned(&known, &manifest(0, "one"), Some("shop")), ["web-0 web-1", "", ""]);
    }

    #[test]
    fn what_a_manifest_does_not_name_ends_where_it_is_the_manifests_or_a_deployments() {
        let known = applied(&manifest(2, "one"));
        let none = json!({ "kind": "List", "items": [] }).to_string();
        assert_eq!(planned(&known, &none, Some("shop"))[0], "web-0 web-1 client");
        assert_eq!(planned(&known, &none, Some("other")), ["", "", ""]);
        assert_eq!(planned(&known, &none, None), ["", "", ""]);
        let deployment = manifest(1, "one");
        assert_eq!(planned(&known, &deployment, None)[0], "web-1");
    }

    #[test]
    fn a_pod_with_an_image_and_no_command_is_named() {
        let pod = |container: Value| {
            let metadata = json!({ "name": "web", "namespace": "shop" });
            let spec = json!({ "containers": [container] });
            let pod = json!({ "kind": "Pod", "metadata": metadata, "spec": spec });
            Wanted::read(&pod.to_string()).unwrap().without_command
        };
        assert_eq!(pod(json!({ "image": "nginx" })), ["Pod shop/web"]);
        assert!(pod(json!({ "image": "nginx", "command": ["sleep", "9"] })).is_empty());
        assert!(pod(json!({ "name": "client" })).is_empty());
    }
}
