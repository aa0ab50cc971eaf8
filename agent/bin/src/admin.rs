//! The admin API of the agent.

use std::{
    collections::HashMap,
    time::{SystemTime, UNIX_EPOCH},
};

use mesh_admin::{
    v1::{
        self, DrainRequest, DrainResponse, ExplainRequest, ExplainResponse, LiftOutcome,
        LiftQuarantineRequest, LiftQuarantineResponse, ListIdentitiesRequest,
        ListIdentitiesResponse, ListNodesRequest, ListNodesResponse, ListPeersRequest,
        ListPeersResponse, ListServicesRequest, ListServicesResponse, PreviewDrainRequest, Problem,
        State, StatusRequest, StatusResponse, Table, UndrainRequest, UndrainResponse,
        admin_server::Admin,
    },
    version::version,
};
use mesh_agent_admin::{
    Wanted, WantedIdentities, all_peers, all_problems, certificates, explain, identities, nodes,
    refused, service,
};
use mesh_core::Lifted;
use mesh_dataplane::{Level, flag_of};
use mesh_hooks::ProgramsHandle;
use mesh_model::{ClusterName, ServiceName};
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};

use crate::{
    args::Args,
    message::{Message, ask},
};
use mesh_node::{Node, unready};

/// Answers for the agent.
pub(crate) struct AgentAdmin {
    pub(crate) args: Args,
    pub(crate) driver: mpsc::Sender<Message>,
    pub(crate) started: SystemTime,
    pub(crate) programs: ProgramsHandle,
}

/// How many services are read between two changes.
const PAGE: usize = 64;

impl AgentAdmin {
    /// The certificates that end soon.
    fn certificates(&self) -> Vec<Problem> {
        let peers = self.args.config_dir.join("peers");
        certificates(&peers, &self.args.cluster_name, SystemTime::now())
    }

    /// Asks the driver.
    async fn ask<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Node) -> T + Send + 'static,
    ) -> Result<T, Status> {
        ask(&self.driver, look).await.ok_or_else(|| Status::unavailable("the agent is stopping"))
    }

    /// Reads each of some services, a few at a time: each read keeps the core from everything else.
    async fn each_service<T: Send + 'static>(
        &self,
        wanted: Wanted,
        look: fn(&Node, &ServiceName) -> T,
    ) -> Result<Vec<T>, Status> {
        let names = move |node: &Node| {
            let services = node.core.balancer().services().into_iter();
            services.filter(|service| wanted.is(service)).collect::<Vec<_>>()
        };
        let names = self.ask(names).await?;
        let mut all = Vec::with_capacity(names.len());
        for page in names.chunks(PAGE) {
            let page = page.to_vec();
            let looks =
                move |node: &Node| page.iter().map(|name| look(node, name)).collect::<Vec<T>>();
            all.extend(self.ask(looks).await?);
        }
        Ok(all)
    }
}

#[tonic::async_trait]
impl Admin for AgentAdmin {
    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let StatusRequest { peers: with_peers } = request.into_inner();
        let (args, started) = (self.args.clone(), self.started);
        let counters = self.programs.counters().await;
        let certificates = self.certificates();
        let status = move |node: &Node| {
            let (audit, problems) = (node.audit(), all_problems(node, certificates));
            let ready = unready(node).is_empty();
            let peers = if with_peers { all_peers(node, &problems) } else { Vec::new() };
            let names = ["translated", "retried", "scanned", "took_cut", "no_backend"];
            let ended = node.writers.sockets.counts();
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
                cluster: node.core.local().to_string(),
                cluster_id: args.cluster_id,
                node: node.core.node().to_owned(),
                started_unix_seconds: started
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| since.as_secs()),
                ready,
                state: State::of(ready, !problems.is_empty()).into(),
                problems: problems.iter().map(|problem| problem.message.clone()).collect(),
                problem_details: problems,
                configuration: HashMap::from([("effective".into(), args.in_force.clone())]),
                tables: node.levels().map(table).collect(),
                counters: names
                    .into_iter()
                    .zip(counters)
                    .chain(ended)
                    .map(|(name, count)| (name.to_owned(), count))
                    .collect(),
                store: None,
                drained: None,
                policies: None,
                peers,
                audit: Some(v1::Audit {
                    passes: audit.passes,
                    repairs: audit.repairs,
                    last: audit.last.unwrap_or_default(),
                }),
            }
        };
        Ok(Response::new(self.ask(status).await?))
    }

    async fn list_peers(
        &self,
        _: Request<ListPeersRequest>,
    ) -> Result<Response<ListPeersResponse>, Status> {
        let certificates = self.certificates();
        let peers = |node: &Node| all_peers(node, &all_problems(node, certificates));
        Ok(Response::new(ListPeersResponse { peers: self.ask(peers).await? }))
    }

    async fn list_services(
        &self,
        request: Request<ListServicesRequest>,
    ) -> Result<Response<ListServicesResponse>, Status> {
        let ListServicesRequest { namespace, name } = request.into_inner();
        let services = self.each_service(Wanted { namespace, name }, service).await?;
        let services = services.into_iter().flatten().collect();
        Ok(Response::new(ListServicesResponse { services }))
    }

    async fn explain(
        &self,
        request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, Status> {
        let ExplainRequest { namespace, name } = request.into_inner();
        let wanted = Wanted { namespace, name };
        let explained = self.each_service(wanted.clone(), explain).await?;
        let mut all = ExplainResponse::default();
        for one in explained {
            all.frontends.extend(one.frontends);
            all.without_frontend.extend(one.without_frontend);
            all.absences.extend(one.absences);
        }
        let refused = self.ask(move |node: &Node| refused(node, &wanted)).await?;
        all.absences.extend(refused);
        Ok(Response::new(all))
    }

    async fn list_nodes(
        &self,
        request: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        let ListNodesRequest { cluster } = request.into_inner();
        let nodes = self.ask(move |node: &Node| nodes(node, &cluster)).await?;
        Ok(Response::new(ListNodesResponse { nodes }))
    }

    async fn list_identities(
        &self,
        request: Request<ListIdentitiesRequest>,
    ) -> Result<Response<ListIdentitiesResponse>, Status> {
        let ListIdentitiesRequest { cluster, number, address } = request.into_inner();
        let address = match address.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| Status::invalid_argument("not an IP address"))?),
        };
        let wanted = WantedIdentities { cluster, number, address };
        let (identities, addresses) =
            self.ask(move |node: &Node| identities(node, &wanted)).await?;
        Ok(Response::new(ListIdentitiesResponse { identities, addresses }))
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

    async fn preview_drain(
        &self,
        _: Request<PreviewDrainRequest>,
    ) -> Result<Response<DrainResponse>, Status> {
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
                let lift = Message::LiftQuarantine(name, sender);
                self.driver.send(lift).await.map_err(|_| stopping())?;
                match answer.await.map_err(|_| stopping())? {
                    Lifted::Relisted => LiftOutcome::Lifted,
                    Lifted::NotQuarantined => LiftOutcome::NotQuarantined,
                    Lifted::UnknownPeer => LiftOutcome::UnknownPeer,
                }
            }
            Err(_) => LiftOutcome::UnknownPeer,
        };
        Ok(Response::new(LiftQuarantineResponse { outcome: outcome.into() }))
    }
}
