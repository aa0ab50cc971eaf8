//! How a connection ends because of its certificate: another one with newer credentials replaces it, or there are none
//! and it ends.

use std::{sync::Arc, time::Duration};

use mesh_certs::Credentials;
use mesh_follow::{ConnectionPhase, Failure, KeyRange};
use mesh_wire::key::HEARTBEAT;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    connect::{Target, connect, connect_to},
    store::Connection,
    validity::AHEAD,
};

/// The next state of a connection.
pub enum CredentialRotation {
    /// A connection with newer credentials; the old one may be closed now.
    Successor(Box<Connection>),
    /// Its certificate ends, and there is no newer one that serves.
    Over(Failure),
}

/// How often the clock is read. It may be stepped, and no event shows that.
const LOOK: Duration = Duration::from_secs(1);
/// How often credentials are tried again that did not serve: the etcd may not trust their CA yet.
const AGAIN: Duration = Duration::from_secs(5);

/// Waits until a connection must end because of its certificate. Meanwhile `trouble` has why newer credentials do not
/// serve, if there are any. Dropping the future leaves everything as it is.
pub async fn succession(
    target: &Target,
    connection: &Connection,
    trouble: &watch::Sender<Option<Failure>>,
) -> CredentialRotation {
    tokio::select! {
        biased;
        failure = over(target, connection.credentials()) => CredentialRotation::Over(failure),
        successor = successor(target, connection, trouble) => CredentialRotation::Successor(Box::new(successor)),
    }
}

/// Connects to the `attempt`th endpoint, counted round; with what served `before` if newer credentials do not.
pub async fn connect_again(
    target: &Target,
    attempt: usize,
    before: Option<Arc<Credentials>>,
) -> Result<Connection, Failure> {
    let current = target.credentials.current();
    let before = before.filter(|before| !Arc::ptr_eq(before, &current));
    let (Some(before), Some(endpoint)) = (before, target.endpoint(attempt)) else {
        return connect(target, attempt).await;
    };
    let failure = match serving(target, endpoint).await {
        Err(failure)
            if [ConnectionPhase::Tls, ConnectionPhase::Authenticated].contains(&failure.phase) =>
        {
            failure
        }
        other => return other,
    };
    connect_to(target, endpoint, before).await.map_err(|_| failure)
}

/// A clock that is behind the certificate's beginning ends nothing: it was right when the connection was made.
async fn over(target: &Target, credentials: &Credentials) -> Failure {
    loop {
        let now = target.clock.now();
        if now + AHEAD > credentials.not_after() {
            let over = credentials.valid_at(now + AHEAD).err().map(|error| error.to_string());
            return Failure::new(ConnectionPhase::Tls, over.unwrap_or_default());
        }
        sleep(LOOK).await;
    }
}

async fn successor(
    target: &Target,
    connection: &Connection,
    trouble: &watch::Sender<Option<Failure>>,
) -> Connection {
    let mut credentials = target.credentials.clone();
    loop {
        if Arc::ptr_eq(&credentials.current(), connection.credentials()) {
            report(trouble, None);
            credentials.changed().await;
            continue;
        }
        match serving(target, connection.endpoint()).await {
            Ok(successor) => {
                report(trouble, None);
                return successor;
            }
            Err(failure) => report(trouble, Some(failure)),
        }
        // Newer ones are tried immediately.
        let _ = timeout(AGAIN, credentials.changed()).await;
    }
}

/// Makes a connection and reads something over it: an etcd accepts every client whose certificate it trusts, and only
/// checks at a request whether there is such a user. Every user who may read anything may read the heartbeat.
async fn serving(target: &Target, endpoint: &str) -> Result<Connection, Failure> {
    let connection = connect_to(target, endpoint, target.credentials.current()).await?;
    match connection.page(&KeyRange::prefix(HEARTBEAT), 1, None, true).await {
        Ok(_) => Ok(connection),
        Err(error) => {
            let Failure { phase, reason } = error.failure();
            let subject = connection.credentials().subject();
            Err(Failure::new(phase, format!("as {subject}: {reason}")))
        }
    }
}

fn report(trouble: &watch::Sender<Option<Failure>>, now: Option<Failure>) {
    trouble.send_if_modified(|before| {
        let changed = *before != now;
        *before = now;
        changed
    });
}
