//! The pods of this node: the CNI plugin's attachments and those that were found without it, each with the identity that its
//! cluster gives it.

use std::collections::{BTreeMap, BTreeSet};

use mesh_merge::Merge;
use mesh_model::Identity;
use mesh_pods::{
    AttachmentFound, AttachmentKey, Bound, Counts, Detached, LocalPod, LocalPods, Netns, PodAnswer,
    PodName, PodNetns, Pods, State,
};

use crate::{found_pods::FoundPods, input::Wanted};

/// The node's pods.
#[derive(Debug)]
pub(crate) struct NodePods {
    table: Pods,
    found: FoundPods,
    /// Pods whose sockets the programs leave alone, by the cookies of their network namespaces.
    unbalanced: BTreeSet<u64>,
    /// The whole folder was scanned: a pod without a file is not attached.
    scanned: bool,
}

/// The queries of `mesh-pods` about the local cluster.
struct LocalCluster<'a>(&'a Merge);

impl LocalPods for LocalCluster<'_> {
    fn pod(&self, name: &PodName) -> Option<LocalPod<'_>> {
        let pod = self.0.local_pod(name.namespace(), name.name())?;
        Some(LocalPod { uid: &pod.uid, identity: pod.identity, socket_lb: pod.socket_lb })
    }
}

impl NodePods {
    /// Knows no pod yet. `unbalanced`: the pods whose sockets the programs do not balance now.
    pub(crate) fn new(unbalanced: BTreeSet<u64>) -> Self {
        Self { table: Pods::default(), found: FoundPods::default(), unbalanced, scanned: false }
    }

    /// Attachments as the folder has them; all there are, where `complete`.
    pub(crate) fn found(
        &mut self,
        found: Vec<AttachmentFound>,
        complete: bool,
        merge: &Merge,
        wanted: &mut Wanted,
    ) {
        wanted.pods_changed = true;
        for found in found {
            wanted.attachments_changed |= !matches!(found, AttachmentFound::Unchanged(_));
            match found {
                AttachmentFound::Unchanged(_) => {}
                AttachmentFound::Attached(attachment, was) => {
                    if let Some(found) = self.found.reported(attachment.netns.inode) {
                        self.detach(&found, wanted);
                    }
                    let (key, pod) = (attachment.key.clone(), attachment.pod.clone());
                    let state = self.table.attach(attachment, was, &LocalCluster(merge));
                    let identity = match state {
                        State::Bound(identity) => Some(identity.get()),
                        State::Waiting => None,
                    };
                    tracing::info!(%pod, %key, identity, "attached");
                    if was.map_or(State::Waiting, State::Bound) != state {
                        self.remember(&key, wanted);
                    }
                    self.answer(&key, wanted);
                }
                AttachmentFound::Detached(key) => self.detach(&key, wanted),
                AttachmentFound::Removed(attachment, stale) => {
                    tracing::warn!(pod = %attachment.pod, key = %attachment.key, %stale, "removed without a DEL");
                    self.detach(&attachment.key, wanted);
                }
            }
        }
        self.scanned |= complete;
        self.leave_alone(wanted);
    }

    /// All network namespaces of pods, with or without an attachment of the plugin's.
    pub(crate) fn set_namespaces(
        &mut self,
        namespaces: Vec<PodNetns>,
        merge: &Merge,
        wanted: &mut Wanted,
    ) {
        for gone in self.found.set(namespaces) {
            self.detach(&gone, wanted);
        }
        (wanted.attachments_changed, wanted.pods_changed) = (true, true);
        for pod in merge.local_pods() {
            self.attach_found(pod, merge, wanted);
        }
    }

    /// Attaches a pod that has an address in a namespace which the plugin did not report.
    fn attach_found(&mut self, pod: &mesh_model::LocalPod, merge: &Merge, wanted: &mut Wanted) {
        let reported = self.table.iter().map(|(attachment, _)| attachment);
        let reported = reported.filter(|attachment| !self.found.is_found(&attachment.key));
        let reported = reported.map(|attachment| attachment.netns.inode).collect();
        let Some(attachment) = self.found.attachment_of(pod, &reported) else { return };
        if self.table.get(&attachment.key) == Some(&attachment) {
            return;
        }
        if let Some(former) = self.found.attached(&attachment) {
            self.detach(&former, wanted);
        }
        tracing::info!(pod = %attachment.pod, key = %attachment.key, "found");
        self.table.attach(attachment, None, &LocalCluster(merge));
        wanted.attachments_changed = true;
    }

