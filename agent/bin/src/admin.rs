//! The admin API of the agent.

use std::{
    collections::HashMap,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use mesh_admin::{
    v1::{
        self, DrainRequest, DrainResponse, ExplainRequest, ExplainResponse, LiftOutcome,
        LiftQuarantineRequest, LiftQuarantineResponse, ListIdentitiesRequest,
        ListIdentitiesResponse, ListNodesRequest, ListNodesResponse, ListPeersRequest,
        ListPeersResponse, ListServicesRequest, ListServicesResponse, Peer, StatusRequest,
        StatusResponse, Step, StepState, Table, UndrainRequest, UndrainResponse,
        admin_server::Admin,
    },
    version::version,
};
use mesh_balance::ClusterHealth;
use mesh_dataplane::Level;
use mesh_follow::{ConnectionPhase, Status as FollowStatus};
use mesh_model::{ClusterId, ClusterName, lb::Frontend};
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};

use crate::{
    args::Args,
    mesh::{Input, Lifted, Mesh, ProgramUpgrade, Query, flag_of},
};

mod explain;
mod known;
mod services;

use self::{
    explain::{Wanted, explain},
    known::{identities, nodes},
    services::services,
};

/// Answers for the agent.
pub(crate) struct AgentAdmin {
    pub(crate) args: Args,
    pub(crate) mesh: mpsc::Sender<Input>,
    pub(crate) started: SystemTime,
}

impl AgentAdmin {
    /// Asks the mesh's task.
    async fn ask<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Mesh) -> T + Send + 'static,
    ) -> Result<T, Status> {
        ask(&self.mesh, look).await.ok_or_else(|| Status::unavailable("the agent is stopping"))
    }
}

/// Asks the mesh's task; `None` when it is gone.
pub(crate) async fn ask<T: Send + 'static>(
    mesh: &mpsc::Sender<Input>,
    look: impl FnOnce(&Mesh) -> T + Send + 'static,
) -> Option<T> {
    let (query, answer) = Query::new(look);
    mesh.send(Input::Query(query)).await.ok()?;
    answer.await.ok()
}

/// What keeps the agent from being ready: its own cluster's etcd, and tables that are not in use yet. A peer never does.
pub(crate) fn unready(mesh: &Mesh) -> Vec<String> {
    let own = mesh.status(&mesh.own);
    let own = match (&own.failure, own.is_complete()) {
        (_, true) => None,
        (Some(failure), false) => Some(format!("the own cluster's etcd: {failure}")),
        (None, false) => Some("the own cluster's etcd has not told everything yet".into()),
    };
    own.into_iter().chain(mesh.program_upgrade.iter().map(ProgramUpgrade::problem)).collect()
}

/// What an operator should look at.
fn problems(mesh: &Mesh) -> Vec<String> {
    let routes = mesh.routes.routes();
    let routes = routes.filter_map(|(route, failure)| {
        Some(format!(
            "route to {} ({} of cluster {}): {}",
            route.range, route.node, route.cluster, failure?
        ))
    });
    let contested =
        mesh.routes.contested().map(|range| format!("several nodes claim the pod range {range}"));
    let audit = (mesh.audit.repairs > 0).then(|| {
        let last = mesh.audit.last.as_deref().unwrap_or_default();
        format!("the audit repaired {} entries of the tables, last {last}", mesh.audit.repairs)
    });
    let tables = mesh.levels().into_iter().filter(Level::is_high);
    let tables = tables.map(|level| format!("{level} ({})", flag_of(level.map)));
    let no_room = match mesh.failed.len() {
        0 => Vec::new(),
        _ => mesh.failed.problems(&names(mesh)),
    };
    let refused = mesh.refused.iter().filter(|(_, (count, _))| *count > 0);
    let refused = refused
        .map(|(peer, (count, last))| format!("{peer}: {count} records refused, last {last}"));
    unready(mesh)
        .into_iter()
        .chain(mesh.peer_problems.iter().cloned())
        .chain(mesh.masquerade_problem.iter().cloned())
        .chain(mesh.bypass.problem.iter().cloned())
        .chain(mesh.restored.problems())
        .chain(mesh.staleness.problems(Instant::now()))
        .chain(mesh.local_readiness.problem(Instant::now()))
        .chain(mesh.pods.problems())
        .chain(mesh.sockets.problem())
        .chain(routes)
        .chain(contested)
        .chain(audit)
        .chain(tables)
        .chain(no_room)
        .chain(refused)
        .collect()
}

/// Which service each frontend is of.
fn names(mesh: &Mesh) -> HashMap<Frontend, String> {
    let services = mesh.merge.services();
    let names = services.flat_map(|(service, _, frontends)| {
        let name = format!("{}/{}", service.namespace, service.name);
        frontends.map(move |(frontend, _)| (frontend, name.clone()))
    });
    names.collect()
}

