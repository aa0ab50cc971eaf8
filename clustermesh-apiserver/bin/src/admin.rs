//! The admin API of the apiserver.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use mesh_admin::{
    ProblemCode, plain,
    v1::{
        DrainOutcome, DrainRequest, DrainResponse, Drained, DrainedNode, ExplainRequest,
        ExplainResponse, LiftQuarantineRequest, LiftQuarantineResponse, ListIdentitiesRequest,
        ListIdentitiesResponse, ListNodesRequest, ListNodesResponse, ListPeersRequest,
        ListPeersResponse, ListServicesRequest, ListServicesResponse, PreviewDrainRequest, Problem,
        State, StatusRequest, StatusResponse, Store, UndrainRequest, UndrainResponse,
        admin_server::Admin,
    },
    version::version,
};
use mesh_certs::{Expiring, rotated_by};
use mesh_export::DrainState;
use mesh_follow::Failure;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::{
    args::Args,
    clashes::clashes,
    cluster::{Cluster, View},
    drain::{Asked, Change, Changed, Extent, NotChanged},
    writer::StoreState,
};

/// Implements the admin API.
pub(crate) struct ApiserverAdmin {
    pub(crate) args: Args,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) store: Arc<Mutex<StoreState>>,
    /// Why new credentials are not used.
    pub(crate) trouble: watch::Receiver<Option<Failure>>,
    pub(crate) started: SystemTime,
    /// The folder with the cluster's certificates.
    pub(crate) pki: PathBuf,
    /// The folder with its peer files.
    pub(crate) peers: PathBuf,
}

/// The problems that prevent readiness.
pub(crate) fn unready(view: &View, store: &StoreState, now: Instant) -> Vec<Problem> {
    let source = (!view.complete)
        .then(|| ProblemCode::ManifestsUnread.problem("the manifests were never read completely"));
    let away = view.away(now);
    let away = away
        .map(|why| ProblemCode::SourceAway.problem(format!("the manifests cannot be read: {why}")));
    let etcd = store.unready().map(|why| ProblemCode::Etcd.problem(why));
    source.into_iter().chain(away).chain(etcd).collect()
}

/// Problems about the cluster's certificates that expire soon.
fn certificates(pki: &Path, cluster: &str) -> Vec<Problem> {
    let problem = |expiring: Expiring| {
        let what = rotated_by(&expiring.file);
        let code = ProblemCode::CertificateExpiring;
        Problem {
            remedy: format!("clustermesh certs rotate --context {cluster} {what}"),
            ..code.problem(expiring.to_string()).about(expiring.file.display().to_string())
        }
    };
    mesh_certs::expiring(pki, SystemTime::now()).into_iter().map(problem).collect()
}

/// Converts what is drained to the API's type.
fn drained(state: DrainState) -> Drained {
    let node = |node: mesh_export::DrainedNode| DrainedNode {
        name: node.name,
        by_file: node.by_file,
        by_annotation: node.by_annotation,
    };
    Drained {
        cluster: state.cluster,
        nodes: state.nodes.into_iter().map(node).collect(),
        endpoints: state.endpoints.try_into().unwrap_or(u64::MAX),
    }
}

impl ApiserverAdmin {
    /// Changes what is drained. The cluster's thread does the IO.
    async fn change_drain(&self, change: Change, asked: Asked) -> Result<(i32, Drained), Status> {
        let changed = self.cluster.change_drain(change, asked).await;
        let (changed, state) = changed.map_err(|error| match error {
            NotChanged::OtherCluster { .. } => Status::invalid_argument(error.to_string()),
            NotChanged::NoNode { .. } => Status::not_found(error.to_string()),
            NotChanged::ByCluster { .. }
            | NotChanged::ByAnnotation { .. }
            | NotChanged::NotRead
            | NotChanged::ConfigMap(_)
            | NotChanged::Contended
            | NotChanged::Broken { .. } => Status::failed_precondition(error.to_string()),
            NotChanged::Lock(_) | NotChanged::Write { .. } => Status::internal(error.to_string()),
        })?;
        let outcome = match changed {
            Changed::Now => DrainOutcome::Changed,
            Changed::Before => DrainOutcome::Unchanged,
        };
        Ok((outcome.into(), drained(state)))
    }
}

