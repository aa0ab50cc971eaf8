//! `clustermesh status`: the state of the clusters and their connections (`docs/status.md`).

pub(crate) mod json;
mod policies;
mod text;
mod wide;

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use mesh_admin::{
    Daemon,
    v1::{ListPeersRequest, Peer, State, StatusRequest, StatusResponse, admin_client::AdminClient},
};
use mesh_lab::{
    LabState, Liveness, PodState, ProcessState,
    contexts::{AgentSocket, Context},
};
use mesh_wire::peer_file::PeerFile;
use serde_json::{Value, json};

use crate::{
    args::StatusArgs,
    ask, contexts, kube_context,
    outcome::Outcome,
    output::{self, Output},
    wait,
};
pub(crate) use text::summary;

/// A cluster, as its daemons report it.
struct ClusterStatus {
    name: String,
    /// One for each replica.
    apiservers: Vec<ApiserverStatus>,
    agents: Vec<AgentStatus>,
    /// The peers that its directory has a file for; in Kubernetes those that an agent follows.
    configured: Vec<String>,
    /// Of a lab's pods, those whose process ended by itself.
    died: Vec<DiedPod>,
}

struct DiedPod {
    node: String,
    /// `NAMESPACE/NAME`.
    name: String,
    process: ProcessState,
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
    // Found anew for each look: pods come and go.
    let find = || contexts::find_or_all(args.context.as_deref());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut clusters = Vec::new();
    let waited = match args.wait_duration.limit(args.wait) {
        None => {
            clusters = runtime.block_on(look(&find()?))?;
            Outcome::NotReady
        }
        Some(limit) => wait::until(limit, || {
            clusters = runtime.block_on(look(&find()?))?;
            let waits = clusters.iter().find(|cluster| !is_done(cluster.state(), args));
            Ok(waits.map(ClusterStatus::first_problem))
        })?,
    };
    let state = clusters.iter().map(ClusterStatus::state).max().unwrap_or(State::Ready);
    match output {
        Output::Text => text::print(&clusters, args.verbose)?,
        Output::Json => {
            let ready = clusters.iter().all(ClusterStatus::is_ready);
            let clusters: Vec<Value> = clusters.iter().map(ClusterStatus::json).collect();
            output::json(
                "Status",
                json!({ "ready": ready, "state": state.word(), "clusters": clusters, "items": clusters }),
            )?;
        }
    }
    Ok(if is_done(state, args) { Outcome::Done } else { waited })
}

/// Whether a state is the one that the user waits for, or accepts.
fn is_done(state: State, args: &StatusArgs) -> bool {
    state == State::Ready || (state == State::Degraded && args.allow_degraded)
}

async fn look(contexts: &[Context]) -> anyhow::Result<Vec<ClusterStatus>> {
    let lab = contexts::lab_state();
    let mut clusters = Vec::new();
    for context in contexts {
        clusters.push(ClusterStatus::ask(context, lab.as_ref()).await?);
    }
    Ok(clusters)
}

impl ClusterStatus {
    async fn ask(context: &Context, lab: Option<&LabState>) -> anyhow::Result<Self> {
        let sockets = [&context.apiserver].into_iter().chain(&context.replicas);
        let apiserver = async |(number, socket): (u32, &PathBuf)| {
            let reported = match open(socket).await? {
                Ok(mut client) => status(&mut client).await,
                Err(error) => Err(error),
            };
            let name = match number {
                1 => "apiserver".to_owned(),
                number => format!("apiserver{number}"),
            };
            anyhow::Ok(ApiserverStatus { name, reported })
        };
        let agent = async |agent: &AgentSocket| {
            let reported = match open(&agent.socket).await? {
                Ok(client) => status_and_peers(client).await,
                Err(error) => Err(error),
            };
            anyhow::Ok(AgentStatus { node: agent.node.clone(), reported })
        };
        // Side by side: those of a dead node take their limit of time once.
        let (apiservers, agents) = tokio::join!(
            ask::all((1..).zip(sockets).collect(), apiserver),
            ask::all(context.agents.iter().collect(), agent),
        );
        let apiservers = apiservers.into_iter().collect::<anyhow::Result<_>>()?;
        let agents = agents.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let texts = mesh_files::texts(&context.directory.join("peers")).unwrap_or_default();
        let is_peer = |(name, text): (String, io::Result<String>)| {
            let is_one = text.is_ok_and(|text| PeerFile::is_one(&text));
            (is_one && name != context.name).then_some(name)
        };
        // A cluster in Kubernetes has its peer files in a Secret, which only its agents read.
        let configured = match kube_context::name_of(context) {
            Some(_) => followed(&agents),
            None => texts.into_iter().filter_map(is_peer).collect(),
        };
        let pods = lab.and_then(|lab| Some(&lab.cluster(&context.name).ok()?.pods));
        let died = pods.into_iter().flatten().filter_map(DiedPod::of).collect();
        Ok(Self { name: context.name.clone(), apiservers, agents, configured, died })
    }

