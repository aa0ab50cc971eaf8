//! The status as JSON. Fields are only added; those that exist keep their meaning.

use std::collections::HashMap;

use jiff::Timestamp;
use mesh_admin::v1::{Peer, Problem, StatusResponse, StepState};
use serde_json::{Value, json};

use super::{ApiserverStatus, ClusterStatus, DiedPod, peer_state, policies, state_of};
use crate::{drain, lab::ended};

impl ClusterStatus {
    pub(super) fn json(&self) -> Value {
        let daemon = |status: &StatusResponse| {
            json!({
                "ready": status.ready, "state": state_of(status).word(), "problems": status.problems,
                "problemDetails": status.problem_details.iter().map(problem_json).collect::<Vec<_>>(),
                "version": status.version.as_ref().map(|v| v.version.clone()),
                "tables": status.tables.iter().map(|t| json!({
                    "name": t.name, "used": t.used, "size": t.size, "growthPerHour": t.growth_per_hour,
                    "fullInSeconds": t.full_in_seconds, "flag": t.flag,
                })).collect::<Vec<_>>(),
                "counters": counters_json(&status.counters),
                "audit": status.audit.as_ref().map(|a| json!({
                    "passes": a.passes, "repairs": a.repairs, "last": a.last,
                })),
                "drained": status.drained.as_ref().map(drain::state_json),
                "policies": status.policies.as_ref().map(policies::json),
                "store": status.store.as_ref().map(|s| json!({
                    "connected": s.connected, "endpoint": s.endpoint, "failure": s.failure,
                    "desiredKeys": s.desired_keys, "writtenKeys": s.written_keys,
                    "objects": s.objects, "identities": s.identities,
                    "sizeBytes": s.size_bytes, "usedBytes": s.used_bytes, "quotaBytes": s.quota_bytes,
                    "fullInSeconds": s.full_in_seconds,
                })),
            })
        };
        let mut apiservers = self.apiservers.iter().map(|ApiserverStatus { name, reported }| {
            let mut value = match reported {
                Ok(status) => daemon(status),
                Err(error) => json!({ "ready": false, "state": "notReady", "error": error }),
            };
            if let Some(value) = value.as_object_mut() {
                value.insert("name".into(), json!(name));
            }
            value
        });
        let apiserver = apiservers.next();
        let replicas: Vec<Value> = apiservers.collect();
        let agents: Vec<Value> = self
            .agents
            .iter()
            .map(|agent| match &agent.reported {
                Err(error) => json!({
                    "node": agent.node, "ready": false, "state": "notReady", "error": error,
                }),
                Ok((status, peers)) => {
                    let mut value = daemon(status);
                    if let Some(value) = value.as_object_mut() {
                        value.insert("node".into(), json!(agent.node));
                        value.insert("peers".into(), peers.iter().map(peer_json).collect());
                    }
                    value
                }
            })
            .collect();
        let died = self.died.iter().map(|DiedPod { node, name, process }| {
            let mut fields = ended::json(process);
            fields.extend([("node".into(), json!(node)), ("name".into(), json!(name))]);
            fields
        });
        json!({
            "name": self.name, "ready": self.is_ready(), "state": self.state().word(),
            "problems": self.broken(),
            "configuredPeers": self.configured, "apiserver": apiserver, "replicas": replicas, "agents": agents,
            "diedPods": died.collect::<Vec<_>>(),
        })
    }
}

/// The counters of a daemon in camelCase; until the next minor release also under their earlier names, with underscores.
pub(crate) fn counters_json(counters: &HashMap<String, u64>) -> Value {
    let both = |(name, count): (&String, &u64)| {
        [(camel_case(name), json!(count)), (name.clone(), json!(count))]
    };
    Value::Object(counters.iter().flat_map(both).collect())
}

/// `no_backend` becomes `noBackend`.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let mut letters = word.chars();
        let initial = letters.next().map(|letter| letter.to_ascii_uppercase());
        name + &initial.into_iter().chain(letters).collect::<String>()
    })
}

fn problem_json(problem: &Problem) -> Value {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "code": problem.code, "message": problem.message, "remedy": given(&problem.remedy),
        "object": given(&problem.object), "peer": given(&problem.peer),
    })
}

/// A time as RFC 3339; `None` if it is out of range.
pub(super) fn rfc_3339(unix_seconds: u64) -> Option<String> {
    let seconds = i64::try_from(unix_seconds).ok()?;
    Some(Timestamp::from_second(seconds).ok()?.to_string())
}

fn peer_json(peer: &Peer) -> Value {
    let ladder: Vec<Value> = peer
        .ladder
        .iter()
        .map(|step| {
            let state = match step.state() {
                StepState::Ok => "ok",
                StepState::Failed => "failed",
                StepState::Pending | StepState::Unspecified => "pending",
                StepState::Unknown => "unknown",
            };
            json!({ "name": step.name, "state": state, "detail": step.detail })
        })
        .collect();
    json!({
        "name": peer.name, "own": peer.own, "clusterId": peer.cluster_id, "ready": peer.ready,
        "state": peer_state(peer).word(), "ladder": ladder,
        "etcdClusterId": peer.etcd_cluster_id, "revision": peer.revision, "reconnects": peer.reconnects,
        "heartbeats": peer.heartbeats, "nodes": peer.nodes, "identities": peer.identities,
        "addresses": peer.addresses, "services": peer.services,
        "namespaces": peer.own.then_some(peer.namespaces), "pods": peer.own.then_some(peer.pods), "rejected": peer.rejected,
        "lastRejected": peer.last_rejected, "refusedNow": peer.refused_now,
        "drainedHere": peer.drained_here,
        "drained": peer.drained, "drainedNodes": peer.drained_nodes,
        "lastSeen": peer.last_seen_unix_seconds.map(rfc_3339),
        "unreachableSince": peer.unreachable_since_unix_seconds.map(rfc_3339),
        "staleAt": peer.stale_at_unix_seconds.map(rfc_3339), "backendsInUse": peer.backends_in_use,
        "remedy": (!peer.remedy.is_empty()).then_some(&peer.remedy), "held": peer.held, "remembered": peer.remembered,
        "quarantined": (!peer.quarantined.is_empty()).then_some(&peer.quarantined),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_camel_case_and_keep_their_former_names() {
        let counters = [("no_backend", 3), ("tcp_sockets_ended", 2), ("translated", 1)];
        let counters = counters.map(|(name, count)| (name.to_owned(), count)).into();
        let wanted = json!({
            "noBackend": 3, "no_backend": 3, "tcpSocketsEnded": 2, "tcp_sockets_ended": 2, "translated": 1,
        });
        assert_eq!(counters_json(&counters), wanted);
    }
}
