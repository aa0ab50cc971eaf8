//! The answers to a runtime, in the version that it uses.

use serde::Serialize;

use crate::{error::CniError, version::CniVersion};

/// An error as the specification writes it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reply<'a> {
    cni_version: &'a str,
    code: u16,
    msg: &'a str,
    details: String,
}

/// The versions that are supported here.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    cni_version: &'static str,
    supported_versions: [&'static str; 3],
}

// === impl CniError ===

impl CniError {
    /// The error for the runtime, in the version that it uses.
    pub fn reply(&self, version: CniVersion) -> String {
        let reply = Reply {
            cni_version: version.as_str(),
            code: self.code(),
            msg: self.kind(),
            details: self.to_string(),
        };
        serde_json::to_string(&reply).unwrap_or_default()
    }
}

/// The answer to [`crate::Request::Version`], asked in a version.
pub fn version_reply(version: CniVersion) -> String {
    let versions = Versions {
        cni_version: version.as_str(),
        supported_versions: CniVersion::ALL.map(CniVersion::as_str),
    };
    serde_json::to_string(&versions).unwrap_or_default()
}
