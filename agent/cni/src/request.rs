//! What a runtime asks for.

use std::{net::IpAddr, path::PathBuf};

use serde::Serialize;

use crate::{
    attachment::AttachmentKey,
    configuration::{CniVersion, Configuration},
    environment::{Command, Variables, key, netns, pod},
    error::CniError,
    result::{Add, previous},
};

/// A call of the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A pod is attached.
    Add(Box<Add>),
    /// A pod is detached, if it ever was attached.
    Delete(Box<Delete>),
    /// Is the pod still attached as it was?
    Check(Box<Check>),
    /// Which versions are spoken?
    Version,
}

/// A pod is detached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// How the plugin is configured.
    pub configuration: Configuration,
    /// The container and its interface.
    pub key: AttachmentKey,
}

/// A pod is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// How the plugin is configured.
    pub configuration: Configuration,
    /// The container and its interface.
    pub key: AttachmentKey,
    /// The file that is the pod's network namespace.
    pub netns: PathBuf,
    /// The addresses that the interface got.
    pub addresses: Vec<IpAddr>,
}

/// The most that is read of standard input.
pub const MAX_INPUT: usize = 1024 * 1024;

// === impl Request ===

impl Request {
    /// Reads a call: its variables, and what is on standard input.
    ///
    /// # Errors
    /// When the call cannot be right. DEL is the most lenient: whatever it does not need may be missing.
    pub fn read(variables: &impl Variables, input: &[u8]) -> Result<Self, CniError> {
        let command = Command::read(variables)?;
        if input.len() > MAX_INPUT {
            return Err(CniError::Decode(format!("it has more than {MAX_INPUT} bytes")));
        }
        match command {
            Command::Version => Ok(Self::Version),
            Command::Add => {
                let (key, netns) = (key(variables)?, netns(variables)?);
                let pod = pod(variables)?;
                let configuration = Configuration::decode(input)?;
                Ok(Self::Add(Box::new(Add::new(configuration, key, netns, pod)?)))
            }
            Command::Delete => {
                let key = key(variables)?;
                let configuration = Configuration::decode(input)?;
                Ok(Self::Delete(Box::new(Delete { configuration, key })))
            }
            Command::Check => {
                let (key, netns) = (key(variables)?, netns(variables)?);
                let configuration = Configuration::decode(input)?;
                if configuration.version < CniVersion::V0_4_0 {
                    return Err(CniError::IncompatibleVersion {
                        found: configuration.version.as_str().into(),
                        reason: "it has no CHECK".into(),
                    });
                }
                let addresses = previous(&configuration)?.addresses_of(key.interface());
                Ok(Self::Check(Box::new(Check { configuration, key, netns, addresses })))
            }
        }
    }
}

/// The versions that are spoken here.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    cni_version: &'static str,
    supported_versions: [&'static str; 3],
}

/// The answer to [`Request::Version`], asked in a version.
pub fn version_reply(version: CniVersion) -> String {
    let versions = Versions {
        cni_version: version.as_str(),
        supported_versions: CniVersion::ALL.map(CniVersion::as_str),
    };
    serde_json::to_string(&versions).unwrap_or_default()
}

#[cfg(test)]
mod tests;
