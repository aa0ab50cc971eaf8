//! Peers that are over their budget: what they reported stays in use, and nothing more is accepted from them.

use std::collections::BTreeMap;

use mesh_follow::{PeerCommand, Refusal};
use mesh_model::ClusterName;

/// The peers in quarantine.
#[derive(Debug, Default)]
pub(crate) struct Quarantine(BTreeMap<ClusterName, String>);

impl Quarantine {
    /// From now on nothing is accepted of a peer. Returns the command for its follower, if that is new.
    pub(crate) fn put(&mut self, peer: &ClusterName, reason: String) -> Option<PeerCommand> {
        if self.0.contains_key(peer) {
            return None;
        }
        tracing::error!(peer = %peer, reason, "over its budget: quarantined");
        let hold = hold(&reason);
        self.0.insert(peer.clone(), reason);
        Some(hold)
    }

    /// A new follower follows a peer. Returns the command that it must get.
    pub(crate) fn followed(&self, peer: &ClusterName) -> Option<PeerCommand> {
        self.0.get(peer).map(|reason| hold(reason))
    }

    /// A peer's updates are accepted again. Whether it was in quarantine.
    pub(crate) fn lift(&mut self, peer: &ClusterName) -> bool {
        self.0.remove(peer).is_some()
    }

    /// Why a peer is in quarantine.
    pub(crate) fn reason(&self, peer: &ClusterName) -> Option<&str> {
        self.0.get(peer).map(String::as_str)
    }
}

fn hold(reason: &str) -> PeerCommand {
    PeerCommand::Hold(Refusal::OverBudget(reason.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_follower_is_sent_what_the_old_one_was() {
        let b = ClusterName::new("b").unwrap();
        let mut quarantine = Quarantine::default();
        assert_eq!(quarantine.followed(&b), None);
        let hold = quarantine.put(&b, "2 of 1 records".into());
        assert!(matches!(hold, Some(PeerCommand::Hold(Refusal::OverBudget(_)))));
        assert_eq!(quarantine.put(&b, "3 of 1 records".into()), None, "once");
        assert_eq!(quarantine.reason(&b), Some("2 of 1 records"));
        assert!(quarantine.followed(&b).is_some());
        assert!(quarantine.lift(&b) && !quarantine.lift(&b));
        assert_eq!((quarantine.reason(&b), quarantine.followed(&b)), (None, None));
    }
}
