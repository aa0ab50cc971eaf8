//! The pods of the mesh, and why no command can run in some.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Node, Pod};

use super::Component;

/// A pod of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MeshPod {
    pub(crate) component: Component,
    pub(crate) name: String,
    /// The node; empty as long as the pod has none.
    pub(crate) node: String,
    /// Why no command can run in it, as the API server reports it; `None` if one can.
    pub(crate) unusable: Option<String>,
}

/// The nodes whose kubelet has not reported to the API server for a while, each with a sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DeadNodes(BTreeMap<String, String>);

impl DeadNodes {
    /// A node whose condition Ready is False answers; only Unknown means that its kubelet does not.
    pub(super) fn of(nodes: &[Node]) -> Self {
        let dead = nodes.iter().filter_map(|node| {
            let name = node.metadata.name.clone()?;
            let conditions = node.status.as_ref()?.conditions.as_ref()?;
            let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
            let since = ready.last_transition_time.as_ref().map(|time| time.0.to_string());
            let since = since.map(|since| format!(" since {since}")).unwrap_or_default();
            let says = format!("the node {name} is NotReady{since}: its kubelet does not answer");
            (ready.status == "Unknown").then_some((name, says))
        });
        Self(dead.collect())
    }
}

/// The pods of a component by node and name, without those that ended: another pod has their place.
pub(super) fn pods_of(pods: &[Pod], component: Component, dead: &DeadNodes) -> Vec<MeshPod> {
    let mut all: Vec<MeshPod> = pods
        .iter()
        .filter(|pod| !matches!(phase(pod), "Succeeded" | "Failed"))
        .map(|pod| {
            let node = node_of(pod).unwrap_or_default();
            let unusable = dead.0.get(&node).cloned().or_else(|| unusable(pod, component));
            let name = pod.metadata.name.clone().unwrap_or_default();
            MeshPod { component, name, node, unusable }
        })
        .collect();
    // A rolled pod is there twice for a while: the one that can be used comes first.
    all.sort_by(|a, b| {
        (&a.node, a.unusable.is_some(), &a.name).cmp(&(&b.node, b.unusable.is_some(), &b.name))
    });
    all
}

