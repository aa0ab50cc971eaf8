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
    events::{Events, KubeEvent},
    follower::Failure,
    identities::{IdentityOutcome, MeshIdentityResource, NAME, PATH, absence, write},
    resource::Resource as _,
    response::Status,
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
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let (connection, events, failing) =
            (connection.clone(), events.clone(), Arc::clone(&failing));
        tasks.spawn(async move {
            let _slot = slot;
            until_answered(&connection, &events, &failing, &request).await;
        });
    }
}

async fn until_answered(
    connection: &Connection,
    events: &Events,
    failing: &AtomicBool,
    request: &IdentityRequest,
) {
    let mut backoff = Backoff::new(Policy::CONNECTION, request.id().get().into());
    loop {
        match once(connection, request).await {
            Ok(answer) => {
                if failing.swap(false, Ordering::Relaxed) {
                    // Nobody may take the events any more.
                    let _ = events.send(KubeEvent::Identity(IdentityOutcome::Recovered)).await;
                }
                let _ = events.send(KubeEvent::Identity(IdentityOutcome::Answered(answer))).await;
                return;
            }
            Err(failure) => {
                failing.store(true, Ordering::Relaxed);
                let outcome = IdentityOutcome::Repeated(sentence(request, &failure));
                if events.send(KubeEvent::Identity(outcome)).await.is_err() {
                    return;
                }
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
    let creates = method == Method::POST;
    let deletes = method == Method::DELETE;
    match connection.ask(method, path, Some(body), PATIENCE).await? {
        (StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED, _) if deletes => {
            Ok(IdentityAnswer::Gone(id))
        }
        (StatusCode::OK | StatusCode::CREATED, text) => answer(id, &text),
        (StatusCode::NOT_FOUND, _) if !creates => Ok(IdentityAnswer::Gone(id)),
        // Another replica was faster, or knows a later version.
        (StatusCode::CONFLICT, body) => {
            match connection.ask(Method::GET, &format!("{PATH}/{id}"), None, PATIENCE).await? {
                (StatusCode::OK, text) => answer(id, &text),
                (StatusCode::NOT_FOUND, _) if !creates => Ok(IdentityAnswer::Gone(id)),
                // Created and deleted in between: created again.
                (StatusCode::NOT_FOUND, _) => Err(Failure::Refused { code: 409, body }),
                (status, body) => Err(Failure::Refused { code: status.as_u16(), body }),
            }
        }
        (status, body) => Err(Failure::Refused { code: status.as_u16(), body }),
    }
}

/// The object in an answer. One that cannot be read is there all the same.
fn answer(id: Identity, text: &str) -> Result<IdentityAnswer, Failure> {
    Ok(match MeshIdentityResource.decode(text) {
        Ok(object) => IdentityAnswer::Object(object),
        Err(_) => IdentityAnswer::Taken(id),
    })
}

fn sentence(request: &IdentityRequest, failure: &Failure) -> String {
    let verb = match request {
        IdentityRequest::Create { .. } => "create",
        IdentityRequest::Update { .. } => "update",
        IdentityRequest::Delete { .. } => "delete",
    };
    match failure {
        Failure::Broken(reason) => format!("the API server: {reason}"),
        Failure::Refused { code: 403, .. } => format!(
            "the API server does not allow this apiserver to {verb} {NAME}: give its ClusterRole the verb {verb} on {NAME}"
        ),
        Failure::Refused { code: 404, .. } => absence(),
        Failure::Refused { code, body } => {
            let Status { message, .. } = serde_json::from_str(body).unwrap_or_default();
            format!(
                "the API server refused to {verb} {NAME} {} (HTTP {code}) {message}",
                request.id()
            )
        }
    }
}
