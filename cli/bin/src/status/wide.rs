//! The tables that `status -o wide` adds: the connections with their numbers of records, and the daemons.

use mesh_admin::v1::{Peer, StatusResponse};

use super::{AgentStatus, ApiserverStatus, ClusterStatus, json::rfc_3339, peer_state, state_of};
use crate::output;

/// Prints a row for each connection, and a row for each daemon that answers.
pub(super) fn print(clusters: &[ClusterStatus]) -> anyhow::Result<()> {
    output::line("")?;
    let header = [
        "CLUSTER",
        "NODE",
        "FOLLOWS",
        "STATE",
        "LAST SEEN",
        "REVISION",
        "NODES",
        "IDENTITIES",
        "ADDRESSES",
        "SERVICES",
        "REFUSED",
        "RECONNECTS",
    ];
    output::table(&header, clusters.iter().flat_map(ClusterStatus::connections))?;
    output::line("")?;
    let header = ["CLUSTER", "DAEMON", "STATE", "PROBLEMS", "STARTED", "VERSION"];
    output::table(&header, clusters.iter().flat_map(ClusterStatus::daemons))
        .map_err(anyhow::Error::from)
}

impl ClusterStatus {
    fn connections(&self) -> Vec<Vec<String>> {
        let row = |node: &str, peer: &Peer| {
            let name = if peer.own { format!("{} (local)", peer.name) } else { peer.name.clone() };
            let state = peer_state(peer).word().to_owned();
            let seen = peer.last_seen_unix_seconds.and_then(rfc_3339).unwrap_or_default();
            let counts = [
                u64::try_from(peer.revision).unwrap_or_default(),
                peer.nodes,
                peer.identities,
                peer.addresses,
                peer.services,
                peer.refused_now,
                peer.reconnects,
            ];
            let first = [self.name.clone(), node.to_owned(), name, state, seen];
            first.into_iter().chain(counts.map(|count| count.to_string())).collect::<Vec<_>>()
        };
        let agents = self
            .agents
            .iter()
            .filter_map(|AgentStatus { node, reported }| Some((node, &reported.as_ref().ok()?.1)));
        agents.flat_map(|(node, peers)| peers.iter().map(move |peer| row(node, peer))).collect()
    }

    fn daemons(&self) -> Vec<Vec<String>> {
        let row = |name: String, status: &StatusResponse| {
            let version = status.version.as_ref().map(|version| version.version.clone());
            vec![
                self.name.clone(),
                name,
                state_of(status).word().to_owned(),
                status.problems.len().to_string(),
                rfc_3339(status.started_unix_seconds).unwrap_or_default(),
                version.unwrap_or_default(),
            ]
        };
        let apiservers = self.apiservers.iter().filter_map(|ApiserverStatus { name, reported }| {
            Some(row(name.clone(), reported.as_ref().ok()?))
        });
        let agents = self.agents.iter().filter_map(|AgentStatus { node, reported }| {
            Some(row(format!("{node}/agent"), &reported.as_ref().ok()?.0))
        });
        apiservers.chain(agents).collect()
    }
}

#[cfg(test)]
mod tests {
    use mesh_admin::v1::State;

    use super::*;
    use crate::output::samples;

    #[test]
    fn the_wide_status_fits() {
        let peer = Peer { name: "b".into(), ready: true, ..Peer::default() };
        let cluster = ClusterStatus {
            name: "a".into(),
            apiservers: Vec::new(),
            agents: vec![AgentStatus {
                node: "n1".into(),
                reported: Ok((StatusResponse::default(), vec![peer])),
            }],
            configured: Vec::new(),
            died: Vec::new(),
        };
        let clusters = [cluster];
        // The header of the twelve columns needs this much.
        samples::fits(125, || print(&clusters));
    }

    #[test]
    fn each_connection_and_each_daemon_is_a_line() {
        let status = StatusResponse {
            ready: true,
            started_unix_seconds: 1_800_000_000,
            problems: vec!["x".into()],
            ..StatusResponse::default()
        };
        let peer = Peer {
            name: "b".into(),
            ready: true,
            state: State::Ready.into(),
            last_seen_unix_seconds: Some(1_800_000_000),
            revision: 7,
            nodes: 1,
            identities: 2,
            addresses: 3,
            services: 4,
            refused_now: 5,
            reconnects: 6,
            ..Peer::default()
        };
        let cluster = ClusterStatus {
            name: "a".into(),
            apiservers: vec![ApiserverStatus {
                name: "apiserver".into(),
                reported: Err("it does not answer".into()),
            }],
            agents: vec![AgentStatus { node: "n1".into(), reported: Ok((status, vec![peer])) }],
            configured: vec!["b".into()],
            died: Vec::new(),
        };
        let seen = "2027-01-15T08:00:00Z";
        let wanted = ["a", "n1", "b", "ready", seen, "7", "1", "2", "3", "4", "5", "6"];
        assert_eq!(cluster.connections(), [wanted]);
        assert_eq!(cluster.daemons(), [["a", "n1/agent", "degraded", "1", seen, ""]]);
    }
}