/// The node of a pod. A DaemonSet names it before the pod is scheduled.
fn node_of(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if spec.node_name.is_some() {
        return spec.node_name.clone();
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let mut fields =
        required.node_selector_terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    let name = fields.find(|field| field.key == "metadata.name")?;
    name.values.as_ref()?.first().cloned()
}

/// Adds the nodes without a pod, if a DaemonSet wants `wanted` of them and fewer have one.
pub(super) fn add_missing(pods: &mut Vec<MeshPod>, nodes: &[Node], wanted: usize) {
    let with: BTreeSet<String> = pods.iter().map(|pod| pod.node.clone()).collect();
    if with.len() >= wanted {
        return;
    }
    let names = nodes.iter().filter_map(|node| node.metadata.name.clone());
    pods.extend(names.filter(|name| !with.contains(name)).map(|node| MeshPod {
        component: Component::Agent,
        name: "no pod".into(),
        unusable: Some(format!("the DaemonSet clustermesh-agent has no pod on node {node}")),
        node,
    }));
    pods.sort_by(|a, b| (&a.node, a.unusable.is_some()).cmp(&(&b.node, b.unusable.is_some())));
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Why no command can run in the component's container.
fn unusable(pod: &Pod, component: Component) -> Option<String> {
    let status = pod.status.as_ref()?;
    let of = |statuses: &Option<Vec<ContainerStatus>>, name: &str| {
        statuses.iter().flatten().find(|container| container.name == name).cloned()
    };
    let container = of(&status.container_statuses, component.container());
    if container.as_ref().is_some_and(|container| is_running(container.state.as_ref())) {
        return None;
    }
    let waits = |container: &ContainerStatus| {
        let state = container.state.as_ref()?;
        let why = match (&state.waiting, &state.terminated) {
            (Some(waiting), _) => words(&waiting.reason, &waiting.message),
            (None, Some(ended)) => format!("ended with exit code {}", ended.exit_code),
            (None, None) => "has not started".to_owned(),
        };
        Some(format!("the container {} of the pod does not run: {why}", container.name))
    };
    let init = status.init_container_statuses.iter().flatten();
    let mut init = init.filter(|container| {
        let ended = container.state.as_ref().and_then(|state| state.terminated.as_ref());
        ended.is_none_or(|ended| ended.exit_code != 0)
    });
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    let says = match (unscheduled, init.next(), &container) {
        (Some(condition), ..) => {
            format!("no node: {}", words(&condition.reason, &condition.message))
        }
        (None, Some(init), _) if is_running(init.state.as_ref()) => {
            format!("its init container {} has not ended", init.name)
        }
        (None, Some(init), _) => waits(init).unwrap_or_default(),
        (None, None, Some(container)) => waits(container).unwrap_or_default(),
        (None, None, None) => words(&status.reason, &status.message),
    };
    Some(format!("the pod is {}: {says}", phase(pod)))
}

fn is_running(state: Option<&ContainerState>) -> bool {
    state.is_some_and(|state| state.running.is_some())
}

/// A reason and a message of Kubernetes; each may be missing.
fn words(reason: &Option<String>, message: &Option<String>) -> String {
    match (reason.as_deref(), message.as_deref().map(str::trim)) {
        (Some(reason), Some(message)) if !message.is_empty() => format!("{reason}: {message}"),
        (Some(reason), _) => reason.to_owned(),
        (None, Some(message)) if !message.is_empty() => message.to_owned(),
        (None, _) => "no reason is given".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, node: &str, status: Value) -> Pod {
        let spec = json!({ "containers": [], "nodeName": node });
        let pod = json!({ "metadata": { "name": name }, "spec": spec, "status": status });
        serde_json::from_value(pod).unwrap()
    }

    fn container(name: &str, state: Value) -> Value {
        json!({ "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state })
    }

    #[test]
    fn a_pod_without_its_container_says_why() {
        let ended = json!({ "terminated": { "exitCode": 0 } });
        let back_off =
            json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 10s" } });
        let running = json!({ "running": {} });
        for (status, says) in [
            (
                json!({ "phase": "Running", "containerStatuses": [container("agent", running.clone())] }),
                None,
            ),
            // A container beside it does not matter.
            (
                json!({ "phase": "Running", "containerStatuses": [container("agent", running.clone()), container("x", back_off.clone())] }),
                None,
            ),
            (
                json!({ "phase": "Running", "containerStatuses": [container("agent", back_off.clone())] }),
                Some(
                    "the pod is Running: the container agent of the pod does not run: CrashLoopBackOff: back-off 10s",
                ),
            ),
            (
                json!({ "phase": "Pending", "initContainerStatuses": [container("a", ended), container("bpffs", running)],
                    "containerStatuses": [container("agent", json!({ "waiting": { "reason": "PodInitializing" } }))] }),
                Some("the pod is Pending: its init container bpffs has not ended"),
            ),
            (
                json!({ "phase": "Pending", "initContainerStatuses": [container("bpffs", back_off)] }),
                Some(
                    "the pod is Pending: the container bpffs of the pod does not run: CrashLoopBackOff: back-off 10s",
                ),
            ),
            (
                json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes" }] }),
                Some("the pod is Pending: no node: Unschedulable: 0/2 nodes"),
            ),
            (json!({ "phase": "Pending" }), Some("the pod is Pending: no reason is given")),
        ] {
            let found = pods_of(&[pod("p", "n", status)], Component::Agent, &DeadNodes::default());
            assert_eq!(found[0].unusable.as_deref(), says);
        }
    }

    #[test]
    fn only_a_node_whose_kubelet_does_not_answer_is_dead() {
        let node = |name: &str, ready: &str| -> Node {
            let ready = json!({ "type": "Ready", "status": ready, "lastTransitionTime": "2026-11-30T10:00:00Z" });
            let other = json!({ "type": "DiskPressure", "status": "Unknown" });
            let node =
                json!({ "metadata": { "name": name }, "status": { "conditions": [other, ready] } });
            serde_json::from_value(node).unwrap()
        };
        let dead = DeadNodes::of(&[node("a", "True"), node("b", "False"), node("c", "Unknown")]);
        let running = json!({ "phase": "Running", "containerStatuses": [container("agent", json!({ "running": {} }))] });
        let on = |node: &str| pod(&format!("agent-{node}"), node, running.clone());
        let found = pods_of(&[on("c"), on("b"), on("a")], Component::Agent, &dead);
        let shown: Vec<_> =
            found.iter().map(|pod| (pod.node.as_str(), pod.unusable.as_deref())).collect();
        let says = "the node c is NotReady since 2026-11-30T10:00:00Z: its kubelet does not answer";
        assert_eq!(shown, [("a", None), ("b", None), ("c", Some(says))]);
    }

    #[test]
    fn a_node_without_a_pod_is_a_row_if_it_should_have_one() {
        let node = |name: &str| -> Node {
            serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap()
        };
        let nodes = ["n1", "n2"].map(node);
        // A pod that is not scheduled has the node that its DaemonSet made it for.
        let field = json!({ "key": "metadata.name", "operator": "In", "values": ["n2"] });
        let required = json!({ "nodeSelectorTerms": [{ "matchFields": [field] }] });
        let affinity = json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": required } });
        let pending: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p" }, "spec": { "containers": [], "affinity": affinity },
            "status": { "phase": "Pending" },
        }))
        .unwrap();
        let mut found = pods_of(&[pending], Component::Agent, &DeadNodes::default());
        assert_eq!(found[0].node, "n2");
        add_missing(&mut found, &nodes, 1);
        assert_eq!(found.len(), 1);
        add_missing(&mut found, &nodes, 2);
        let shown: Vec<_> =
            found.iter().map(|pod| (pod.node.as_str(), pod.unusable.as_deref())).collect();
        assert_eq!(shown[0], ("n1", Some("the DaemonSet clustermesh-agent has no pod on node n1")));
        assert_eq!(shown.len(), 2);
    }

    #[test]
    fn a_pod_that_ended_is_left_out_and_the_usable_one_of_a_node_comes_first() {
        let running = json!({ "phase": "Running", "containerStatuses": [container("agent", json!({ "running": {} }))] });
        let pods = [
            pod("a", "n", json!({ "phase": "Pending" })),
            pod("b", "n", running),
            pod("c", "n", json!({ "phase": "Failed" })),
        ];
        let found = pods_of(&pods, Component::Agent, &DeadNodes::default());
        let names: Vec<&str> = found.iter().map(|pod| pod.name.as_str()).collect();
        assert_eq!(names, ["b", "a"]);
    }
}
