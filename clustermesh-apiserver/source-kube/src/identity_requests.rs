//! Requests about the objects of identities.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Method, StatusCode};
use mesh_alloc::{IdentityAnswer, IdentityRequest};
use mesh_backoff::{Backoff, Policy};
use mesh_model::Identity;
use serde_json::json;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time,
};

use crate::{
    connection::Connection,
    events::{Closed, Events, KubeEvent},
    failure::Failure,
    identities::{IdentityOutcome, MeshIdentityResource, NAME, PATH, absence, write},
    resource::Resource as _,
};

/// Requests that are made at a time. An API server limits those of one client.
const AT_ONCE: usize = 8;
const PATIENCE: Duration = Duration::from_secs(10);

/// Executes requests until there are no more, each until it is answered.
pub(crate) async fn execute(
    connection: Connection,
    events: Events,
    mut requests: mpsc::UnboundedReceiver<IdentityRequest>,
) {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let failing = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    while let Some(request) = requests.recv().await {
        while tasks.try_join_next().is_some() {}
        let (connection, events) = (connection.clone(), events.clone());
        let (slots, failing) = (Arc::clone(&slots), Arc::clone(&failing));
        tasks.spawn(async move {
            // If it ends early, the receiver of the events was dropped.
            let _ = until_answered(&connection, &events, &slots, &failing, &request).await;
        });
    }
}

async fn until_answered(
    connection: &Connection,
    events: &Events,
    slots: &Semaphore,
    failing: &AtomicBool,
    request: &IdentityRequest,
) -> Result<(), Closed> {
    let mut backoff = Backoff::new(Policy::CONNECTION, request.id().get().into());
    loop {
        // A request that is refused again and again keeps no other from being made.
        let slot = slots.acquire().await.map_err(|_| Closed)?;
        let answer = once(connection, request).await;
        drop(slot);
        match answer {
            Ok(answer) => {
                if failing.swap(false, Ordering::Relaxed) {
                    events.send(KubeEvent::Identity(IdentityOutcome::Recovered)).await?;
                }
                return events.send(KubeEvent::Identity(IdentityOutcome::Answered(answer))).await;
            }
            Err(failure) => {
                failing.store(true, Ordering::Relaxed);
                let outcome = IdentityOutcome::Repeated(sentence(request, &failure));
                events.send(KubeEvent::Identity(outcome)).await?;
                time::sleep(backoff.failed()).await;
            }
        }
    }
}

async fn once(
    connection: &Connection,
    request: &IdentityRequest,
) -> Result<IdentityAnswer, Failure> {
    let id = request.id();
    let path = format!("{PATH}/{id}");
    let (method, body, path) = match request {
        IdentityRequest::Create { labels, state, .. } => {
            (Method::POST, write(id, labels, *state, None), PATH)
        }
        IdentityRequest::Update { labels, state, version, .. } => {
            (Method::PUT, write(id, labels, *state, Some(*version)), path.as_str())
        }
        IdentityRequest::Delete { version, .. } => {
            let version = version.to_string();
            let body = json!({ "preconditions": { "resourceVersion": version } });
            (Method::DELETE, body.to_string().into_bytes(), path.as_str())
        }
    };
    let (creates, deletes) = (method == Method::POST, method == Method::DELETE);
    let answer = match connection.ask(method, path, Some(body), PATIENCE).await? {
        // Another replica was faster, or knows a later version.
        (StatusCode::CONFLICT, conflict) => {
            let path = format!("{PATH}/{id}");
            match connection.ask(Method::GET, &path, None, PATIENCE).await? {
                (StatusCode::OK, text) => return Ok(object(id, &text)),
                // Created and deleted in between: created again.
                (StatusCode::NOT_FOUND, _) if creates => (StatusCode::CONFLICT, conflict),
                answer => answer,
            }
        }
        answer => answer,
    };
    match answer {
        (StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED, _) if deletes => {
            Ok(IdentityAnswer::Gone(id))
        }
        (StatusCode::OK | StatusCode::CREATED, text) => Ok(object(id, &text)),
        (StatusCode::NOT_FOUND, _) if !creates => Ok(IdentityAnswer::Gone(id)),
        (status, body) => Err(Failure::refused(status, body)),
    }
}

/// The object in an answer. One that cannot be read is there all the same.
fn object(id: Identity, text: &str) -> IdentityAnswer {
    match MeshIdentityResource.decode(text) {
        Ok(object) => IdentityAnswer::Object(object),
        Err(_) => IdentityAnswer::Taken(id),
    }
}

fn sentence(request: &IdentityRequest, failure: &Failure) -> String {
    let verb = match request {
        IdentityRequest::Create { .. } => "create",
        IdentityRequest::Update { .. } => "update",
        IdentityRequest::Delete { .. } => "delete",
    };
    match failure {
        // Only a missing kind can keep an object from being created.
        Failure::Refused { code: 404, .. } => absence(),
        _ => failure.sentence(verb, NAME, &format!("its ClusterRole the verb {verb} on {NAME}")),
    }
}
