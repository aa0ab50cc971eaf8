//! Errors, by what to do about them.

use std::{error::Error, io};

use mesh_follow::{ConnectionPhase, Failure, ListError};
use tonic::Code;

/// Why an etcd did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// It does not let us.
    #[error("the etcd refuses: {0}")]
    Denied(String),
    /// The answer is larger than what is accepted.
    #[error("the answer is too large: {0}")]
    TooLarge(String),
    /// The revision asked for is compacted away.
    #[error("the revision is compacted")]
    Compacted,
    /// Its disk quota is spent; it only reads until it was compacted, defragmented and disarmed.
    #[error("the etcd's space is exhausted (NOSPACE)")]
    NoSpace,
    /// A value, or all of a transaction, is larger than it takes.
    #[error("the request is larger than the etcd takes: {0}")]
    RequestTooLarge(String),
    /// It takes longer than any caller waits.
    #[error("the etcd is slow: {0}")]
    Slow(String),
    /// The lease is unknown to it.
    #[error("the lease is gone")]
    LeaseGone,
    /// The connection, or the server behind it, does not work.
    #[error("{0}")]
    Broken(String),
}

impl EtcdError {
    /// The failure, with its connection phase.
    pub fn failure(&self) -> Failure {
        let phase = match self {
            Self::Denied(_) => ConnectionPhase::Authenticated,
            _ => ConnectionPhase::Synced,
        };
        Failure::new(phase, self.to_string())
    }

    /// The same, for a list that a state machine asked for.
    pub(crate) fn into_list_error(self) -> ListError {
        match self {
            Self::Denied(_) => ListError::Denied(self.to_string()),
            Self::TooLarge(_) => ListError::TooLarge,
            Self::Compacted => ListError::Compacted,
            other => ListError::Broken(other.to_string()),
        }
    }
}

impl From<etcd_client::Error> for EtcdError {
    fn from(error: etcd_client::Error) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => status.into(),
            etcd_client::Error::TransportError(error) => Self::Broken(transport(&error)),
            etcd_client::Error::IoError(error) => Self::Broken(transport(&error)),
            etcd_client::Error::LeaseKeepAliveError(why) if why == "lease not found" => {
                Self::LeaseGone
            }
            // What it says to a stream that has ended: its channel is closed.
            etcd_client::Error::WatchError(_) | etcd_client::Error::LeaseKeepAliveError(_) => {
                Self::Broken(CLOSED.into())
            }
            other => Self::Broken(other.to_string()),
        }
    }
}

impl From<tonic::Status> for EtcdError {
    /// etcd puts what matters into the message (its `rpctypes`); codes alone are shared by unlike errors.
    fn from(status: tonic::Status) -> Self {
        let message = status.message();
        if message.contains("has been compacted") {
            return Self::Compacted;
        }
        if message.contains("database space exceeded") {
            return Self::NoSpace;
        }
        if message.contains("request is too large") || message.contains("too many operations") {
            return Self::RequestTooLarge(message.into());
        }
        // It could not write to its disk, or reach its other members, in time.
        if message.contains("etcdserver: request timed out")
            || message.contains("too many requests")
        {
            return Self::Slow(message.into());
        }
        if message.contains("requested lease not found") {
            return Self::LeaseGone;
        }
        match status.code() {
            _ if mesh_certs::is_refused_by_server(&status) => Self::Denied(in_words(&status)),
            _ if status.source().is_some() => Self::Broken(in_words(&status)),
            Code::PermissionDenied | Code::Unauthenticated => {
                Self::Denied(message.trim_start_matches("etcdserver: ").into())
            }
            Code::ResourceExhausted | Code::OutOfRange if !message.contains("future revision") => {
                Self::TooLarge(message.into())
            }
            // etcd's answer to a certificate whose user does not exist, or has no role.
            Code::InvalidArgument | Code::FailedPrecondition if message.contains("user name") => {
                Self::Denied(message.into())
            }
            _ => Self::Broken(in_words(&status)),
        }
    }
}

const CLOSED: &str = "the etcd closed the connection";
const HANGS: &str = "the etcd no longer answers: it hangs, or the network to it is down";
const BROKE: &str = "the connection to the etcd broke: it was restarted, or a proxy or firewall on the way ended it";
const NO_ETCD: &str = "what answers there is no etcd: see the endpoint";

/// A status in a sentence, without its code, which means nothing where it is not etcd's. What etcd says stays as it is.
fn in_words(status: &tonic::Status) -> String {
    match status.source() {
        // The transport made it, and not the etcd.
        Some(_) => transport(status),
        None => of_transport(status.message()).unwrap_or(status.message()).to_owned(),
    }
}

