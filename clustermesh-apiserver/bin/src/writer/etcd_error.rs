//! Why an etcd cannot be written to, classified by what an operator would do about it.

use std::fmt;

use mesh_etcd::EtcdError;
use mesh_follow::{ConnectionPhase, Failure};

use super::session_error::SessionError;

/// Why the etcd cannot be written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EtcdFailure {
    pub(crate) reason: Reason,
    pub(crate) text: String,
}

/// The class of a failure, or of something that had to be repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reason {
    /// No etcd answers at its address.
    Away,
    /// It takes too long to answer.
    Slow,
    /// Its quota is exhausted.
    Full,
    /// The requested revision was compacted.
    Compacted,
    /// It denies access.
    Denied,
    /// A certificate, of the etcd or of the apiserver, is invalid or expired.
    Certificate,
    /// It had lost its data, and was filled again.
    DataLost,
    /// Another program changed its users and roles.
    Users,
    /// It has identity IDs that are not in the journal.
    Journal,
    /// Anything else.
    Broken,
}

// === impl Reason ===

impl Reason {
    /// All reasons.
    pub(crate) const ALL: [Self; 10] = [
        Self::Away,
        Self::Slow,
        Self::Full,
        Self::Compacted,
        Self::Denied,
        Self::Certificate,
        Self::DataLost,
        Self::Users,
        Self::Journal,
        Self::Broken,
    ];

    /// Whether a new connection shows that the reason no longer exists.
    pub(crate) fn ends_with_connection(self) -> bool {
        matches!(self, Self::Away | Self::Certificate)
    }

    /// The label in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Slow => "slow",
            Self::Full => "full",
            Self::Compacted => "compacted",
            Self::Denied => "denied",
            Self::Certificate => "certificate",
            Self::DataLost => "data-lost",
            Self::Users => "users",
            Self::Journal => "journal",
            Self::Broken => "broken",
        }
    }

    /// The label in metrics of the previous minor release, if it was different.
    pub(crate) fn former_str(self) -> Option<&'static str> {
        matches!(self, Self::DataLost).then_some("anew")
    }
}

// === impl EtcdFailure ===

impl EtcdFailure {
    pub(crate) fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }
}

impl From<&Failure> for EtcdFailure {
    fn from(failure: &Failure) -> Self {
        let reason = match failure.phase {
            ConnectionPhase::Resolve | ConnectionPhase::Tcp => Reason::Away,
            ConnectionPhase::Tls => Reason::Certificate,
            ConnectionPhase::Authenticated => Reason::Denied,
            ConnectionPhase::Config | ConnectionPhase::Synced | ConnectionPhase::DataPath => {
                Reason::Broken
            }
        };
        Self::new(reason, failure.to_string())
    }
}

impl From<&SessionError> for EtcdFailure {
    fn from(error: &SessionError) -> Self {
        match error {
            SessionError::Etcd(error) => Self::from(error),
            SessionError::Lost(lost) => Self::new(Reason::Journal, lost.to_string()),
        }
    }
}

impl From<&EtcdError> for EtcdFailure {
    fn from(error: &EtcdError) -> Self {
        let reason = match error {
            EtcdError::Denied(_) => Reason::Denied,
            EtcdError::NoSpace => Reason::Full,
            EtcdError::Compacted => Reason::Compacted,
            EtcdError::Slow(_) => Reason::Slow,
            // It answered a moment ago. The next connection shows whether it is unreachable.
            EtcdError::TooLarge(_)
            | EtcdError::RequestTooLarge(_)
            | EtcdError::LeaseGone
            | EtcdError::Broken(_) => Reason::Broken,
        };
        Self::new(reason, error.to_string())
    }
}

impl fmt::Display for EtcdFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.as_str(), self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_distinguished_by_what_to_do_about_them() {
        let error = |error: EtcdError| EtcdFailure::from(&error).reason;
        assert_eq!(error(EtcdError::NoSpace), Reason::Full);
        assert_eq!(error(EtcdError::Compacted), Reason::Compacted);
        assert_eq!(error(EtcdError::Slow("x".into())), Reason::Slow);
        assert_eq!(error(EtcdError::Denied("x".into())), Reason::Denied);
        let failure = |phase| EtcdFailure::from(&Failure::new(phase, "why")).reason;
        assert_eq!(failure(ConnectionPhase::Tcp), Reason::Away);
        assert_eq!(failure(ConnectionPhase::Tls), Reason::Certificate);
        assert_eq!(EtcdFailure::new(Reason::Full, "why").to_string(), "full: why");
        let words: std::collections::BTreeSet<_> = Reason::ALL.map(Reason::as_str).into();
        assert_eq!(words.len(), Reason::ALL.len());
    }
}
