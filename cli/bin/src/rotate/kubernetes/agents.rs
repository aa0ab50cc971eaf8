//! What agents have in their files of the Secrets: kubelets bring it after a while.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;
use mesh_wire::peering::PeerEntries;
use serde::Deserialize;

use super::{InPods, LIMIT, LOOK};
use crate::{
    kube_exec::{Cluster, Component, MeshPod},
    wait::Progress,
};

/// How long kubelets may take to give pods what a Secret has: 90 s by their defaults.
const SYNC: Duration = Duration::from_secs(180);
/// Where pods of agents have the files.
const AGENT_FILES: &str = "/etc/clustermesh";

/// What an agent must have seen.
#[derive(Clone, Copy)]
pub(super) enum Seen<'a> {
    /// The CA of this subject is trusted.
    Trusts(&'a str),
    /// Its own certificate is of the CA of this subject.
    IsOf(&'a str),
}

/// The output of `clustermesh certs show`.
#[derive(Deserialize)]
struct Shown {
    certificates: Vec<ShownCertificate>,
}

#[derive(Deserialize)]
struct ShownCertificate {
    subject: String,
    issuer: String,
}

impl InPods<'_> {
    /// Waits until the agents of this cluster and of the peers at hand have seen something. Agents in whose pods nothing can
    /// run read it when they start.
    pub(super) fn agents_see(&self, seen: Seen<'_>) -> anyhow::Result<()> {
        let (own, at_peer) = match seen {
            Seen::Trusts(_) => ("ca.crt".to_owned(), PeerEntries::new(&self.name).ca),
            Seen::IsOf(_) => ("local.crt".to_owned(), PeerEntries::new(&self.name).certificate),
        };
        let peers = self.peers.values().flatten();
        let all = peers.map(|peer| (peer, format!("{AGENT_FILES}/peers/{at_peer}")));
        let mut waiting = Vec::new();
        for (cluster, file) in all.chain([(&self.cluster, format!("{AGENT_FILES}/{own}"))]) {
            let agents = cluster.pods(Component::Agent)?;
            let agents = agents.into_iter().filter(|agent| agent.unusable.is_none());
            waiting.extend(agents.map(|agent| (cluster, agent, file.clone())));
        }
        let mut progress = Progress::new();
        let began = Instant::now();
        loop {
            waiting.retain(|(cluster, agent, file)| !has_seen(cluster, agent, file, seen));
            let Some((cluster, agent, file)) = waiting.first() else { return Ok(()) };
            if began.elapsed() > SYNC {
                bail!(
                    "{}: {}: {file} is not up to date yet, {} s after the Secret was changed: look at the kubelet of node {}, then give the command again",
                    cluster.context(),
                    agent.name,
                    began.elapsed().as_secs(),
                    agent.node
                );
            }
            progress.show(&format!(
                "waiting for {} agents to see the change: their kubelets look every minute",
                waiting.len()
            ));
            thread::sleep(LOOK);
        }
    }
}

/// Whether the file of an agent is as it should be. One that cannot be read yet is not.
fn has_seen(cluster: &Cluster, agent: &MeshPod, file: &str, seen: Seen<'_>) -> bool {
    let command = ["clustermesh", "certs", "show", file, "--output", "json"];
    let Ok(output) = cluster.exec(agent, &command, &[], LIMIT) else { return false };
    let Ok(Shown { certificates }) = serde_json::from_slice(&output) else { return false };
    match seen {
        Seen::Trusts(subject) => certificates.iter().any(|found| found.subject == subject),
        Seen::IsOf(subject) => certificates.first().is_some_and(|found| found.issuer == subject),
    }
}
