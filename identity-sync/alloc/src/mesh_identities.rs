//! The record of a Kubernetes cluster: an object of the kind `MeshIdentity` for each ID, named by its number. No IO.
//!
//! The API server decides between replicas: only one of them can create an object of a name, and each change is made on
//! condition of the version that the replica knows. All replicas try the same names for a label set in the same order
//! ([`candidates`](crate::candidates)), so that the loser finds the object of the winner, and adopts its ID
//! (`docs/adr/0040-identities-are-objects.md`).

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque, hash_map::Entry},
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_model::{ClusterId, ClusterLimit, Identity, Labels};
use uuid::Uuid;

use crate::{
    AllocationError, Found, Lost,
    table::{AllocationTable, State, unix_nano},
};

mod messages;

pub use messages::{IdentityAnswer, IdentityRequest, MeshIdentity};

/// The IDs of a cluster, as one replica knows them.
#[derive(Debug)]
pub struct MeshIdentities {
    table: AllocationTable,
    /// The last version of each object that is known, also of those that are gone.
    versions: HashMap<Identity, u64>,
    /// The objects of a list that is being read.
    listing: Option<BTreeSet<Identity>>,
    listed: bool,
    /// The UUID of the cluster. With it, the IDs in an etcd can be recognised.
    uuid: Option<Uuid>,
    recognised: bool,
    /// Label sets that wait for the answer to a request.
    waiting: HashSet<Arc<Labels>>,
    /// Those whose request was answered: they have an ID now, or ask again.
    answered: Vec<Arc<Labels>>,
    /// IDs of objects that are gone while a label set may still have them.
    missing: BTreeSet<Identity>,
    /// IDs whose object cannot be read: no label set may have them.
    taken: BTreeSet<Identity>,
    /// IDs with a request that was not answered yet, with the label set that it is about.
    asked: HashMap<Identity, Arc<Labels>>,
    requests: VecDeque<IdentityRequest>,
}

// === impl MeshIdentities ===

impl MeshIdentities {
    /// Those of a cluster of which nothing is known yet.
    pub fn new(cluster: ClusterId, limit: ClusterLimit) -> Self {
        Self {
            table: AllocationTable::new(cluster, limit),
            versions: HashMap::new(),
            listing: None,
            listed: false,
            uuid: None,
            recognised: false,
            waiting: HashSet::new(),
            answered: Vec::new(),
            missing: BTreeSet::new(),
            taken: BTreeSet::new(),
            asked: HashMap::new(),
            requests: VecDeque::new(),
        }
    }

    /// The API server's history is another one from here on: its versions cannot be compared with those before.
    pub fn restart(&mut self) {
        self.versions.clear();
    }

    /// A list of all objects begins.
    pub fn listing(&mut self) {
        self.listing = Some(BTreeSet::new());
    }

    /// The list is complete, at this version.
    pub fn listed(&mut self, version: u64) {
        self.listed = true;
        let Some(found) = self.listing.take() else { return };
        let is_older = |id: &Identity| self.versions.get(id).is_none_or(|known| *known <= version);
        let all = self.table.all().map(|(id, _)| id);
        let gone: Vec<Identity> = all.filter(|id| !found.contains(id)).filter(is_older).collect();
        gone.into_iter().for_each(|id| self.lose(id));
    }

    /// The API server has an object: in a list, in a watch, or in an answer.
    ///
    /// # Errors
    /// When its ID is none of the cluster's.
    pub fn applied(&mut self, object: MeshIdentity) -> Result<(), String> {
        let MeshIdentity { id, labels, state, since, version } = object;
        if let Some(listing) = &mut self.listing {
            listing.insert(id);
        }
        // An answer may come before the event of a watch that is older.
        if self.versions.get(&id).is_some_and(|known| *known >= version) {
            return Ok(());
        }
        self.missing.remove(&id);
        self.taken.remove(&id);
        if self.table.get(id).is_some_and(|known| *known.labels != labels) {
            // The object of other labels was deleted, and this is another one.
            self.table.forget(id);
        }
        self.table.apply(id, labels, state, since)?;
        self.versions.insert(id, version);
        Ok(())
    }

