//! How the clusters and their connections are.

use std::{
    fs,
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use mesh_admin::v1::{ListPeersRequest, Peer, StatusRequest, StatusResponse, StepState};
use mesh_lab::contexts::Context;
use mesh_wire::peer_file::PeerFile;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    args::StatusArgs,
    contexts, drain,
    outcome::Outcome,
    output::{self, Output},
};

/// How often it is looked at while waiting.
const LOOK: Duration = Duration::from_millis(100);

/// A cluster, as its daemons report it.
struct ClusterStatus {
    name: String,
    /// One a replica.
    apiservers: Vec<ApiserverStatus>,
    agents: Vec<AgentStatus>,
    /// The peers that its directory has a file for.
    configured: Vec<String>,
}

struct ApiserverStatus {
    /// `apiserver`, and `apiserver2` for a second replica.
    name: String,
    reported: Result<StatusResponse, String>,
}

struct AgentStatus {
    node: String,
    reported: Result<(StatusResponse, Vec<Peer>), String>,
}

pub(crate) fn run(args: &StatusArgs, output: Output) -> anyhow::Result<Outcome> {
    let contexts = contexts::find_or_all(args.context.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (clusters, in_time) = runtime.block_on(look(&contexts, args));
    match output {
        Output::Text => print(&clusters)?,
        Output::Json => {
            let ready = clusters.iter().all(ClusterStatus::is_ready);
            let clusters: Vec<Value> = clusters.iter().map(ClusterStatus::json).collect();
            output::json("Status", json!({ "ready": ready, "clusters": clusters }))?;
        }
    }
    Ok(match (clusters.iter().all(ClusterStatus::is_ready), in_time) {
        (true, _) => Outcome::Done,
        (false, true) => Outcome::NotReady,
        (false, false) => Outcome::Timeout,
    })
}

/// Looks once, or until all is ready or the time is over.
async fn look(contexts: &[Context], args: &StatusArgs) -> (Vec<ClusterStatus>, bool) {
    let deadline = Instant::now() + Duration::from_secs(args.wait_duration);
    let progress = if args.wait { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    loop {
        let mut clusters = Vec::new();
        for context in contexts {
            clusters.push(ClusterStatus::ask(context).await);
        }
        let broken = clusters.iter().flat_map(ClusterStatus::broken).next();
        let Some(broken) = broken.filter(|_| args.wait) else { return (clusters, true) };
        if Instant::now() >= deadline {
            return (clusters, false);
        }
        progress.set_message(broken);
        progress.tick();
        sleep(LOOK).await;
    }
}

impl ClusterStatus {
    async fn ask(context: &Context) -> Self {
        let mut apiservers = Vec::new();
        for (number, socket) in (1..).zip([&context.apiserver].into_iter().chain(&context.replicas))
        {
            let reported = async {
                let mut client = mesh_admin::connect(socket).await.map_err(|e| e.to_string())?;
                let status =
                    client.status(StatusRequest {}).await.map_err(|e| e.message().to_owned())?;
                Ok(status.into_inner())
            };
            let name = match number {
                1 => "apiserver".to_owned(),
                number => format!("apiserver{number}"),
            };
            apiservers.push(ApiserverStatus { name, reported: reported.await });
        }
        let mut agents = Vec::new();
        for agent in &context.agents {
            let reported = async {
                let mut client =
                    mesh_admin::connect(&agent.socket).await.map_err(|e| e.to_string())?;
                let status =
                    client.status(StatusRequest {}).await.map_err(|e| e.message().to_owned())?;
                let peers = client
                    .list_peers(ListPeersRequest {})
                    .await
                    .map_err(|e| e.message().to_owned())?;
                Ok((status.into_inner(), peers.into_inner().peers))
            };
            agents.push(AgentStatus { node: agent.node.clone(), reported: reported.await });
        }
        let files = fs::read_dir(context.directory.join("peers")).into_iter().flatten().flatten();
        let is_peer = |path: &std::path::Path| {
            fs::read_to_string(path).is_ok_and(|text| PeerFile::is_one(&text))
        };
        let files = files.filter(|entry| is_peer(&entry.path()));
        let mut configured: Vec<String> =
            files.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        configured.retain(|name| *name != context.name && !name.starts_with('.'));
        configured.sort();
        Self { name: context.name.clone(), apiservers, agents, configured }
    }

    /// What keeps the cluster from being ready, in words.
    fn broken(&self) -> Vec<String> {
        let name = &self.name;
        let mut broken = Vec::new();
        for ApiserverStatus { name: who, reported } in &self.apiservers {
            match reported {
                Err(error) => broken.push(format!("{name}: {who}: {error}")),
                Ok(status) if !status.ready => {
                    broken.push(format!("{name}: {who}: {}", status.problems.join("; ")));
                }
                Ok(_) => {}
            }
        }
        for AgentStatus { node, reported } in &self.agents {
            match reported {
                Err(error) => broken.push(format!("{name}/{node}: {error}")),
                Ok((_, peers)) => {
                    let missing = self
                        .configured
                        .iter()
                        .filter(|name| !peers.iter().any(|p| p.name == **name));
                    broken.extend(missing.map(|peer| {
                        format!("{name}/{node}: {peer}: the agent has not taken its peer file yet")
                    }));
                    let failed = peers.iter().filter(|peer| !peer.ready);
                    broken
                        .extend(failed.map(|peer| {
                            format!("{name}/{node}: {}: {}", peer.name, summary(peer))
                        }));
                }
            }
        }
        broken
    }

    fn is_ready(&self) -> bool {
        self.broken().is_empty()
    }

    fn json(&self) -> Value {
        let daemon = |status: &StatusResponse| {
            json!({
                "ready": status.ready, "problems": status.problems,
                "version": status.version.as_ref().map(|v| v.version.clone()),
                "tables": status.tables.iter().map(|t| json!({
                    "name": t.name, "used": t.used, "size": t.size, "growthPerHour": t.growth_per_hour,
                    "fullInSeconds": t.full_in_seconds, "flag": t.flag,
                })).collect::<Vec<_>>(),
                "counters": status.counters,
                "audit": status.audit.as_ref().map(|a| json!({
                    "passes": a.passes, "repairs": a.repairs, "last": a.last,
                })),
                "drained": status.drained.as_ref().map(drain::state_json),
                "store": status.store.as_ref().map(|s| json!({
                    "connected": s.connected, "endpoint": s.endpoint, "failure": s.failure,
                    "desiredKeys": s.desired_keys, "writtenKeys": s.written_keys,
                    "objects": s.objects, "identities": s.identities,
                })),
            })
        };
        let mut apiservers = self.apiservers.iter().map(|ApiserverStatus { name, reported }| {
            let mut value = match reported {
                Ok(status) => daemon(status),
                Err(error) => json!({ "ready": false, "error": error }),
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
                Err(error) => json!({ "node": agent.node, "ready": false, "error": error }),
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
        json!({
            "name": self.name, "ready": self.is_ready(), "problems": self.broken(),
            "configuredPeers": self.configured, "apiserver": apiserver, "replicas": replicas, "agents": agents,
        })
    }
}

/// How a peer is, and whether what is known of it is old.
fn summary(peer: &Peer) -> String {
    match peer.remembered {
        true => format!("{}; using what it reported before the agent started", reached(peer)),
        false => reached(peer),
    }
}

/// The first broken step with its reason, or what was reached.
fn reached(peer: &Peer) -> String {
    let step = |state: StepState| peer.ladder.iter().find(|step| step.state() == state);
    if let Some(failed) = step(StepState::Failed) {
        return format!("{}: {}", failed.name, failed.detail);
    }
    if peer.held > 0 {
        return format!(
            "{} keys of a lease that ran out stay until their writer is back",
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
        "name": peer.name, "own": peer.own, "clusterId": peer.cluster_id, "ready": peer.ready, "ladder": ladder,
        "etcdClusterId": peer.etcd_cluster_id, "revision": peer.revision, "reconnects": peer.reconnects,
        "heartbeats": peer.heartbeats, "nodes": peer.nodes, "identities": peer.identities,
        "addresses": peer.addresses, "services": peer.services,
        "namespaces": peer.own.then_some(peer.namespaces), "pods": peer.own.then_some(peer.pods), "rejected": peer.rejected,
        "lastRejected": peer.last_rejected, "held": peer.held, "remembered": peer.remembered,
        "quarantined": (!peer.quarantined.is_empty()).then_some(&peer.quarantined),
    })
}

fn print(clusters: &[ClusterStatus]) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for cluster in clusters {
        let row = |who: &str, of: &str, state: &str, detail: String| {
            vec![cluster.name.clone(), who.to_owned(), of.to_owned(), state.to_owned(), detail]
        };
        rows.extend(cluster.apiservers.iter().map(|ApiserverStatus { name, reported }| {
            match reported {
                Ok(status) => {
                    let exported =
                        status.store.as_ref().map(|s| format!("exports {} keys", s.desired_keys));
                    let problems = status.problems.join("; ");
                    let detail =
                        if problems.is_empty() { exported.unwrap_or_default() } else { problems };
                    row(name, "", if status.ready { "ready" } else { "NOT READY" }, detail)
                }
                Err(error) => row(name, "", "NO ANSWER", error.clone()),
            }
        }));
        // All replicas say the same.
        let mut reported =
            cluster.apiservers.iter().filter_map(|apiserver| apiserver.reported.as_ref().ok());
        let drained = reported.next().and_then(|status| status.drained.as_ref());
        rows.extend(drained.and_then(drain::state_text).map(|what| row("", "", "DRAINED", what)));
        for AgentStatus { node, reported } in &cluster.agents {
            match reported {
                Err(error) => rows.push(row(node, "", "NO ANSWER", error.clone())),
                Ok((status, peers)) => {
                    for peer in peers {
                        let name = if peer.own {
                            format!("{} (local)", peer.name)
                        } else {
                            peer.name.clone()
                        };
                        let state = match peer.ready {
                            _ if !peer.quarantined.is_empty() => "QUARANTINED",
                            true => "ready",
                            false => "NOT READY",
                        };
                        rows.push(row(node, &name, state, summary(peer)));
                    }
                    let known = |name: &String| peers.iter().any(|peer| peer.name == *name);
                    for name in cluster.configured.iter().filter(|name| !known(name)) {
                        rows.push(row(
                            node,
                            name,
                            "NOT READY",
                            "its peer file is not taken yet".into(),
                        ));
                    }
                    rows.extend(
                        status
                            .problems
                            .iter()
                            .map(|problem| row(node, "", "PROBLEM", problem.clone())),
                    );
                }
            }
        }
    }
    output::table(&["CLUSTER", "NODE", "FOLLOWS", "STATE", "DETAIL"], rows)?;
    Ok(())
}
