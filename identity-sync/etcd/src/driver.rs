//! Runs a state machine over real connections.
//!
//! There is one task for each machine. It owns the connection, its requests and its watch stream; dropping the future
//! closes all of them, at any point: the machine's positions show what was delivered, and the next connection goes on
//! from there.

use std::{
    future::{pending, ready},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use etcd_client::{WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use mesh_follow::{
    Action, ConnectionPhase, Failure, Input, KeyRange, Machine, Status, WatchEvent, WatchId,
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{sleep_until, timeout},
};

use crate::{
    batch::Batch,
    connect::Target,
    credential_rotation::{CredentialRotation, connect_again, succession},
    error::EtcdError,
    store::{Connection, header, key_value},
};

/// How long an answer to a list may take; a page of values over a slow link.
const LIST: Duration = Duration::from_secs(60);
/// Bytes of decoded values that may be on their way to the owner. A larger batch is sent alone.
const ROOM: u32 = 4 * 1024 * 1024;
/// How many inputs are taken together, if they are there: the owner handles them as one batch.
const TOGETHER: usize = 64;

/// What goes on over one connection.
#[derive(Default)]
struct Session {
    connecting: Option<BoxFuture<'static, Result<Connection, Failure>>>,
    connection: Option<Connection>,
    /// The next state of the connection.
    succession: Option<BoxFuture<'static, CredentialRotation>>,
    lists: FuturesUnordered<BoxFuture<'static, Input>>,
    requests: Option<WatchRequestSender>,
    responses: Option<WatchResponseStream>,
}

/// Where a machine's events and status go, and its commands come from.
#[derive(Debug)]
pub struct Channels<C, E> {
    /// The owner's commands.
    pub commands: mpsc::Receiver<C>,
    /// The machine's events.
    pub events: mpsc::Sender<E>,
    /// How the connection is.
    pub status: watch::Sender<Status>,
    /// Why newer credentials do not take over from those that the connection was made with.
    pub trouble: watch::Sender<Option<Failure>>,
    /// The command that makes the machine replace its connection.
    pub reconnect: C,
}

/// An event of a session.
enum Happened {
    /// The machine should know.
    Inputs(Vec<Input>),
    /// Another connection replaces this one.
    Successor(Box<Connection>),
}

/// Runs a machine until its owner drops an end of `channels`; `tag` turns its events into what the owner wants to
/// receive. It waits if the receiver is slow, and so does the etcd: the events on their way are bounded, in bytes too.
///
/// A connection does not outlive the certificate that it was made with. When there are newer credentials, one is made
/// with them first, and the old one is closed after that; the machine goes on where it was.
pub async fn follow<M: Machine<Command: Clone>, E>(
    machine: &mut M,
    target: &Target,
    channels: Channels<M::Command, E>,
    tag: impl Fn(Batch<M::Event>) -> E,
) {
    let Channels { mut commands, events, status, trouble, reconnect } = channels;
    let mut session = Session::default();
    let mut successor: Option<Connection> = None;
    // The credentials of the last connection.
    let mut before = None;
    let mut attempt = 0;
    let room = Arc::new(Semaphore::new(usize::try_from(ROOM).unwrap_or(Semaphore::MAX_PERMITS)));
    loop {
        while let Some(action) = machine.poll(Instant::now()) {
            if action == Action::Connect {
                let target = target.clone();
                session = Session::default();
                session.connecting = Some(match successor.take() {
                    Some(connection) => Box::pin(ready(Ok(connection))),
                    None => {
                        let before = before.clone();
                        Box::pin(async move { connect_again(&target, attempt, before).await })
                    }
                });
                attempt = attempt.wrapping_add(1);
            } else if let Err(failure) = session.perform(action).await {
                session = Session::default();
                machine.handle(Instant::now(), Input::Disconnected(failure));
            }
        }
        status.send_if_modified(|published| {
            let changed = published != machine.status();
            if changed {
                published.clone_from(machine.status());
            }
            changed
        });
        let bytes = u32::try_from(machine.batch_bytes()).unwrap_or(ROOM).min(ROOM);
        let batch = machine.take_events();
        let took = !batch.is_empty();
        if took {
            let room = Arc::clone(&room).acquire_many_owned(bytes).await;
            // It is never closed.
            let Ok(room) = room else { return };
            if events.send(tag(Batch::new(batch, room))).await.is_err() {
                return;
            }
        }
        // Taking them may have made something to do.
        if took || machine.has_more() {
            continue;
        }
        let due = machine.next_timeout();
        let happened = tokio::select! {
            command = commands.recv() => match command {
                Some(command) => {
                    machine.command(Instant::now(), command);
                    continue;
                }
                None => return,
            },
            happened = session.next(), if machine.wants_input() => happened,
            () = until(due) => continue,
        };
        let mut next = Some(happened);
        let mut together = 0;
        while let Some(happened) = next.take() {
            let inputs = match happened {
                Happened::Inputs(inputs) => inputs,
                Happened::Successor(connection) => {
                    successor = Some(*connection);
                    machine.command(Instant::now(), reconnect.clone());
                    break;
                }
            };
            for input in inputs {
                match &input {
                    Input::Connected => {
                        let connection = session.connection.as_ref();
                        before = connection.map(|c| Arc::clone(c.credentials()));
                        session.watch_certificate(target, &trouble);
                    }
                    Input::Disconnected(_) => session = Session::default(),
                    _ => {}
                }
                machine.handle(Instant::now(), input);
            }
            together += 1;
            // Inputs that have arrived meanwhile go with it.
            if together < TOGETHER && machine.wants_input() {
                next = session.next().now_or_never();
            }
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => pending().await,
    }
}

impl Session {
    /// Executes one action; an error means that the connection is of no more use.
    async fn perform(&mut self, action: Action) -> Result<(), Failure> {
        match action {
            Action::Connect => {}
            Action::Disconnect => *self = Self::default(),
            Action::List { request, span, limit, revision, keys_only } => {
                let Some(connection) = self.connection.clone() else { return Ok(()) };
                self.lists.push(Box::pin(async move {
                    let page =
                        timeout(LIST, connection.page(&span, limit, revision, keys_only)).await;
                    let page = page.unwrap_or_else(|_| {
                        Err(EtcdError::Broken(format!("no answer to a list within {LIST:?}")))
                    });
                    match page {
                        Ok((header, keys, more)) => Input::Page { request, header, keys, more },
                        Err(error) => Input::ListFailed { request, error: error.into_list_error() },
                    }
                }));
            }
            Action::Watch { watch, span, from } => self.watch(watch, span, from).await?,
            Action::CancelWatch(watch) => {
                if let Some(requests) = &mut self.requests {
                    requests.cancel(watch.0).await.map_err(broken)?;
                }
            }
        }
        Ok(())
    }

    async fn watch(&mut self, watch: WatchId, span: KeyRange, from: i64) -> Result<(), Failure> {
        let Some(connection) = &self.connection else { return Ok(()) };
        let options = WatchOptions::new()
            .with_range(span.end)
            .with_start_revision(from)
            .with_watch_id(watch.0)
            .with_progress_notify()
            .with_fragment();
        match &mut self.requests {
            Some(requests) => requests.watch(span.start, Some(options)).await.map_err(broken),
            None => {
                let mut client = connection.watch_client();
                let opening = timeout(LIST, client.watch(span.start, Some(options))).await;
                let opening = opening.map_err(|_| {
                    Failure::new(
                        ConnectionPhase::Synced,
                        format!("no answer to a watch within {LIST:?}"),
                    )
                })?;
                let (requests, responses) = opening.map_err(broken)?.split();
                self.requests = Some(requests);
                self.responses = Some(responses);
                Ok(())
            }
        }
    }

    /// Begins to care for the end of the connection's certificate.
    fn watch_certificate(&mut self, target: &Target, trouble: &watch::Sender<Option<Failure>>) {
        let Some(connection) = self.connection.clone() else { return };
        let (target, trouble) = (target.clone(), trouble.clone());
        self.succession =
            Some(Box::pin(async move { succession(&target, &connection, &trouble).await }));
    }

    /// Waits for whatever comes first. Cancel-safe: what is awaited stays in the session.
    async fn next(&mut self) -> Happened {
        let connecting = async {
            match &mut self.connecting {
                Some(connecting) => Pin::new(connecting).await,
                None => pending().await,
            }
        };
        let succession = async {
            match &mut self.succession {
                Some(succession) => Pin::new(succession).await,
                None => pending().await,
            }
        };
        let response = async {
            match &mut self.responses {
                Some(responses) => responses.message().await,
                None => pending().await,
            }
        };
        let inputs = tokio::select! {
            connected = connecting => {
                self.connecting = None;
                vec![match connected {
                    Ok(connection) => {
                        self.connection = Some(connection);
                        Input::Connected
                    }
                    Err(failure) => Input::Disconnected(failure),
                }]
            }
            succession = succession => {
                self.succession = None;
                match succession {
                    CredentialRotation::Successor(connection) => return Happened::Successor(connection),
                    CredentialRotation::Over(failure) => vec![Input::Disconnected(failure)],
                }
            }
            Some(input) = self.lists.next(), if !self.lists.is_empty() => vec![input],
            response = response => match response {
                Ok(Some(response)) => inputs(response).unwrap_or_else(|failure| vec![Input::Disconnected(failure)]),
                Ok(None) => vec![Input::Disconnected(Failure::new(ConnectionPhase::Tcp, "the etcd closed the connection"))],
                Err(error) => vec![Input::Disconnected(EtcdError::from(error).failure_of_stream())],
            },
        };
        Happened::Inputs(inputs)
    }
}

impl EtcdError {
    /// A stream that broke is a connection that broke, unless the etcd gives another reason.
    fn failure_of_stream(&self) -> Failure {
        match self {
            Self::Broken(reason) => Failure::new(ConnectionPhase::Tcp, reason.clone()),
            other => other.failure(),
        }
    }
}

fn broken(error: etcd_client::Error) -> Failure {
    EtcdError::from(error).failure_of_stream()
}

/// The inputs in a watch response. None of its fields is expected to be set.
fn inputs(response: WatchResponse) -> Result<Vec<Input>, Failure> {
    let response = response.0;
    let watch = WatchId(response.watch_id);
    if response.canceled {
        let compacted = response.compact_revision != 0;
        return Ok(vec![Input::Canceled { watch, compacted, reason: response.cancel_reason }]);
    }
    if response.created {
        return Ok(vec![Input::Watching(watch)]);
    }
    let header = header(response.header).map_err(|error| error.failure())?;
    if response.events.is_empty() {
        return Ok(vec![Input::Progress { watch, header }]);
    }
    let events = watch_events(response.events).map_err(|error| error.failure())?;
    Ok(vec![Input::Events { watch, header, events }])
}

/// The events of a watch response.
pub(crate) fn watch_events(
    events: Vec<etcd_client::proto::PbEvent>,
) -> Result<Vec<WatchEvent>, EtcdError> {
    let event = |event: etcd_client::proto::PbEvent| {
        let lie = |what: String| EtcdError::Broken(format!("the etcd's watch has an event {what}"));
        let kv = event.kv.ok_or_else(|| lie("without a key".into()))?;
        match event.r#type {
            0 => Ok(WatchEvent::Put(key_value(kv))),
            1 => Ok(WatchEvent::Delete { key: kv.key, mod_revision: kv.mod_revision }),
            other => Err(lie(format!("of kind {other}"))),
        }
    };
    events.into_iter().map(event).collect()
}
