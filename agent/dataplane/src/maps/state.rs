//! The states of clusters and of the node: which backends are out of use, and whether the node's services are up to
//! date.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use mesh_layout::{LOCAL_HAS_UNBALANCED, LOCAL_STATE, PEER_CUT};
use mesh_model::ClusterId;
use mesh_sys::MmapArray;

use super::KernelMaps;
use crate::error::MapsError;

/// The state words of clusters, one each, which programs read with every choice. It is memory: a write is one store,
/// waits for nothing, and is made beside the writer of the tables. It belongs to the maps that it was taken from: after
/// an upgrade to another layout ([`Former::OtherLayout`](crate::Former::OtherLayout)) one is taken from the new ones.
#[derive(Clone, Debug)]
pub struct PeerStates {
    words: Arc<MmapArray>,
    /// Of the maps that it was taken from.
    writes: Arc<AtomicU64>,
}

// === impl PeerStates ===

impl PeerStates {
    /// Takes a cluster's backends out of use, or back into it: one store, whatever their number. Whether that is otherwise
    /// than before.
    pub fn set_cut(&self, cluster: ClusterId, cut: bool) -> bool {
        let wanted = if cut { PEER_CUT } else { 0 };
        let word = self.words.u32(cluster.get().into(), 0);
        let word = word.filter(|word| word.load(Ordering::Acquire) != wanted);
        word.inspect(|word| {
            word.store(wanted, Ordering::Release);
            self.writes.fetch_add(1, Ordering::Relaxed);
        })
        .is_some()
    }

    /// Whether a cluster's backends are out of use.
    pub fn is_cut(&self, cluster: ClusterId) -> bool {
        let word = self.words.u32(cluster.get().into(), 0);
        word.is_some_and(|word| word.load(Ordering::Acquire) == PEER_CUT)
    }

    /// The clusters whose backends are out of use, those that a previous agent took out included.
    pub fn cut(&self) -> impl Iterator<Item = ClusterId> {
        clusters().filter(|cluster| self.is_cut(*cluster))
    }

    /// Takes exactly these clusters' backends out of use. How many were otherwise.
    pub fn repair(&self, wanted: &BTreeSet<ClusterId>) -> u64 {
        clusters().map(|id| u64::from(self.set_cut(id, wanted.contains(&id)))).sum()
    }
}

/// All ids that a cluster can have.
fn clusters() -> impl Iterator<Item = ClusterId> {
    (1..u16::MAX).map_while(|id| ClusterId::from_wire(id.into()))
}

// === impl KernelMaps ===

impl KernelMaps {
    /// The states of clusters, to be written by another thread than the one that has the tables.
    pub fn peer_states(&self) -> PeerStates {
        PeerStates { words: Arc::clone(&self.peer_state), writes: Arc::clone(&self.writes) }
    }

    /// The bits of the local state word ([`mesh_layout::LOCAL_UNSYNCED`], [`mesh_layout::LOCAL_PLAIN_PASSES`]), as they
    /// were set last, possibly by a previous agent.
    pub fn local_state(&self) -> u32 {
        let word = self.peer_state.u32(LOCAL_STATE, 0);
        word.map_or(0, |word| word.load(Ordering::Relaxed)) & !LOCAL_HAS_UNBALANCED
    }

    /// Sets the bits of the local state word.
    pub fn set_local_state(&mut self, bits: u32) {
        self.change_local_state(|before| {
            before & LOCAL_HAS_UNBALANCED | bits & !LOCAL_HAS_UNBALANCED
        });
    }

    /// Lets the sockets of these network namespaces, by their cookies, pass untouched, and of no others.
    pub fn set_unbalanced(&mut self, cookies: &BTreeSet<u64>) -> Result<(), MapsError> {
        let error = |source| MapsError::Map { map: "cm_unbalanced", source };
        let found = self.unbalanced()?;
        // Programs look into the map only where its bit is set: it is set before the first entry and cleared after the
        // last one.
        if !cookies.is_empty() {
            self.change_local_state(|before| before | LOCAL_HAS_UNBALANCED);
        }
        for cookie in cookies.difference(&found) {
            self.unbalanced.insert(cookie, 1, 0).map_err(error)?;
            self.written();
        }
        for cookie in found.difference(cookies) {
            self.unbalanced.remove(cookie).map_err(error)?;
            self.written();
        }
        if cookies.is_empty() {
            self.change_local_state(|before| before & !LOCAL_HAS_UNBALANCED);
        }
        Ok(())
    }

    /// The pods whose sockets pass untouched, by the cookies of their network namespaces.
    pub fn unbalanced(&self) -> Result<BTreeSet<u64>, MapsError> {
        let error = |source| MapsError::Map { map: "cm_unbalanced", source };
        self.unbalanced.keys().collect::<Result<_, _>>().map_err(error)
    }

    /// The owner of the maps is the only writer of this word.
    fn change_local_state(&mut self, change: impl FnOnce(u32) -> u32) {
        let Some(state) = self.peer_state.u32(LOCAL_STATE, 0) else { return };
        let before = state.load(Ordering::Relaxed);
        let after = change(before);
        if after != before {
            state.store(after, Ordering::Release);
            self.written();
        }
    }
}
