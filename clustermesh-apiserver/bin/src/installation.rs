//! What an apiserver in a pod keeps in order: certificates, and how the cluster's agents reach its etcd.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use mesh_source_kube::Connection;
use mesh_wire::cluster_ranges::ClusterRanges;
use tokio::time;

use crate::{
    certificates::Issuing,
    local_access::{self, Published},
    writer::StoreState,
};

/// How often it looks, if certificates do not need it more often.
const LOOK: Duration = Duration::from_secs(30);
/// The same while a replica's own pod is not shown with its node yet.
const SOON: Duration = Duration::from_secs(1);

/// Looks again and again, and repairs what is missing or due. The status shows what cannot be done.
pub(crate) async fn keep(
    issuing: Issuing,
    ranges: ClusterRanges,
    api: Connection,
    state: &Mutex<StoreState>,
) {
    let interval = (issuing.lifetime / 20).min(LOOK);
    loop {
        let done = look(&issuing, &ranges, &api).await;
        let pause = if matches!(done, Ok(Published::NoPods)) { SOON } else { interval };
        let problem = done.err().map(|error| format!("{error:#}"));
        report(problem, state);
        time::sleep(pause).await;
    }
}

/// Puts a problem into the status, and into the log if it is new.
fn report(problem: Option<String>, state: &Mutex<StoreState>) {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(problem) = problem.as_ref().filter(|new| state.installation.as_ref() != Some(*new))
    {
        tracing::warn!(problem, "the installation is not as it should be");
    }
    state.installation = problem;
}

async fn look(
    issuing: &Issuing,
    ranges: &ClusterRanges,
    api: &Connection,
) -> anyhow::Result<Published> {
    let renewed = issuing.renew(api, &[]).await?;
    if !renewed.is_empty() {
        tracing::info!(certificates = renewed.join(", "), "certificates are renewed");
    }
    let published = local_access::publish(api, ranges).await?;
    if published == Published::Changed {
        tracing::info!("the addresses of the etcd are written for the agents");
    }
    Ok(published)
}
