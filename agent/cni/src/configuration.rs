//! The network configuration that a runtime writes to a plugin's standard input.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    error::CniError,
    excerpt::excerpt,
    json::{invalid, object},
    result::PrevResult,
    version::CniVersion,
};

/// How the plugin is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The protocol version to use.
    pub version: CniVersion,
    /// The network's name.
    pub network: String,
    /// Where the agent listens.
    pub agent_socket: PathBuf,
    /// Where attachments are kept for the agent.
    pub pods_dir: PathBuf,
    /// The result of the plugins before this one.
    pub previous: Option<PrevResult>,
}

/// As it is written. Fields of other plugins and runtimes are ignored.
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

/// Where an agent listens by default (`--admin-socket`).
const AGENT_SOCKET: &str = "/run/clustermesh/agent.sock";
/// Where such an agent looks for pods (`--pods-dir`).
const PODS_DIR: &str = "/run/clustermesh/pods";
/// The longest name of a network that is taken.
const MAX_NAME: usize = 256;

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

fn path(field: &str, written: Option<String>, otherwise: &str) -> Result<PathBuf, CniError> {
    let path = written.unwrap_or_else(|| otherwise.into());
    if path.contains('\0') || !Path::new(&path).is_absolute() {
        let reason = format!("{:?} is not an absolute path", excerpt(&path));
        return Err(invalid(field, reason));
    }
    Ok(path.into())
}
