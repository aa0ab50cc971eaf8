//! Reading and writing over a connection.

use std::{sync::Arc, time::SystemTime};

use etcd_client::{
    Client, ConnectOptions, GetOptions, KvClient, LeaseClient, MaintenanceClient, PutOptions, Txn,
    TxnOp, WatchClient, proto::PbTxnOpResponse,
};
use mesh_certs::Credentials;
use mesh_follow::{Header, KeyRange, KeyValue};
use tonic::transport::Channel;

use crate::{error::EtcdError, users::Users};

/// A connection to one etcd. Cheap to clone; all clones share it.
#[derive(Clone)]
pub struct Connection {
    endpoint: String,
    credentials: Arc<Credentials>,
    client: Client,
    kv: KvClient,
}

/// A write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: Vec<u8>,
        /// The lease that it lives on; without one it stays until it is removed.
        lease: Option<i64>,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: String,
    },
}

/// The largest answer that is accepted.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// Keys a page of [`Connection::list`].
const PAGE: i64 = 1_000;

// === impl Connection ===

impl Connection {
    pub(crate) async fn new(
        channel: Channel,
        endpoint: String,
        credentials: Arc<Credentials>,
    ) -> Result<Self, EtcdError> {
        let options = ConnectOptions::new().with_require_leader(true);
        let client =
            Client::from_channel(etcd_client::Channel::Tonic(channel), Some(options)).await?;
        let kv = client.kv_client().max_decoding_message_size(MAX_ANSWER);
        Ok(Self { endpoint, credentials, client, kv })
    }

    /// The endpoint that it leads to.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// When the certificate that it was made with ends.
    pub fn not_after(&self) -> SystemTime {
        self.credentials.not_after()
    }

    /// The credentials that it was made with.
    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }

    /// One page of the keys in a span, ascending, and whether there are more.
    pub async fn page(
        &self,
        span: &KeyRange,
        limit: i64,
        revision: Option<i64>,
        keys_only: bool,
    ) -> Result<(Header, Vec<KeyValue>, bool), EtcdError> {
        // Never requests an order: keys come in order, and if one is requested etcd reads the rest of the range for
        // each page.
        let mut options =
            GetOptions::new().with_range(span.end.clone()).with_limit(limit).with_serializable();
        if let Some(revision) = revision {
            options = options.with_revision(revision);
        }
        if keys_only {
            options = options.with_keys_only();
        }
        let answer = self.kv.clone().get(span.start.clone(), Some(options)).await?.0;
        let header = header(answer.header)?;
        let keys = answer.kvs.into_iter().map(key_value).collect();
        Ok((header, keys, answer.more))
    }

    /// All keys in a range as of one revision, which is returned too.
    pub async fn list(&self, span: &KeyRange) -> Result<(i64, Vec<KeyValue>), EtcdError> {
        let mut all = Vec::new();
        let revision = self.list_pages(span, |keys| all.extend(keys)).await?;
        Ok((revision, all))
    }

    /// Takes all keys in a range as of one revision, a page at a time. Returns the revision.
    pub async fn list_pages(
        &self,
        span: &KeyRange,
        mut take: impl FnMut(Vec<KeyValue>),
    ) -> Result<i64, EtcdError> {
        let mut rest = span.clone();
        let mut revision = None;
        loop {
            let (header, keys, more) = self.page(&rest, PAGE, revision, false).await?;
            revision.get_or_insert(header.revision);
            let last = keys.last().map(|kv| kv.key.clone());
            take(keys);
            match last {
                Some(mut next) if more => {
                    next.push(0);
                    rest.start = next;
                }
                _ => return Ok(revision.unwrap_or(header.revision)),
            }
        }
    }

    /// The values of some keys, at most 128, in their order and as of one revision.
    pub async fn look_up(&self, keys: &[String]) -> Result<Vec<Option<KeyValue>>, EtcdError> {
        let gets: Vec<TxnOp> = keys.iter().map(|key| TxnOp::get(key.as_str(), None)).collect();
        let answer = self.kv.clone().txn(Txn::new().and_then(gets)).await?.0;
        let found = answer.responses.into_iter().map(|response| match response.response {
            Some(PbTxnOpResponse::ResponseRange(range)) => range.kvs.into_iter().next(),
            _ => None,
        });
        let found: Vec<Option<KeyValue>> = found.map(|kv| kv.map(key_value)).collect();
        match found.len() == keys.len() {
            true => Ok(found),
            false => Err(EtcdError::Broken("the etcd's answer lacks keys".into())),
        }
    }

    /// Makes writes in one transaction: all or none. Returns its revision. No key may be there twice, and there are at
    /// most 128.
    pub async fn apply(&self, ops: &[Op]) -> Result<i64, EtcdError> {
        let ops: Vec<TxnOp> = ops.iter().map(txn_op).collect();
        let answer = self.kv.clone().txn(Txn::new().and_then(ops)).await?.0;
        Ok(header(answer.header)?.revision)
    }

    /// Makes a lease that lives for `seconds` unless kept alive.
    pub async fn grant_lease(&self, seconds: i64) -> Result<i64, EtcdError> {
        Ok(self.lease().grant(seconds, None).await?.id())
    }

    /// Gives a lease its whole time again.
    pub async fn keep_lease(&self, lease: i64) -> Result<(), EtcdError> {
        let (mut keeper, mut answers) = self.lease().keep_alive(lease).await?;
        keeper.keep_alive().await?;
        match answers.message().await? {
            Some(answer) if answer.ttl() > 0 => Ok(()),
            _ => Err(EtcdError::LeaseGone),
        }
    }

    /// The etcd's users and roles.
    pub fn users(&self) -> Users {
        Users::new(self.client.auth_client())
    }

    pub(crate) fn watch_client(&self) -> WatchClient {
        self.client.watch_client().max_decoding_message_size(MAX_ANSWER)
    }

    pub(crate) fn maintenance(&self) -> MaintenanceClient {
        self.client.maintenance_client()
    }

    fn lease(&self) -> LeaseClient {
        self.client.lease_client()
    }
}

fn txn_op(op: &Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease));
            TxnOp::put(key.as_str(), value.as_slice(), options)
        }
        Op::Delete { key } => TxnOp::delete(key.as_str(), None),
    }
}

/// The header of an answer. One without it does not show where it comes from.
pub(crate) fn header(
    header: Option<etcd_client::proto::PbResponseHeader>,
) -> Result<Header, EtcdError> {
    let header =
        header.ok_or_else(|| EtcdError::Broken("the etcd's answer has no header".into()))?;
    Ok(Header { cluster_id: header.cluster_id, revision: header.revision })
}

pub(crate) fn key_value(kv: etcd_client::proto::PbKeyValue) -> KeyValue {
    let etcd_client::proto::PbKeyValue { key, value, create_revision, mod_revision, .. } = kv;
    KeyValue { key, value, create_revision, mod_revision }
}
