//! The folder of peer files: which clusters are peers, when files come, break and go.
//!
//! No IO and no clock: what the folder holds and the time go in, a [`Reading`] comes out. Nothing is removed by ignorance.
//! A peer goes when its file is gone, and is still gone at a second look a second later while the folder is there. A file
//! that is empty, meaningless or broken, and a folder that is missing, leave what was in force and are named.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    time::{Duration, Instant, SystemTime},
};

use mesh_model::ClusterName;

use crate::peer_file::PeerFile;

/// What a folder holds at a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundFolder {
    /// There is none.
    Missing,
    /// There is one, and it cannot be read.
    Unreadable(String),
    /// Its files by name, but hidden ones.
    Files(BTreeMap<String, FoundFile>),
}

/// A file of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundFile {
    /// Its text.
    Text(String),
    /// It is no text: a key in DER.
    Binary,
    /// It cannot be read.
    Unreadable(String),
    /// Its writer may be in the middle of it: what it holds now counts for nothing.
    BeingWritten,
}

/// What follows from a look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The peers, each with the file that is in force.
    pub peers: BTreeMap<ClusterName, PeerFile>,
    /// What is wrong, each with what it means.
    pub problems: Vec<String>,
    /// These are all peers there are. If not, what the kernel has of other clusters may be a peer's.
    pub complete: bool,
    /// When another look says more, although no file changes.
    pub next_look: Option<Instant>,
}

/// A peer that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedPeer {
    /// Its name.
    pub name: ClusterName,
    /// Why.
    pub reason: Removal,
    /// When.
    pub at: SystemTime,
}

/// Why a peer was removed. Its text names the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Its file went in this run.
    FileGone {
        /// The file.
        file: String,
    },
    /// The previous run knew it, and it has no file.
    NoFile {
        /// The file that it would have.
        file: String,
    },
}

/// The folder, and what was in force at the last look.
#[derive(Debug)]
pub struct PeerFolder {
    /// How problems name it.
    path: String,
    local: ClusterName,
    peers: BTreeMap<ClusterName, Known>,
    /// Some file was there in this run.
    begun: bool,
    removed: VecDeque<(Instant, RemovedPeer)>,
}

/// A peer.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The file in force; `None` for a peer of the previous run whose file was not read yet.
    file: Option<PeerFile>,
    /// Since when its file is gone.
    gone: Option<Instant>,
}

/// How long a file must be gone before its peer is removed.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// The same for peers of the previous run, while the folder is there and no file ever was: a volume that is mounted late
/// leaves an empty folder until then.
const EMPTY_FOLDER: Duration = Duration::from_secs(60);
/// For how long a removed peer is listed.
const LISTED: Duration = Duration::from_secs(3_600);
/// Removed peers that are listed: more than a mesh has.
const MOST_LISTED: usize = 512;

// === impl PeerFolder ===

impl PeerFolder {
    /// The folder at a path, which is not looked at yet. `previous` are the peers that the previous run knew, by what it left
    /// on disk.
    pub fn new(
        path: impl Into<String>,
        local: ClusterName,
        previous: impl IntoIterator<Item = ClusterName>,
    ) -> Self {
        let peers = previous.into_iter().filter(|name| *name != local);
        let peers = peers.map(|name| (name, Known::default())).collect();
        Self { path: path.into(), local, peers, begun: false, removed: VecDeque::new() }
    }

    /// Takes a look. The local cluster's file is passed over: operators put one identical folder into all clusters.
    pub fn look(&mut self, found: FoundFolder, now: Instant, wall: SystemTime) -> Reading {
        let mut reading = Reading { complete: true, ..Reading::default() };
        match found {
            // Before there was a peer, no folder is no peers.
            FoundFolder::Missing if self.peers.is_empty() && !self.begun => {}
            FoundFolder::Missing => {
                let text =
                    "it is not there. All peers stay as they are; to remove one, remove its file";
                self.keep_all(text, &mut reading);
            }
            FoundFolder::Unreadable(why) => {
                self.keep_all(&format!("{why}. All peers stay as they are"), &mut reading);
            }
            FoundFolder::Files(files) => {
                if !self.begun && !files.is_empty() {
                    self.begun = true;
                    // What the empty folder lacked says nothing.
                    self.peers.values_mut().for_each(|known| known.gone = None);
                }
                self.take(files, now, &mut reading);
                self.remove(now, wall, &mut reading);
            }
        }
        let in_force =
            self.peers.iter().filter_map(|(name, known)| Some((name, known.file.as_ref()?)));
        reading.peers = in_force.map(|(name, file)| (name.clone(), file.clone())).collect();
        reading
    }

