//! `--replace-kube-proxy` where no kube-proxy is found on the node.
//!
//! An agent serves cluster IPs only. Alone, it would leave everything else to no program, and nothing would show that. So it
//! takes nothing before there is a kube-proxy, unless it is forced to. It waits instead of ending: when a node boots,
//! kube-proxy's pod may start after the agent's. Meanwhile it answers `status`, `/healthz` and `/readyz`, and does not touch the
//! kernel.
//!
//! Where an earlier agent left tables, programs may use them, and they would get old without an agent. There it does not
//! wait: the status names the services that no program serves.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail};
use mesh_admin::{
    ProblemCode,
    health::Health,
    v1::{
        DrainRequest, DrainResponse, ExplainRequest, ExplainResponse, LiftQuarantineRequest,
        LiftQuarantineResponse, ListIdentitiesRequest, ListIdentitiesResponse, ListNodesRequest,
        ListNodesResponse, ListPeersRequest, ListPeersResponse, ListServicesRequest,
        ListServicesResponse, PreviewDrainRequest, State, StatusRequest, StatusResponse,
        UndrainRequest, UndrainResponse, admin_server::Admin,
    },
    version::version,
};
use mesh_routes::has_kube_proxy;
use tokio::time::sleep;
use tonic::{Request, Response, Status};

use crate::args::{Args, KubeProxy, Replacement};

/// What no program serves on a node where agents serve cluster IPs and no kube-proxy runs.
const UNSERVED: &str = "node ports, external IPs and addresses of load balancers, SCTP, and packets to cluster IPs that no process of the node sends (virtual machines, sandboxes with a network stack of their own, ICMP)";
/// What lets the agent start.
const REMEDY: &str = "Start a kube-proxy; or say that there is one, which is not found where it uses iptables-legacy or has another name: --kube-proxy present; or leave these unserved: --replace-kube-proxy=force";
/// How often a kube-proxy is looked for: it costs a few requests to the kernel.
const EVERY: Duration = Duration::from_secs(1);

/// Whether the agent must find a kube-proxy before it starts. `has_tables`: an earlier agent left some.
///
/// # Errors
/// The flags say that there is none, and do not force the agent to start all the same.
pub(crate) fn must_wait(args: &Args, has_tables: bool) -> anyhow::Result<bool> {
    match (args.replace_kube_proxy, args.kube_proxy) {
        (Replacement::False | Replacement::Force, _) | (_, KubeProxy::Present) => Ok(false),
        (Replacement::True, KubeProxy::Absent) => bail!(
            "--replace-kube-proxy with --kube-proxy absent: no program would serve {UNSERVED}. {REMEDY}"
        ),
        (Replacement::True, KubeProxy::Auto) => Ok(!has_tables),
    }
}

/// Waits until a kube-proxy is found. May be cancelled.
///
/// # Errors
/// An address or the socket cannot be bound, so that the status could not say why the agent waits.
pub(crate) async fn wait(args: &Args, started: SystemTime, health: &Health) -> anyhow::Result<()> {
    if has_kube_proxy().await {
        return Ok(());
    }
    let why = format!(
        "waiting for a kube-proxy: none is found on the node, and with --replace-kube-proxy alone no program would serve {UNSERVED}. {REMEDY}"
    );
    tracing::warn!("{why}");
    health.set(vec![why.clone()]);
    let admin = Waiting { args: args.clone(), started, why };
    tokio::select! {
        () = found(has_kube_proxy) => tracing::info!("a kube-proxy is found"),
        served = health.clone().serve(args.metrics_address) => {
            served.with_context(|| format!("--metrics-address {}", args.metrics_address))?;
        }
        served = mesh_admin::serve(&args.admin_socket, admin) => {
            served.context("--admin-socket")?;
        }
    }
    Ok(())
}

async fn found(look: impl AsyncFn() -> bool) {
    while !look().await {
        sleep(EVERY).await;
    }
}

/// Answers for an agent that waits.
struct Waiting {
    args: Args,
    started: SystemTime,
    why: String,
}

impl Waiting {
    fn not_yet<T>(&self) -> Result<T, Status> {
        Err(Status::unavailable(self.why.clone()))
    }
}

