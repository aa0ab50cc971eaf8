//! The state of each followed cluster.

use std::{
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use mesh_admin::{
    ProblemCode, phase_remedy,
    v1::{Peer, Problem, State, Step, StepState},
};
use mesh_certs::{Expiring, rotated_by};
use mesh_follow::{ConnectionPhase, Status as FollowStatus};
use mesh_health::ClusterHealth;
use mesh_model::{ClusterName, lb::Route};
use mesh_routes::{RouteSummary, reason};

use mesh_node::{Node, Relation, phases};

/// Certificates that peers' clusters issued for the local one and that end soon, each with the command that replaces it.
pub fn certificates(peers: &Path, local: &str, now: SystemTime) -> Vec<Problem> {
    // A kubelet mounts a Secret so. `certs rotate` does not change that, and `connect` does.
    let is_secret = peers.join("..data").exists();
    let problem = |expiring: Expiring| {
        let name = expiring.file.file_name()?.to_str()?;
        let (peer, _) = name.split_once(".etcd-client")?;
        // Files that a removed peer left are of no use.
        peers.join(peer).exists().then(|| {
            let remedy = match rotated_by(&expiring.file) {
                "--clients" if is_secret => format!(
                    "clustermesh connect --context CONTEXT --destination-context CONTEXT, with the kubeconfig contexts of {local} and {peer}"
                ),
                what => format!("clustermesh certs rotate --context {peer} {what}"),
            };
            Problem {
                remedy,
                object: expiring.file.display().to_string(),
                ..ProblemCode::CertificateExpiring.of_peer(peer, expiring.to_string())
            }
        })
    };
    let expiring = mesh_certs::expiring(peers, now);
    expiring.into_iter().filter_map(problem).collect()
}

/// All that is wrong, as every answer has it. `certificates`: [`certificates`], which are read from files.
pub fn all_problems(node: &Node, certificates: Vec<Problem>) -> Vec<Problem> {
    let mut problems = node.problems(Instant::now());
    problems.extend(certificates);
    problems
}

/// The local cluster first.
pub fn all_peers(node: &Node, problems: &[Problem]) -> Vec<Peer> {
    let mut names: Vec<&ClusterName> = node.core.peers().collect();
    names.sort_by_key(|name| (*name != node.core.local(), (*name).clone()));
    names.into_iter().map(|name| peer(node, name, problems)).collect()
}

fn peer(node: &Node, name: &ClusterName, problems: &[Problem]) -> Peer {
    let status = node.status(name);
    let counts = node.core.merge().counts(name);
    let count = |n: usize| n.try_into().unwrap_or(u64::MAX);
    let ladder = ladder(node, name, &status);
    let stands = |step: &Step| matches!(step.state(), StepState::Ok | StepState::Unknown);
    let refused = Some(node.core.refused(name).last).filter(|last| !last.is_empty());
    let quarantined = node.core.quarantined(name);
    let ready = ladder.iter().all(stands) && quarantined.is_none();
    let drained_here = node.core.is_drained(name);
    let degraded = problems.iter().any(|problem| problem.peer == name.as_str())
        || status.held > 0
        || node.core.is_restored(name);
    let remedy = match (quarantined, ladder.iter().find(|step| !stands(step))) {
        _ if ready => String::new(),
        (Some(_), _) => format!(
            "find out why it reports so much; then: clustermesh quarantine lift {name}, or a larger budget in its peer file"
        ),
        (None, Some(step)) => phase_remedy(&step.name).into(),
        (None, None) => String::new(),
    };
    let away = node.core.away(name);
    let (now, wall) = (Instant::now(), SystemTime::now());
    let unix = |at: Instant| {
        let at = match at.checked_duration_since(now) {
            Some(until) => wall.checked_add(until),
            None => wall.checked_sub(now.saturating_duration_since(at)),
        };
        at.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).as_ref().map(Duration::as_secs)
    };
    let in_use = |id| count(node.lb.tables().backends_in(id).count());
    let is_left = away.is_some() || drained_here || status.drained.cluster;
    Peer {
        name: name.to_string(),
        own: name == node.core.local(),
        cluster_id: status.cluster_id().map_or(0, |id| id.get().into()),
        ready,
        // A peer that is drained here on purpose does not keep its cluster from being ready.
        state: State::of(ready || drained_here, degraded || !ready).into(),
        remedy,
        ladder,
        etcd_cluster_id: status.etcd_cluster_id.map(|id| format!("{id:x}")).unwrap_or_default(),
        revision: status.revision,
        reconnects: status.reconnects,
        heartbeats: status.heartbeats,
        nodes: count(counts.nodes),
        identities: count(counts.identities),
        addresses: count(counts.addresses),
        services: count(counts.services),
        namespaces: count(counts.namespaces),
        pods: count(counts.pods),
        rejected: status.rejected + node.core.refused(name).count,
        held: status.held.try_into().unwrap_or(u64::MAX),
        last_rejected: refused.or(status.last_rejected).unwrap_or_default(),
        remembered: node.core.is_restored(name),
        quarantined: quarantined.unwrap_or_default().to_owned(),
        last_seen_unix_seconds: match &away {
            Some(away) => unix(away.since),
            None => status.connected.then_some(now).and_then(unix),
        },
        unreachable_since_unix_seconds: away.and_then(|away| unix(away.since)),
        stale_at_unix_seconds: away.and_then(|away| unix(away.stale_at)),
        backends_in_use: is_left.then(|| node.core.merge().id_of(name)).flatten().map(in_use),
        refused_now: count(node.core.refused_now(name)),
        drained_here,
        drained: status.drained.cluster,
        drained_nodes: status.drained.nodes.iter().cloned().collect(),
    }
}

