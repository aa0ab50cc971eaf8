//! The source that reads a folder of manifests.
//!
//! Nothing is removed by ignorance. The objects of a file that is invalid or cannot be read stay. A folder that is empty or
//! cannot be read changes nothing. An object is only removed if it is missing in two looks, one second apart: from a file
//! that is not written atomically, from an empty file, or with a file that was removed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::{Path, PathBuf},
    time::Instant,
};

use mesh_files::{Moment, Progress, Settling, Written};
use mesh_model::object::{Kind, Object, ObjectKey};
use sha2::{Digest as _, Sha256};

use crate::{
    admitted::{Admitted, admit},
    copies::Copies,
    decode::PassedOver,
    derived::derived_slices,
    drain::{Drain, DrainFile},
    event::{ResourceVersion, SourceEvent},
    problem::Problem,
};
use file::ManifestFile;
pub use file::{MAX_FILE, read_text};
use listing::Listing;

mod file;
mod listing;

/// A folder of manifests, and the objects in force.
#[derive(Debug)]
pub struct ManifestsSource {
    folder: PathBuf,
    /// Objects of other kinds are ignored.
    kinds: &'static [Kind],
    files: BTreeMap<PathBuf, ManifestFile>,
    /// The progress of files and folders.
    settling: Settling,
    /// Whether a program may still be adding files to a folder.
    is_filling: bool,
    /// The file `drain.yaml`.
    drain: Option<DrainFile>,
    /// The objects that were reported, with derived endpoint slices.
    reported: BTreeMap<ObjectKey, Object>,
    resource_version: ResourceVersion,
    /// Whether the lists were begun.
    begun: bool,
    listed: bool,
    /// The file whose copy of each object is in force.
    owners: BTreeMap<ObjectKey, PathBuf>,
    problems: Vec<Problem>,
    /// What is ignored in the folder.
    notes: Vec<Problem>,
}

/// Why a scan failed.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The folder cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder has no manifest.
    #[error("{}: it has no manifest (*.yaml, *.yml, *.json). To remove the last object, leave an empty file", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
}

// === impl ManifestsSource ===

