//! The status as text: a line for each cluster, and then what is not ready; or everything.

use std::collections::BTreeMap;

use mesh_admin::v1::{Peer, Problem, State, StepState};

use super::{
    AgentStatus, ApiserverStatus, ClusterStatus, DiedPod, json::rfc_3339, peer_state, policies,
    state_of, wide,
};
use crate::{contexts::hint, drain, lab::ended, output};

/// The most nodes that a problem is shown with.
const NODES: usize = 3;

/// Prints all clusters; with `verbose` also what is ready.
pub(super) fn print(clusters: &[ClusterStatus], verbose: bool) -> anyhow::Result<()> {
    let mut lines = clusters.iter().map(|cluster| hint(&cluster.headline()));
    lines.try_for_each(output::coloured_line)?;
    let rows = clusters.iter().flat_map(|c| c.rows(verbose));
    let rows: Vec<Vec<String>> =
        rows.map(|row| row.iter().map(|cell| hint(cell)).collect()).collect();
    if !rows.is_empty() {
        output::line("")?;
        output::table(&["CLUSTER", "NODE", "FOLLOWS", "STATE", "DETAIL"], rows)?;
    }
    if output::is_wide() {
        wide::print(clusters)?;
    }
    let problems: Vec<String> = clusters.iter().flat_map(ClusterStatus::problem_lines).collect();
    if !problems.is_empty() {
        output::line("")?;
        problems.iter().try_for_each(|problem| output::coloured_line(hint(problem)))?;
    }
    Ok(())
}

impl ClusterStatus {
    /// `a: 1/1 apiservers, 2/2 agents, 11/11 peers ready`, and the state if it is not ready.
    fn headline(&self) -> String {
        let ready = |state: State| state != State::NotReady;
        let apiservers = self.apiservers.iter().filter(|apiserver| {
            apiserver.reported.as_ref().is_ok_and(|status| ready(state_of(status)))
        });
        let answered = |agent: &&AgentStatus| {
            agent.reported.as_ref().is_ok_and(|(status, _)| ready(state_of(status)))
        };
        let agents = self.agents.iter().filter(answered).count();
        let peer_ready = |name: &&String| {
            let mut answers = self.agents.iter().filter_map(|agent| agent.reported.as_ref().ok());
            let is_ready = |peers: &[Peer]| peers.iter().any(|p| p.name == **name && p.ready);
            answers.clone().next().is_some() && answers.all(|(_, peers)| is_ready(peers))
        };
        let peers = self.configured.iter().filter(peer_ready).count();
        let line = format!(
            "{}: {}/{} apiservers, {agents}/{} agents, {peers}/{} peers ready",
            self.name,
            apiservers.count(),
            self.apiservers.len(),
            self.agents.len(),
            self.configured.len(),
        );
        match self.state() {
            State::Ready if self.configured.is_empty() => {
                format!("{line}; not connected to any cluster: clustermesh connect")
            }
            State::Ready => line,
            State::Degraded => format!("{line}; DEGRADED"),
            State::NotReady | State::Unspecified => format!("{line}; NOT READY"),
        }
    }