#[tonic::async_trait]
impl Admin for ApiserverAdmin {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (view, now) = (self.cluster.view(), Instant::now());
        let unready = unready(&view, &store, now);
        let settings = &self.cluster.settings;
        let count = |n: usize| n.try_into().unwrap_or(u64::MAX);
        let ready = unready.is_empty();
        let kept = self.trouble.borrow().as_ref().map(ToString::to_string);
        let kept = store.files.iter().cloned().chain(kept);
        let kept = kept.map(|why| {
            let why = format!("new credentials for the etcd are not used: {why}");
            ProblemCode::Credentials.problem(why)
        });
        let problems = unready.into_iter().chain(kept).chain(view.problems.iter().cloned());
        let fallback = mesh_files::watch_fallback().map(|why| ProblemCode::FileWatch.problem(why));
        let certificates = certificates(&self.pki, settings.name.as_str());
        let problems = problems.chain(store.problems(now)).chain(fallback).chain(certificates);
        let problems = problems.chain(clashes(&self.peers, settings));
        let problems: Vec<Problem> = problems.collect();
        let failure = store.trouble.as_ref().map(|why| plain(&why.to_string()).into_owned());
        Ok(Response::new(StatusResponse {
            component: "apiserver".into(),
            version: Some(version()),
            cluster: settings.name.to_string(),
            cluster_id: settings.id.get().into(),
            started_unix_seconds: self
                .started
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            ready,
            state: State::of(ready, !problems.is_empty()).into(),
            problems: problems.iter().map(|problem| problem.message.clone()).collect(),
            problem_details: problems,
            configuration: HashMap::from([("effective".into(), self.args.in_force.clone())]),
            store: Some(Store {
                connected: store.connected,
                endpoint: self.args.etcd_endpoint.clone(),
                failure: failure.unwrap_or_default(),
                desired_keys: count(view.desired_keys),
                written_keys: count(store.written),
                objects: count(view.objects),
                identities: count(view.identities),
                size_bytes: store.fill.as_ref().map(|fill| fill.size),
                used_bytes: store.fill.as_ref().map(|fill| fill.used),
                quota_bytes: store.fill.as_ref().map(|fill| fill.quota),
                full_in_seconds: store.fill.as_ref().and_then(|fill| Some(fill.full_in?.as_secs())),
            }),
            drained: Some(drained(view.drained.clone())),
            policies: Some(view.policies.message()),
            ..StatusResponse::default()
        }))
    }

    async fn list_peers(
        &self,
        _: Request<ListPeersRequest>,
    ) -> Result<Response<ListPeersResponse>, Status> {
        Err(Status::unimplemented("an apiserver follows no cluster: ask an agent"))
    }

    async fn list_services(
        &self,
        _: Request<ListServicesRequest>,
    ) -> Result<Response<ListServicesResponse>, Status> {
        Err(Status::unimplemented("an apiserver has no kernel tables: ask an agent"))
    }

    async fn explain(
        &self,
        _: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, Status> {
        Err(Status::unimplemented("an apiserver chooses no backends: ask an agent"))
    }

    async fn list_nodes(
        &self,
        _: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        Err(Status::unimplemented("an apiserver follows no cluster: ask an agent"))
    }

    async fn list_identities(
        &self,
        _: Request<ListIdentitiesRequest>,
    ) -> Result<Response<ListIdentitiesResponse>, Status> {
        Err(Status::unimplemented("an apiserver follows no cluster: ask an agent"))
    }

    async fn lift_quarantine(
        &self,
        _: Request<LiftQuarantineRequest>,
    ) -> Result<Response<LiftQuarantineResponse>, Status> {
        Err(Status::unimplemented("an apiserver follows no cluster: ask an agent"))
    }

    async fn drain(
        &self,
        request: Request<DrainRequest>,
    ) -> Result<Response<DrainResponse>, Status> {
        let DrainRequest { cluster, node } = request.into_inner();
        let asked = Asked { cluster, node, extent: Extent::Change };
        let (outcome, drained) = self.change_drain(Change::Drain, asked).await?;
        Ok(Response::new(DrainResponse { outcome, drained: Some(drained) }))
    }

    async fn undrain(
        &self,
        request: Request<UndrainRequest>,
    ) -> Result<Response<UndrainResponse>, Status> {
        let UndrainRequest { cluster, node } = request.into_inner();
        let asked = Asked { cluster, node, extent: Extent::Change };
        let (outcome, drained) = self.change_drain(Change::Undrain, asked).await?;
        Ok(Response::new(UndrainResponse { outcome, drained: Some(drained) }))
    }

    async fn preview_drain(
        &self,
        request: Request<PreviewDrainRequest>,
    ) -> Result<Response<DrainResponse>, Status> {
        let PreviewDrainRequest { cluster, node, undrain } = request.into_inner();
        let change = if undrain { Change::Undrain } else { Change::Drain };
        let asked = Asked { cluster, node, extent: Extent::Preview };
        let (outcome, drained) = self.change_drain(change, asked).await?;
        Ok(Response::new(DrainResponse { outcome, drained: Some(drained) }))
    }
}