    /// The peers that were removed within the last hour, the last one first.
    pub fn removed(&self, now: Instant) -> impl Iterator<Item = &RemovedPeer> {
        let recent = move |at: &Instant| now.saturating_duration_since(*at) < LISTED;
        self.removed.iter().rev().filter(move |(at, _)| recent(at)).map(|(_, removed)| removed)
    }

    fn keep_all(&mut self, why: &str, reading: &mut Reading) {
        reading.problems.push(format!("{}: {why}", self.path));
        reading.complete = false;
        // A folder that is away says nothing about its files.
        self.peers.values_mut().for_each(|known| known.gone = None);
    }

    fn take(&mut self, files: BTreeMap<String, FoundFile>, now: Instant, reading: &mut Reading) {
        let mut there = BTreeSet::new();
        for (file, found) in files {
            let path = format!("{}/{file}", self.path);
            // Credentials lie in the same folder; none has a name that a cluster can have.
            let Ok(name) = ClusterName::new(&file) else {
                if let FoundFile::Text(text) = found
                    && PeerFile::is_one(&text)
                {
                    let problem =
                        format!("{path}: {file:?} is no cluster's name; it is passed over");
                    reading.problems.push(problem);
                }
                continue;
            };
            if name == self.local {
                continue;
            }
            there.insert(name.clone());
            let why = match found {
                FoundFile::Text(text) => match read(&text) {
                    Ok(file) => {
                        self.peers.insert(name, Known { file: Some(file), gone: None });
                        continue;
                    }
                    Err(why) => why,
                },
                FoundFile::Binary => "it is no text".into(),
                FoundFile::Unreadable(why) => why,
                FoundFile::BeingWritten => {
                    reading.complete &= self.is_in_force(&name);
                    continue;
                }
            };
            let stays = match self.is_in_force(&name) {
                true => "The peer stays as it was",
                false => "No peer is followed by that name",
            };
            reading.complete &= self.is_in_force(&name);
            reading
                .problems
                .push(format!("{path}: {why}. {stays}; to remove a peer, remove its file"));
        }
        for (name, known) in &mut self.peers {
            known.gone = match there.contains(name) {
                true => None,
                false => known.gone.or(Some(now)),
            };
        }
    }

    /// Removes the peers whose files are gone for long enough.
    fn remove(&mut self, now: Instant, wall: SystemTime, reading: &mut Reading) {
        let (mut goes, mut empty) = (Vec::new(), Vec::new());
        for (name, known) in &self.peers {
            let Some(gone) = known.gone else { continue };
            let patience = match (&known.file, self.begun) {
                (None, false) => EMPTY_FOLDER,
                _ => SECOND_LOOK,
            };
            let end = gone + patience;
            if end <= now {
                goes.push(name.clone());
                continue;
            }
            if known.file.is_none() {
                empty.push(name.as_str());
                reading.complete = false;
            }
            reading.next_look = Some(reading.next_look.map_or(end, |next| next.min(end)));
        }
        if !empty.is_empty() && !self.begun {
            reading.problems.push(format!(
                "{}: it is empty, and the previous run knew {}. They stay as they were for {} s: is the volume mounted?",
                self.path,
                empty.join(", "),
                EMPTY_FOLDER.as_secs()
            ));
        }
        for name in goes {
            let file = format!("{}/{name}", self.path);
            let known = self.peers.remove(&name).unwrap_or_default();
            let reason = match known.file {
                Some(_) => Removal::FileGone { file },
                None => Removal::NoFile { file },
            };
            if self.removed.len() >= MOST_LISTED {
                self.removed.pop_front();
            }
            self.removed.push_back((now, RemovedPeer { name, reason, at: wall }));
        }
    }

    fn is_in_force(&self, name: &ClusterName) -> bool {
        self.peers.get(name).is_some_and(|known| known.file.is_some())
    }
}

fn read(text: &str) -> Result<PeerFile, String> {
    if text.trim().is_empty() {
        return Err("it is empty".into());
    }
    if !PeerFile::is_one(text) {
        return Err("it is no peer file, it has no `endpoints`".into());
    }
    PeerFile::parse(text).map_err(|error| error.to_string())
}

// === impl Removal ===

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FileGone { file } => write!(f, "its file {file} was removed"),
            Self::NoFile { file } => {
                write!(f, "the previous run knew it, and there is no file {file}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