    /// What is not ready, degraded or drained; with `verbose` everything.
    fn rows(&self, verbose: bool) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        let row = |who: &str, of: &str, state: &str, detail: String| {
            vec![self.name.clone(), who.to_owned(), of.to_owned(), state.to_owned(), detail]
        };
        for ApiserverStatus { name, reported } in &self.apiservers {
            match reported {
                // Its problems are printed below the table.
                Ok(status) if verbose || state_of(status) == State::NotReady => {
                    let exported =
                        status.store.as_ref().map(|s| format!("exports {} keys", s.desired_keys));
                    rows.push(row(name, "", word(state_of(status)), exported.unwrap_or_default()));
                }
                Ok(_) => {}
                Err(error) => rows.push(row(name, "", "NO ANSWER", error.clone())),
            }
        }
        // All replicas report the same.
        let mut reported =
            self.apiservers.iter().filter_map(|apiserver| apiserver.reported.as_ref().ok());
        let first = reported.next();
        let drained = first.and_then(|status| status.drained.as_ref());
        rows.extend(drained.and_then(drain::state_text).map(|what| row("", "", "DRAINED", what)));
        let policies = first.and_then(|status| status.policies.as_ref());
        let policies = policies.and_then(|policies| policies::text(policies, verbose));
        rows.extend(policies.map(|what| row("", "", "POLICIES", what)));
        rows.extend(self.died.iter().map(|DiedPod { node, name, process }| {
            let how = ended::state(process);
            let what = format!("pod {name} {how} → clustermesh lab logs {}", process.name);
            row(node, "", "DIED", what)
        }));
        for AgentStatus { node, reported } in &self.agents {
            let (_, peers) = match reported {
                Err(error) => {
                    rows.push(row(node, "", "NO ANSWER", error.clone()));
                    continue;
                }
                Ok(reported) => reported,
            };
            for peer in peers.iter().filter(|peer| verbose || peer_state(peer) != State::Ready) {
                let name = match peer.own {
                    true => format!("{} (local)", peer.name),
                    false => peer.name.clone(),
                };
                let state = match (peer.drained_here, peer.quarantined.is_empty()) {
                    (true, _) => "DRAINED",
                    (false, true) => word(peer_state(peer)),
                    (false, false) => "QUARANTINED",
                };
                rows.push(row(node, &name, state, detail(&self.name, peer)));
            }
            rows.extend(peers.iter().filter(|peer| peer.drained_here).map(|peer| {
                let name = &peer.name;
                let what = format!(
                    "its backends are used only where nothing else answers → clustermesh undrain {name} --from {}",
                    self.name
                );
                row(node, name, "DRAINED", what)
            }));
            rows.extend(
                peers.iter().filter(|peer| !peer.own).filter_map(|peer| {
                    Some(row(node, &peer.name, "DRAINED", drained_there(peer)?))
                }),
            );
            let known = |name: &&String| peers.iter().any(|peer| peer.name == **name);
            rows.extend(self.configured.iter().filter(|name| !known(name)).map(|name| {
                row(node, name, "NOT READY", "waiting for the agent to load its peer file".into())
            }));
        }
        rows
    }

    /// A line for each problem, with the nodes that have it.
    fn problem_lines(&self) -> Vec<String> {
        let mut who: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        let mut order = Vec::new();
        let apiservers = self.apiservers.iter().filter_map(|ApiserverStatus { name, reported }| {
            Some((name, &reported.as_ref().ok()?.problem_details))
        });
        let agents = self.agents.iter().filter_map(|AgentStatus { node, reported }| {
            Some((node, &reported.as_ref().ok()?.0.problem_details))
        });
        for (name, problems) in apiservers.chain(agents) {
            for Problem { message, remedy, .. } in problems {
                let key = (message.as_str(), remedy.as_str());
                let nodes = who.entry(key).or_default();
                if nodes.is_empty() {
                    order.push(key);
                }
                nodes.push(name);
            }
        }
        let line = |key: (&str, &str)| {
            let nodes = who.get(&key).map(Vec::as_slice).unwrap_or_default();
            let shown = nodes.iter().take(NODES).copied().collect::<Vec<_>>().join(", ");
            let more = match nodes.len().saturating_sub(NODES) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let (message, remedy) = key;
            format!("PROBLEM {}/{shown}{more}: {message} → {remedy}", self.name)
        };
        order.into_iter().map(line).collect()
    }
}

/// What the operator of a peer has drained.
fn drained_there(peer: &Peer) -> Option<String> {
    let nodes = &peer.drained_nodes;
    match (peer.drained, nodes.is_empty()) {
        (true, _) => Some(match peer.backends_in_use.unwrap_or(0) {
            0 => "drained by its operator: none of its backends gets new connections".into(),
            count => format!(
                "drained by its operator: {count} of its backends still get new connections, where nothing else answers"
            ),
        }),
        (false, false) => {
            let shown = nodes.iter().take(NODES).map(String::as_str).collect::<Vec<_>>();
            let more = match nodes.len().saturating_sub(NODES) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            Some(format!("nodes drained by its operator: {}{more}", shown.join(", ")))
        }
        (false, true) => None,
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Ready => "ready",
        State::Degraded => "DEGRADED",
        State::NotReady | State::Unspecified => "NOT READY",
    }
}

/// The state of a peer, its consequences, and the remedy.
fn detail(local: &str, peer: &Peer) -> String {
    let mut detail = summary(peer);
    if let Some(away) = away(local, peer) {
        detail += &format!("; {away}");
    }
    match peer.remedy.is_empty() {
        true => detail,
        false => format!("{detail} → {}", peer.remedy),
    }
}

