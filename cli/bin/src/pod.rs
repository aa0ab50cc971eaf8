//! Pods, as the agents of their nodes know them.

use mesh_admin::v1::{ListPodsRequest, Pod, PodState};
use serde_json::{Value, json};

use crate::{
    args::{PodArgs, PodCommand},
    ask::{self, Answer, Unanswered, Which, unreachable},
    contexts,
    outcome::{Outcome, complain},
    output::{self, Listed, Output},
};

/// A pod of a cluster's node.
struct Seen {
    cluster: String,
    node: String,
    pod: Pod,
}

pub(crate) fn run(args: &PodArgs, output: Output) -> anyhow::Result<Outcome> {
    let PodCommand::List { context, node, namespace } = &args.command;
    let contexts = contexts::find_or_all(context.as_deref())?;
    let answers = ask::ask(&contexts, Which::Every(node.as_deref()), async |socket| {
        let request = ListPodsRequest {
            namespace: namespace.only().unwrap_or_default().into(),
            ..ListPodsRequest::default()
        };
        let mut pods = mesh_admin::connect_pods(socket).await.map_err(unreachable)?;
        Ok(pods.list(request).await.map_err(Unanswered::failed)?.into_inner().pods)
    })?;
    let of = |Answer { context, node, answer }: Answer<Vec<Pod>>| {
        let of = move |pod| Seen { cluster: context.clone(), node: node.clone(), pod };
        answer.into_iter().map(of)
    };
    let seen: Vec<Seen> = answers.answers.into_iter().flat_map(of).collect();
    let warnings = answers.warnings;
    output::list(output, "PodList", Some("pods"), &seen, json!({ "warnings": warnings }))?;
    let all_bound = seen.iter().all(|seen| seen.pod.state() == PodState::Bound);
    let bound = if all_bound { Outcome::Done } else { Outcome::NotReady };
    Ok(complain(warnings).and(bound))
}

impl Listed for Seen {
    const HEADER: &'static [&'static str] = &[
        "CLUSTER",
        "NODE",
        "NAMESPACE",
        "NAME",
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
        let Self { cluster, node, pod } = self;
        vec![vec![
            cluster.clone(),
            node.clone(),
            pod.namespace.clone(),
            pod.name.clone(),
            pod.addresses.join(", "),
            self.identity().map(|identity| identity.to_string()).unwrap_or_default(),
            self.state().into(),
            pod.interface.clone(),
            pod.container_id.clone(),
        ]]
    }

    fn json(&self) -> Value {
        let Self { cluster, node, pod } = self;
        json!({
            "cluster": cluster, "node": node, "namespace": pod.namespace, "name": pod.name, "uid": pod.uid,
            "addresses": pod.addresses, "state": self.state(), "identity": self.identity(),
            "containerId": pod.container_id, "interface": pod.interface, "netns": pod.netns,
            "netnsCookie": pod.netns_cookie, "attachedUnixSeconds": pod.attached_unix_seconds,
            "attached": attached(pod),
        })
    }
}

impl Seen {
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

/// When it was attached, as RFC 3339.
fn attached(pod: &Pod) -> Option<String> {
    let seconds = i64::try_from(pod.attached_unix_seconds).ok().filter(|seconds| *seconds > 0)?;
    jiff::Timestamp::from_second(seconds).ok().map(|at| at.to_string())
}
