//! The time that our CNI plugin adds to the start of a pod: the same chain of plugins without it and with it, in turns.

use std::{fs, path::PathBuf, process::Command, thread, time::Duration};

use mesh_files::{Access, write_atomic};
use mesh_lab::{
    ClusterState, NodeState,
    cni::{Attachment, Conflist},
};
use serde::Serialize;

use crate::{
    bench_lab::{BenchLab, first_node},
    command::run,
    error::{BenchError, file},
    stats::Distribution,
};

/// The parameters of the benchmark.
#[derive(Clone, Copy, Debug)]
pub struct CniOptions {
    /// How often the chains take turns.
    pub rounds: u32,
}

/// The time that a chain took to attach a pod.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CniRow {
    /// When the chain was called, in words.
    pub called: &'static str,
    /// The chain without our plugin.
    pub without: Distribution,
    /// The chain with our plugin.
    pub with: Distribution,
    /// Our plugin's part of that.
    pub ours: Distribution,
}

/// When a chain is called. Without our plugin too, the mesh handles the new pod at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Called {
    /// A moment after the pod was scheduled, like a kubelet's runtime, which first creates a sandbox.
    Later,
    /// When the pod is scheduled: the plugin waits for the whole way of the pod to the agent.
    AtOnce,
}

/// A variant to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Variant {
    called: Called,
    with_ours: bool,
}

/// A runtime needs longer than this to create a sandbox.
const SANDBOX: Duration = Duration::from_millis(100);
/// A pause for the kernel to clean up after a pod: it removes network namespaces later, several at once.
const SETTLE: Duration = Duration::from_millis(50);
/// The folder of Debian's CNI plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// A pod with its network namespace and its manifest.
struct Pod {
    name: String,
    netns: String,
    manifest: PathBuf,
}

/// Runs the benchmark, in a lab of one node. Needs root.
pub fn cni(
    lab: &str,
    options: CniOptions,
    mut progress: impl FnMut(u64, u64),
) -> Result<Vec<CniRow>, BenchError> {
    let lab = BenchLab::apart(lab, 1, 1)?;
    let cluster = lab.cluster(0)?;
    let node = first_node(cluster)?;
    let with = Conflist::read(&node.conflist())?;
    let without = with.without_ours();
    let plugins = [PathBuf::from(PLUGINS), lab.state.bin_dir.clone()];
    let mut taken = Variant::ALL.map(|_| (Vec::new(), Vec::new()));
    for round in 0..options.rounds {
        progress(u64::from(round), u64::from(options.rounds));
        for at in Variant::order(usize::try_from(round).unwrap_or_default()) {
            let (Some(variant), Some((all, ours))) = (Variant::ALL.get(at), taken.get_mut(at))
            else {
                continue;
            };
            let pod = Pod::make(&lab, cluster, &format!("{round}-{at}"))?;
            let chain = if variant.with_ours { &with } else { &without };
            pod.schedule(node)?;
            if variant.called == Called::Later {
                thread::sleep(SANDBOX);
            }
            let log = lab.folder().join("logs/cni.log");
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
            if variant.with_ours {
                ours.extend(added.took.last().copied().map(nanos));
            }
            attachment.delete(chain, Some(&added.result))?;
            pod.remove()?;
            thread::sleep(SETTLE);
        }
    }
    let [(later_without, _), (later_with, later), (at_once_without, _), (at_once_with, at_once)] =
        taken.map(|(all, ours)| (Distribution::of(all), Distribution::of(ours)));
    Ok(vec![
        CniRow {
            called: "after a sandbox was made",
            without: later_without,
            with: later_with,
            ours: later,
        },
        CniRow {
            called: "as the pod is scheduled",
            without: at_once_without,
            with: at_once_with,
            ours: at_once,
        },
    ])
}

impl Variant {
    const ALL: [Self; 4] = [
        Self { called: Called::Later, with_ours: false },
        Self { called: Called::Later, with_ours: true },
        Self { called: Called::AtOnce, with_ours: false },
        Self { called: Called::AtOnce, with_ours: true },
    ];

    /// The order of the variants in a round. All 24 orders come in turn, since a chain can be slowed down by the kernel's
    /// cleaning up after the one before it.
    fn order(round: usize) -> Vec<usize> {
        let mut left: Vec<usize> = (0..Self::ALL.len()).collect();
        let (mut choice, mut order) = (round, Vec::new());
        while !left.is_empty() {
            let (rest, at) = (choice / left.len(), choice % left.len());
            order.push(left.remove(at));
            choice = rest;
        }
        order
    }
}

impl Pod {
    /// Creates its network namespace, as a runtime does before it calls a plugin.
    fn make(lab: &BenchLab, cluster: &ClusterState, suffix: &str) -> Result<Self, BenchError> {
        let name = format!("bench-{suffix}");
        // `lab down` removes namespaces with this prefix.
        let netns = format!("cm-{}-a-n1-default.{name}", lab.name());
        let manifest = cluster.directory.join("manifests").join(format!("{name}.json"));
        run(Command::new("ip").args(["netns", "add", &netns]))?;
        // Otherwise each IPv6 address waits two seconds for duplicate address detection.
        let knobs = ["all", "default"].map(|which| format!("net.ipv6.conf.{which}.accept_dad=0"));
        let set = ["netns", "exec", &netns, "sysctl", "-q", "-w"];
        run(Command::new("ip").args(set).args(knobs))?;
        Ok(Self { name, netns, manifest })
    }

    fn uid(&self) -> String {
        format!("uid-{}", self.name)
    }

    /// Writes its manifest, with a node, as a scheduler would.
    fn schedule(&self, node: &NodeState) -> Result<(), BenchError> {
        let (name, uid, node) = (&self.name, self.uid(), &node.name);
        let text = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","namespace":"default","uid":"{uid}","labels":{{"app":"bench"}}}},"spec":{{"nodeName":"{node}"}},"status":{{"phase":"Pending"}}}}"#
        );
        write_atomic(&self.manifest, text.as_bytes(), Access::All).map_err(file(&self.manifest))
    }

    fn remove(self) -> Result<(), BenchError> {
        fs::remove_file(&self.manifest).map_err(file(&self.manifest))?;
        run(Command::new("ip").args(["netns", "delete", &self.netns])).map(|_| ())
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_round_has_every_variant_once_and_every_order_comes_up() {
        let orders: BTreeSet<Vec<usize>> = (0..24).map(Variant::order).collect();
        assert_eq!(orders.len(), 24);
        for mut order in orders {
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2, 3]);
        }
    }
}