    /// Why the cluster is not ready, in words.
    fn broken(&self) -> Vec<String> {
        self.broken_where(|peer| !peer.ready)
    }

    /// The same without peers that are drained for the cluster's clients.
    fn broken_unless_drained(&self) -> Vec<String> {
        self.broken_where(|peer| !peer.ready && !peer.drained_here)
    }

    fn broken_where(&self, is_broken: impl Fn(&Peer) -> bool) -> Vec<String> {
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
                        format!("{name}/{node}: {peer}: the agent has not read its peer file yet")
                    }));
                    let failed = peers.iter().filter(|peer| is_broken(peer));
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

    /// The worst state among its daemons and connections.
    fn state(&self) -> State {
        let apiservers = self.apiservers.iter().map(|a| a.reported.as_ref().map(state_of));
        let agents = self.agents.iter().map(|agent| {
            let reported = agent.reported.as_ref();
            reported.map(|(status, peers)| {
                peers.iter().map(peer_state).chain([state_of(status)]).max().unwrap_or_default()
            })
        });
        let worst = apiservers.chain(agents).map(|state| state.unwrap_or(State::NotReady)).max();
        match (self.broken().is_empty(), self.broken_unless_drained().is_empty()) {
            (true, _) => worst.unwrap_or(State::Ready),
            (false, true) => worst.unwrap_or(State::Ready).max(State::Degraded),
            (false, false) => State::NotReady,
        }
    }

    /// The first thing to wait for, in words.
    fn first_problem(&self) -> String {
        let apiservers = self.apiservers.iter().filter_map(|a| a.reported.as_ref().ok());
        let agents = self.agents.iter().filter_map(|agent| Some(&agent.reported.as_ref().ok()?.0));
        let problems = apiservers.chain(agents).flat_map(|status| &status.problems);
        let problems = problems.map(|problem| format!("{}: {problem}", self.name));
        self.broken().into_iter().chain(problems).next().unwrap_or_default()
    }
}

/// The other clusters that any agent follows.
fn followed(agents: &[AgentStatus]) -> Vec<String> {
    let answered = agents.iter().filter_map(|agent| agent.reported.as_ref().ok());
    let peers = answered.flat_map(|(_, peers)| peers).filter(|peer| !peer.own);
    let names: BTreeSet<&str> = peers.map(|peer| peer.name.as_str()).collect();
    names.into_iter().map(str::to_owned).collect()
}

impl DiedPod {
    fn of(pod: &PodState) -> Option<Self> {
        let process = pod.process.clone()?;
        let (node, name) = (pod.node.clone(), format!("{}/{}", pod.namespace, pod.name));
        (process.liveness() == Liveness::Died).then_some(Self { node, name, process })
    }
}

/// Connects to a daemon. That its socket is another user's is an error of the command and no state of the daemon.
async fn open(socket: &Path) -> anyhow::Result<Result<AdminClient<Daemon>, String>> {
    match mesh_admin::connect(socket).await {
        Err(error) if error.is_forbidden() => Err(error.into()),
        connected => Ok(connected.map_err(|error| error.to_string())),
    }
}

async fn status(client: &mut AdminClient<Daemon>) -> Result<StatusResponse, String> {
    let status = client.status(StatusRequest::default()).await;
    Ok(status.map_err(|status| status.message().to_owned())?.into_inner())
}

async fn status_and_peers(
    mut client: AdminClient<Daemon>,
) -> Result<(StatusResponse, Vec<Peer>), String> {
    let status = client.status(StatusRequest { peers: true }).await;
    let mut status = status.map_err(|status| status.message().to_owned())?.into_inner();
    let peers = std::mem::take(&mut status.peers);
    // Every agent follows its local cluster, so the list is empty only if its release does not send it with the status.
    if !peers.is_empty() {
        return Ok((status, peers));
    }
    let peers = client.list_peers(ListPeersRequest {}).await;
    Ok((status, peers.map_err(|status| status.message().to_owned())?.into_inner().peers))
}

/// The state of a daemon. Earlier releases do not report it; then it follows from the problems.
fn state_of(status: &StatusResponse) -> State {
    match status.state() {
        State::Unspecified => State::of(status.ready, !status.problems.is_empty()),
        state => state,
    }
}

/// The state of a peer, as an agent reports it.
fn peer_state(peer: &Peer) -> State {
    match peer.state() {
        State::Unspecified => State::of(peer.ready, false),
        state => state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_in_kubernetes_are_those_that_an_agent_follows() {
        let peer = |name: &str, own| Peer { name: name.into(), own, ..Peer::default() };
        let agent = |peers: Vec<Peer>| AgentStatus {
            node: "n".into(),
            reported: Ok((StatusResponse::default(), peers)),
        };
        let silent = AgentStatus { node: "n".into(), reported: Err("the pod is Pending".into()) };
        let all = [
            agent(vec![peer("a", true), peer("c", false)]),
            silent,
            agent(vec![peer("a", true), peer("b", false), peer("c", false)]),
        ];
        assert_eq!(followed(&all), ["b", "c"]);
    }
}