#[tonic::async_trait]
impl Admin for AgentAdmin {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let (args, started) = (self.args.clone(), self.started);
        let status = move |mesh: &Mesh| {
            let counters = mesh.programs.counters().unwrap_or_default();
            let names = ["translated", "retried", "scanned", "took_cut", "no_backend"];
            let ended = mesh.sockets.counts();
            let ended = [
                ("udp_sockets_ended", ended.removed.udp + ended.unreachable.udp),
                ("tcp_sockets_ended", ended.removed.tcp + ended.unreachable.tcp),
            ];
            let table = |level: Level| Table {
                name: level.map.into(),
                used: level.used,
                size: level.size,
                full_in_seconds: level.full_in.map(|full_in| full_in.as_secs()),
                growth_per_hour: level.growth_per_hour,
                flag: flag_of(level.map).into(),
            };
            StatusResponse {
                component: "agent".into(),
                version: Some(version()),
                cluster: mesh.own.to_string(),
                cluster_id: args.cluster_id,
                node: mesh.node.clone(),
                started_unix_seconds: started
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| since.as_secs()),
                ready: unready(mesh).is_empty(),
                problems: problems(mesh),
                configuration: HashMap::from([("effective".into(), format!("{args:?}"))]),
                tables: mesh.levels().map(table).into(),
                counters: names
                    .into_iter()
                    .zip(counters)
                    .chain(ended)
                    .map(|(name, count)| (name.to_owned(), count))
                    .collect(),
                store: None,
                drained: None,
                audit: Some(v1::Audit {
                    passes: mesh.audit.passes,
                    repairs: mesh.audit.repairs,
                    last: mesh.audit.last.clone().unwrap_or_default(),
                }),
            }
        };
        Ok(Response::new(self.ask(status).await?))
    }

    async fn list_peers(
        &self,
        _: Request<ListPeersRequest>,
    ) -> Result<Response<ListPeersResponse>, Status> {
        let peers = |mesh: &Mesh| {
            let mut names: Vec<&ClusterName> = mesh.peers.keys().collect();
            names.sort_by_key(|name| (**name != mesh.own, (*name).clone()));
            names.into_iter().map(|name| peer(mesh, name)).collect()
        };
        Ok(Response::new(ListPeersResponse { peers: self.ask(peers).await? }))
    }

    async fn list_services(
        &self,
        request: Request<ListServicesRequest>,
    ) -> Result<Response<ListServicesResponse>, Status> {
        let ListServicesRequest { namespace, name } = request.into_inner();
        let wanted = Wanted { namespace, name };
        let services = move |mesh: &Mesh| services(mesh, &wanted);
        Ok(Response::new(ListServicesResponse { services: self.ask(services).await? }))
    }

    async fn explain(
        &self,
        request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, Status> {
        let ExplainRequest { namespace, name } = request.into_inner();
        let wanted = Wanted { namespace, name };
        Ok(Response::new(self.ask(move |mesh: &Mesh| explain(mesh, &wanted)).await?))
    }

    async fn list_nodes(
        &self,
        request: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        let ListNodesRequest { cluster } = request.into_inner();
        let nodes = self.ask(move |mesh: &Mesh| nodes(mesh, &cluster)).await?;
        Ok(Response::new(ListNodesResponse { nodes }))
    }

    async fn list_identities(
        &self,
        request: Request<ListIdentitiesRequest>,
    ) -> Result<Response<ListIdentitiesResponse>, Status> {
        let ListIdentitiesRequest { cluster, number } = request.into_inner();
        let identities = self.ask(move |mesh: &Mesh| identities(mesh, &cluster, number)).await?;
        Ok(Response::new(ListIdentitiesResponse { identities }))
    }

    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        Err(Status::unimplemented("an agent exports nothing: ask the apiserver"))
    }

    async fn undrain(
        &self,
        _: Request<UndrainRequest>,
    ) -> Result<Response<UndrainResponse>, Status> {
        Err(Status::unimplemented("an agent exports nothing: ask the apiserver"))
    }

    async fn lift_quarantine(
        &self,
        request: Request<LiftQuarantineRequest>,
    ) -> Result<Response<LiftQuarantineResponse>, Status> {
        let stopping = || Status::unavailable("the agent is stopping");
        let (sender, answer) = oneshot::channel();
        let outcome = match ClusterName::new(&request.into_inner().peer) {
            Ok(name) => {
                let lift = Input::LiftQuarantine(name, sender);
                self.mesh.send(lift).await.map_err(|_| stopping())?;
                match answer.await.map_err(|_| stopping())? {
                    Lifted::HeardAgain => LiftOutcome::Lifted,
                    Lifted::NotQuarantined => LiftOutcome::NotQuarantined,
                    Lifted::Unknown => LiftOutcome::UnknownPeer,
                    Lifted::Busy => {
                        return Err(Status::resource_exhausted("its follower is busy: try again"));
                    }
                }
            }
            Err(_) => LiftOutcome::UnknownPeer,
        };
        Ok(Response::new(LiftQuarantineResponse { outcome: outcome.into() }))
    }
}