/// For a peer that is not connected: since when, and until when its backends are used.
fn away(local: &str, peer: &Peer) -> Option<String> {
    let since = peer.unreachable_since_unix_seconds.and_then(rfc_3339)?;
    let until = peer.stale_at_unix_seconds.and_then(rfc_3339)?;
    let name = &peer.name;
    Some(match peer.backends_in_use.unwrap_or(0) {
        0 => format!("unreachable since {since}; none of its backends is in use"),
        count if peer.drained_here => {
            format!("unreachable since {since}; its {count} backends are drained")
        }
        count => format!(
            "unreachable since {since}; its {count} backends stay in use until {until}; to stop using them now: \
             clustermesh drain {name} --from {local}"
        ),
    })
}

/// The state of a peer, and whether its records are from before the agent's start.
pub(crate) fn summary(peer: &Peer) -> String {
    match peer.remembered {
        true => format!("{}; using what it reported before the agent started", reached(peer)),
        false => reached(peer),
    }
}

/// The first failed condition with its reason; else what the agent waits for; else details.
fn reached(peer: &Peer) -> String {
    let step = |state: StepState| peer.ladder.iter().find(|step| step.state() == state);
    if let Some(failed) = step(StepState::Failed) {
        return format!("{}: {}", failed.name, failed.detail);
    }
    if peer.held > 0 {
        return format!(
            "{} keys are kept although their lease expired, until their writer is back",
            peer.held
        );
    }
    if let Some(pending) = step(StepState::Pending) {
        return format!("waiting for {}", pending.name);
    }
    let details = peer.ladder.iter().filter(|step| !step.detail.is_empty());
    let details = details.skip_while(|step| step.name != "synced").map(|step| step.detail.clone());
    details.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use mesh_admin::{
        ProblemCode,
        v1::{StatusResponse, Step},
    };

    use super::*;
    use crate::output::samples;

    #[test]
    fn the_status_fits() {
        let step = Step {
            name: "tls".into(),
            state: StepState::Failed.into(),
            detail: "the certificate of b is signed by another CA (UnknownIssuer)\nsee b".into(),
        };
        let broken = Peer { ladder: vec![step], ..peer("b", false) };
        let cluster = cluster(vec![agent("n1", vec![broken], Vec::new())], &["b"]);
        let clusters = [cluster];
        samples::fits(80, || print(&clusters, true));
    }

    fn peer(name: &str, ready: bool) -> Peer {
        Peer { name: name.into(), ready, ..Peer::default() }
    }

    fn cluster(agents: Vec<AgentStatus>, configured: &[&str]) -> ClusterStatus {
        let status = StatusResponse { ready: true, ..StatusResponse::default() };
        ClusterStatus {
            name: "a".into(),
            apiservers: vec![ApiserverStatus { name: "apiserver".into(), reported: Ok(status) }],
            agents,
            configured: configured.iter().map(ToString::to_string).collect(),
            died: Vec::new(),
        }
    }

    /// A crash of a pod is no state of the mesh: it is shown, and changes nothing else.
    #[test]
    fn a_labs_pod_that_ended_is_a_row() {
        let died =
            DiedPod { node: "n1".into(), name: "shop/web-0".into(), process: ended::sample(1) };
        let agents = vec![agent("n1", vec![peer("a", true)], Vec::new())];
        let cluster = ClusterStatus { died: vec![died], ..cluster(agents, &[]) };
        let [row] = cluster.rows(false).try_into().unwrap();
        let what = "pod shop/web-0 DIED → clustermesh lab logs a/shop/web-0";
        assert_eq!(row, ["a", "n1", "", "DIED", what]);
        assert!(cluster.is_ready());
        let json = &cluster.json()["diedPods"][0];
        assert_eq!((&json["name"], &json["state"]), (&"shop/web-0".into(), &"died".into()));
    }

    fn agent(node: &str, peers: Vec<Peer>, problems: Vec<Problem>) -> AgentStatus {
        let status = StatusResponse {
            ready: true,
            problems: problems.iter().map(|problem| problem.message.clone()).collect(),
            problem_details: problems,
            ..StatusResponse::default()
        };
        AgentStatus { node: node.into(), reported: Ok((status, peers)) }
    }

    #[test]
    fn what_is_in_order_is_a_line() {
        let agents = vec![agent("n1", vec![peer("a", true), peer("b", true)], Vec::new())];
        let cluster = cluster(agents, &["b"]);
        assert_eq!(cluster.headline(), "a: 1/1 apiservers, 1/1 agents, 1/1 peers ready");
        assert!(cluster.rows(false).is_empty() && cluster.problem_lines().is_empty());
        assert_eq!(cluster.rows(true).len(), 3);
    }

    #[test]
    fn a_problem_of_many_nodes_is_a_line_that_says_what_to_do() {
        let problem = || ProblemCode::TableFull.problem("cm_backends is full");
        let agents =
            (1..=5).map(|n| agent(&format!("n{n}"), vec![peer("b", true)], vec![problem()]));
        let cluster = cluster(agents.collect(), &["b"]);
        assert_eq!(cluster.headline(), "a: 1/1 apiservers, 5/5 agents, 1/1 peers ready; DEGRADED");
        let [line] = cluster.problem_lines().try_into().unwrap();
        let says = "PROBLEM a/n1, n2, n3 and 2 more: cm_backends is full → restart the agent with a larger table";
        assert!(line.starts_with(says), "{line}");
    }

    #[test]
    fn a_peer_that_is_left_alone_is_drained_and_not_broken() {
        let drained = |ready: bool| Peer {
            drained_here: true,
            state: State::of(true, !ready).into(),
            ..peer("c", ready)
        };
        for (ready, ends) in [(true, "1/1 peers ready"), (false, "0/1 peers ready; DEGRADED")] {
            let cluster = cluster(vec![agent("n1", vec![drained(ready)], Vec::new())], &["c"]);
            assert!(cluster.headline().ends_with(ends), "{}", cluster.headline());
            let rows = cluster.rows(false);
            assert!(rows.iter().all(|row| row[3] == "DRAINED"), "{rows:?}");
            assert!(rows.iter().any(|row| row[4].contains("clustermesh undrain c --from a")));
            assert_eq!(cluster.is_ready(), ready, "what `ready` means stays");
        }
    }

    #[test]
    fn a_peer_that_its_own_operator_drained_is_called_so_and_is_no_problem() {
        let all = |in_use| Peer { drained: true, backends_in_use: in_use, ..peer("b", true) };
        let nodes: Vec<String> = (1..=5).map(|n| format!("n{n}")).collect();
        for (peer, says) in [
            (all(Some(0)), "drained by its operator: none of its backends gets new connections"),
            (all(None), "drained by its operator: none of its backends gets new connections"),
            (
                all(Some(2)),
                "drained by its operator: 2 of its backends still get new connections, where nothing else answers",
            ),
            (
                Peer { drained_nodes: nodes.clone(), ..peer("b", true) },
                "nodes drained by its operator: n1, n2, n3 and 2 more",
            ),
        ] {
            // The drain of the local cluster is in the apiserver's row.
            let own = Peer { own: true, drained: true, ..self::peer("a", true) };
            let cluster = cluster(vec![agent("n1", vec![own, peer], Vec::new())], &["b"]);
            assert!(cluster.headline().ends_with("1/1 peers ready"), "{}", cluster.headline());
            let [row] = cluster.rows(false).try_into().unwrap();
            assert_eq!(row, ["a", "n1", "b", "DRAINED", says]);
        }
    }

    #[test]
    fn a_peer_that_is_away_says_since_when_and_until_when() {
        let failed = Step {
            name: "tcp".into(),
            state: StepState::Failed.into(),
            detail: "nothing listens there".into(),
        };
        let gone = Peer {
            ladder: vec![failed],
            remedy: "see whether it runs".into(),
            unreachable_since_unix_seconds: Some(1_800_000_000),
            stale_at_unix_seconds: Some(1_800_000_900),
            backends_in_use: Some(2),
            ..peer("c", false)
        };
        let cluster = cluster(vec![agent("n1", vec![gone], Vec::new())], &["c"]);
        assert!(cluster.headline().ends_with("0/1 peers ready; NOT READY"));
        let [row] = cluster.rows(false).try_into().unwrap();
        assert_eq!(row[..4], ["a", "n1", "c", "NOT READY"]);
        assert_eq!(
            row[4],
            "tcp: nothing listens there; unreachable since 2027-01-15T08:00:00Z; its 2 backends stay in use until \
             2027-01-15T08:15:00Z; to stop using them now: clustermesh drain c --from a → see whether it runs"
        );
    }
}
