//! A chain of CNI plugins, as in a file in `/etc/cni/net.d`.

use std::{fs, path::Path};

use ipnet::IpNet;
use mesh_files::{Access, write_atomic};
use serde_json::{Map, Value, json};

use crate::error::LabError;

/// A chain of plugins.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflist {
    version: Value,
    name: Value,
    plugins: Vec<Map<String, Value>>,
}

/// A plugin of a chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plugin<'a> {
    chain: &'a Conflist,
    own: &'a Map<String, Value>,
}

/// The chain that we deliver to users.
const FOR_USERS: &str = include_str!("../../../../deploy/cni/10-clustermesh.conflist");
/// The name of our plugin.
pub(crate) const OURS: &str = "clustermesh-cni";

// === impl Conflist ===

impl Conflist {
    /// The chain that we deliver to users, with the settings of a node of the lab: the pods' ranges, the folder in which
    /// `host-local` keeps the allocated addresses, the agent's socket, and the folder with the plugin's files of pods.
    pub(crate) fn for_node(
        ranges: &[IpNet],
        data: &Path,
        agent: &Path,
        pods: &Path,
    ) -> Result<Self, LabError> {
        let mut chain = Self::parse(FOR_USERS)?;
        let ranges: Vec<Value> =
            ranges.iter().map(|range| json!([{ "subnet": range.to_string() }])).collect();
        for plugin in &mut chain.plugins {
            if let Some(ipam) = plugin.get_mut("ipam").and_then(Value::as_object_mut) {
                ipam.insert("ranges".into(), json!(ranges));
                ipam.insert("dataDir".into(), json!(data));
            }
            if is_ours(plugin) {
                plugin.insert("agentSocket".into(), json!(agent));
                plugin.insert("podsDir".into(), json!(pods));
            }
        }
        Ok(chain)
    }

    /// Reads a chain from a file.
    pub fn read(path: &Path) -> Result<Self, LabError> {
        Self::parse(&fs::read_to_string(path).map_err(LabError::io(path))?)
    }

    /// The chain without our plugin.
    pub fn without_ours(&self) -> Self {
        let mut chain = self.clone();
        chain.plugins.retain(|plugin| !is_ours(plugin));
        chain
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), LabError> {
        let Self { version, name, plugins } = self;
        let text = json!({ "cniVersion": version, "name": name, "plugins": plugins });
        write_atomic(path, format!("{text:#}\n").as_bytes(), Access::All)
            .map_err(LabError::io(path))
    }

    pub(crate) fn plugins(&self) -> impl DoubleEndedIterator<Item = Plugin<'_>> {
        self.plugins.iter().map(|own| Plugin { chain: self, own })
    }

    fn parse(text: &str) -> Result<Self, LabError> {
        let wrong = |reason: String| LabError::Manifest(format!("CNI configuration: {reason}"));
        let mut chain: Map<String, Value> =
            serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
        let mut field =
            |name: &str| chain.remove(name).ok_or_else(|| wrong(format!("it has no {name}")));
        let (version, name, plugins) = (field("cniVersion")?, field("name")?, field("plugins")?);
        let plugins = serde_json::from_value(plugins).map_err(|e| wrong(e.to_string()))?;
        Ok(Self { version, name, plugins })
    }
}

fn is_ours(plugin: &Map<String, Value>) -> bool {
    plugin.get("type").and_then(Value::as_str) == Some(OURS)
}

// === impl Plugin ===

impl Plugin<'_> {
    /// The name of the program.
    pub(crate) fn name(&self) -> String {
        self.own.get("type").and_then(Value::as_str).unwrap_or_default().into()
    }

    /// The configuration for a run: the plugin's part, the fields of the chain, and the previous result.
    pub(crate) fn configuration(&self, result: Option<&Value>) -> Value {
        let mut configuration = self.own.clone();
        configuration.insert("cniVersion".into(), self.chain.version.clone());
        configuration.insert("name".into(), self.chain.name.clone());
        if let Some(result) = result {
            configuration.insert("prevResult".into(), result.clone());
        }
        Value::Object(configuration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_users_get_runs_with_the_labs_addresses() {
        let ranges = ["10.1.2.0/24".parse().unwrap(), "fd00:10:1:2::/64".parse().unwrap()];
        let paths = ["/lab/ipam", "/lab/agent.sock", "/lab/pods"].map(Path::new);
        let chain = Conflist::for_node(&ranges, paths[0], paths[1], paths[2]).unwrap();
        let names: Vec<String> = chain.plugins().map(|plugin| plugin.name()).collect();
        assert_eq!(names, ["ptp", "clustermesh-cni"]);
        let result = json!({ "ips": [] });
        let configured: Vec<Value> =
            chain.plugins().map(|plugin| plugin.configuration(Some(&result))).collect();
        assert_eq!(
            configured[0],
            json!({
                "cniVersion": "1.0.0", "name": "pods", "type": "ptp", "prevResult": { "ips": [] },
                "ipam": {
                    "type": "host-local", "dataDir": "/lab/ipam",
                    "ranges": [[{ "subnet": "10.1.2.0/24" }], [{ "subnet": "fd00:10:1:2::/64" }]],
                    "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
                },
            })
        );
        assert_eq!(
            configured[1],
            json!({
                "cniVersion": "1.0.0", "name": "pods", "type": "clustermesh-cni", "prevResult": { "ips": [] },
                "agentSocket": "/lab/agent.sock", "podsDir": "/lab/pods",
            })
        );
        assert_eq!(chain.without_ours().plugins().count(), 1);
    }

    #[test]
    fn what_is_no_chain_says_why() {
        for (text, reason) in [
            ("", "EOF"),
            ("[]", "invalid type"),
            (r#"{"cniVersion":"1.0.0","plugins":[]}"#, "it has no name"),
            (r#"{"cniVersion":"1.0.0","name":"x","plugins":[1]}"#, "invalid type"),
        ] {
            let message = Conflist::parse(text).unwrap_err().to_string();
            assert!(message.contains(reason), "{message}");
        }
    }
}