/// Every step from the name to the data path, the first broken one with its reason.
fn ladder(node: &Node, name: &ClusterName, status: &FollowStatus) -> Vec<Step> {
    let now = Instant::now();
    let relation = match name == node.core.local() {
        true if node.core.is_writer_away(now) => Relation::LocalWithoutWriter,
        true => Relation::Local,
        false => Relation::Peer(name),
    };
    let mut steps = phases(status, relation, |phase| detail(node, name, status, phase));
    steps.push(data_path(node, name, status.reached()));
    steps
}

fn detail(
    node: &Node,
    name: &ClusterName,
    status: &FollowStatus,
    phase: ConnectionPhase,
) -> String {
    match (phase, &status.config) {
        (ConnectionPhase::Config, Some(config)) => format!("ID {}", config.id),
        (ConnectionPhase::Synced, _) => {
            let counts = node.core.merge().counts(name);
            let listed = format!(
                "{} nodes, {} identities, {} addresses, {} services",
                counts.nodes, counts.identities, counts.addresses, counts.services
            );
            match name == node.core.local() {
                true => format!("{listed}, {} pods here", counts.pods),
                false => listed,
            }
        }
        _ => String::new(),
    }
}

fn data_path(node: &Node, name: &ClusterName, reached: Option<ConnectionPhase>) -> Step {
    let may_be_routed = |route: &Route| node.may_be_routed(route);
    let routes = node.writers.routes.table().summary(name, may_be_routed);
    let report = node.writers.health.report();
    let health = report.clusters.get(name).cloned().unwrap_or_default();
    let all = health.all();
    // This node is one of the local cluster's.
    let others = node.core.merge().counts(name).nodes > usize::from(name == node.core.local());
    let unprobed = all == 0 && others;
    let (state, mut detail) = if node.core.is_unreachable(name) {
        let reason = match node.core.is_drained(name) {
            true => "unreachable: neither a node nor the etcd answers; it is drained here",
            false => {
                "unreachable: neither a node nor the etcd answers, and its pods are used only where there are no others"
            }
        };
        (StepState::Failed, reason.into())
    } else if unprobed || (all == 0 && reached < Some(ConnectionPhase::Synced)) {
        (StepState::Pending, String::new())
    } else if let Some((range, state)) = &routes.example {
        (StepState::Failed, format!("route to {range}: {}", reason(state)))
    } else if !health.dead.is_empty() || health.missing > 0 {
        (StepState::Failed, missing(&health, report.isolated))
    } else if health.answering > 0 {
        let noticed = report.detection.as_secs_f64();
        let mut detail = format!("{} of {all} probed nodes answer", health.answering);
        detail += &match health.without_agent {
            0 => format!("; failure detection {noticed:.1} s"),
            without => {
                let has = if without == 1 { "has" } else { "have" };
                let later = report.detection_without_agent.as_secs_f64();
                format!(
                    "; {without} {has} no agent (failure detection {later:.1} s, others {noticed:.1} s)"
                )
            }
        };
        if routes.routed_by_the_network > 0 {
            let RouteSummary { ranges, routed_by_the_network: routed, .. } = routes;
            detail += &format!("; {routed} of {ranges} pod ranges are routed by the network");
        }
        (StepState::Ok, detail)
    } else if health.awaited > 0 {
        (StepState::Pending, String::new())
    } else if all > 0 {
        let reason = "no node has answered a probe yet: it may be out of reach, or a firewall keeps probes away";
        (StepState::Unknown, reason.into())
    } else {
        (StepState::Ok, "it has no other node".into())
    };
    if name == node.core.local() {
        let who = &node.writers.probe_answer.report().who;
        let answered = format!("probes to this node are answered by {who}");
        detail = if detail.is_empty() { answered } else { format!("{detail}; {answered}") };
    }
    Step { name: ConnectionPhase::DataPath.as_str().into(), state: state.into(), detail }
}

