//! `clustermesh-apiserver peer`, run in a pod of a cluster.

use std::{cell::OnceCell, time::Duration};

use anyhow::Context as _;
use serde::{Serialize, de::DeserializeOwned};

use crate::kube_exec::{Cluster, Component, MeshPod};

/// Where the commands run.
pub(super) trait PeerCommands {
    /// The name of the kubeconfig's context.
    fn context(&self) -> &str;

    /// Runs `peer` with these arguments and this input. Returns what it prints.
    ///
    /// # Errors
    /// It did not run, or failed: with what it said.
    fn run(&self, args: &[&str], stdin: &[u8]) -> anyhow::Result<Vec<u8>>;
}

/// Commands in a pod of the apiserver.
pub(super) struct InPod {
    pub(super) cluster: Cluster,
    pod: OnceCell<MeshPod>,
}

/// How long a command may take. Each makes a few requests of its API server, which have time limits of their own.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs a command without input, and reads its answer.
pub(super) fn ask<T: DeserializeOwned>(at: &dyn PeerCommands, args: &[&str]) -> anyhow::Result<T> {
    answer(at, args, &[])
}

/// The same with an input.
pub(super) fn tell<T: DeserializeOwned>(
    at: &dyn PeerCommands,
    args: &[&str],
    input: &impl Serialize,
) -> anyhow::Result<T> {
    answer(at, args, &serde_json::to_vec(input)?)
}

fn answer<T: DeserializeOwned>(
    at: &dyn PeerCommands,
    args: &[&str],
    stdin: &[u8],
) -> anyhow::Result<T> {
    let stdout = at.run(args, stdin)?;
    serde_json::from_slice(&stdout).with_context(|| {
        let command = args.first().copied().unwrap_or_default();
        format!(
            "{}: the answer of `clustermesh-apiserver peer {command}` cannot be read: its release may be another one",
            at.context()
        )
    })
}

// === impl InPod ===

impl InPod {
    pub(super) fn new(cluster: Cluster) -> Self {
        Self { cluster, pod: OnceCell::new() }
    }

    /// A pod in which commands can run: the same one for all.
    fn pod(&self) -> anyhow::Result<&MeshPod> {
        if let Some(pod) = self.pod.get() {
            return Ok(pod);
        }
        let pod = self.cluster.usable(Component::Apiserver)?;
        Ok(self.pod.get_or_init(|| pod))
    }
}

impl PeerCommands for InPod {
    fn context(&self) -> &str {
        self.cluster.context()
    }

    fn run(&self, args: &[&str], stdin: &[u8]) -> anyhow::Result<Vec<u8>> {
        let command = [&["clustermesh-apiserver", "peer"], args].concat();
        self.cluster.exec(self.pod()?, &command, stdin, LIMIT)
    }
}
