//! `clustermesh pod`: the pods that agents know, and in a lab the states of their processes.

use mesh_admin::v1::{ListPodsRequest, Pod, PodState};
use mesh_lab::{LabState, Liveness, ProcessState};
use serde_json::{Value, json};

use crate::{
    args::{PodArgs, PodCommand},
    ask::{self, Answer, Unanswered, Which, unreachable},
    contexts,
    lab::ended,
    labels::{self, Selector},
    outcome::{Outcome, complain},
    output::{self, Listed, Output},
};

/// A pod, and its node and cluster.
struct Seen {
    cluster: String,
    node: String,
    pod: Pod,
    /// The process that a lab runs in it.
    process: Option<ProcessState>,
}

pub(crate) fn run(args: &PodArgs, output: Output) -> anyhow::Result<Outcome> {
    let PodCommand::List { context, node, namespace, selector } = &args.command;
    let contexts = contexts::find_or_all(context.as_deref())?;
    let answers = ask::ask(&contexts, Which::Every(node.as_deref()), async |socket| {
        let request = ListPodsRequest {
            namespace: namespace.only().unwrap_or_default().into(),
            ..ListPodsRequest::default()
        };
        let mut pods = mesh_admin::connect_pods(socket).await.map_err(unreachable)?;
        Ok(pods.list(request).await.map_err(Unanswered::failed)?.into_inner().pods)
    })?;
    let lab = contexts::lab_state();
    let of = |Answer { context, node, answer }: Answer<Vec<Pod>>| {
        let lab = lab.as_ref();
        let of = move |pod: Pod| {
            let process = lab.and_then(|lab| process_in(lab, &context, &pod));
            Seen { cluster: context.clone(), node: node.clone(), pod, process }
        };
        answer.into_iter().map(of)
    };
    let mut seen: Vec<Seen> = answers.answers.into_iter().flat_map(of).collect();
    let mut warnings = answers.warnings;
    if let Some(selector) = selector {
        warnings.extend(select(&mut seen, selector));
    }
    output::list(output, "PodList", Some("pods"), &seen, json!({ "warnings": warnings }))?;
    let well = seen.iter().all(Seen::is_well);
    Ok(complain(warnings).and(if well { Outcome::Done } else { Outcome::NotReady }))
}

/// Leaves the pods that are selected. Returns what of them is not known.
fn select(seen: &mut Vec<Seen>, selector: &Selector) -> Option<String> {
    // Every identity has labels.
    let before = seen.len();
    seen.retain(|seen| !seen.pod.labels.is_empty());
    let unknown = before - seen.len();
    seen.retain(|seen| selector.selects(&seen.pod.labels));
    (unknown > 0).then(|| {
        format!(
            "{unknown} pods are not shown: their labels are not known, as their identities are not"
        )
    })
}

/// The process in a pod.
fn process_in(lab: &LabState, cluster: &str, pod: &Pod) -> Option<ProcessState> {
    let pods = &lab.cluster(cluster).ok()?.pods;
    let is_it = |other: &&mesh_lab::PodState| {
        (&*other.namespace, &*other.name) == (&*pod.namespace, &*pod.name)
    };
    pods.iter().find(is_it)?.process.clone()
}

impl Listed for Seen {
    const HEADER: &'static [&'static str] = &[
        "CLUSTER",
        "NODE",
        "NAMESPACE",
        "NAME",
        "PROCESS",
        "ADDRESSES",
        "IDENTITY",
        "IDENTITY-STATE",
        "INTERFACE",
        "CONTAINER",
    ];
    const WIDE: usize = 2;

    fn name(&self) -> String {
        format!("{}/{}", self.pod.namespace, self.pod.name)
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let Self { cluster, node, pod, process } = self;
        vec![vec![
            cluster.clone(),
            node.clone(),
            pod.namespace.clone(),
            pod.name.clone(),
            process.as_ref().map(ended::state).unwrap_or_default(),
            pod.addresses.join(", "),
            self.identity().map(|identity| identity.to_string()).unwrap_or_default(),
            self.state().into(),
            pod.interface.clone(),
            pod.container_id.clone(),
        ]]
    }

    fn json(&self) -> Value {
        let Self { cluster, node, pod, process } = self;
        json!({
            "cluster": cluster, "node": node, "namespace": pod.namespace, "name": pod.name, "uid": pod.uid,
            "addresses": pod.addresses, "state": self.state(), "identity": self.identity(),
            "labels": labels::json(&pod.labels),
            "containerId": pod.container_id, "interface": pod.interface, "netns": pod.netns,
            "netnsCookie": pod.netns_cookie, "attachedUnixSeconds": pod.attached_unix_seconds,
            "attached": attached(pod), "process": process.as_ref().map(ended::json),
        })
    }
}

