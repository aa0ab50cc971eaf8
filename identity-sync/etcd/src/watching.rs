//! Changes to keys as they happen, for a writer that checks what others write. Readers follow by a state machine.

use etcd_client::{WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use mesh_follow::{Header, KeyRange, WatchEvent};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{driver::watch_events, error::EtcdError, store::Connection};

/// Watches over key ranges. Dropping it ends them.
///
/// A task of its own takes what the connection delivers: left there, it would fill the connection's window, and answers
/// to other requests would not get through. No more waits here than what was written since the last call.
pub struct Watching {
    responses: mpsc::UnboundedReceiver<Result<WatchResponse, EtcdError>>,
    reading: JoinHandle<()>,
    /// The stream lives as long as both of its ends.
    _requests: WatchRequestSender,
}

impl Connection {
    /// Watches spans, from a revision on. Each span's changes come in order.
    pub async fn watch(&self, spans: &[KeyRange], from: i64) -> Result<Watching, EtcdError> {
        let options = |span: &KeyRange| {
            let options = WatchOptions::new().with_range(span.end.clone());
            Some(options.with_start_revision(from).with_fragment())
        };
        let [first, others @ ..] = spans else {
            return Err(EtcdError::Broken("there is nothing to watch".into()));
        };
        let mut client = self.watch_client();
        let opened = client.watch(first.start.clone(), options(first)).await?;
        let (mut requests, responses) = opened.split();
        for span in others {
            requests.watch(span.start.clone(), options(span)).await?;
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        let reading = tokio::spawn(read(responses, sender));
        Ok(Watching { responses: receiver, reading, _requests: requests })
    }
}

/// Passes on events, until the receiver is dropped or the stream ends.
async fn read(
    mut responses: WatchResponseStream,
    sender: mpsc::UnboundedSender<Result<WatchResponse, EtcdError>>,
) {
    loop {
        let response = responses.message().await.map_err(EtcdError::from).transpose();
        let Some(response) = response else { return };
        let is_over = response.is_err();
        if sender.send(response).is_err() || is_over {
            return;
        }
    }
}

impl Watching {
    /// Waits for the next changes. Cancel-safe: what was not returned comes with the next call.
    pub async fn next(&mut self) -> Result<(Header, Vec<WatchEvent>), EtcdError> {
        loop {
            let gone = || EtcdError::Broken("the etcd closed the connection".into());
            let response = self.responses.recv().await.ok_or_else(gone)??.0;
            if response.canceled {
                return Err(match response.compact_revision {
                    0 => EtcdError::Broken(format!("the watch ended: {}", response.cancel_reason)),
                    _ => EtcdError::Compacted,
                });
            }
            let header = crate::store::header(response.header)?;
            if !response.events.is_empty() {
                return Ok((header, watch_events(response.events)?));
            }
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.reading.abort();
    }
}
