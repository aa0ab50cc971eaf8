//! The admin API of the apiserver.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use mesh_admin::{
    v1::{
        ExplainRequest, ExplainResponse, LiftQuarantineRequest, LiftQuarantineResponse,
        ListPeersRequest, ListPeersResponse, ListServicesRequest, ListServicesResponse,
        StatusRequest, StatusResponse, Store, admin_server::Admin,
    },
    version::version,
};
use mesh_follow::Failure;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::{args::Args, cluster::Cluster, writer::StoreState};

/// Answers for the apiserver.
pub(crate) struct ApiserverAdmin {
    pub(crate) args: Args,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) store: Arc<Mutex<StoreState>>,
    /// Why newer credentials do not take over.
    pub(crate) trouble: watch::Receiver<Option<Failure>>,
    pub(crate) started: SystemTime,
}

/// What keeps the apiserver from being ready.
pub(crate) fn unready(cluster: &Cluster, store: &StoreState) -> Vec<String> {
    let (_, listed) = cluster.source_state();
    let source = (!listed).then(|| "the manifests were never read in full".to_owned());
    source.into_iter().chain(store.unready()).collect()
}

#[tonic::async_trait]
impl Admin for ApiserverAdmin {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let unready = unready(&self.cluster, &store);
        let (manifests, _) = self.cluster.source_state();
        let settings = &self.cluster.settings;
        let count = |n: usize| n.try_into().unwrap_or(u64::MAX);
        let (desired, objects) = self.cluster.with_exporter(|e| (e.desired().len(), e.objects()));
        let ready = unready.is_empty();
        let kept = self.trouble.borrow().as_ref().map(ToString::to_string);
        let kept = store.files.iter().cloned().chain(kept);
        let kept = kept.map(|why| format!("new credentials for the etcd are not used: {why}"));
        let others = store.problems(Instant::now());
        let failure = store.trouble.as_ref().map(ToString::to_string);
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
            problems: unready.into_iter().chain(kept).chain(manifests).chain(others).collect(),
            configuration: HashMap::from([("effective".into(), format!("{:?}", self.args))]),
            store: Some(Store {
                connected: store.connected,
                endpoint: self.args.etcd_endpoint.clone(),
                failure: failure.unwrap_or_default(),
                desired_keys: count(desired),
                written_keys: count(store.written),
                objects: count(objects),
                identities: count(self.cluster.identities()),
            }),
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

    async fn lift_quarantine(
        &self,
        _: Request<LiftQuarantineRequest>,
    ) -> Result<Response<LiftQuarantineResponse>, Status> {
        Err(Status::unimplemented("an apiserver follows no cluster: ask an agent"))
    }
}
