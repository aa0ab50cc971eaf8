//! Waits until every agent applies a drain or an undrain.

use std::time::Duration;

use mesh_admin::v1::{Backend, ListServicesRequest, Peer, Service};
use mesh_lab::contexts::Context;

use super::Change;
use crate::{
    ask::{self, Answers, Unanswered, Which, unreachable},
    contexts,
    outcome::Outcome,
    wait::until,
};

/// Waits until the agents of the cluster have the change. After a drain, also waits until no agent of any context sends new
/// connections to what is drained.
pub(super) fn until_in_force(
    change: Change,
    context: &Context,
    cluster: &str,
    node: Option<&str>,
    limit: Duration,
) -> anyhow::Result<Outcome> {
    let mut all = contexts::all()?;
    if !all.contains(context) {
        all.push(context.clone());
    }
    until(limit, || {
        let waits = first_peer(&peers(context)?, |peer| peer.own && !knows(change, peer, node));
        match (waits, change) {
            (None, Change::Drain) => Ok(first_used(&services(&all)?, cluster, node)),
            (waits, _) => Ok(waits),
        }
    })
}

/// Waits until the agents of a cluster have drained a peer, or no longer have.
pub(super) fn until_in_force_here(
    change: Change,
    context: &Context,
    peer: &str,
    limit: Duration,
) -> anyhow::Result<Outcome> {
    let wanted = change == Change::Drain;
    until(limit, || {
        Ok(first_peer(&peers(context)?, |found| found.name == peer && found.drained_here != wanted))
    })
}

fn peers(context: &Context) -> anyhow::Result<Answers<Vec<Peer>>> {
    ask::ask(std::slice::from_ref(context), Which::Every(None), ask::peers)
}

fn services(contexts: &[Context]) -> anyhow::Result<Answers<Vec<Service>>> {
    ask::ask(contexts, Which::Every(None), async |socket| {
        let client = mesh_admin::connect(socket).await.map_err(unreachable)?;
        let mut client = client.max_decoding_message_size(contexts::MAX_ANSWER);
        let all = ListServicesRequest::default();
        let services = client.list_services(all).await.map_err(Unanswered::failed)?;
        Ok(services.into_inner().services)
    })
}

/// Whether an agent has the change of its cluster. `own` is the cluster in the agent's list of peers.
fn knows(change: Change, own: &Peer, node: Option<&str>) -> bool {
    let drained = match node {
        Some(node) => own.drained_nodes.iter().any(|drained| drained == node),
        None => own.drained,
    };
    drained == (change == Change::Drain)
}

/// The first agent with a peer for which `waits` is true, or else the first that does not answer.
fn first_peer(answers: &Answers<Vec<Peer>>, waits: impl Fn(&Peer) -> bool) -> Option<String> {
    let behind = answers.answers.iter().find(|answer| answer.answer.iter().any(&waits));
    let behind = behind
        .map(|a| format!("the agent of {}/{} does not have the change yet", a.context, a.node));
    behind.or_else(|| answers.warnings.first().cloned())
}

/// The first agent that uses a drained backend although there are others, or else the first that does not answer.
fn first_used(
    answers: &Answers<Vec<Service>>,
    cluster: &str,
    node: Option<&str>,
) -> Option<String> {
    let is_used = |backend: &Backend| {
        let is_there = backend.cluster == cluster && node.is_none_or(|node| backend.node == node);
        // Still in use as if it were not drained. One that is used for want of others has another state and reason.
        is_there && (backend.state == "ready" || backend.reason == "terminating")
    };
    let used = answers.answers.iter().find_map(|answer| {
        let service = answer.answer.iter().find(|service| {
            service.frontends.iter().flat_map(|frontend| &frontend.backends).any(is_used)
        })?;
        let (namespace, name) = (&service.namespace, &service.name);
        Some(format!("{}/{} still uses it for {namespace}/{name}", answer.context, answer.node))
    });
    used.or_else(|| answers.warnings.first().cloned())
}

#[cfg(test)]
mod tests {
    use mesh_admin::v1::Frontend;

    use super::*;
    use crate::ask::Answer;

    fn answers<T>(answer: Vec<T>, warnings: &[&str]) -> Answers<Vec<T>> {
        let answer = Answer { context: "b".into(), node: "n1".into(), answer };
        let warnings = warnings.iter().map(ToString::to_string).collect();
        Answers { answers: vec![answer], warnings }
    }

    #[test]
    fn it_is_waited_for_agents_that_do_not_have_it_and_for_those_that_do_not_answer() {
        let own = |drained, nodes: &[&str]| Peer {
            own: true,
            drained,
            drained_nodes: nodes.iter().map(ToString::to_string).collect(),
            ..Peer::default()
        };
        for (change, node, peer, known) in [
            (Change::Drain, None, own(true, &[]), true),
            (Change::Drain, None, own(false, &["n1"]), false),
            (Change::Drain, Some("n1"), own(false, &["n1"]), true),
            (Change::Undrain, Some("n1"), own(true, &["n1"]), false),
            (Change::Undrain, Some("n1"), own(true, &[]), true),
        ] {
            assert_eq!(knows(change, &peer, node), known, "{change:?} {node:?}");
            let waits = |peer: &Peer| !knows(change, peer, node);
            let answered = first_peer(&answers(vec![peer.clone()], &[]), waits);
            assert_eq!(answered.is_none(), known);
            let silent =
                first_peer(&answers(vec![peer], &["the agent of b/n2 does not run"]), waits);
            assert!(silent.is_some());
        }
    }

    #[test]
    fn it_is_waited_for_who_uses_what_is_drained() {
        let backend = |cluster: &str, node: &str, state: &str| Backend {
            cluster: cluster.into(),
            node: node.into(),
            state: state.into(),
            ..Backend::default()
        };
        let found = |backends: Vec<Backend>, node| {
            let frontends = vec![Frontend { backends, ..Frontend::default() }];
            let service = Service {
                namespace: "shop".into(),
                name: "web".into(),
                frontends,
                ..<_>::default()
            };
            first_used(&answers(vec![service], &[]), "a", node)
        };
        let used = found(vec![backend("a", "n1", "ready")], None).unwrap();
        assert_eq!(used, "b/n1 still uses it for shop/web");
        assert!(found(vec![backend("a", "n2", "ready")], Some("n1")).is_none());
        let leaving = Backend { reason: "terminating".into(), ..backend("a", "n1", "drained") };
        assert!(found(vec![leaving.clone()], None).is_some());
        let alone = Backend { reason: "nobody-ready".into(), ..leaving };
        assert!(found(vec![alone], None).is_none());
        assert!(found(vec![backend("b", "n1", "ready")], None).is_none());
    }
}
