//! Peers that are over their budget: what they said stays, and nothing more of them is taken.

use mesh_follow::{ConnectionPhase, PeerCommand, Refusal};
use mesh_model::ClusterName;

use super::Mesh;

/// What came of lifting a quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifted {
    /// The peer is heard again, from the beginning.
    HeardAgain,
    /// It was in none.
    NotQuarantined,
    /// There is no such peer.
    Unknown,
    /// Its follower has not taken what it was told before: later.
    Busy,
}

impl Mesh {
    /// Looks at what a peer has now.
    pub(super) fn check_budget(&mut self, name: &ClusterName) {
        let Some(budget) = self.peers.get(name).and_then(|handle| handle.budget) else { return };
        let told = self.merge.told(name);
        if let Some(excess) = budget.check(told.keys, told.bytes) {
            self.quarantine(name, excess.to_string());
        }
    }

    /// From now on nothing is taken of the peer.
    pub(super) fn quarantine(&mut self, name: &ClusterName, reason: String) {
        if self.quarantined.contains_key(name) {
            return;
        }
        tracing::error!(peer = %name, reason, "over its budget: quarantined");
        self.quarantined.insert(name.clone(), reason);
        self.hold_quarantined();
    }

    /// Tells those followers that are not holding to hold: one that was busy, or was started anew.
    pub(super) fn hold_quarantined(&self) {
        for (name, reason) in &self.quarantined {
            let Some(handle) = self.peers.get(name) else { continue };
            let refusal = Refusal::OverBudget(reason.clone());
            let holds = handle.status.borrow().failure.as_ref().is_some_and(|failure| {
                failure.phase == ConnectionPhase::Config && failure.reason == refusal.to_string()
            });
            if !holds {
                let _ = handle.commands.try_send(PeerCommand::Hold(refusal));
            }
        }
    }

    /// Hears a peer again.
    pub(super) fn lift_quarantine(&mut self, name: &ClusterName) -> Lifted {
        let Some(handle) = self.peers.get(name) else { return Lifted::Unknown };
        if !self.quarantined.contains_key(name) {
            return Lifted::NotQuarantined;
        }
        if handle.commands.try_send(PeerCommand::Release).is_err() {
            return Lifted::Busy;
        }
        self.quarantined.remove(name);
        // Of what it told before, one kind's list would be counted beside another's from then.
        self.merge.begin_again(name);
        tracing::info!(peer = %name, "no longer quarantined: listed anew");
        Lifted::HeardAgain
    }
}