impl Seen {
    /// Whether the pod has its identity, and its process did not die.
    fn is_well(&self) -> bool {
        let died = |process: &ProcessState| process.liveness() == Liveness::Died;
        self.pod.state() == PodState::Bound && !self.process.as_ref().is_some_and(died)
    }

    fn identity(&self) -> Option<u32> {
        (self.pod.state() == PodState::Bound).then_some(self.pod.identity)
    }

    fn state(&self) -> &'static str {
        match self.pod.state() {
            PodState::Bound => "bound",
            PodState::Waiting | PodState::Unspecified => "waiting",
        }
    }
}

/// The time of its attachment, as RFC 3339.
fn attached(pod: &Pod) -> Option<String> {
    let seconds = i64::try_from(pod.attached_unix_seconds).ok().filter(|seconds| *seconds > 0)?;
    jiff::Timestamp::from_second(seconds).ok().map(|at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples;

    fn pod(state: PodState) -> Seen {
        let pod = Pod {
            namespace: "shop".into(),
            name: "web-0".into(),
            addresses: vec!["10.1.1.2".into(), "fd00:10:1:1::2".into()],
            identity: 70_000,
            state: state.into(),
            interface: "lxc1234567890".into(),
            container_id: "cm-demo-a-n1-shop-web-0".into(),
            ..Pod::default()
        };
        Seen { cluster: "a".into(), node: "n1".into(), pod, process: None }
    }

    #[test]
    fn pods_are_selected_by_the_labels_of_their_identities() {
        let of = |name: &str, labels: &str| {
            let mut seen = pod(PodState::Bound);
            (seen.pod.name, seen.pod.labels) = (name.into(), labels.into());
            seen
        };
        let selected = |selector: &str| {
            let mut seen =
                vec![of("web-0", "k8s:app=web;"), of("db-0", "k8s:app=db;"), of("new", "")];
            let unknown = select(&mut seen, &selector.parse().unwrap());
            (seen.into_iter().map(|seen| seen.pod.name).collect::<Vec<_>>(), unknown)
        };
        let (found, unknown) = selected("app=web");
        assert_eq!(found, ["web-0"]);
        assert!(unknown.unwrap().starts_with("1 pods are not shown"));
        assert_eq!(selected("app!=web").0, ["db-0"]);
        assert_eq!(of("web-0", "k8s:app=web;").json()["labels"], json!({ "k8s:app": "web" }));
    }

    #[test]
    fn pods_fit() {
        samples::list_fits(90, &[pod(PodState::Bound), pod(PodState::Waiting)]);
    }

    #[test]
    fn a_pod_without_identity_or_whose_process_died_is_not_well() {
        assert!(pod(PodState::Bound).is_well());
        assert!(!pod(PodState::Waiting).is_well());
        let stopped = Seen { process: Some(ended::sample(0)), ..pod(PodState::Bound) };
        assert!(stopped.is_well());
        assert_eq!(stopped.rows()[0][4], "stopped");
        // A process with PID 1 that started at another time is not the pod's.
        let died = Seen { process: Some(ended::sample(1)), ..pod(PodState::Bound) };
        assert!(!died.is_well());
        assert_eq!(
            (&*died.rows()[0][4], &died.json()["process"]["state"]),
            ("DIED", &json!("died"))
        );
    }
}
