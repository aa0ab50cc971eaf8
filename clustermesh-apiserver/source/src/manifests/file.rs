//! A manifest file, and which of its objects are in force.
//!
//! While a file may be incompletely written, new objects in it are used at once, except the last one, which may be truncated.
//! Objects that it no longer has stay until the file is certainly complete.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mesh_files::{Progress, QUIET, Stamp};
use mesh_model::object::{Kind, Object, ObjectKey};
use sha2::{Digest as _, Sha256};

use crate::{
    decode::{DecodeProblem, Decoded, Format, PassedOver, Places, decode_kinds},
    problem::Problem,
};

/// A manifest file.
#[derive(Debug)]
pub(super) struct ManifestFile {
    path: PathBuf,
    /// Its stamp when it was read; `None` if it must be read again.
    stamp: Option<Stamp>,
    /// The content that was read but is not completely in force.
    pending: Pending,
    /// Objects in force that the file has, with their lines.
    held: Vec<(usize, Object)>,
    /// Objects in force that the file had before, but that it now lacks, or whose new version is truncated or invalid.
    kept: Vec<Object>,
    /// Invalid objects in the file.
    refused: BTreeSet<ObjectKey>,
    /// What is ignored in the file.
    passed_over: BTreeMap<PassedOver, Places>,
    /// Since when the file has had no object, while some are in force.
    emptied: Option<Instant>,
    /// Since when it has been changing without a pause.
    unsettled: Option<Instant>,
    /// The digest of the last text that was completely in force; `None` if there was none.
    digest: Option<[u8; 32]>,
    /// The problems of its current content.
    problems: Vec<Problem>,
}

/// Content that is not completely in force.
#[derive(Debug)]
enum Pending {
    /// All content is in force.
    Nothing,
    /// The decoded content, and the digest of its text.
    Whole(Decoded, [u8; 32]),
    /// It cannot be read, for this reason. The previous content stays in force.
    Unusable(String),
}

/// The maximum size of a manifest, in bytes. Larger files are not read.
pub const MAX_FILE: u64 = 64 * 1024 * 1024;
/// A file that changes for so long without a pause is reported as a problem.
const LONG: Duration = Duration::from_secs(10);

/// Reads a file's text. If it is not UTF-8, the error tells what to do.
pub fn read_text(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => io::Error::new(
            error.kind(),
            "it is not UTF-8: write it as UTF-8, not as UTF-16 or Latin-1",
        ),
        _ => error,
    })
}

// === impl ManifestFile ===