    /// The API server has deleted an object, at this version.
    pub fn deleted(&mut self, id: Identity, version: u64) {
        if self.versions.get(&id).is_some_and(|known| *known > version) {
            return;
        }
        self.versions.insert(id, version);
        self.lose(id);
    }

    /// The API server has an object of this name that cannot be read.
    pub fn taken(&mut self, id: Identity) {
        if let Some(listing) = &mut self.listing {
            listing.insert(id);
        }
        self.taken.insert(id);
    }

    /// An object is gone. An ID that a label set may still have stays until [`Self::settle`] knows whether it does.
    fn lose(&mut self, id: Identity) {
        self.taken.remove(&id);
        match self.table.get(id).map(|known| known.state) {
            None => {}
            Some(State::Deleted) => self.table.forget(id),
            Some(State::Used | State::Marked) => drop(self.missing.insert(id)),
        }
    }

    /// Takes the answer to a request.
    ///
    /// # Errors
    /// When it has an ID that is none of the cluster's.
    pub fn answered(&mut self, answer: IdentityAnswer) -> Result<(), String> {
        let asked = self.asked.remove(&answer.id());
        self.answered.extend(asked.filter(|labels| self.waiting.remove(labels)));
        match answer {
            IdentityAnswer::Object(object) => self.applied(object)?,
            IdentityAnswer::Gone(id) => self.lose(id),
            IdentityAnswer::Taken(id) => self.taken(id),
        }
        Ok(())
    }

    /// The UUID of the cluster.
    pub fn uuid(&self) -> Option<Uuid> {
        self.uuid
    }

    /// Sets the UUID of the cluster: the UID of the namespace kube-system.
    pub fn set_uuid(&mut self, uuid: Uuid) {
        self.uuid = Some(uuid);
    }

    /// Whether all objects have been listed once, and the UUID is known.
    pub fn is_known(&self) -> bool {
        self.listed && self.uuid.is_some()
    }

    /// Compares the IDs with those in an etcd before anything is written there. From then on new IDs are allocated.
    ///
    /// IDs that only the etcd has are created again: their objects were lost. With `adopt` also those of an etcd that names
    /// another cluster or none.
    ///
    /// # Errors
    /// When the etcd is another cluster's, or the objects are not listed yet.
    pub fn recognise(&mut self, found: &Found, adopt: bool, now: SystemTime) -> Result<(), Lost> {
        let Some(ours) = self.uuid.filter(|_| self.listed) else { return Err(Lost::NotListed) };
        let identities = found.identities.len();
        match found.uuid {
            Some(theirs) if theirs != ours && !adopt => {
                return Err(Lost::OtherCluster { ours, theirs, identities });
            }
            None if self.table.counts() == (0, 0) && identities > 0 && !adopt => {
                return Err(Lost::Unnamed { identities });
            }
            Some(_) | None => {}
        }
        let unknown = found.identities.iter();
        let unknown =
            unknown.filter(|(id, _)| self.table.is_ours(*id) && !self.table.is_known(*id));
        for (id, labels) in unknown.cloned().collect::<Vec<_>>() {
            let state = match self.table.id_of(&labels) {
                Some(_) => State::Deleted,
                None => State::Marked,
            };
            // They are this cluster's, so that the table takes them.
            if self.table.apply(id, labels.clone(), state, unix_nano(now)).is_ok() {
                self.ask(IdentityRequest::Create { id, labels: Arc::new(labels), state });
            }
        }
        self.recognised = true;
        Ok(())
    }

    /// Whether IDs were compared with an etcd, so that new ones are allocated.
    pub fn is_recognised(&self) -> bool {
        self.recognised
    }

