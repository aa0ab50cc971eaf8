//! Records watches of every etcd of a lab, and checks them against what etcd guarantees.
//!
//! Everything is read by `etcdctl`, which shares no code with this workspace. Nothing is written. The reference is the
//! contents at the start and the events of a watch of all keys. That this watch missed nothing is checked against the
//! contents at the end, where each key has the number of its writes. The other watches ask for parts, and one of them starts
//! at a past revision.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use mesh_lab::{ClusterState, LabState};
use serde::Serialize;

use crate::{
    error::ChaosError,
    etcdctl::{self, Range},
    guarantees::{Guarantee, ReferenceModel, Response, Violation, Watch},
};

/// The recording of one cluster's etcd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchRecording {
    /// The name of the cluster.
    pub cluster: String,
    /// Revisions made during the recording.
    pub revisions: i64,
    /// Watches recorded.
    pub watches: usize,
    /// Events that the watches reported.
    pub events: usize,
    /// Guarantees that were not kept.
    pub violations: Vec<Violation>,
}

/// A recording of a cluster's etcd in progress.
struct Recorder<'a> {
    cluster: &'a ClusterState,
    folder: PathBuf,
    first: Range,
    watches: Vec<Watching>,
}

/// A running watch.
struct Watching {
    prefix: &'static str,
    child: Child,
    output: PathBuf,
}

/// The prefixes of the watches that start with the recording: all keys, which is first, and what most clients watch.
const WATCHES: [&str; 2] = ["", "cilium/state/"];
/// The prefix of a watch that starts later, and asks for past revisions.
const FROM_THE_PAST: &str = "cilium/";
/// The longest wait for the watches to report what was written.
const PATIENCE: Duration = Duration::from_secs(10);
/// The interval of checks meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// Records watches of every cluster's etcd for `time`.
pub fn record(lab: &LabState, time: Duration) -> Result<Vec<WatchRecording>, ChaosError> {
    let io = |source| ChaosError::Io { what: "a temporary folder", source };
    let folder = tempfile::tempdir().map_err(io)?;
    let mut recorders = Vec::new();
    for cluster in &lab.clusters {
        recorders.push(Recorder::begin(cluster, folder.path().join(&cluster.name))?);
    }
    thread::sleep(time / 2);
    recorders.iter_mut().try_for_each(|recorder| recorder.watch(FROM_THE_PAST))?;
    thread::sleep(time / 2);
    recorders.into_iter().map(Recorder::end).collect()
}

// === impl Recorder ===

impl<'a> Recorder<'a> {
    fn begin(cluster: &'a ClusterState, folder: PathBuf) -> Result<Self, ChaosError> {
        let io = |source| ChaosError::Io { what: "a temporary folder", source };
        fs::create_dir(&folder).map_err(io)?;
        let first = all(cluster)?;
        let mut recorder = Self { cluster, folder, first, watches: Vec::new() };
        WATCHES.iter().try_for_each(|prefix| recorder.watch(prefix))?;
        Ok(recorder)
    }

    /// Starts a watch of a prefix from the first revision on.
    fn watch(&mut self, prefix: &'static str) -> Result<(), ChaosError> {
        let io = |source| ChaosError::Io { what: "etcdctl", source };
        let output = self.folder.join(self.watches.len().to_string());
        let from = format!("--rev={}", self.first.revision + 1);
        let mut command = etcdctl(self.cluster)?;
        command.args(["watch", prefix, "--prefix", "--prev-kv", &from]);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command.stdout(File::create(&output).map_err(io)?);
        let child = command.spawn().map_err(io)?;
        self.watches.push(Watching { prefix, child, output });
        Ok(())
    }

