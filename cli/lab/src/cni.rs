//! Attaching pods to a node through a chain of CNI plugins, as a kubelet's runtime does (CNI specification 1.0.0).

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    command::{NETNS, enter_netns},
    error::LabError,
};

mod conflist;

pub use conflist::Conflist;

/// A pod to attach to a node, or to detach.
#[derive(Clone, Debug)]
pub struct Attachment<'a> {
    /// The ID of the container.
    pub container: &'a str,
    /// The name of the pod's network namespace.
    pub pod_netns: &'a str,
    /// The name of the node's network namespace.
    pub node_netns: &'a str,
    /// The namespace of the pod.
    pub namespace: &'a str,
    /// The name of the pod.
    pub name: &'a str,
    /// The UID of the pod.
    pub uid: &'a str,
    /// The folders in which plugins are searched.
    pub plugins: &'a [PathBuf],
    /// The file to which plugins' standard error is appended.
    pub log: &'a Path,
}

/// The result of attaching a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Added {
    /// The result of the last plugin, which CHECK and DEL pass to the plugins.
    pub result: Value,
    /// The time that each plugin took, in the order of the chain.
    pub took: Vec<Duration>,
}

/// The folder of Debian's CNI plugins.
pub(crate) const PLUGINS: &str = "/usr/lib/cni";
/// The name of the pod's interface.
const INTERFACE: &str = "eth0";

/// The part of a plugin's result that the lab uses.
#[derive(Deserialize)]
struct AddResult {
    #[serde(default)]
    ips: Vec<Ip>,
}

#[derive(Deserialize)]
struct Ip {
    address: IpNet,
}

/// An error in the form of the CNI specification.
#[derive(Deserialize)]
struct Failure {
    code: u64,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

// === impl Added ===

impl Added {
    /// The pod's addresses.
    pub fn ips(&self) -> Result<Vec<IpAddr>, LabError> {
        let result = AddResult::deserialize(&self.result);
        let result = result.map_err(|e| failed("the chain", "ADD", e.to_string()))?;
        if result.ips.is_empty() {
            return Err(failed("the chain", "ADD", "it returned no address".into()));
        }
        Ok(result.ips.into_iter().map(|ip| ip.address.addr()).collect())
    }
}

// === impl Attachment ===

impl Attachment<'_> {
    /// Attaches the pod: runs each plugin in order, with the result of the previous one.
    pub fn add(&self, chain: &Conflist) -> Result<Added, LabError> {
        let (mut result, mut took) = (None, Vec::new());
        for plugin in chain.plugins() {
            let began = Instant::now();
            let printed =
                self.call("ADD", &plugin.name(), &plugin.configuration(result.as_ref()))?;
            took.push(began.elapsed());
            let printed = serde_json::from_slice(&printed);
            result = Some(printed.map_err(|e| failed(&plugin.name(), "ADD", e.to_string()))?);
        }
        Ok(Added { result: result.unwrap_or_default(), took })
    }

    /// Checks the pod's network: runs each plugin in order, with the result of the last one.
    pub fn check(&self, chain: &Conflist, result: &Value) -> Result<(), LabError> {
        for plugin in chain.plugins() {
            self.call("CHECK", &plugin.name(), &plugin.configuration(Some(result)))?;
        }
        Ok(())
    }

    /// Detaches the pod: runs each plugin in reverse order. It is no error if it is detached already.
    pub fn delete(&self, chain: &Conflist, result: Option<&Value>) -> Result<(), LabError> {
        for plugin in chain.plugins().rev() {
            self.call("DEL", &plugin.name(), &plugin.configuration(result))?;
        }
        Ok(())
    }

    /// Runs a plugin in the node's network namespace.
    fn call(&self, verb: &str, plugin: &str, configuration: &Value) -> Result<Vec<u8>, LabError> {
        let mut found = self.plugins.iter().map(|folder| folder.join(plugin));
        let program = found.find(|program| program.is_file());
        let program = program.ok_or_else(|| LabError::Missing(plugin.into()))?;
        let paths: Vec<String> = self.plugins.iter().map(|p| p.display().to_string()).collect();
        let log = OpenOptions::new().create(true).append(true).open(self.log);
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_PATH", paths.join(":"))
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", self.container)
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_NETNS", Path::new(NETNS).join(self.pod_netns))
            .env("CNI_ARGS", self.args())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.map_err(LabError::io(self.log))?);
        enter_netns(&mut command, self.node_netns)?;
        let io = |e: std::io::Error| failed(plugin, verb, e.to_string());
        let mut child = command.spawn().map_err(io)?;
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(configuration.to_string().as_bytes()) {
                // A plugin that exits before it has read everything prints its error.
                Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(io(error)),
                _ => {}
            }
        }
        let output = child.wait_with_output().map_err(io)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(match serde_json::from_slice(&output.stdout) {
            Ok(Failure { code, msg, details }) => LabError::Plugin {
                plugin: plugin.into(),
                verb: verb.into(),
                code,
                reason: if details.is_empty() { msg } else { format!("{msg}: {details}") },
            },
            Err(_) => {
                let printed = String::from_utf8_lossy(&output.stdout);
                failed(plugin, verb, format!("{}: {}", output.status, printed.trim()))
            }
        })
    }

    /// What a kubelet's runtime passes about the pod in `CNI_ARGS`.
    fn args(&self) -> String {
        let Self { container, namespace, name, uid, .. } = self;
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID={uid}"
        )
    }
}

fn failed(plugin: &str, verb: &str, reason: String) -> LabError {
    LabError::Command { command: format!("{plugin} {verb}"), reason }
}
