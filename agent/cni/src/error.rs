//! The error that a runtime gets when something failed.

/// Why a call failed. Below 100 the codes are the specification's, from there on ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CniError {
    /// The configuration is of a version that is not supported here, or that has no such command.
    #[error("CNI version {found:?}: {reason}")]
    IncompatibleVersion {
        /// The version.
        found: String,
        /// A remedy.
        reason: String,
    },
    /// A variable of the environment is missing, or is none.
    #[error("{variable}: {reason}")]
    Environment {
        /// Its name.
        variable: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A file, or the kernel.
    #[error("{what}: {reason}")]
    Io {
        /// What was read, written or asked.
        what: String,
        /// Why it failed.
        reason: String,
    },
    /// Standard input is no JSON of that form.
    #[error("the network configuration is not understood: {0}")]
    Decode(String),
    /// The configuration is understood, and cannot be right.
    #[error("{field}: {reason}")]
    Configuration {
        /// The field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It is not yet as it should be, and may become so without help.
    #[error("{0}")]
    TryAgain(String),
    /// Nothing is known here of the attachment.
    #[error("{0} is not attached here: no ADD was made, or a DEL since")]
    NotAttached(String),
    /// The pod's interface is gone.
    #[error("the pod has no interface {0}")]
    InterfaceMissing(String),
    /// The interface has lost an address.
    #[error("interface {interface} has no address {address}")]
    AddressMissing {
        /// The interface.
        interface: String,
        /// The address.
        address: String,
    },
    /// The agent knows nothing of the attachment.
    #[error("the agent has not bound {0}")]
    NotBound(String),
}

// === impl CniError ===

impl CniError {
    /// Its code.
    pub fn code(&self) -> u16 {
        match self {
            Self::IncompatibleVersion { .. } => 1,
            Self::Environment { .. } => 4,
            Self::Io { .. } => 5,
            Self::Decode(_) => 6,
            Self::Configuration { .. } => 7,
            Self::TryAgain(_) => 11,
            Self::NotAttached(_) => 100,
            Self::InterfaceMissing(_) => 101,
            Self::AddressMissing { .. } => 102,
            Self::NotBound(_) => 103,
        }
    }

    /// The kind of error in few words, the specification's `msg`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::IncompatibleVersion { .. } => "incompatible CNI version",
            Self::Environment { .. } => "invalid environment variables",
            Self::Io { .. } => "I/O failure",
            Self::Decode(_) => "failed to decode content",
            Self::Configuration { .. } => "invalid network config",
            Self::TryAgain(_) => "try again later",
            Self::NotAttached(_) => "not attached",
            Self::InterfaceMissing(_) => "interface missing",
            Self::AddressMissing { .. } => "address missing",
            Self::NotBound(_) => "not bound",
        }
    }
}
