//! Versions of the protocol.

use serde::Deserialize;

use crate::{error::CniError, excerpt::excerpt};

/// A version of the protocol that is supported here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CniVersion {
    /// 0.3.1: the first whose results are those of today, but for a field.
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0.
    V1_0_0,
}

// === impl CniVersion ===

impl CniVersion {
    /// The newest.
    pub const LATEST: Self = Self::V1_0_0;
    /// All, the oldest first.
    pub const ALL: [Self; 3] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
        }
    }

    /// The version that a configuration asks for, for answers to any configuration; the newest, if it is none of ours.
    pub fn of_input(input: &[u8]) -> Self {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Versioned {
            cni_version: String,
        }
        let written = serde_json::from_slice(input).ok();
        let version = written.and_then(|Versioned { cni_version }| Self::new(&cni_version).ok());
        version.unwrap_or(Self::LATEST)
    }

    pub(crate) fn new(text: &str) -> Result<Self, CniError> {
        let found = Self::ALL.into_iter().find(|version| version.as_str() == text);
        found.ok_or_else(|| CniError::IncompatibleVersion {
            found: excerpt(text),
            reason: format!("this plugin supports {}", Self::ALL.map(Self::as_str).join(", ")),
        })
    }
}
