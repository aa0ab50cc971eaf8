//! The pods of this node: attachments as the CNI plugin left them, each with who its cluster says it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use mesh_merge::Merge;
use mesh_model::Identity;
use mesh_pods::{AttachmentKey, Bound, Counts, Detached, LocalPods, PodName, Pods, State, Told};
use tokio::sync::oneshot;

use super::Mesh;
use crate::attachments::{Attachments, Found};

/// The node's pods, and who waits for them.
#[derive(Debug)]
pub(crate) struct NodePods {
    pub(crate) table: Pods,
    /// Some came or went since somebody last looked for that.
    pub(super) moved: bool,
    attachments: Attachments,
    waiting: BTreeMap<AttachmentKey, Vec<oneshot::Sender<PodAnswer>>>,
    /// Whose sockets the kernel leaves alone, by the cookies of their network namespaces.
    unbalanced: BTreeSet<u64>,
    /// The folder has been looked at: what has no file is not attached.
    scanned: bool,
}

/// What is answered when it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PodAnswer {
    /// Who the pod is.
    Bound(Identity),
    /// There is no such attachment.
    NotAttached,
}

/// What `mesh-pods` asks about the own cluster.
struct Own<'a>(&'a Merge);

impl LocalPods for Own<'_> {
    fn pod(&self, name: &PodName) -> Option<Told<'_>> {
        let pod = self.0.local_pod(name.namespace(), name.name())?;
        Some(Told { uid: &pod.uid, identity: pod.identity, socket_lb: pod.socket_lb })
    }
}

// === impl NodePods ===

impl NodePods {
    /// Those in a folder. `unbalanced` is whose sockets the kernel leaves alone.
    pub(crate) fn new(folder: PathBuf, unbalanced: BTreeSet<u64>) -> Self {
        Self {
            table: Pods::default(),
            moved: false,
            attachments: Attachments::new(folder),
            waiting: BTreeMap::new(),
            unbalanced,
            scanned: false,
        }
    }

    /// Whose sockets the kernel is to leave alone: those of which the own cluster says so, and as long as it has said nothing
    /// of a pod in this life, those whom the kernel leaves alone already.
    fn to_leave_alone(&self) -> BTreeSet<u64> {
        let is_left_alone = |cookie: &u64, socket_lb: Option<bool>| match socket_lb {
            Some(socket_lb) => !socket_lb,
            None => self.unbalanced.contains(cookie),
        };
        let pods = self.table.socket_lb();
        pods.filter(|(cookie, said)| is_left_alone(cookie, *said))
            .map(|(cookie, _)| cookie)
            .collect()
    }

    /// How many there are.
    pub(crate) fn counts(&self) -> Counts {
        self.table.counts()
    }

    /// What an operator should look at.
    pub(crate) fn problems(&self) -> Vec<String> {
        let waits = |(attachment, state)| (state == State::Waiting).then_some(attachment);
        let mut waiting = self.table.iter().filter_map(waits);
        let waiting = waiting.next().map(|attachment: &mesh_pods::Attachment| {
            format!(
                "pods that wait for their cluster to say who they are: {}, first {}",
                self.counts().waiting,
                attachment.pod
            )
        });
        self.attachments.problems().cloned().chain(waiting).collect()
    }

    fn found(&mut self, found: Found, own: &impl LocalPods) {
        self.moved |= !matches!(found, Found::AsBefore(_));
        match found {
            Found::AsBefore(_) => {}
            Found::Attached(attachment, was) => {
                let (key, pod) = (attachment.key.clone(), attachment.pod.clone());
                let state = self.table.attach(attachment, was, own);
                tracing::info!(%pod, %key, ?state, "attached");
                if was.map_or(State::Waiting, State::Bound) != state {
                    self.remember(&key);
                }
            }
            Found::Detached(key) => self.detach(&key),
            Found::Removed(attachment, stale) => {
                tracing::warn!(pod = %attachment.pod, key = %attachment.key, %stale, "removed without a DEL");
                self.detach(&attachment.key);
            }
        }
    }

