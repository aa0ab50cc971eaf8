//! What a runtime asks for.

use std::{net::IpAddr, path::PathBuf};

use crate::{
    attachment::{AttachmentKey, PodName},
    configuration::Configuration,
    environment::{Command, Pod, Variables, key, netns, pod},
    error::CniError,
    json::invalid,
    result::PrevResult,
    version::CniVersion,
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
    /// Which versions are supported?
    Version,
}

/// A pod is attached: what the plugins before this one made of it is in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// How the plugin is configured.
    pub configuration: Configuration,
    /// The container and its interface.
    pub key: AttachmentKey,
    /// The file that is the pod's network namespace.
    pub netns: PathBuf,
    /// The pod.
    pub pod: PodName,
    /// The pod's uid, if the runtime knows it.
    pub uid: String,
    /// The pod's addresses on that interface.
    pub addresses: Vec<IpAddr>,
    /// The result for the runtime: what the plugins before this one returned, as they returned it.
    pub reply: String,
}

/// A pod is detached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// How the plugin is configured.
    pub configuration: Configuration,
    /// The container and its interface.
    pub key: AttachmentKey,
}

/// A pod is checked.
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

// === impl Add ===

impl Add {
    fn new(
        configuration: Configuration,
        key: AttachmentKey,
        netns: PathBuf,
        pod: Pod,
    ) -> Result<Self, CniError> {
        let previous = previous(&configuration)?;
        let addresses = previous.addresses_of(key.interface());
        let reply = previous.text().to_owned();
        let Pod { name: pod, uid } = pod;
        Ok(Self { configuration, key, netns, pod, uid, addresses, reply })
    }
}

/// A chained plugin has something before it.
fn previous(configuration: &Configuration) -> Result<&PrevResult, CniError> {
    configuration.previous.as_ref().ok_or_else(|| {
        let reason = "it is missing: this plugin makes no interface, and belongs behind one in a chain that does";
        invalid("prevResult", reason)
    })
}

#[cfg(test)]
mod tests;
