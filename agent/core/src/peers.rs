//! The clusters that are followed: an operator's settings for each, the state of its connection, and its refused
//! records.

use std::collections::{BTreeMap, BTreeSet};

use mesh_follow::Budget;
use mesh_model::{ClusterName, RecordEvent, RecordKey};

use crate::{
    input::{Connection, PeerSettings},
    problem::{Problem, ProblemKind},
    refused_records::RefusedRecords,
};

/// All of them, the local cluster included.
#[derive(Debug)]
pub(crate) struct Peers {
    followed: BTreeMap<ClusterName, Followed>,
    /// Errors in the peer files.
    problems: Vec<String>,
    /// The files were read in full: a cluster that is not followed is no peer.
    complete: bool,
    refused: BTreeMap<ClusterName, Refused>,
    /// The records that are refused now.
    refused_records: BTreeMap<ClusterName, RefusedRecords>,
    /// Clusters that the operator of this one has it leave alone.
    drained: BTreeSet<ClusterName>,
    /// Clusters that hold because their id is another's.
    waiting: BTreeSet<ClusterName>,
}

#[derive(Debug)]
struct Followed {
    settings: PeerSettings,
    connection: Connection,
}

/// Records of a cluster that were not accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// The number of those that its grant does not cover.
    pub count: u64,
    /// The last reason, of these and of those that could not be read.
    pub last: String,
}

impl Peers {
    /// None is followed yet.
    pub(crate) fn new() -> Self {
        Self {
            followed: BTreeMap::new(),
            problems: Vec::new(),
            complete: false,
            refused: BTreeMap::new(),
            refused_records: BTreeMap::new(),
            drained: BTreeSet::new(),
            waiting: BTreeSet::new(),
        }
    }

    /// The operator has the local cluster leave these alone. Returns those for which that is new, or no longer so.
    pub(crate) fn set_drained(&mut self, drained: BTreeSet<ClusterName>) -> Vec<ClusterName> {
        let before = std::mem::replace(&mut self.drained, drained);
        before.symmetric_difference(&self.drained).cloned().collect()
    }

    /// Whether the local cluster is to leave this one alone.
    pub(crate) fn is_drained(&self, name: &ClusterName) -> bool {
        self.drained.contains(name)
    }

    /// A cluster is followed by a new follower. Whether its budget is another than before.
    pub(crate) fn follow(&mut self, name: &ClusterName, settings: PeerSettings) -> bool {
        // The new follower has not been asked to hold.
        self.waiting.remove(name);
        let budget = settings.budget;
        let followed = Followed { settings, connection: Connection::default() };
        let before = self.followed.insert(name.clone(), followed);
        before.is_some_and(|before| before.settings.budget != budget)
    }

    /// A cluster is no longer followed.
    pub(crate) fn unfollow(&mut self, name: &ClusterName) {
        self.followed.remove(name);
        self.refused.remove(name);
        self.refused_records.remove(name);
        self.waiting.remove(name);
    }

    /// How a cluster's connection is. Whether it is followed, and that is new.
    pub(crate) fn set_connection(&mut self, name: &ClusterName, connection: Connection) -> bool {
        let Some(followed) = self.followed.get_mut(name) else { return false };
        let before = std::mem::replace(&mut followed.connection, connection);
        before != connection
    }

    /// The peer files were read.
    pub(crate) fn files_read(&mut self, problems: Vec<String>, complete: bool) {
        (self.problems, self.complete) = (problems, complete);
    }

    /// A record could not be read, or was not accepted.
    pub(crate) fn refuse(&mut self, name: &ClusterName, count: u64, reason: String) {
        let refused = self.refused.entry(name.clone()).or_default();
        refused.count += count;
        refused.last = reason;
    }

    /// A cluster reported a record: taken, or refused for a reason.
    pub(crate) fn reported(&mut self, name: &ClusterName, event: &RecordEvent) {
        if let Some(records) = self.refused_records.get_mut(name) {
            records.event(event);
        } else if let RecordEvent::Keep(_) = event {
            self.refused_records.entry(name.clone()).or_default().event(event);
        }
    }

    /// The record that was reported last is refused.
    pub(crate) fn refuse_record(
        &mut self,
        name: &ClusterName,
        key: Option<RecordKey>,
        reason: &str,
    ) {
        let records = self.refused_records.entry(name.clone()).or_default();
        records.refuse(key, reason);
    }

    /// How many records of a cluster are refused now.
    pub(crate) fn refused_now(&self, name: &ClusterName) -> usize {
        self.refused_records.get(name).map_or(0, RefusedRecords::len)
    }

    /// Those records, each with why.
    pub(crate) fn refused_records(
        &self,
        name: &ClusterName,
    ) -> impl Iterator<Item = (&RecordKey, &str)> {
        self.refused_records.get(name).into_iter().flat_map(RefusedRecords::iter)
    }

    /// A cluster holds until its id is free.
    pub(crate) fn wait_for_id(&mut self, name: &ClusterName) {
        self.waiting.insert(name.clone());
    }

    /// An id is free: returns the clusters that held.
    pub(crate) fn stop_waiting(&mut self) -> BTreeSet<ClusterName> {
        std::mem::take(&mut self.waiting)
    }

    /// All followed clusters.
    pub(crate) fn names(&self) -> impl Iterator<Item = &ClusterName> {
        self.followed.keys()
    }

    pub(crate) fn is_followed(&self, name: &ClusterName) -> bool {
        self.followed.contains_key(name)
    }

    /// Whether all clusters that exist are followed now.
    pub(crate) fn are_complete(&self) -> bool {
        self.complete
    }

    pub(crate) fn connection(&self, name: &ClusterName) -> Connection {
        self.followed.get(name).map(|followed| followed.connection).unwrap_or_default()
    }

    pub(crate) fn budget(&self, name: &ClusterName) -> Option<Budget> {
        self.followed.get(name)?.settings.budget
    }

    pub(crate) fn settings(&self, name: &ClusterName) -> Option<&PeerSettings> {
        self.followed.get(name).map(|followed| &followed.settings)
    }

    pub(crate) fn refused(&self, name: &ClusterName) -> Option<&Refused> {
        self.refused.get(name)
    }

    /// Problems for an operator.
    pub(crate) fn problems(&self) -> impl Iterator<Item = Problem> {
        let files = self.problems.iter().cloned();
        let files = files.map(|message| Problem::new(ProblemKind::PeerFile, message));
        let refused = self.refused_records.iter().filter_map(|(peer, records)| {
            let message = format!("{peer}: {}", records.describe()?);
            Some(Problem::of(ProblemKind::RecordsRefused, peer, message))
        });
        files.chain(refused)
    }
}
