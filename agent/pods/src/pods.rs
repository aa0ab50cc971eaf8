//! The table of attachments, each with its identity.

use std::collections::{BTreeMap, BTreeSet};

use mesh_cni::{Attachment, AttachmentKey, PodName};
use mesh_model::Identity;

/// The local cluster's reports about this node's pods.
pub trait LocalPods {
    /// What it reports of a pod; `None` if it has no such pod.
    fn pod(&self, name: &PodName) -> Option<LocalPod<'_>>;
}

/// A pod as its cluster reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalPod<'a> {
    /// Distinguishes it from another pod of its name; empty where that is not known.
    pub uid: &'a str,
    /// Its identity; `None` while it has no ID.
    pub identity: Option<Identity>,
    /// Its connections to services are led by the node's socket hooks.
    pub socket_lb: bool,
}

/// The attachments of this node.
#[derive(Debug, Default)]
pub struct Pods {
    entries: BTreeMap<AttachmentKey, Entry>,
    /// A pod may be attached twice for a while: its next container comes before the DEL of the last.
    by_pod: BTreeMap<PodName, BTreeSet<AttachmentKey>>,
}

#[derive(Debug)]
struct Entry {
    attachment: Attachment,
    identity: Option<Identity>,
    /// Whether its cluster asks for socket load balancing; `None` while it reports nothing.
    socket_lb: Option<bool>,
}

/// The state of an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its identity is known.
    Bound(Identity),
    /// Its cluster has not reported its identity.
    Waiting,
}

/// An attachment got an identity, or another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The attachment.
    pub key: AttachmentKey,
    /// Its former identity; `None` if that was not known.
    pub before: Option<Identity>,
    /// Its present identity.
    pub now: Identity,
}

/// The result of detaching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detached {
    /// It is no longer attached.
    Now,
    /// It was not.
    Before,
}

/// How many attachments are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bound ones.
    pub bound: usize,
    /// Those that wait.
    pub waiting: usize,
}

// === impl Pods ===

impl Pods {
    /// A pod is attached, for the first time or with other values than before. `was` is its identity in a previous run
    /// of the agent: it keeps that until its cluster reports another.
    pub fn attach(
        &mut self,
        attachment: Attachment,
        was: Option<Identity>,
        local_pods: &impl LocalPods,
    ) -> State {
        let (key, pod) = (attachment.key.clone(), attachment.pod.clone());
        let before = self.entries.remove(&key);
        let was_same = |entry: &&Entry| {
            entry.attachment.pod == attachment.pod && entry.attachment.uid == attachment.uid
        };
        let same = before.as_ref().filter(was_same);
        let identity = same.and_then(|entry| entry.identity).or(was);
        let socket_lb = same.and_then(|entry| entry.socket_lb);
        if let Some(before) = before {
            self.forget_pod(&before.attachment.pod, &key);
        }
        self.by_pod.entry(pod.clone()).or_default().insert(key.clone());
        self.entries.insert(key.clone(), Entry { attachment, identity, socket_lb });
        self.update(&pod, local_pods);
        self.state(&key).unwrap_or(State::Waiting)
    }

    /// A pod is detached.
    pub fn detach(&mut self, key: &AttachmentKey) -> Detached {
        match self.entries.remove(key) {
            Some(entry) => {
                self.forget_pod(&entry.attachment.pod, key);
                Detached::Now
            }
            None => Detached::Before,
        }
    }

    /// The local cluster reported something about a pod. If it no longer reports the pod, the pod keeps its identity:
    /// its container may live a little longer than its object.
    pub fn update(&mut self, pod: &PodName, local_pods: &impl LocalPods) -> Vec<Bound> {
        let Some(keys) = self.by_pod.get(pod) else { return Vec::new() };
        let Some(LocalPod { uid, identity, socket_lb }) = local_pods.pod(pod) else {
            return Vec::new();
        };
        let mut bound = Vec::new();
        for key in keys {
            let Some(entry) = self.entries.get_mut(key) else { continue };
            let own = entry.attachment.uid.as_str();
            // It is of another pod that has, or had, the name.
            if !own.is_empty() && !uid.is_empty() && own != uid {
                continue;
            }
            entry.socket_lb = Some(socket_lb);
            let Some(now) = identity else { continue };
            let before = entry.identity.replace(now);
            if before != Some(now) {
                bound.push(Bound { key: key.clone(), before, now });
            }
        }
        bound
    }

    /// The state of an attachment; `None` if there is none.
    pub fn state(&self, key: &AttachmentKey) -> Option<State> {
        self.entries.get(key).map(Entry::state)
    }

    /// An attachment as it was reported.
    pub fn get(&self, key: &AttachmentKey) -> Option<&Attachment> {
        self.entries.get(key).map(|entry| &entry.attachment)
    }

    /// All attachments.
    pub fn iter(&self) -> impl Iterator<Item = (&Attachment, State)> {
        self.entries.values().map(|entry| (&entry.attachment, entry.state()))
    }

    /// The network namespaces of all attachments, by their cookies, each with whether its sockets are led to services'
    /// backends; `None` while its cluster has not reported it of its pod in this run.
    pub fn socket_lb(&self) -> impl Iterator<Item = (u64, Option<bool>)> {
        self.entries.values().map(|entry| (entry.attachment.netns.cookie, entry.socket_lb))
    }

    /// How many there are.
    pub fn counts(&self) -> Counts {
        let bound = self.entries.values().filter(|entry| entry.identity.is_some()).count();
        Counts { bound, waiting: self.entries.len() - bound }
    }

    fn forget_pod(&mut self, pod: &PodName, key: &AttachmentKey) {
        if let Some(keys) = self.by_pod.get_mut(pod) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_pod.remove(pod);
            }
        }
    }
}

// === impl Entry ===

impl Entry {
    fn state(&self) -> State {
        self.identity.map_or(State::Waiting, State::Bound)
    }
}

#[cfg(test)]
pub(crate) mod tests;
