//! The network configuration that a runtime writes to a plugin's standard input.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{environment::shortened, error::CniError, result::PrevResult};

/// A version of the protocol that is spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CniVersion {
    /// 0.3.1: the first whose results are those of today, but for a field.
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0.
    V1_0_0,
}

/// How the plugin is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The version in which is spoken.
    pub version: CniVersion,
    /// The network's name.
    pub network: String,
    /// Where the agent listens.
    pub agent_socket: PathBuf,
    /// Where attachments are kept for the agent.
    pub pods_dir: PathBuf,
    /// What the plugins before this one made.
    pub previous: Option<PrevResult>,
}

/// As it is written. What other plugins and runtimes put beside it is passed over.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    #[serde(default)]
    cni_version: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    agent_socket: Option<String>,
    #[serde(default)]
    pods_dir: Option<String>,
    #[serde(default, borrow)]
    prev_result: Option<&'a RawValue>,
}

/// Where an agent listens that was not told otherwise (`--admin-socket`).
const AGENT_SOCKET: &str = "/run/clustermesh/agent.sock";
/// Where such an agent looks for pods (`--pods-dir`).
const PODS_DIR: &str = "/run/clustermesh/pods";
/// The longest name of a network that is taken.
const MAX_NAME: usize = 256;

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

    /// The version that a configuration asks for, for answers to whatever else it says; the newest, if none of ours.
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

    fn new(text: &str) -> Result<Self, CniError> {
        let found = Self::ALL.into_iter().find(|version| version.as_str() == text);
        found.ok_or_else(|| CniError::IncompatibleVersion {
            found: shortened(text),
            reason: format!("this plugin speaks {}", Self::ALL.map(Self::as_str).join(", ")),
        })
    }
}

// === impl Configuration ===

impl Configuration {
    pub(crate) fn decode(input: &[u8]) -> Result<Self, CniError> {
        let text = std::str::from_utf8(input).map_err(|e| CniError::Decode(e.to_string()))?;
        let written: Written<'_> = object(text).map_err(CniError::Decode)?;
        let Written { cni_version, name, agent_socket, pods_dir, prev_result } = written;
        let version = cni_version.ok_or_else(|| invalid("cniVersion", "it is missing"))?;
        let version = CniVersion::new(&version)?;
        let network = name.filter(|name| !name.is_empty());
        let network = network.ok_or_else(|| invalid("name", "the network has none"))?;
        if network.len() > MAX_NAME {
            return Err(invalid("name", "it is too long"));
        }
        Ok(Self {
            version,
            network,
            agent_socket: path("agentSocket", agent_socket, AGENT_SOCKET)?,
            pods_dir: path("podsDir", pods_dir, PODS_DIR)?,
            previous: prev_result.map(PrevResult::decode).transpose()?,
        })
    }
}

/// Reads an object. Serde would take an array in its place, field by field.
pub(crate) fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    let read = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if text.trim_start().starts_with('{') { Ok(read) } else { Err("it is no object".into()) }
}

fn path(field: &str, written: Option<String>, otherwise: &str) -> Result<PathBuf, CniError> {
    let path = written.unwrap_or_else(|| otherwise.into());
    if path.contains('\0') || !Path::new(&path).is_absolute() {
        let reason = format!("{:?} is not an absolute path", shortened(&path));
        return Err(invalid(field, reason));
    }
    Ok(path.into())
}

pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> CniError {
    CniError::Configuration { field: field.into(), reason: reason.into() }
}