/// What a failed transport means. Its words, which name no cause that anybody could mend, are left out.
pub(crate) fn transport(error: &(dyn Error + 'static)) -> String {
    if let Some(failure) = mesh_certs::tls_failure(error) {
        return failure;
    }
    let causes = || std::iter::successors(Some(error), |error| (**error).source());
    let kind = causes().find_map(|cause| cause.downcast_ref().map(io::Error::kind));
    let of_kind = match kind {
        Some(
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe,
        ) => Some(CLOSED),
        Some(io::ErrorKind::TimedOut) => Some(HANGS),
        _ => None,
    };
    of_kind
        .or_else(|| causes().find_map(|cause| of_transport(&cause.to_string())))
        .unwrap_or(BROKE)
        .to_owned()
}

/// What words of the transport mean: HTTP/2 hands on no kinds. `None` for words that are not known to be its.
fn of_transport(text: &str) -> Option<&'static str> {
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&[
        "keep-alive timed out",
        "KeepAliveTimedOut",
        "Timeout expired",
        "operation timed out",
    ]) {
        Some(HANGS)
    // A killed etcd ends TLS without saying so; rustls has a page about that.
    } else if says(&["without sending TLS close_notify", "broken pipe", "Broken pipe"])
        || says(&["connection reset", "Connection reset", "error reading a body from connection"])
    {
        Some(CLOSED)
    } else if says(&["mapped from HTTP status code"]) {
        Some(NO_ETCD)
    } else if says(&["h2 protocol error", "transport error", "http2 error"]) {
        Some(BROKE)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;
    use tonic::transport::Endpoint;

    use super::*;

    #[test]
    fn the_transports_words_become_a_sentence_about_the_etcd() {
        for (transport, says) in [
            (
                "h2 protocol error: error reading a body from connection: stream closed because of a broken pipe",
                CLOSED,
            ),
            (
                "h2 protocol error: peer closed connection without sending TLS close_notify: https://docs.rs/rustls",
                CLOSED,
            ),
            ("h2 protocol error: http2 error: keep-alive timed out: operation timed out", HANGS),
            ("transport error: Timeout expired", HANGS),
            ("h2 protocol error: stream no longer needed", BROKE),
            ("grpc-status header missing, mapped from HTTP status code 502", NO_ETCD),
            ("etcdserver: no leader", "etcdserver: no leader"),
        ] {
            let status = tonic::Status::unknown(transport);
            assert_eq!(EtcdError::from(status).to_string(), says, "{transport}");
        }
    }

    #[test]
    fn a_stream_that_ended_is_a_connection_that_ended() {
        let ended = etcd_client::Error::WatchError("channel closed".into());
        assert_eq!(EtcdError::from(ended).to_string(), CLOSED);
        let gone = etcd_client::Error::LeaseKeepAliveError("lease not found".into());
        assert!(matches!(EtcdError::from(gone), EtcdError::LeaseGone));
    }

    /// What a request comes to over a real connection, of which the server's side does this.
    async fn asked(server: impl AsyncFnOnce(tokio::net::TcpStream), limit: Duration) -> EtcdError {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let channel = Endpoint::from_shared(address).unwrap().timeout(limit).connect_lazy();
        let channel = etcd_client::Channel::Tonic(channel);
        let client = etcd_client::Client::from_channel(channel, None).await.unwrap();
        let mut kv = client.kv_client();
        let serve = async {
            let (stream, _) = listener.accept().await.unwrap();
            server(stream).await;
        };
        // The connection ends with who asked.
        drop(client);
        let ask = async move { kv.get("x", None).await };
        let ((), answer) = tokio::join!(serve, ask);
        answer.unwrap_err().into()
    }

    #[tokio::test]
    async fn real_failures_of_the_transport_have_none_of_its_words() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let long = Duration::from_secs(60);
        let closed = asked(async |stream| drop(stream), long).await;
        let no_http = asked(
            async |mut stream| {
                let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            },
            long,
        )
        .await;
        let hung = asked(
            async |mut stream| {
                // Until the other side gives up.
                let _ = stream.read_to_end(&mut Vec::new()).await;
            },
            Duration::from_millis(20),
        )
        .await;
        for (error, says) in
            [(closed, [CLOSED, BROKE]), (no_http, [CLOSED, BROKE]), (hung, [HANGS, HANGS])]
        {
            let text = error.to_string();
            assert!(says.contains(&text.as_str()), "{error:?}");
            assert!(matches!(error, EtcdError::Broken(_)), "{error:?}");
        }
    }
}
