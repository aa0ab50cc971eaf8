//! etcd's KV service.

use std::sync::Arc;

use prost::bytes::Bytes;
use tonic::{Code, Request, Response, Status};

use crate::{
    proto::{
        CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, KeyValue,
        PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, ResponseHeader,
        ResponseOp, TxnRequest, TxnResponse, kv_server::Kv, request_op, response_op,
    },
    served::Served,
    store::{Entry, Span, StoreError, Write},
};

/// The KV service of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Requests(pub(crate) Arc<Served>);

/// etcd's `--max-txn-ops`.
const MAX_OPERATIONS: usize = 128;

#[tonic::async_trait]
impl Kv for Requests {
    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        let request = request.into_inner();
        // With a sort order, etcd reads the whole rest of the range for each page, so our clients never request one.
        if request.sort_order != 0 || request.sort_target != 0 {
            return Err(Status::unimplemented("a sorted range"));
        }
        let span = Span::new(request.key, request.range_end);
        let revision = (request.revision > 0).then_some(request.revision);
        let limit = match request.limit {
            _ if request.count_only => Some(0),
            limit @ 1.. => usize::try_from(limit).ok(),
            _ => None,
        };
        self.0.read(|store| {
            let page = store.range(&span, revision, limit)?;
            let kvs = page.entries.into_iter().map(|entry| match request.keys_only {
                true => KeyValue { value: Bytes::new(), ..entry.into() },
                false => entry.into(),
            });
            let header = self.0.header(store.revision());
            let more = page.more && !request.count_only;
            Ok(Response::new(RangeResponse { header, kvs: kvs.collect(), more, count: page.count }))
        })
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.0.only_admin(&request)?;
        let (revision, _) = self.0.write(&[put(request.into_inner())?])?;
        Ok(Response::new(PutResponse { header: self.0.header(revision) }))
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        self.0.only_admin(&request)?;
        let (revision, removed) = self.0.write(&[delete(request.into_inner())])?;
        let deleted = removed.into_iter().map(count).sum();
        Ok(Response::new(DeleteRangeResponse { header: self.0.header(revision), deleted }))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        self.0.only_admin(&request)?;
        let TxnRequest { compare, success, failure: _ } = request.into_inner();
        if !compare.is_empty() {
            return Err(Status::unimplemented("a transaction with a condition"));
        }
        if success.len() > MAX_OPERATIONS {
            return Err(Status::invalid_argument("etcdserver: too many operations in txn request"));
        }
        let writes: Vec<Write> = success.into_iter().map(operation).collect::<Result<_, _>>()?;
        let (revision, done) = self.0.write(&writes)?;
        // The header of an operation in a transaction has the revision only.
        let header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
        let responses = writes.iter().zip(done).map(|(write, done)| {
            let response = match write {
                Write::Put(..) => response_op::Response::ResponsePut(PutResponse { header }),
                Write::Delete(_) => {
                    response_op::Response::ResponseDeleteRange(DeleteRangeResponse {
                        header,
                        deleted: count(done),
                    })
                }
            };
            ResponseOp { response: Some(response) }
        });
        let (responses, header) = (responses.collect(), self.0.header(revision));
        Ok(Response::new(TxnResponse { header, succeeded: true, responses }))
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        self.0.only_admin(&request)?;
        let revision = self.0.compact(request.into_inner().revision)?;
        Ok(Response::new(CompactionResponse { header: self.0.header(revision) }))
    }
}

fn operation(operation: RequestOp) -> Result<Write, Status> {
    match operation.request {
        Some(request_op::Request::RequestPut(request)) => put(request),
        Some(request_op::Request::RequestDeleteRange(request)) => Ok(delete(request)),
        Some(request_op::Request::RequestRange(_)) | None => {
            Err(Status::unimplemented("a transaction that reads"))
        }
    }
}

fn put(PutRequest { key, value, lease }: PutRequest) -> Result<Write, Status> {
    match (key.is_empty(), lease) {
        (true, _) => Err(Status::invalid_argument("etcdserver: key is not provided")),
        (false, 0) => Ok(Write::Put(key, value)),
        (false, _) => Err(Status::not_found("etcdserver: requested lease not found")),
    }
}

fn delete(DeleteRangeRequest { key, range_end }: DeleteRangeRequest) -> Write {
    Write::Delete(Span::new(key, range_end))
}

fn count(keys: usize) -> i64 {
    i64::try_from(keys).unwrap_or(i64::MAX)
}

impl From<Entry> for KeyValue {
    fn from(entry: Entry) -> Self {
        let Entry { key, value, create_revision, mod_revision, version } = entry;
        Self { key, value, create_revision, mod_revision, version, lease: 0 }
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::Compacted | StoreError::Future => Code::OutOfRange,
            StoreError::Duplicate => Code::InvalidArgument,
        };
        Self::new(code, error.to_string())
    }
}