    fn detach(&mut self, key: &AttachmentKey) {
        if self.table.detach(key) == Detached::Now {
            tracing::info!(%key, "detached");
        }
        for answer in self.waiting.remove(key).into_iter().flatten() {
            let _ = answer.send(PodAnswer::NotAttached);
        }
    }

    /// Keeps who an attachment is for the agent's next life.
    fn remember(&self, key: &AttachmentKey) {
        if let (Some(State::Bound(identity)), Some(attachment)) =
            (self.table.state(key), self.table.get(key))
            && let Err(error) = self.attachments.remember(attachment, identity)
        {
            tracing::warn!(%key, %error, "who it is cannot be kept for the next life");
        }
    }

    /// Tells those who wait for an attachment, if it is known who it is.
    fn answer(&mut self, key: &AttachmentKey) {
        if let Some(State::Bound(identity)) = self.table.state(key) {
            for answer in self.waiting.remove(key).into_iter().flatten() {
                let _ = answer.send(PodAnswer::Bound(identity));
            }
        }
    }
}

impl Mesh {
    /// The folder may hold others than before.
    pub(super) fn scan_pods(&mut self) {
        for found in self.pods.attachments.scan() {
            self.pods.found(found, &Own(&self.merge));
        }
        self.pods.scanned = true;
        self.leave_pods_alone();
    }

    /// Has the kernel leave the sockets of those pods alone that their cluster says so of.
    fn leave_pods_alone(&mut self) {
        let wanted = self.pods.to_leave_alone();
        // Before the folder was looked at, what has no attachment may have one.
        if !self.pods.scanned || wanted == self.pods.unbalanced {
            return;
        }
        match self.tables.set_unbalanced(&wanted) {
            Ok(()) => {
                tracing::info!(pods = wanted.len(), "pods whose sockets are left alone");
                self.pods.unbalanced = wanted;
            }
            Err(error) => tracing::error!(%error, "pods' sockets cannot be left alone"),
        }
    }

    /// Compares whose sockets the kernel leaves alone with whose it should. How many were otherwise.
    pub(super) fn audit_unbalanced(&mut self) -> u64 {
        let found = match self.tables.unbalanced() {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "whose sockets are left alone cannot be read");
                return 0;
            }
        };
        let different = found.symmetric_difference(&self.pods.unbalanced).count();
        self.pods.unbalanced = found;
        self.leave_pods_alone();
        u64::try_from(different).unwrap_or(u64::MAX)
    }

    /// Somebody says that an attachment is there, or is there no more, and may want to know who it is.
    pub(super) fn look_at_pod(&mut self, key: AttachmentKey, answer: oneshot::Sender<PodAnswer>) {
        let found = self.pods.attachments.look(&key);
        self.pods.found(found, &Own(&self.merge));
        self.leave_pods_alone();
        if self.pods.table.state(&key).is_none() {
            let _ = answer.send(PodAnswer::NotAttached);
            return;
        }
        self.pods.waiting.entry(key.clone()).or_default().push(answer);
        self.pods.answer(&key);
    }

    /// The own cluster said something about a pod of this node.
    pub(super) fn hear_of_pod(&mut self, pod: &mesh_merge::PodName) {
        // What Kubernetes would not name so, no runtime attaches.
        let Ok(pod) = PodName::new(&pod.namespace, &pod.name) else { return };
        for Bound { key, before, now } in self.pods.table.hear(&pod, &Own(&self.merge)) {
            let before = before.map(Identity::get);
            tracing::info!(%pod, %key, ?before, identity = %now, "bound");
            self.pods.answer(&key);
            self.pods.remember(&key);
        }
        self.leave_pods_alone();
    }

    /// Forgets those who no longer wait.
    pub(super) fn forget_impatient(&mut self) {
        self.pods.waiting.retain(|_, answers| {
            answers.retain(|answer| !answer.is_closed());
            !answers.is_empty()
        });
    }
}
