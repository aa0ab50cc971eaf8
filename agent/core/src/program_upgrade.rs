//! Programs of another release, whose tables cannot be read, stay in place until ours are filled.

use std::time::{Duration, Instant};

/// An exchange of programs that waits.
#[derive(Debug, Default)]
pub(crate) struct ProgramUpgrade {
    /// Since when it is tried.
    since: Option<Instant>,
}

/// How far a cluster's services are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Known {
    /// Not at all.
    Not,
    /// As they were when its snapshot was written, seconds or years ago.
    FromSnapshot,
    /// They were listed in full in this run.
    Listed,
}

/// How long lists are waited for. The former tables are what the previous agent knew when it ended; a snapshot may be older,
/// and lack what clients are connected to. Beyond this time the former tables are the older ones.
const PATIENCE: Duration = Duration::from_secs(30);

impl ProgramUpgrade {
    /// What has to come before the programs may be replaced; `None` if nothing. Without the local cluster's services,
    /// listed or from a snapshot, there is nothing in our tables, and the former ones are better, however old. `peers`
    /// is `None` as long as the set of peers is not known.
    pub(crate) fn waits_for<'a>(
        &mut self,
        local: Known,
        peers: Option<impl Iterator<Item = (&'a str, Known)>>,
        now: Instant,
    ) -> Option<String> {
        let since = *self.since.get_or_insert(now);
        let patient = now.saturating_duration_since(since) < PATIENCE;
        if local < if patient { Known::Listed } else { Known::FromSnapshot } {
            return Some("the local cluster".into());
        }
        if !patient {
            return None;
        }
        let Some(peers) = peers else { return Some("the peer files".into()) };
        let unknown = peers.filter(|(_, known)| *known < Known::Listed);
        let unknown: Vec<&str> = unknown.map(|(name, _)| name).collect();
        (!unknown.is_empty()).then(|| unknown.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_waited_for_and_then_a_snapshot_of_the_local_cluster_will_do() {
        let began = Instant::now();
        let waits = |upgrade: &mut ProgramUpgrade, local, peers: Option<&[Known]>, after| {
            let names = ["b", "c"].into_iter();
            let peers = peers.map(|peers| names.zip(peers.iter().copied()));
            upgrade.waits_for(local, peers, began + Duration::from_secs(after))
        };
        let (not, snapshot, listed) = (Known::Not, Known::FromSnapshot, Known::Listed);
        let mut upgrade = ProgramUpgrade::default();
        let local = Some("the local cluster".to_owned());
        assert_eq!(waits(&mut upgrade, not, None, 0), local);
        assert_eq!(waits(&mut upgrade, snapshot, Some(&[listed, listed]), 10), local);
        assert_eq!(waits(&mut upgrade, listed, None, 10).unwrap(), "the peer files");
        assert_eq!(waits(&mut upgrade, listed, Some(&[not, snapshot]), 10).unwrap(), "b, c");
        assert_eq!(waits(&mut upgrade, listed, Some(&[listed, snapshot]), 29).unwrap(), "c");
        assert_eq!(waits(&mut upgrade, listed, Some(&[listed, listed]), 29), None);
        assert_eq!(waits(&mut upgrade, listed, Some(&[not, not]), 30), None, "not for ever");
        assert_eq!(waits(&mut upgrade, snapshot, None, 30), None);
        assert_eq!(waits(&mut upgrade, not, Some(&[listed, listed]), 3_000), local);
    }
}
