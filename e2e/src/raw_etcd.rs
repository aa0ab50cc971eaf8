//! etcd's API with raw protobuf messages: fields by number, without the types of a library.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use mesh_certs::ClusterPki;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::{StreamExt as _, wrappers::UnboundedReceiverStream};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};

/// A protobuf message: its fields by number, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message(pub Vec<(u64, Field)>);

/// The value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A number.
    Number(u64),
    /// Bytes, a text, or a nested message.
    Bytes(Vec<u8>),
}

/// A connection to an etcd, or to a server with the same API.
#[derive(Clone, Debug)]
pub struct RawEtcd {
    channel: Channel,
}

/// A watch stream.
pub struct RawWatch {
    requests: mpsc::UnboundedSender<Vec<u8>>,
    responses: UnboundedReceiverStream<Result<Vec<u8>, Status>>,
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The field of the header in every answer.
const HEADER: u64 = 1;
/// The field of the revision in a header.
const REVISION: u64 = 3;

// === impl Message ===

impl Message {
    /// Adds a number.
    pub fn number(mut self, field: u64, value: i64) -> Self {
        self.0.push((field, Field::Number(value.cast_unsigned())));
        self
    }

    /// Adds bytes.
    pub fn bytes(mut self, field: u64, value: impl AsRef<[u8]>) -> Self {
        self.0.push((field, Field::Bytes(value.as_ref().to_vec())));
        self
    }

    /// Adds a message.
    pub fn message(self, field: u64, value: &Self) -> Self {
        self.bytes(field, value.encode())
    }

    /// Encodes the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (field, value) in &self.0 {
            match value {
                Field::Number(number) => {
                    varint(field << 3, &mut bytes);
                    varint(*number, &mut bytes);
                }
                Field::Bytes(content) => {
                    varint(field << 3 | 2, &mut bytes);
                    varint(content.len() as u64, &mut bytes);
                    bytes.extend(content);
                }
            }
        }
        bytes
    }

    /// Decodes a message.
    pub fn decode(mut bytes: &[u8]) -> Self {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let tag = read_varint(&mut bytes);
            let value = match tag & 7 {
                0 => Field::Number(read_varint(&mut bytes)),
                2 => {
                    let length = usize::try_from(read_varint(&mut bytes)).expect("a length");
                    let (content, rest) = bytes.split_at(length);
                    bytes = rest;
                    Field::Bytes(content.to_vec())
                }
                other => panic!("etcd has no field of wire type {other}"),
            };
            fields.push((tag >> 3, value));
        }
        Self(fields)
    }

    /// Replaces the header by its revision, because cluster, member and term differ between etcds.
    pub fn without_header(mut self) -> Self {
        let header = self.0.iter().position(|(field, _)| *field == HEADER);
        let Some(header) = header.map(|at| self.0.remove(at)) else { return self };
        let (_, Field::Bytes(header)) = header else { panic!("a header is a message") };
        let revision = Self::decode(&header).0.into_iter().find(|(field, _)| *field == REVISION);
        self.0.insert(0, revision.map_or((HEADER, Field::Number(0)), |(_, value)| (HEADER, value)));
        self
    }

    /// The cluster ID in the header.
    pub fn cluster_id(&self) -> u64 {
        let header = self.0.iter().find(|(field, _)| *field == HEADER);
        let Some((_, Field::Bytes(header))) = header else { return 0 };
        let id = Self::decode(header).0.into_iter().find(|(field, _)| *field == 1);
        match id {
            Some((_, Field::Number(id))) => id,
            _ => 0,
        }
    }
}

// === impl RawEtcd ===