impl ManifestsSource {
    /// The source of a folder. Does no IO yet. Positions of events begin after `since`.
    pub fn new(folder: &Path, since: ResourceVersion) -> Self {
        Self {
            folder: folder.into(),
            kinds: &Kind::ALL,
            files: BTreeMap::new(),
            settling: Settling::default(),
            is_filling: true,
            drain: None,
            reported: BTreeMap::new(),
            resource_version: since,
            begun: false,
            listed: false,
            owners: BTreeMap::new(),
            problems: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Limits it to objects of these kinds.
    pub fn of_kinds(self, kinds: &'static [Kind]) -> Self {
        Self { kinds, ..self }
    }

    /// Adds the path of `drain.yaml`.
    pub fn with_drain(self, path: &Path) -> Self {
        Self { drain: Some(DrainFile::new(path)), ..self }
    }

    /// What `drain.yaml` drains; `None` until the file has been read once.
    pub fn drain(&self) -> Option<&Drain> {
        self.drain.as_ref()?.drain()
    }

    /// Stores what watches of the folder and of `drain.yaml` noticed, for the next scan.
    pub fn note_written(&mut self, written: impl IntoIterator<Item = (PathBuf, Written)>) {
        self.settling.note(written);
    }

    /// Reads the files that have changed, and returns the events.
    ///
    /// # Errors
    /// If the folder is empty or cannot be read. All objects stay then.
    pub fn scan(&mut self, at: Moment) -> Result<Vec<SourceEvent>, ScanError> {
        if let Some(drain) = &mut self.drain {
            drain.look(&mut self.settling, at);
        }
        let listing = self.list();
        if let Err(error) = &listing {
            let reason = error.to_string();
            self.problems = vec![Problem { file: self.folder.clone(), line: None, reason }];
            self.problems.extend(self.drain.as_ref().and_then(DrainFile::problem).cloned());
        }
        let listing = listing?;
        self.look(&listing, at);
        let now = self.gather();
        Ok(self.report(now))
    }

    /// When to scan again even if nothing changes.
    pub fn next_look(&self) -> Option<Instant> {
        let files = self.files.values().filter_map(ManifestFile::next_look);
        self.settling.next_look().into_iter().chain(files).min()
    }

    /// The current problems.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What is ignored in the folder, one entry for each kind with the number of objects. These are no problems.
    pub fn notes(&self) -> &[Problem] {
        &self.notes
    }

    /// Whether the lists have been completed once. They are not complete while a file that was never read is invalid or being
    /// written: its objects must not count as removed.
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    /// A hash of the content in force, equal in all replicas that have read the same files. In hexadecimal.
    pub fn fingerprint(&self) -> String {
        let mut all = Sha256::new();
        for (path, file) in &self.files {
            let Some(digest) = file.digest() else { continue };
            let path = path.strip_prefix(&self.folder).unwrap_or(path).as_os_str();
            all.update(path.as_encoded_bytes());
            all.update([0]);
            all.update(digest);
        }
        // If nothing is drained, the hash depends only on the manifests.
        if let Some(drain) = self.drain().filter(|drain| !drain.is_empty()) {
            all.update("drain");
            all.update([u8::from(drain.cluster)]);
            for node in &drain.nodes {
                all.update([0]);
                all.update(node);
            }
        }
        all.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether previous content of some file is in force, because its current content is invalid or may be incomplete.
    pub fn keeps_something(&self) -> bool {
        let drain = self.drain.as_ref().is_some_and(|drain| !drain.is_settled());
        let keeps = |file: &ManifestFile| !file.is_settled() || !file.kept().is_empty();
        drain || self.files.values().any(keeps)
    }

    fn list(&self) -> Result<Listing, ScanError> {
        let listing = Listing::of(&self.folder)
            .map_err(|source| ScanError::Unreadable { path: self.folder.clone(), source })?;
        match listing.files.is_empty() {
            true => Err(ScanError::Empty { path: self.folder.clone() }),
            false => Ok(listing),
        }
    }

    fn look(&mut self, listing: &Listing, at: Moment) {
        let Self { files, settling, .. } = self;
        for (path, stamp) in &listing.files {
            let progress = settling.look(path, Some(*stamp), at);
            let file = files.entry(path.clone()).or_insert_with(|| ManifestFile::new(path.clone()));
            file.look(self.kinds, *stamp, progress, at.now);
        }
        files.retain(|path, file| {
            if listing.files.contains_key(path) {
                return true;
            }
            file.is_gone();
            settling.look(path, None, at) < Progress::Settled
        });
        let mut is_filling = false;
        for (path, stamp) in &listing.folders {
            is_filling |= settling.look(path, Some(*stamp), at) < Progress::Settled;
        }
        self.is_filling = is_filling;
        let drain = self.drain.as_ref().map(DrainFile::path);
        settling.retain(|path| {
            files.contains_key(path)
                || listing.folders.contains_key(path)
                || drain.is_some_and(|drain| drain == path)
        });
    }

    /// All objects in force, with derived endpoint slices. If several files have an object, the copy in force stays; at the
    /// start it is that of the first file by name.
    fn gather(&mut self) -> BTreeMap<ObjectKey, Object> {
        let mut objects = BTreeMap::new();
        let mut owners = BTreeMap::<ObjectKey, PathBuf>::new();
        let mut lines = BTreeMap::<ObjectKey, usize>::new();
        let mut copies = Copies::default();
        let mut held_by = HashMap::<PathBuf, BTreeSet<ObjectKey>>::new();
        let mut unreadable = BTreeSet::new();
        self.problems.clear();
        self.problems.extend(self.drain.as_ref().and_then(DrainFile::problem).cloned());
        for (path, file) in &self.files {
            let held = file.held().iter().map(|(_, object)| object);
            let in_force = held.chain(file.kept()).map(Object::key);
            let in_force = in_force.filter(|key| self.owners.get(key) == Some(path));
            owners.extend(in_force.map(|key| (key, path.clone())));
        }
        for (path, file) in &self.files {
            self.problems.extend(file.problems().iter().cloned());
            unreadable.extend(file.refused().cloned());
            for (line, object) in file.held() {
                let key = object.key();
                let owner = owners.entry(key.clone()).or_insert_with(|| path.clone());
                if owner == path && !lines.contains_key(&key) {
                    lines.insert(key.clone(), *line);
                    objects.insert(key, object.clone());
                    continue;
                }
                // It is not a copy if the owner no longer has it: the object moves to this file.
                let keys = || self.files.get(owner).map(ManifestFile::keys).unwrap_or_default();
                let held = held_by.entry(owner.clone()).or_insert_with(keys);
                if held.contains(&key) {
                    copies.add((path, *line), owner, key);
                }
            }
        }
        self.problems.extend(copies.problems());
        // An object that moves to another file stays until it is certainly removed from the previous one.
        for (path, file) in &self.files {
            for object in file.kept() {
                let key = object.key();
                let owner = owners.entry(key.clone()).or_insert_with(|| path.clone());
                if owner == path {
                    objects.entry(key).or_insert_with(|| object.clone());
                }
            }
        }
        let Admitted { mut objects, refused } = admit(objects, &unreadable, &self.reported);
        for (key, reason) in refused {
            let Some(file) = owners.get(&key).cloned() else { continue };
            let (line, reason) = (lines.get(&key).copied(), format!("{key}: {reason}"));
            self.problems.push(Problem { file, line, reason });
        }
        self.owners = owners;
        self.note_passed_over();
        for slice in derived_slices(objects.values()) {
            let object = Object::from(slice);
            objects.entry(object.key()).or_insert(object);
        }
        objects
    }

    /// Makes one message for each kind of thing that is ignored, with its number.
    fn note_passed_over(&mut self) {
        let mut all = BTreeMap::<&PassedOver, (Problem, usize)>::new();
        for (path, file) in &self.files {
            for (what, places) in file.passed_over() {
                let first = || Problem {
                    file: path.clone(),
                    line: Some(places.line),
                    reason: what.to_string(),
                };
                all.entry(what).or_insert_with(|| (first(), 0)).1 += places.count;
            }
        }
        self.notes.clear();
        for (what, (problem, count)) in all {
            let reason = format!("{} ({count} of them)", problem.reason);
            let problem = Problem { reason, ..problem };
            match what.is_reported() {
                true => self.problems.push(problem),
                false => self.notes.push(problem),
            }
        }
    }

    fn report(&mut self, now: BTreeMap<ObjectKey, Object>) -> Vec<SourceEvent> {
        let mut events = Vec::new();
        if !std::mem::replace(&mut self.begun, true) {
            events.extend(Kind::ALL.map(|kind| SourceEvent::Listing { kind }));
        }
        let changed = now.iter().filter(|(key, object)| self.reported.get(key) != Some(object));
        let changed: Vec<Object> = changed.map(|(_, object)| object.clone()).collect();
        let gone = self.reported.keys().filter(|key| !now.contains_key(key));
        let gone: BTreeSet<ObjectKey> = gone.cloned().collect();
        for object in changed {
            let resource_version = self.next_version();
            events.push(SourceEvent::Applied { resource_version, object });
        }
        for key in gone {
            let resource_version = self.next_version();
            events.push(SourceEvent::Deleted { resource_version, key });
        }
        if !self.listed && self.is_whole() {
            self.listed = true;
            let resource_version = self.resource_version;
            events.extend(Kind::ALL.map(|kind| SourceEvent::Listed { kind, resource_version }));
        }
        self.reported = now;
        events
    }

    /// Whether all files were read completely, and no program is adding files.
    fn is_whole(&self) -> bool {
        let drain = self.drain.as_ref().is_none_or(|drain| drain.drain().is_some());
        drain && !self.is_filling && self.files.values().all(ManifestFile::is_settled)
    }

    /// The position of the last event.
    pub fn resource_version(&self) -> ResourceVersion {
        self.resource_version
    }

    fn next_version(&mut self) -> ResourceVersion {
        self.resource_version.0 += 1;
        self.resource_version
    }
}

#[cfg(test)]
mod tests;
