//! Whether the identities in an etcd were allocated by this journal (`docs/adr/0007-a-lost-journal-is-recognised.md`).

use std::time::SystemTime;

use mesh_model::{Identity, Labels};
use uuid::Uuid;

use super::{
    Journal, JournalError,
    contents::{Contents, identity},
    entry::Entry,
    write,
};
use crate::table::{State, unix_nano};

/// What an etcd contains of the cluster's IDs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The UUID in the cluster's config.
    pub uuid: Option<Uuid>,
    /// The cluster's own identities.
    pub identities: Vec<(Identity, Labels)>,
    /// The last revision of the manifests in its position, or 0.
    pub revision: u64,
}

/// Why nothing is written to the etcd.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The journal is another cluster's, or is a new one.
    #[error(
        "the journal is not the one that allocated the {identities} identities in this etcd: it is of cluster {ours}, and the etcd of {theirs}. Restore {journal} and restart the apiserver. If it is lost, move what is there away and start the apiserver once with --adopt-identities, which takes the IDs that the etcd has"
    )]
    Another {
        /// The file.
        journal: String,
        /// The journal's UUID.
        ours: Uuid,
        /// The etcd's.
        theirs: Uuid,
        /// How many identities the etcd has.
        identities: usize,
    },
    /// The journal is a new one.
    #[error(
        "the journal has no identity, and this etcd has {identities} identities of the cluster's. Restore {journal} and restart the apiserver. If it is lost, start the apiserver once with --adopt-identities, which takes the IDs that the etcd has"
    )]
    Empty {
        /// The file.
        journal: String,
        /// How many identities the etcd has.
        identities: usize,
    },
    /// The etcd is of a cluster with another API server.
    #[error(
        "the etcd has {identities} identities of cluster {theirs}, and the API server is of cluster {ours} (the UID of its namespace kube-system): give the cluster an etcd of its own. To take over what this etcd has, start the apiserver once with --adopt-identities"
    )]
    OtherCluster {
        /// The UID of the namespace kube-system.
        ours: Uuid,
        /// The etcd's UUID.
        theirs: Uuid,
        /// How many identities the etcd has.
        identities: usize,
    },
    /// The API server has no identity, and the etcd does not say whose its identities are.
    #[error(
        "the API server has no MeshIdentity, and this etcd has {identities} identities and no UUID of their cluster: if they are this cluster's, start the apiserver once with --adopt-identities; else give it an empty etcd"
    )]
    Unnamed {
        /// How many identities the etcd has.
        identities: usize,
    },
    /// The objects of the API server are not listed yet.
    #[error("the API server's MeshIdentities are not listed yet")]
    NotListed,
    /// It cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl Journal {
    /// Compares the journal with an etcd before anything is written there. From then on it gives new IDs.
    ///
    /// A journal that is another's, or that has nothing, did not give the IDs in the etcd, and is refused; with `adopt`
    /// one that has nothing takes them. One of the same cluster may lack some all the same, if it was restored from a
    /// backup, or if the etcd was away for long: no other label set gets these before their rest is over.
    ///
    /// # Errors
    /// When it is refused, or cannot be used.
    pub fn recognise(&mut self, found: &Found, adopt: bool, now: SystemTime) -> Result<(), Lost> {
        self.refresh()?;
        let (journal, identities) = (self.path.display().to_string(), found.identities.len());
        let blank = self.contents.table.counts() == (0, 0);
        match found.uuid {
            Some(theirs) if theirs != self.contents.uuid => {
                if !(adopt && blank) {
                    let ours = self.contents.uuid;
                    return Err(Lost::Another { journal, ours, theirs, identities });
                }
                self.adopt(theirs, found, now)?;
            }
            None if blank && identities > 0 => {
                if !adopt {
                    return Err(Lost::Empty { journal, identities });
                }
                self.adopt(self.contents.uuid, found, now)?;
            }
            Some(_) | None => self.take_unknown(found, now)?,
        }
        self.recognised = true;
        Ok(())
    }

    /// Adopts the UUID and the IDs of the etcd.
    fn adopt(&mut self, uuid: Uuid, found: &Found, now: SystemTime) -> Result<(), JournalError> {
        tracing::warn!(%uuid, identities = found.identities.len(), "taking the etcd's identities into a new journal");
        self.locked(|locked, contents| {
            contents.uuid = uuid;
            if found.revision > contents.revision {
                (contents.revision, contents.manifests) = (found.revision, None);
            }
            let mut entries = contents.entries(now);
            let used = |(id, labels): &(Identity, Labels)| {
                identity(*id, labels, State::Used, unix_nano(now))
            };
            let ours = found.identities.iter().filter(|(id, _)| contents.table.is_ours(*id));
            entries.extend(ours.map(used));
            locked.replace(&entries)?;
            let lines = entries.len();
            for entry in entries.into_iter().filter(|e| matches!(e, Entry::Identity { .. })) {
                if let Err(reason) = contents.take(entry) {
                    tracing::error!(reason, "an identity of the etcd is not adopted");
                }
            }
            contents.lines = lines;
            Ok(())
        })
    }

    /// IDs that only the etcd knows: as if no pod used them any more. One whose label set has another is not
    /// allocated.
    fn take_unknown(&mut self, found: &Found, now: SystemTime) -> Result<(), JournalError> {
        let unknown = |contents: &Contents, id: Identity| {
            contents.table.is_ours(id) && !contents.table.is_known(id)
        };
        let is_behind = |contents: &Contents| contents.revision < found.revision;
        let nothing = !found.identities.iter().any(|(id, _)| unknown(&self.contents, *id));
        if nothing && !is_behind(&self.contents) {
            return Ok(());
        }
        self.locked(|locked, contents| {
            let missing = found.identities.iter().filter(|(id, _)| unknown(contents, *id));
            let taken = missing.map(|(id, labels)| {
                let state = match contents.table.id_of(labels) {
                    Some(_) => State::Deleted,
                    None => State::Marked,
                };
                identity(*id, labels, state, unix_nano(now))
            });
            let mut taken: Vec<Entry> = taken.collect();
            tracing::warn!(identities = taken.len(), "the etcd has what the journal does not know; identities are kept until they have been unused for long");
            if is_behind(contents) {
                // Readers got later ones than it can know: whatever is now comes after them.
                let (revision, unix_nano) = (found.revision, unix_nano(now));
                taken.push(Entry::Revision { revision, manifests: None, unix_nano });
            }
            write(locked, contents, taken)
        })
    }
}