#[tonic::async_trait]
impl Admin for Waiting {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let since = self.started.duration_since(UNIX_EPOCH);
        Ok(Response::new(StatusResponse {
            component: "agent".into(),
            version: Some(version()),
            cluster: self.args.cluster_name.clone(),
            cluster_id: self.args.cluster_id,
            node: self.args.node_name.clone(),
            started_unix_seconds: since.map_or(0, |since| since.as_secs()),
            ready: false,
            state: State::NotReady.into(),
            problems: vec![self.why.clone()],
            problem_details: vec![ProblemCode::KubeProxy.problem(self.why.clone())],
            configuration: HashMap::from([("effective".into(), self.args.in_force.clone())]),
            ..StatusResponse::default()
        }))
    }

    async fn list_peers(
        &self,
        _: Request<ListPeersRequest>,
    ) -> Result<Response<ListPeersResponse>, Status> {
        Ok(Response::new(ListPeersResponse::default()))
    }

    async fn list_services(
        &self,
        _: Request<ListServicesRequest>,
    ) -> Result<Response<ListServicesResponse>, Status> {
        self.not_yet()
    }

    async fn explain(
        &self,
        _: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, Status> {
        self.not_yet()
    }

    async fn list_nodes(
        &self,
        _: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        self.not_yet()
    }

    async fn list_identities(
        &self,
        _: Request<ListIdentitiesRequest>,
    ) -> Result<Response<ListIdentitiesResponse>, Status> {
        self.not_yet()
    }

    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        self.not_yet()
    }

    async fn undrain(
        &self,
        _: Request<UndrainRequest>,
    ) -> Result<Response<UndrainResponse>, Status> {
        self.not_yet()
    }

    async fn preview_drain(
        &self,
        _: Request<PreviewDrainRequest>,
    ) -> Result<Response<DrainResponse>, Status> {
        self.not_yet()
    }

    async fn lift_quarantine(
        &self,
        _: Request<LiftQuarantineRequest>,
    ) -> Result<Response<LiftQuarantineResponse>, Status> {
        self.not_yet()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use clap::Parser as _;

    use super::*;

    fn args(flags: &[&str]) -> Args {
        let required = ["agent", "--cluster-name", "a", "--cluster-id", "1", "--node-name", "n"];
        Args::try_parse_from([&required[..], flags].concat()).unwrap()
    }

    #[test]
    fn an_agent_starts_without_a_kube_proxy_only_by_force() {
        let alone = ["--replace-kube-proxy", "--kube-proxy", "absent"];
        let error = must_wait(&args(&alone), true).unwrap_err().to_string();
        for part in ["node ports", "external IPs", "load balancers", "SCTP", "=force"] {
            assert!(error.contains(part), "{error}");
        }
        for (flags, has_tables, waits) in [
            (&[][..], false, false),
            (&["--kube-proxy", "absent"], false, false),
            (&["--replace-kube-proxy"], false, true),
            // What programs use must not get old.
            (&["--replace-kube-proxy"], true, false),
            (&["--replace-kube-proxy", "--kube-proxy", "present"], false, false),
            (&["--replace-kube-proxy=force"], false, false),
            (&["--replace-kube-proxy=force", "--kube-proxy", "absent"], false, false),
        ] {
            assert_eq!(must_wait(&args(flags), has_tables).unwrap(), waits, "{flags:?}");
        }
    }

    /// A kube-proxy that starts minutes after the agent is found, and nothing ends before.
    #[tokio::test(start_paused = true)]
    async fn a_kube_proxy_that_starts_later_is_waited_for() {
        let looks = Cell::new(0);
        found(async || {
            looks.set(looks.get() + 1);
            looks.get() == 600
        })
        .await;
        assert_eq!(looks.get(), 600);
    }

    #[tokio::test]
    async fn an_agent_that_waits_says_so() {
        let folder = std::env::temp_dir().join(format!("agent-waits-{}", std::process::id()));
        let socket = folder.join("agent.sock");
        let why = format!("waiting: no program would serve {UNSERVED}");
        let waiting = Waiting { args: args(&[]), started: SystemTime::now(), why: why.clone() };
        let asked = async {
            let mut client = loop {
                match mesh_admin::connect(&socket).await {
                    Ok(client) => break client,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            let status = client.status(StatusRequest { peers: true }).await.unwrap().into_inner();
            let peers = client.list_peers(ListPeersRequest {}).await.unwrap().into_inner().peers;
            let refused = client.list_nodes(ListNodesRequest::default()).await.unwrap_err();
            (status, peers, refused)
        };
        let (status, peers, refused) = tokio::select! {
            asked = asked => asked,
            ended = mesh_admin::serve(&socket, waiting) => panic!("{ended:?}"),
        };
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!((status.state(), status.node.as_str()), (State::NotReady, "n"));
        assert_eq!(status.problem_details[0].code, "kube-proxy");
        assert_eq!((peers.len(), refused.message()), (0, why.as_str()));
    }
}