impl ManifestFile {
    /// A file that has not been read yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            stamp: None,
            pending: Pending::Unusable(String::new()),
            held: Vec::new(),
            kept: Vec::new(),
            refused: BTreeSet::new(),
            passed_over: BTreeMap::new(),
            emptied: None,
            unsettled: None,
            digest: None,
            problems: Vec::new(),
        }
    }

    /// Looks at the file, with its current stamp and progress.
    pub(super) fn look(&mut self, kinds: &[Kind], stamp: Stamp, progress: Progress, now: Instant) {
        let mut progress = progress;
        if self.stamp != Some(stamp) {
            if !self.read(kinds, stamp) {
                // It changed while it was read.
                (self.stamp, progress) = (None, Progress::Writing);
            }
        } else if self.is_settled() {
            return;
        }
        self.settle(progress, now);
    }

    /// Call it if the file does not exist. All its objects stay until the caller drops it.
    pub(super) fn is_gone(&mut self) {
        self.stamp = None;
        self.kept.extend(self.held.drain(..).map(|(_, object)| object));
    }

    /// Whether exactly its current content is in force.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.pending, Pending::Nothing) && self.stamp.is_some()
    }

    /// The digest of the last text that was completely in force; `None` if there was none.
    pub(super) fn digest(&self) -> Option<&[u8; 32]> {
        self.digest.as_ref()
    }

    /// Objects in force that the file has, with their lines.
    pub(super) fn held(&self) -> &[(usize, Object)] {
        &self.held
    }

    /// The keys of objects in force that the file has.
    pub(super) fn keys(&self) -> BTreeSet<ObjectKey> {
        self.held.iter().map(|(_, object)| object.key()).collect()
    }

    /// Invalid objects in the file.
    pub(super) fn refused(&self) -> impl Iterator<Item = &ObjectKey> {
        self.refused.iter()
    }

    /// What is ignored in the file.
    pub(super) fn passed_over(&self) -> &BTreeMap<PassedOver, Places> {
        &self.passed_over
    }

    /// Objects in force from previous content of the file.
    pub(super) fn kept(&self) -> &[Object] {
        &self.kept
    }

    pub(super) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// When to look again even if the file does not change.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.emptied.map(|since| since + QUIET)
    }

    /// Reads the file. Returns whether it did not change meanwhile.
    fn read(&mut self, kinds: &[Kind], stamp: Stamp) -> bool {
        self.stamp = Some(stamp);
        let text = match stamp.length() {
            0..=MAX_FILE => read_text(&self.path),
            _ => Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("larger than {MAX_FILE} bytes"),
            )),
        };
        let format = Format::of(&self.path).unwrap_or(Format::Yaml);
        self.pending = match &text {
            Ok(text) => {
                Pending::Whole(decode_kinds(kinds, format, text), Sha256::digest(text).into())
            }
            Err(error) => Pending::Unusable(error.to_string()),
        };
        is_still(&self.path, stamp)
    }

    /// Updates which objects are in force.
    fn settle(&mut self, progress: Progress, now: Instant) {
        let Pending::Whole(decoded, digest) = &self.pending else {
            return self.note_unusable(progress);
        };
        let before = self.held.drain(..).map(|(_, object)| object).chain(self.kept.drain(..));
        let mut before: BTreeMap<ObjectKey, Object> =
            before.map(|object| (object.key(), object)).collect();
        let mut held = decoded.objects.clone();
        if progress == Progress::Writing
            && let Some((line, last)) = held.pop()
            && let Some(whole) = before.get(&last.key())
        {
            held.push((line, whole.clone()));
        }
        for (_, object) in &held {
            before.remove(&object.key());
        }
        let is_emptied = held.is_empty() && !before.is_empty();
        self.emptied = is_emptied.then(|| self.emptied.unwrap_or(now));
        let looked_twice =
            self.emptied.is_none_or(|since| now.saturating_duration_since(since) >= QUIET);
        self.refused = decoded.rejected.iter().filter_map(|problem| problem.key.clone()).collect();
        self.passed_over.clone_from(&decoded.passed_over);
        if progress > Progress::Writing {
            let rejected = decoded.rejected.iter().map(|problem| {
                let stays = problem.key.as_ref().is_some_and(|key| before.contains_key(key));
                self.refusal(problem, stays)
            });
            let broken = decoded.broken.iter().map(|problem| self.breakage(problem));
            self.problems = rejected.chain(broken).collect();
        }
        let is_whole = decoded.broken.is_empty();
        self.held = held;
        if progress == Progress::Settled && looked_twice && is_whole {
            before.retain(|key, _| self.refused.contains(key));
            self.digest = Some(*digest);
            self.kept = before.into_values().collect();
            self.pending = Pending::Nothing;
            (self.emptied, self.unsettled) = (None, None);
            return;
        }
        if progress == Progress::Settled && !is_whole {
            // It will not change by itself.
            (self.emptied, self.unsettled) = (None, None);
            self.kept = before.into_values().collect();
            return;
        }
        self.kept = before.into_values().collect();
        let since = *self.unsettled.get_or_insert(now);
        if now.saturating_duration_since(since) >= LONG && !self.kept.is_empty() {
            let reason = format!(
                "it changes without a pause of a second: {} objects that it no longer has stay. Write it to a temporary file and rename that",
                self.kept.len()
            );
            self.problems = vec![self.problem(None, reason)];
        }
    }

    fn note_unusable(&mut self, progress: Progress) {
        let Pending::Unusable(reason) = &self.pending else { return };
        if progress > Progress::Writing {
            self.problems = vec![self.problem(None, format!("{reason}; {}", self.until_mended()))];
        }
    }

    /// The problem of an invalid object.
    fn refusal(&self, problem: &DecodeProblem, stays: bool) -> Problem {
        let DecodeProblem { line, reason, key } = problem;
        let is_namespace = key.as_ref().is_some_and(|key| key.kind == Kind::Namespace);
        let what = match (stays, is_namespace) {
            (true, _) => "; it stays as it was",
            (false, true) => "; until then nothing in it is exported",
            (false, false) => "",
        };
        self.problem(Some(*line), format!("{reason}{what}"))
    }

    /// The problem of a document that is not well-formed.
    fn breakage(&self, problem: &DecodeProblem) -> Problem {
        self.problem(Some(problem.line), format!("{}; {}", problem.reason, self.until_mended()))
    }

    fn until_mended(&self) -> &'static str {
        match self.digest {
            Some(_) => "its previous content stays in force",
            // It may contain a Namespace that is excluded from the mesh.
            None => "correct or remove it: until then, nothing new is exported",
        }
    }

    fn problem(&self, line: Option<usize>, reason: String) -> Problem {
        Problem { file: self.path.clone(), line, reason }
    }
}

/// Whether a file still has this stamp.
fn is_still(path: &Path, stamp: Stamp) -> bool {
    fs::metadata(path).is_ok_and(|metadata| Stamp::of(&metadata) == stamp)
}
