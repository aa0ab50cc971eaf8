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
            other => Self::Broken(explain(&other)),
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
            _ if refused_by_tls(&status) => Self::Denied(explain_status(&status)),
            _ => Self::Broken(explain_status(&status)),
        }
    }
}

/// Whether the other side ended TLS: in TLS 1.3 a server that does not like our certificate answers only after the
/// handshake.
fn refused_by_tls(error: &dyn Error) -> bool {
    std::iter::successors(Some(error), |error| (**error).source())
        .any(|error| error.to_string().contains("received fatal alert"))
}

/// A status without its code, which means nothing where it is not etcd's.
fn explain_status(status: &tonic::Status) -> String {
    let closed = causes(status).filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|io| {
        matches!(
            io.kind(),
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
        )
    });
    if closed {
        return CLOSED.into();
    }
    in_words(with_causes(status.message().to_owned(), causes(status)))
}

const CLOSED: &str = "the etcd closed the connection";

/// The meaning of the transport's error texts, whose kinds are lost on the way here. Unknown ones stay as they are.
fn in_words(text: String) -> String {
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["keep-alive timed out", "KeepAliveTimedOut", "Timeout expired"]) {
        "the etcd no longer answers: it hangs, or the network to it is down".into()
    // A killed etcd ends TLS without saying so; rustls has a page about that.
    } else if says(&["without sending TLS close_notify", "broken pipe", "Broken pipe"])
        || says(&["connection reset", "Connection reset", "error reading a body from connection"])
    {
        CLOSED.into()
    } else {
        text
    }
}

/// An error with its causes, each once.
pub(crate) fn explain(error: &dyn Error) -> String {
    in_words(with_causes(error.to_string(), causes(error)))
}

fn causes<'a>(error: &'a dyn Error) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(error.source(), |error| (**error).source())
}

fn with_causes<'a>(
    mut text: String,
    causes: impl Iterator<Item = &'a (dyn Error + 'static)>,
) -> String {
    for cause in causes.map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transports_words_become_a_sentence_about_the_etcd() {
        for (transport, says) in [
            (
                "h2 protocol error: error reading a body from connection: stream closed because of a broken pipe",
                "the etcd closed the connection",
            ),
            (
                "h2 protocol error: peer closed connection without sending TLS close_notify: https://docs.rs/rustls",
                "the etcd closed the connection",
            ),
            (
                "h2 protocol error: http2 error: keep-alive timed out: operation timed out",
                "the etcd no longer answers: it hangs, or the network to it is down",
            ),
            (
                "transport error: Timeout expired",
                "the etcd no longer answers: it hangs, or the network to it is down",
            ),
            ("etcdserver: no leader", "etcdserver: no leader"),
        ] {
            let status = tonic::Status::unknown(transport);
            assert_eq!(EtcdError::from(status).to_string(), says, "{transport}");
        }
    }
}
