//! The pods of this node: attachments as the CNI plugin left them, each with who its cluster says it is.

use std::{collections::BTreeMap, path::PathBuf};

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
        Some(Told { uid: &pod.uid, identity: pod.identity })
    }
}

// === impl NodePods ===

impl NodePods {
    pub(crate) fn new(folder: PathBuf) -> Self {
        let attachments = Attachments::new(folder);
        let (table, waiting) = (Pods::default(), BTreeMap::new());
        Self { table, moved: false, attachments, waiting }
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
    }

    /// Somebody says that an attachment is there, or is there no more, and may want to know who it is.
    pub(super) fn look_at_pod(&mut self, key: AttachmentKey, answer: oneshot::Sender<PodAnswer>) {
        let found = self.pods.attachments.look(&key);
        self.pods.found(found, &Own(&self.merge));
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
    }

    /// Forgets those who no longer wait.
    pub(super) fn forget_impatient(&mut self) {
        self.pods.waiting.retain(|_, answers| {
            answers.retain(|answer| !answer.is_closed());
            !answers.is_empty()
        });
    }
}