    /// The ID of a label set; `None` until the API server has given it one.
    ///
    /// # Errors
    /// When none is free.
    pub fn identity(&mut self, labels: &Labels) -> Result<Option<Identity>, AllocationError> {
        if let Some((id, state)) = self.table.id_of(labels) {
            if state == State::Marked {
                self.update(id, State::Used);
            }
            return Ok(Some(id));
        }
        if !self.is_known() || !self.recognised {
            return Ok(None);
        }
        if self.waiting.contains(labels) {
            return Ok(None);
        }
        let id = match self.table.last_id_of(labels) {
            Some(last) => {
                self.update(last, State::Used);
                last
            }
            None => {
                let id = self.free(labels)?;
                let labels = Arc::new(labels.clone());
                self.ask(IdentityRequest::Create { id, labels, state: State::Used });
                id
            }
        };
        // An answer about the ID decides, whatever was asked.
        self.waiting.extend(self.asked.get(&id).cloned());
        Ok(None)
    }

    /// The first ID for a label set that has no object, and that is not being asked for.
    fn free(&self, labels: &Labels) -> Result<Identity, AllocationError> {
        let is_free = |id: &Identity| {
            !self.table.is_known(*id) && !self.asked.contains_key(id) && !self.taken.contains(id)
        };
        // If each is known, looking at all would not find one either, and many may ask.
        let free = match self.table.is_full() {
            true => None,
            false => self.table.candidates(labels).find(is_free),
        };
        let (used, resting) = self.table.counts();
        free.ok_or(AllocationError::Exhausted { used, resting })
    }

    /// Does what follows from events and answers: asks again for label sets that still wait, and creates objects again that
    /// were deleted although their ID is in use.
    pub fn settle(&mut self, in_use: impl Fn(Identity, &Labels) -> bool) {
        for id in std::mem::take(&mut self.missing) {
            let Some(known) = self.table.get(id).cloned() else { continue };
            if self.asked.contains_key(&id) {
                self.missing.insert(id);
            } else if in_use(id, &known.labels) {
                let labels = known.labels;
                self.ask(IdentityRequest::Create { id, labels, state: State::Used });
                self.missing.insert(id);
            } else {
                self.table.forget(id);
            }
        }
        for labels in std::mem::take(&mut self.answered) {
            // If none is free, the next request gets that error.
            let _ = self.identity(&labels);
        }
    }

    /// Marks the IDs that are not in use, and frees those that were marked `wait` ago and that no replica has used since: each
    /// clears the marks of the IDs that it uses. Objects of IDs that have rested are deleted.
    pub fn collect(
        &mut self,
        in_use: impl Fn(Identity, &Labels) -> bool,
        wait: Duration,
        now: SystemTime,
    ) {
        for transition in self.table.collect(&in_use, wait, now) {
            self.update(transition.id, transition.state);
        }
        for id in self.table.rested(now) {
            let labels = self.table.get(id).map(|known| Arc::clone(&known.labels));
            if let (Some(labels), Some(version)) = (labels, self.versions.get(&id).copied()) {
                self.ask(IdentityRequest::Delete { id, labels, version });
            }
        }
    }

    /// The requests since the last call.
    pub fn take_requests(&mut self) -> Vec<IdentityRequest> {
        self.requests.drain(..).collect()
    }

    /// The IDs that are to be published, or no longer, since the last call.
    pub fn take_changes(&mut self) -> Vec<(Identity, Option<Labels>)> {
        self.table.take_changes()
    }

    /// How many IDs are allocated.
    pub fn len(&self) -> usize {
        self.table.counts().0
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many label sets wait for an ID.
    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn update(&mut self, id: Identity, state: State) {
        let Some(known) = self.table.get(id) else { return };
        let labels = Arc::clone(&known.labels);
        // If its object is missing, that is being created.
        if let (Some(version), false) = (self.versions.get(&id), self.missing.contains(&id)) {
            self.ask(IdentityRequest::Update { id, labels, state, version: *version });
        }
    }

    fn ask(&mut self, request: IdentityRequest) {
        if let Entry::Vacant(entry) = self.asked.entry(request.id()) {
            entry.insert(Arc::clone(request.labels()));
            self.requests.push_back(request);
        }
    }
}

#[cfg(test)]
mod tests;