    /// Waits until the watches have reported everything, and checks them.
    fn end(self) -> Result<WatchRecording, ChaosError> {
        let last = all(self.cluster)?;
        if last.cluster_id != self.first.cluster_id || last.revision < self.first.revision {
            let name = &self.cluster.name;
            let reason =
                format!("the etcd of {name} started with an empty disk during the recording");
            return Err(ChaosError::Unexpected(reason));
        }
        let deadline = Instant::now() + PATIENCE;
        let (reference, received) = loop {
            let received = self.received()?;
            let reference = self.reference(&received, last.revision);
            let behind = |watch: &Watch| self.is_behind(watch, &reference, last.revision);
            if !received.iter().any(behind) || Instant::now() >= deadline {
                break (reference, received);
            }
            thread::sleep(LOOK);
        };
        let mut violations = Vec::new();
        for watch in &received {
            violations.extend(watch.violations(&reference));
            if self.is_behind(watch, &reference, last.revision) {
                let what = format!("{}: not all up to revision {}", watch.name, last.revision);
                violations.push(Violation { guarantee: Guarantee::Reliable, what });
            }
        }
        if reference.end() != &last.keys {
            let what = "what a watch of everything delivered is not what is there".into();
            violations.push(Violation { guarantee: Guarantee::Reliable, what });
        }
        Ok(WatchRecording {
            cluster: self.cluster.name.clone(),
            revisions: last.revision - self.first.revision,
            watches: received.len(),
            events: received.iter().map(|watch| watch.events().count()).sum(),
            violations,
        })
    }

    /// What the watches have reported so far.
    fn received(&self) -> Result<Vec<Watch>, ChaosError> {
        self.watches.iter().map(|watching| watching.received(self.first.revision + 1)).collect()
    }

    /// The reference up to a revision, from the watch of all keys.
    fn reference(&self, received: &[Watch], last: i64) -> ReferenceModel {
        let mut reference = ReferenceModel::new(self.first.revision, self.first.keys.clone());
        let everything = received.iter().take(1).flat_map(Watch::events);
        everything.filter(|event| event.revision <= last).for_each(|event| reference.apply(event));
        reference
    }

    fn is_behind(&self, watch: &Watch, reference: &ReferenceModel, last: i64) -> bool {
        // A watch of compacted revisions ends with a response that says so. It will report nothing more.
        let over =
            watch.responses.iter().any(|response| matches!(response, Response::Compacted(_)));
        let wanted = if watch.start.is_empty() {
            (last > self.first.revision).then_some(last)
        } else {
            watch.last_of(reference)
        };
        !over && watch.reached() < wanted
    }
}

impl Watching {
    fn received(&self, from: i64) -> Result<Watch, ChaosError> {
        let io = |source| ChaosError::Io { what: "what etcdctl printed", source };
        let text = fs::read_to_string(&self.output).map_err(io)?;
        let mut responses = Vec::new();
        // The last line may be incomplete.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let response = etcdctl::response(line);
            let response = response.map_err(|error| ChaosError::Unexpected(error.to_string()))?;
            responses.extend(response);
        }
        let start = self.prefix.as_bytes().to_vec();
        let mut end = start.clone();
        match end.last_mut() {
            // No prefix here ends with byte 255.
            Some(last) => *last = last.saturating_add(1),
            None => end.push(u8::MAX),
        }
        let name = format!("the watch of {:?}", self.prefix);
        Ok(Watch { name, start, end, from, previous: true, responses })
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All keys of a cluster's etcd.
fn all(cluster: &ClusterState) -> Result<Range, ChaosError> {
    let io = |source| ChaosError::Io { what: "etcdctl", source };
    let output = etcdctl(cluster)?.args(["get", "", "--prefix"]).output().map_err(io)?;
    if !output.status.success() {
        let printed = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(ChaosError::Command {
            command: format!("etcdctl get, {}", cluster.name),
            printed,
        });
    }
    let text = String::from_utf8_lossy(&output.stdout);
    etcdctl::range(&text).map_err(|error| ChaosError::Unexpected(error.to_string()))
}

/// `etcdctl` as the cluster's administrator, in the network namespace of its first node.
fn etcdctl(cluster: &ClusterState) -> Result<Command, ChaosError> {
    let missing = || ChaosError::Unexpected(format!("{} has no node", cluster.name));
    let node = cluster.nodes.first().ok_or_else(missing)?;
    let pki = cluster.directory.join("pki");
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &node.netns, "etcdctl", "--write-out=json"]);
    command.arg("--endpoints=https://127.0.0.1:2379").env("ETCDCTL_API", "3");
    command.arg("--cacert").arg(pki.join("ca.crt"));
    command.arg("--cert").arg(pki.join("admin.crt")).arg("--key").arg(pki.join("admin.key"));
    Ok(command)
}