    /// The local cluster reported something about a pod of this node.
    pub(crate) fn reported(
        &mut self,
        pod: &mesh_merge::PodName,
        merge: &Merge,
        wanted: &mut Wanted,
    ) {
        wanted.pods_changed = true;
        if let Some(pod) = merge.local_pod(&pod.namespace, &pod.name) {
            self.attach_found(pod, merge, wanted);
        }
        // A name that Kubernetes would not give is never attached by a runtime.
        let Ok(pod) = PodName::new(&pod.namespace, &pod.name) else { return };
        for Bound { key, before, now } in self.table.update(&pod, &LocalCluster(merge)) {
            let before = before.map(Identity::get);
            tracing::info!(%pod, %key, before, identity = %now, "bound");
            self.answer(&key, wanted);
            self.remember(&key, wanted);
        }
        self.leave_alone(wanted);
    }

    /// All attachments, each with its identity.
    pub(crate) fn table(&self) -> &Pods {
        &self.table
    }

    /// The network namespaces of all pods, also of those that are not known by name.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &Netns> {
        let attached = || self.table.iter().map(|(attachment, _)| &attachment.netns);
        let inodes: BTreeSet<u64> = attached().map(|netns| netns.inode).collect();
        let found = self.found.namespaces().map(|found| &found.netns);
        attached().chain(found.filter(move |netns| !inodes.contains(&netns.inode)))
    }

    /// How many there are.
    pub(crate) fn counts(&self) -> Counts {
        self.table.counts()
    }

    /// The pods whose sockets the programs do not balance, by the cookies of their network namespaces; `None` before
    /// the folder of attachments was scanned.
    pub(crate) fn unbalanced(&self) -> Option<&BTreeSet<u64>> {
        self.scanned.then_some(&self.unbalanced)
    }

    /// A problem for an operator.
    pub(crate) fn problem(&self) -> Option<String> {
        let waits = |(attachment, state)| (state == State::Waiting).then_some(attachment);
        let first: &mesh_pods::Attachment = self.table.iter().find_map(waits)?;
        Some(format!(
            "pods that wait for their cluster to give them an identity: {}, first {}",
            self.counts().waiting,
            first.pod
        ))
    }

    fn detach(&mut self, key: &AttachmentKey, wanted: &mut Wanted) {
        if self.table.detach(key) == Detached::Now {
            tracing::info!(%key, "detached");
        }
        wanted.answers.push((key.clone(), PodAnswer::NotAttached));
    }

    /// Keeps an attachment's identity for the next run.
    fn remember(&self, key: &AttachmentKey, wanted: &mut Wanted) {
        // The next run finds it again, and has no file of it.
        if self.found.is_found(key) {
            return;
        }
        if let (Some(State::Bound(identity)), Some(attachment)) =
            (self.table.state(key), self.table.get(key))
        {
            wanted.remember.push((attachment.clone(), identity));
        }
    }

    fn answer(&self, key: &AttachmentKey, wanted: &mut Wanted) {
        if let Some(State::Bound(identity)) = self.table.state(key) {
            wanted.answers.push((key.clone(), PodAnswer::Bound(identity)));
        }
    }

    /// Has the programs leave the sockets of those pods alone that their cluster names, and as long as the cluster has
    /// reported nothing of a pod in this run, of those that the programs leave alone already.
    fn leave_alone(&mut self, wanted: &mut Wanted) {
        // Before the folder was scanned, a pod without an attachment may have one.
        if !self.scanned {
            return;
        }
        let is_left_alone = |cookie: &u64, socket_lb: Option<bool>| match socket_lb {
            Some(socket_lb) => !socket_lb,
            None => self.unbalanced.contains(cookie),
        };
        let pods: BTreeMap<u64, Option<bool>> = self.table.socket_lb().collect();
        let others = self.found.namespaces().map(|found| found.netns.cookie);
        let others: Vec<_> = others.filter(|cookie| !pods.contains_key(cookie)).collect();
        let others = others.into_iter().map(|cookie| (cookie, None));
        let unbalanced: BTreeSet<u64> = pods
            .into_iter()
            .chain(others)
            .filter(|(cookie, socket_lb)| is_left_alone(cookie, *socket_lb))
            .map(|(cookie, _)| cookie)
            .collect();
        if unbalanced != self.unbalanced {
            self.unbalanced.clone_from(&unbalanced);
            wanted.unbalanced = Some(unbalanced);
        }
    }
}
