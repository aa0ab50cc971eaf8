//! Attaching pods to a node with Debian's CNI plugins, as a kubelet would (CNI specification 1.0.0).

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
};

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::json;

use crate::{
    command::{NETNS, enter_netns, run},
    error::LabError,
};

/// Where Debian puts the plugins.
const PLUGINS: &str = "/usr/lib/cni";
/// The plugin that makes a pod's link and routes; its addresses come from `host-local`.
const PLUGIN: &str = "ptp";

/// A pod and the node that it is attached to.
pub(crate) struct Attachment<'a> {
    pub(crate) container: &'a str,
    pub(crate) pod_netns: &'a str,
    pub(crate) node_netns: &'a str,
    /// The node's pod ranges, one a family.
    pub(crate) ranges: &'a [IpNet],
    /// Where the plugin remembers the addresses it gave.
    pub(crate) data: &'a Path,
}

/// What a plugin says of a pod that it attached.
#[derive(Deserialize)]
struct Added {
    #[serde(default)]
    ips: Vec<AddedIp>,
}

#[derive(Deserialize)]
struct AddedIp {
    address: IpNet,
}

impl Attachment<'_> {
    /// Attaches the pod, and returns its addresses.
    pub(crate) fn add(&self) -> Result<Vec<IpAddr>, LabError> {
        let output = self.call("ADD")?;
        let failed =
            |reason: String| LabError::Command { command: format!("{PLUGIN} ADD"), reason };
        let added: Added = serde_json::from_slice(&output).map_err(|e| failed(e.to_string()))?;
        if added.ips.is_empty() {
            return Err(failed("the plugin gave no address".into()));
        }
        Ok(added.ips.into_iter().map(|ip| ip.address.addr()).collect())
    }

    /// Detaches the pod. Done twice, it is done once.
    pub(crate) fn delete(&self) -> Result<(), LabError> {
        self.call("DEL").map(|_| ())
    }

    fn call(&self, verb: &str) -> Result<Vec<u8>, LabError> {
        let plugin = PathBuf::from(PLUGINS).join(PLUGIN);
        if !plugin.is_file() {
            return Err(LabError::Missing(plugin.display().to_string()));
        }
        let ranges: Vec<_> =
            self.ranges.iter().map(|range| json!([{ "subnet": range.to_string() }])).collect();
        let config = json!({
            "cniVersion": "1.0.0",
            "name": "lab",
            "type": PLUGIN,
            "ipam": {
                "type": "host-local",
                "dataDir": self.data,
                "ranges": ranges,
                "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
            },
        });
        let mut command = Command::new(plugin);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("CNI_PATH", PLUGINS);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", self.container)
            .env("CNI_IFNAME", "eth0");
        command.env("CNI_NETNS", Path::new(NETNS).join(self.pod_netns));
        enter_netns(&mut command, self.node_netns)?;
        run(command, &config.to_string())
    }
}
