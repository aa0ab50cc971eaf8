//! The folder of peer files, which decides which clusters are peers.
//!
//! It has no IO and no clock: its inputs are the folder's content and the time, its output is a [`Reading`]. A peer is
//! removed only if its file does not exist in two looks that are one second apart, while the folder exists. If a file is
//! empty or invalid, or the folder is missing, the previous files stay in force, and the reading has a problem.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    time::{Duration, Instant, SystemTime},
};

use mesh_model::ClusterName;

use crate::peer_file::PeerFile;

/// The content of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundFolder {
    /// It does not exist.
    Missing,
    /// It exists, but cannot be read. The text is the reason.
    Unreadable(String),
    /// Its files by name, without hidden ones.
    Files(BTreeMap<String, FoundFile>),
}

/// A file of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundFile {
    /// Its text.
    Text(String),
    /// It is not UTF-8, for example a private key in DER.
    Binary,
    /// It cannot be read. The text is the reason.
    Unreadable(String),
    /// Its writer may not have finished it, so its content is not used.
    BeingWritten,
}

/// The result of a look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The peers, each with the content of its file that is in force.
    pub peers: BTreeMap<ClusterName, PeerFile>,
    /// What is wrong: one message each, with its effect.
    pub problems: Vec<String>,
    /// Whether `peers` is complete. If not, entries of other clusters in the kernel may belong to a peer.
    pub complete: bool,
    /// When to look again even if no file changes.
    pub next_look: Option<Instant>,
}

/// A peer that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedPeer {
    /// Its name.
    pub name: ClusterName,
    /// Why it was removed.
    pub reason: Removal,
    /// When it was removed.
    pub at: SystemTime,
}

/// Why a peer was removed. Its text names the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Its file was removed in this run.
    FileGone {
        /// The file's path.
        file: String,
    },
    /// The previous run had this peer, but there is no file of it.
    NoFile {
        /// The path of the file that is missing.
        file: String,
    },
}

/// The folder of peer files, with the files that are in force.
#[derive(Debug)]
pub struct PeerFolder {
    /// The path, for messages.
    path: String,
    local: ClusterName,
    peers: BTreeMap<ClusterName, Known>,
    /// Whether the folder has had a file in this run.
    begun: bool,
    removed: VecDeque<(Instant, RemovedPeer)>,
}

/// A peer.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The file in force; `None` for a peer of the previous run whose file has not been read yet.
    file: Option<PeerFile>,
    /// Since when its file does not exist.
    gone: Option<Instant>,
}

/// How long a file must be missing before its peer is removed.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// The same for peers of the previous run while the folder has had no file in this run: it may be the mount point of a volume
/// that is mounted late.
const EMPTY_FOLDER: Duration = Duration::from_secs(60);
/// How long a removed peer is listed.
const LISTED: Duration = Duration::from_secs(3_600);
/// The maximum number of removed peers that are listed: more than a mesh has clusters.
const MOST_LISTED: usize = 512;

// === impl PeerFolder ===

impl PeerFolder {
    /// The folder at a path. `previous` are the peers of the previous run, according to its files on disk.
    pub fn new(
        path: impl Into<String>,
        local: ClusterName,
        previous: impl IntoIterator<Item = ClusterName>,
    ) -> Self {
        let peers = previous.into_iter().filter(|name| *name != local);
        let peers = peers.map(|name| (name, Known::default())).collect();
        Self { path: path.into(), local, peers, begun: false, removed: VecDeque::new() }
    }

    /// Processes the folder's content. A file of the local cluster is ignored: operators may use the same folder in all
    /// clusters.
    pub fn look(&mut self, found: FoundFolder, now: Instant, wall: SystemTime) -> Reading {
        let mut reading = Reading { complete: true, ..Reading::default() };
        match found {
            // Without a folder from the start, there are no peers.
            FoundFolder::Missing if self.peers.is_empty() && !self.begun => {}
            FoundFolder::Missing => {
                let text =
                    "it does not exist. All peers stay as they are; to remove one, remove its file";
                self.keep_all(text, &mut reading);
            }
            FoundFolder::Unreadable(why) => {
                self.keep_all(&format!("{why}. All peers stay as they are"), &mut reading);
            }
            FoundFolder::Files(files) => {
                if !self.begun && !files.is_empty() {
                    self.begun = true;
                    // Files that were missing while the folder was empty count as missing from now on.
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
        // The files may exist: count the time again when the folder can be read.
        self.peers.values_mut().for_each(|known| known.gone = None);
    }

    fn take(&mut self, files: BTreeMap<String, FoundFile>, now: Instant, reading: &mut Reading) {
        let mut there = BTreeSet::new();
        for (file, found) in files {
            let path = format!("{}/{file}", self.path);
            // Credentials are in the same folder. Their names are not valid cluster names.
            let Ok(name) = ClusterName::new(&file) else {
                if let FoundFile::Text(text) = found
                    && PeerFile::is_one(&text)
                {
                    let problem =
                        format!("{path}: {file:?} is not a cluster name; the file is ignored");
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
                FoundFile::Binary => "it is not text".into(),
                FoundFile::Unreadable(why) => why,
                FoundFile::BeingWritten => {
                    reading.complete &= self.is_in_force(&name);
                    continue;
                }
            };
            let stays = match self.is_in_force(&name) {
                true => "The peer stays as it was",
                false => "There is no peer with that name yet",
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

    /// Removes the peers whose files have been missing for long enough.
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
                "{}: it is empty, but the previous run had the peers {}. They stay as they were for {} s: check that the volume is mounted",
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
        return Err("it is not a peer file: it has no `endpoints`".into());
    }
    PeerFile::parse(text).map_err(|error| error.to_string())
}

// === impl Removal ===

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FileGone { file } => write!(f, "its file {file} was removed"),
            Self::NoFile { file } => {
                write!(f, "the previous run had it, but there is no file {file}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