impl RawEtcd {
    /// Connects to loopback, with the certificate `name` in `pki`, or with none.
    pub async fn connect(port: u16, pki: &Path, name: Option<&str>) -> Result<Self, String> {
        let pki = ClusterPki::new(pki);
        let read = |path: std::path::PathBuf| fs::read_to_string(path).expect("a file");
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read(pki.certificate("ca"))))
            .domain_name("127.0.0.1");
        if let Some(name) = name {
            let identity = Identity::from_pem(read(pki.certificate(name)), read(pki.key(name)));
            tls = tls.identity(identity);
        }
        let endpoint = Channel::from_shared(format!("https://127.0.0.1:{port}")).expect("a URI");
        let channel = endpoint.tls_config(tls).expect("TLS").connect().await;
        Ok(Self { channel: channel.map_err(|error| error.to_string())? })
    }

    /// Sends a request to a method such as `KV/Range`.
    pub async fn ask(&self, method: &str, request: &Message) -> Result<Message, (Code, String)> {
        let asked = timeout(PATIENCE, async {
            let mut grpc = Grpc::new(self.channel.clone());
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            grpc.unary(Request::new(request.encode()), path(method), RawCodec).await
        });
        let answer = asked.await.expect("an answer in time");
        answer
            .map(|answer| Message::decode(answer.get_ref()))
            .map_err(|status| (status.code(), status.message().to_owned()))
    }

    /// Sends a request to a method with a stream, such as `Maintenance/Snapshot`. Returns the first message.
    pub async fn ask_first(
        &self,
        method: &str,
        request: &Message,
    ) -> Result<Message, (Code, String)> {
        let asked = timeout(PATIENCE, async {
            let mut grpc = Grpc::new(self.channel.clone());
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let request = Request::new(request.encode());
            let opened = grpc.server_streaming(request, path(method), RawCodec).await?;
            let first = opened.into_inner().next().await;
            first.unwrap_or_else(|| Err(Status::unavailable("the stream is empty")))
        });
        let answer = asked.await.expect("an answer in time");
        answer
            .map(|answer| Message::decode(&answer))
            .map_err(|status| (status.code(), status.message().to_owned()))
    }

    /// Opens a watch stream. Does not wait for an answer: an etcd may answer only with the first response.
    pub fn watch(&self) -> RawWatch {
        let (requests, receiver) = mpsc::unbounded_channel();
        let (sender, responses) = mpsc::unbounded_channel();
        let mut grpc = Grpc::new(self.channel.clone());
        tokio::spawn(async move {
            grpc.ready().await.expect("a connection");
            let stream = Request::new(UnboundedReceiverStream::new(receiver));
            let opened = grpc.streaming(stream, path("Watch/Watch"), RawCodec).await;
            let mut opened = opened.expect("a stream").into_inner();
            while let Some(response) = opened.next().await {
                if sender.send(response).is_err() {
                    return;
                }
            }
        });
        RawWatch { requests, responses: UnboundedReceiverStream::new(responses) }
    }
}

// === impl RawWatch ===

impl RawWatch {
    /// Sends a request.
    pub fn send(&self, request: &Message) {
        self.requests.send(request.encode()).expect("the stream is open");
    }

    /// The next response.
    pub async fn next(&mut self) -> Message {
        let next = timeout(PATIENCE, self.responses.next()).await.expect("a response in time");
        Message::decode(&next.expect("the stream is open").expect("a response"))
    }

    /// Whether there is no response for a moment.
    pub async fn is_quiet(&mut self) -> bool {
        timeout(Duration::from_millis(200), self.responses.next()).await.is_err()
    }
}

/// A codec that passes bytes unchanged.
#[derive(Clone, Copy, Debug)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost::bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

impl Decoder for RawCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = prost::bytes::Buf::remaining(buffer);
        Ok(Some(prost::bytes::Buf::copy_to_bytes(buffer, length).to_vec()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

fn path(method: &str) -> PathAndQuery {
    PathAndQuery::try_from(format!("/etcdserverpb.{method}")).expect("a path")
}

fn varint(mut value: u64, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).expect("seven bits"));
}

fn read_varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (first, rest) = bytes.split_first().expect("a number");
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            break;
        }
    }
    value
}

/// The keys and values of a recorded keys file (`docs/offline.md`, "Keys files").
pub fn recorded(path: &Path) -> BTreeMap<String, Vec<u8>> {
    mesh_offline::KeysFile::read(path).expect("a keys file").entries
}
