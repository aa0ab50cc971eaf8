//! etcd's Watch service. A new watch receives past revisions in few responses, and then each revision in a response of its
//! own, as from etcd.
//!
//! One task for each stream. It owns the stream's watches and ends with the stream.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    proto::{
        Event, KeyValue, ResponseHeader, WatchCreateRequest, WatchRequest, WatchResponse,
        event::EventType, watch_request::RequestUnion, watch_server,
    },
    served::Served,
    store::{Change, LogPosition, Span},
};

/// The Watch service of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Watching(pub(crate) Arc<Served>);

/// The watches of one stream.
struct Watches {
    served: Arc<Served>,
    all: BTreeMap<i64, Watch>,
    next: i64,
    responses: mpsc::Sender<Result<WatchResponse, Status>>,
}

struct Watch {
    span: Span,
    /// The position up to which changes were sent.
    sent: LogPosition,
    /// The end of the log when the watch was created: changes up to here are batched.
    behind: LogPosition,
    /// Changes before this revision are not sent. It may be a future revision.
    from: i64,
}

/// The stream has ended.
struct Gone;

/// Responses that may wait for a slow connection.
const RESPONSES: usize = 64;
/// Limits of a batched response, in revisions and about in bytes. Those of etcd are 1,000 and 1.5 MiB.
const BATCH: usize = 1_000;
const BATCH_BYTES: usize = 1024 * 1024;
/// The watch ID in a response that is not about one watch: etcd answers progress requests for all watches of a stream.
const NO_WATCH: i64 = -1;

#[tonic::async_trait]
impl watch_server::Watch for Watching {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        requests: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (responses, receiver) = mpsc::channel(RESPONSES);
        let (served, all) = (Arc::clone(&self.0), BTreeMap::new());
        let changed = served.changed();
        let watches = Watches { served, all, next: 0, responses };
        tokio::spawn(watches.run(requests.into_inner(), changed));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

// === impl Watches ===

impl Watches {
    async fn run(
        mut self,
        mut requests: Streaming<WatchRequest>,
        mut changed: watch::Receiver<()>,
    ) {
        loop {
            let done = tokio::select! {
                // Requests first: a watch is created before its events are sent.
                biased;
                request = requests.message() => match request {
                    Ok(Some(request)) => self.handle(request).await,
                    Ok(None) | Err(_) => Err(Gone),
                },
                change = changed.changed() => match change {
                    Ok(()) => self.deliver().await,
                    Err(_) => Err(Gone),
                },
            };
            if done.is_err() {
                return;
            }
        }
    }

    async fn handle(&mut self, request: WatchRequest) -> Result<(), Gone> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.create(request).await,
            Some(RequestUnion::CancelRequest(request)) => {
                if self.all.remove(&request.watch_id).is_none() {
                    return Ok(());
                }
                let header = self.header();
                let watch_id = request.watch_id;
                self.send(WatchResponse { header, watch_id, canceled: true, ..<_>::default() })
                    .await
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                self.deliver().await?;
                let header = self.header();
                self.send(WatchResponse { header, watch_id: NO_WATCH, ..<_>::default() }).await
            }
            None => Ok(()),
        }
    }

    async fn create(&mut self, request: WatchCreateRequest) -> Result<(), Gone> {
        let WatchCreateRequest { key, range_end, start_revision, watch_id, .. } = request;
        let header = self.header();
        let created = WatchResponse { header, created: true, ..WatchResponse::default() };
        let watch_id = match watch_id {
            0 => {
                while self.all.contains_key(&self.next) {
                    self.next += 1;
                }
                self.next
            }
            given => given,
        };
        if self.all.contains_key(&watch_id) {
            let cancel_reason = "mvcc: duplicate watch ID provided on the WatchStream".into();
            let watch_id = NO_WATCH;
            return self
                .send(WatchResponse { watch_id, canceled: true, cancel_reason, ..created })
                .await;
        }
        self.send(WatchResponse { watch_id, ..created }).await?;
        let (began, behind, compacted) = self.served.read(|store| {
            let began = match start_revision {
                1.. => store.position_of(start_revision),
                _ => Ok(store.end()),
            };
            (began, store.end(), store.compacted())
        });
        match began {
            Ok(sent) => {
                let span = Span::new(key, range_end);
                self.all.insert(watch_id, Watch { span, sent, behind, from: start_revision });
                self.deliver().await
            }
            Err(_) => {
                let canceled = WatchResponse {
                    header: self.served.header(0),
                    watch_id,
                    canceled: true,
                    compact_revision: compacted,
                    ..WatchResponse::default()
                };
                self.send(canceled).await
            }
        }
    }

    /// Sends each watch the changes that it has not received yet.
    async fn deliver(&mut self) -> Result<(), Gone> {
        for (id, watch) in &mut self.all {
            loop {
                let (response, sent) = watch.next(*id, &self.served);
                watch.sent = sent;
                match response {
                    Some(response) => self.responses.send(Ok(response)).await.map_err(|_| Gone)?,
                    None => break,
                }
            }
        }
        Ok(())
    }

    async fn send(&self, response: WatchResponse) -> Result<(), Gone> {
        self.responses.send(Ok(response)).await.map_err(|_| Gone)
    }

    fn header(&self) -> Option<ResponseHeader> {
        self.served.read(|store| self.served.header(store.revision()))
    }
}

// === impl Watch ===

impl Watch {
    /// The next response, if there are changes to send, and the position up to which changes are then sent.
    fn next(&self, watch_id: i64, served: &Served) -> (Option<WatchResponse>, LogPosition) {
        served.read(|store| {
            let (mut events, mut bytes, mut revisions) = (Vec::new(), 0, 0);
            let (mut sent, mut last) = (self.sent, 0);
            for (behind, change) in store.changes(self.sent) {
                let revision = change.revision();
                let is_another = revision != last;
                // Changes from before the watch's creation are batched; later each revision is sent alone.
                let full = match behind <= self.behind {
                    true => revisions >= BATCH || bytes >= BATCH_BYTES,
                    false => true,
                };
                if is_another && full && !events.is_empty() {
                    break;
                }
                sent = behind;
                if revision < self.from || !self.span.contains(change.key()) {
                    continue;
                }
                revisions += usize::from(is_another);
                last = revision;
                bytes += size(change);
                events.push(event(change));
            }
            let catches_up = sent <= self.behind;
            let revision = if catches_up { store.revision() } else { last };
            let header = served.header(revision);
            let response = WatchResponse { header, watch_id, events, ..WatchResponse::default() };
            ((!response.events.is_empty()).then_some(response), sent)
        })
    }
}

fn size(change: &Change) -> usize {
    match change {
        Change::Put(entry) => entry.key.len() + entry.value.len(),
        Change::Delete { key, .. } => key.len(),
    }
}

fn event(change: &Change) -> Event {
    let (kind, kv) = match change {
        Change::Put(entry) => (EventType::Put, entry.clone().into()),
        Change::Delete { key, revision } => {
            let (key, mod_revision) = (key.clone(), *revision);
            (EventType::Delete, KeyValue { key, mod_revision, ..KeyValue::default() })
        }
    };
    Event { r#type: kind.into(), kv: Some(kv) }
}