fn peer(mesh: &Mesh, name: &ClusterName) -> Peer {
    let status = mesh.status(name);
    let counts = mesh.merge.counts(name);
    let count = |n: usize| n.try_into().unwrap_or(u64::MAX);
    let ladder = ladder(mesh, name, &status);
    let stands = |step: &Step| matches!(step.state(), StepState::Ok | StepState::Unknown);
    let refused = mesh.refused.get(name).map(|(_, last)| last.clone());
    Peer {
        name: name.to_string(),
        own: *name == mesh.own,
        cluster_id: status.cluster_id().map_or(0, |id| id.get().into()),
        ready: ladder.iter().all(stands) && !mesh.quarantined.contains_key(name),
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
        rejected: status.rejected + mesh.refused_count(name),
        held: status.held.try_into().unwrap_or(u64::MAX),
        last_rejected: refused.or(status.last_rejected).unwrap_or_default(),
        remembered: mesh.restored.believes(name),
        quarantined: mesh.quarantined.get(name).cloned().unwrap_or_default(),
    }
}

/// Every step from the name to the data path, the first broken one with its reason.
fn ladder(mesh: &Mesh, name: &ClusterName, status: &FollowStatus) -> Vec<Step> {
    let reached = status.reached();
    let step = |phase: ConnectionPhase| {
        let (state, detail) = match &status.failure {
            Some(failure) if failure.phase == phase => (StepState::Failed, failure.reason.clone()),
            _ if Some(phase) <= reached => (StepState::Ok, detail(mesh, name, status, phase)),
            _ => (StepState::Pending, String::new()),
        };
        Step { name: phase.as_str().into(), state: state.into(), detail }
    };
    let mut steps: Vec<Step> = ConnectionPhase::ALL
        .into_iter()
        .filter(|phase| *phase != ConnectionPhase::DataPath)
        .map(step)
        .collect();
    steps.push(data_path(mesh, name, reached));
    steps
}

fn detail(
    mesh: &Mesh,
    name: &ClusterName,
    status: &FollowStatus,
    phase: ConnectionPhase,
) -> String {
    match (phase, &status.config) {
        (ConnectionPhase::Config, Some(config)) => format!("id {}", config.id),
        (ConnectionPhase::Synced, _) => {
            let counts = mesh.merge.counts(name);
            let told = format!(
                "{} nodes, {} identities, {} addresses, {} services",
                counts.nodes, counts.identities, counts.addresses, counts.services
            );
            match *name == mesh.own {
                true => format!("{told}, {} pods here", counts.pods),
                false => told,
            }
        }
        _ => String::new(),
    }
}

fn data_path(mesh: &Mesh, name: &ClusterName, reached: Option<ConnectionPhase>) -> Step {
    let mut routes = mesh.routes.routes();
    let broken = routes.find(|(route, failure)| route.cluster == *name && failure.is_some());
    let report = mesh.health.prober.report();
    let health = report.clusters.get(name).cloned().unwrap_or_default();
    let all = health.all();
    // This node is one of its own cluster's.
    let others = mesh.merge.counts(name).nodes > usize::from(*name == mesh.own);
    let unprobed = all == 0 && others;
    let (state, detail) = if mesh.health.is_cut(name) {
        let reason = "cut: neither a node nor the etcd answers, and its pods are used only where there are no others";
        (StepState::Failed, reason.into())
    } else if unprobed || (all == 0 && reached < Some(ConnectionPhase::Synced)) {
        (StepState::Pending, String::new())
    } else if let Some((route, Some(failure))) = broken {
        (StepState::Failed, format!("route to {}: {failure}", route.range))
    } else if !health.dead.is_empty() || health.silent > 0 {
        (StepState::Failed, silent(&health, report.alone))
    } else if health.answering > 0 {
        let noticed = report.detection.as_secs_f64();
        let mut detail = format!(
            "{} of {all} probed nodes answer, a dead one is noticed within {noticed:.1} s",
            health.answering
        );
        if health.without_agent > 0 {
            let noticed = report.detection_without_agent.as_secs_f64();
            let without = health.without_agent;
            detail += &format!("; {without} of these without an agent, within {noticed:.1} s");
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
    Step { name: ConnectionPhase::DataPath.as_str().into(), state: state.into(), detail }
}

/// Who does not answer, and what that means.
fn silent(health: &ClusterHealth, alone: bool) -> String {
    let silent = health.dead.len() + health.silent;
    let mut detail = format!("{silent} of {} probed nodes no longer answer", health.all());
    if alone {
        detail += "; nor does anybody else: it may be this node that is cut off, and nobody is taken for dead";
    }
    if !health.dead.is_empty() {
        // All of them would be too many for a line.
        let names: Vec<&str> = health.dead.iter().take(5).map(AsRef::as_ref).collect();
        let more = if health.dead.len() > names.len() { ", …" } else { "" };
        detail += &format!("; dead: {}{more}", names.join(", "));
    }
    if health.damped > 0 {
        detail += &format!("; {} of these come and go, and must be heard longer", health.damped);
    }
    detail
}

/// A cluster's name, or what stands for it.
fn cluster_name(mesh: &Mesh, id: ClusterId) -> String {
    let mut clusters = mesh.merge.clusters();
    let found = clusters.find(|(_, known)| *known == id);
    found.map_or_else(|| format!("id {id}"), |(name, _)| name.to_string())
}