/// Which nodes do not answer, and what that means.
fn missing(health: &ClusterHealth, isolated: bool) -> String {
    let missing = health.dead.len() + health.missing;
    let mut detail = format!("{missing} of {} probed nodes no longer answer", health.all());
    if isolated {
        detail += "; nor does any node of another cluster: this node may be isolated, so no node counts as dead";
    }
    if !health.dead.is_empty() {
        // All of them would be too many for a line.
        let names: Vec<&str> = health.dead.iter().take(5).map(AsRef::as_ref).collect();
        let more = if health.dead.len() > names.len() { ", …" } else { "" };
        detail += &format!("; dead: {}{more}", names.join(", "));
    }
    if health.damped > 0 {
        detail += &format!("; {} of these come and go, and must answer for longer", health.damped);
    }
    detail
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use mesh_certs::{Ca, Profile};

    use super::*;

    /// A folder of peer files, and a Secret as a kubelet mounts it.
    #[test]
    fn a_peers_certificate_that_ends_soon_is_renewed_by_the_command_for_where_it_is() {
        let folder = std::env::temp_dir().join(format!("agent-expiring-{}", std::process::id()));
        let (files, secret) = (folder.join("files"), folder.join("secret"));
        let version = secret.join("..2027_01_15");
        [&files, &version].iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
        symlink("..2027_01_15", secret.join("..data")).unwrap();
        let (now, day) = (SystemTime::now(), Duration::from_secs(24 * 3_600));
        let (ca, ca_files) = Ca::create("b", now, 4_000 * day).unwrap();
        let user = Profile::Client { user: "remote-a".into() };
        let client = ca.issue(&user, now, Ca::ISSUED_LIFETIME).unwrap();
        for (name, text) in [
            ("b", ""),
            ("b.etcd-client.crt", client.certificate.as_str()),
            ("b.etcd-client-ca.crt", ca_files.certificate.as_str()),
            // Of a peer that was removed.
            ("c.etcd-client.crt", client.certificate.as_str()),
        ] {
            [&files, &version]
                .iter()
                .for_each(|folder| fs::write(folder.join(name), text).unwrap());
            symlink(format!("..data/{name}"), secret.join(name)).unwrap();
        }
        let end = now + Ca::ISSUED_LIFETIME;
        for (peers, remedy) in [
            (&files, "clustermesh certs rotate --context b --clients"),
            (
                &secret,
                "clustermesh connect --context CONTEXT --destination-context CONTEXT, with the kubeconfig contexts of a and b",
            ),
        ] {
            assert_eq!(certificates(peers, "a", end - 31 * day), []);
            let found = certificates(peers, "a", end - 29 * day);
            let [problem] = <[Problem; 1]>::try_from(found).unwrap();
            assert_eq!(
                (problem.code.as_str(), problem.peer.as_str()),
                ("certificate-expiring", "b")
            );
            assert_eq!(problem.remedy, remedy);
            assert!(problem.message.contains("b.etcd-client.crt"), "{}", problem.message);
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
