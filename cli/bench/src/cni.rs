//! What our CNI plugin adds to a pod's start: the same chain of plugins without it and with it, in turns.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use mesh_files::{Access, write_atomic};
use mesh_lab::{
    LabState, NodeState,
    cni::{Attachment, Conflist},
};
use serde::{Deserialize, Serialize};

use crate::{
    error::{BenchError, file, io},
    place::run,
    stats::Distribution,
};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct CniOptions {
    /// How often the chains take turns.
    pub rounds: u32,
}

/// What a chain took to attach a pod.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CniRow {
    /// Which chain, and when it was called.
    pub chain: &'static str,
    /// All plugins of the chain.
    pub all: Distribution,
    /// Ours alone, where it is in the chain.
    pub ours: Option<Distribution>,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    /// The chain as it is without us.
    Without,
    /// With us, for a pod that was scheduled a moment before, as a kubelet's runtime calls: it has made a sandbox since.
    Scheduled,
    /// With us, called in the instant in which the pod is scheduled: all of the way to the agent is waited for.
    AtOnce,
}

/// The lab's name, its cluster and its node.
const LAB: &str = "benchcni";
/// A runtime that makes a sandbox takes longer than this.
const SANDBOX: Duration = Duration::from_millis(100);
/// Where Debian puts the plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// A lab of one node that goes with the measurement.
struct Lab {
    own: PathBuf,
}

/// What `lab status` says, as far as it matters here.
#[derive(Deserialize)]
struct Told {
    lab: LabState,
}

/// A pod's place: its network namespace and its manifest.
struct Pod {
    name: String,
    netns: String,
    manifest: PathBuf,
}

/// Measures, in a lab of one node. Needs root.
pub fn cni(
    options: CniOptions,
    mut progress: impl FnMut(u64, u64),
) -> Result<Vec<CniRow>, BenchError> {
    let (lab, state) = Lab::up()?;
    let missing = || BenchError::Unexpected("the lab has no node".into());
    let cluster = state.clusters.first().ok_or_else(missing)?;
    let node = cluster.nodes.first().ok_or_else(missing)?;
    let with = Conflist::read(&node.conflist())?;
    let without = with.without_ours();
    let plugins = [PathBuf::from(PLUGINS), state.bin_dir.clone()];
    let mut taken = Variant::ALL.map(|_| (Vec::new(), Vec::new()));
    for round in 0..options.rounds {
        progress(u64::from(round), u64::from(options.rounds));
        for turn in 0..Variant::ALL.len() {
            // Who is first changes with the rounds.
            let at = (turn + usize::try_from(round).unwrap_or_default()) % Variant::ALL.len();
            let (Some(variant), Some((all, ours))) = (Variant::ALL.get(at), taken.get_mut(at))
            else {
                continue;
            };
            let pod = Pod::make(&cluster.directory, &format!("{round}-{turn}"))?;
            let chain = if *variant == Variant::Without { &without } else { &with };
            if *variant != Variant::Without {
                pod.schedule(node)?;
            }
            if *variant == Variant::Scheduled {
                thread::sleep(SANDBOX);
            }
            let log = lab.log();
            let attachment = Attachment {
                container: &pod.netns,
                pod_netns: &pod.netns,
                node_netns: &node.netns,
                namespace: "default",
                name: &pod.name,
                uid: &pod.uid(),
                plugins: &plugins,
                log: &log,
            };
            let added = attachment.add(chain)?;
            all.push(nanos(added.took.iter().sum()));
            if *variant != Variant::Without {
                ours.extend(added.took.last().copied().map(nanos));
            }
            attachment.delete(chain, Some(&added.result))?;
            pod.remove()?;
        }
    }
    let rows = Variant::ALL.into_iter().zip(taken).map(|(variant, (all, ours))| CniRow {
        chain: variant.name(),
        all: Distribution::of(all),
        ours: (variant != Variant::Without).then(|| Distribution::of(ours)),
    });
    Ok(rows.collect())
}

impl Variant {
    const ALL: [Self; 3] = [Self::Without, Self::Scheduled, Self::AtOnce];

    fn name(self) -> &'static str {
        match self {
            Self::Without => "without us",
            Self::Scheduled => "scheduled before",
            Self::AtOnce => "scheduled at the call",
        }
    }
}

impl Lab {
    fn up() -> Result<(Self, LabState), BenchError> {
        let lab = Self { own: std::env::current_exe().map_err(io("the own executable"))? };
        lab.run("down", &[])?;
        lab.run("up", &["--clusters", "1", "--nodes", "1"])?;
        let told = lab.run("status", &["--output", "json"])?;
        let told: Told = serde_json::from_slice(&told)
            .map_err(|error| BenchError::Unexpected(format!("`lab status`: {error}")))?;
        Ok((lab, told.lab))
    }

    fn run(&self, command: &str, more: &[&str]) -> Result<Vec<u8>, BenchError> {
        run(Command::new(&self.own).args(["lab", command, "--lab", LAB]).args(more))
    }

    fn log(&self) -> PathBuf {
        Path::new("/run/clustermesh-lab").join(LAB).join("logs/cni.log")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.run("down", &[]);
    }
}

impl Pod {
    /// Makes its network namespace, as a runtime does before it calls a plugin.
    fn make(directory: &Path, suffix: &str) -> Result<Self, BenchError> {
        let name = format!("bench-{suffix}");
        // `lab down` takes away what begins like this.
        let netns = format!("cm-{LAB}-a-n1-default.{name}");
        let manifest = directory.join("manifests").join(format!("{name}.json"));
        run(Command::new("ip").args(["netns", "add", &netns]))?;
        // Else each address waits two seconds for somebody to object.
        let knobs = ["all", "default"].map(|which| format!("net.ipv6.conf.{which}.accept_dad=0"));
        let set = ["netns", "exec", &netns, "sysctl", "-q", "-w"];
        run(Command::new("ip").args(set).args(knobs))?;
        Ok(Self { name, netns, manifest })
    }

    fn uid(&self) -> String {
        format!("uid-{}", self.name)
    }

    /// Puts it before the apiserver as a scheduler does.
    fn schedule(&self, node: &NodeState) -> Result<(), BenchError> {
        let (name, uid, node) = (&self.name, self.uid(), &node.name);
        let text = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","namespace":"default","uid":"{uid}","labels":{{"app":"bench"}}}},"spec":{{"nodeName":"{node}"}},"status":{{"phase":"Pending"}}}}"#
        );
        write_atomic(&self.manifest, text.as_bytes(), Access::All).map_err(file(&self.manifest))
    }

    fn remove(self) -> Result<(), BenchError> {
        // One without our plugin was never scheduled.
        let _ = fs::remove_file(&self.manifest);
        run(Command::new("ip").args(["netns", "delete", &self.netns])).map(|_| ())
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
