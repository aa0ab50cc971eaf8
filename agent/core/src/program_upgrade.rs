//! Programs of another release, whose tables cannot be read, stay in place until ours are filled.

use std::time::{Duration, Instant};

/// An exchange of programs that waits.
#[derive(Debug, Default)]
pub(crate) struct ProgramUpgrade {
    /// Since when only other clusters are waited for.
    since: Option<Instant>,
}

/// What the tables have by now.
#[derive(Debug)]
pub(crate) struct Filled<'a> {
    /// The local cluster's services are synced or restored.
    pub(crate) local: bool,
    /// The peer files were read in full.
    pub(crate) peers_known: bool,
    /// Peers whose services are neither.
    pub(crate) missing: Vec<&'a str>,
}

/// How long other clusters are waited for that are not synced: what the former tables have of all others does not become
/// better meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);

impl ProgramUpgrade {
    /// What is waited for before the programs may be exchanged; `None` if nothing. Without the local cluster's services the
    /// tables are empty, and what the former ones have is better.
    pub(crate) fn waits_for(&mut self, filled: &Filled<'_>, now: Instant) -> Option<String> {
        if !filled.local {
            return Some("the local cluster".into());
        }
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= PATIENCE {
            return None;
        }
        if !filled.peers_known {
            return Some("the peer files".into());
        }
        (!filled.missing.is_empty()).then(|| filled.missing.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_cluster_is_waited_for_and_peers_for_a_while() {
        let now = Instant::now();
        let filled = |local, peers_known, missing: &[&'static str]| Filled {
            local,
            peers_known,
            missing: missing.to_vec(),
        };
        let mut upgrade = ProgramUpgrade::default();
        let waits = |upgrade: &mut ProgramUpgrade, filled: &Filled<'_>, after| {
            upgrade.waits_for(filled, now + Duration::from_secs(after))
        };
        assert_eq!(waits(&mut upgrade, &filled(false, true, &[]), 0).unwrap(), "the local cluster");
        assert_eq!(
            waits(&mut upgrade, &filled(false, true, &[]), 100).unwrap(),
            "the local cluster"
        );
        assert_eq!(
            waits(&mut upgrade, &filled(true, false, &["b"]), 100).unwrap(),
            "the peer files"
        );
        assert_eq!(waits(&mut upgrade, &filled(true, true, &["b", "c"]), 110).unwrap(), "b, c");
        assert_eq!(waits(&mut upgrade, &filled(true, true, &[]), 110), None);
        assert_eq!(waits(&mut upgrade, &filled(true, true, &["b"]), 130), None, "not for ever");
    }
}
