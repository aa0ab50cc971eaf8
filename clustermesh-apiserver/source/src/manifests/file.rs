//! One manifest, and what of it is in force.
//!
//! A file in the middle of being written is not trusted. What it adds counts at once, but for its last object, whose end may be
//! cut off. What it lacks is kept until it is known that it is meant to be gone.

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

/// A manifest.
#[derive(Debug)]
pub(super) struct ManifestFile {
    path: PathBuf,
    /// What it looked like when it was read; `None` if it is to be read again.
    stamp: Option<Stamp>,
    /// What was read, as long as not all of it counts.
    pending: Pending,
    /// In force, with lines: what it holds.
    held: Vec<(usize, Object)>,
    /// In force too: what it held before and lacks now, or what is cut off of it, or refused.
    kept: Vec<Object>,
    /// What it holds and cannot be used.
    refused: BTreeSet<ObjectKey>,
    /// What it holds and is no object of the mesh.
    passed_over: BTreeMap<PassedOver, Places>,
    /// Since when it holds no object, while some are in force.
    emptied: Option<Instant>,
    /// Since when it changes without a pause.
    unsettled: Option<Instant>,
    /// Of the text that was last in force as a whole; `None` until there is one.
    digest: Option<[u8; 32]>,
    /// What is wrong with what it holds now.
    problems: Vec<Problem>,
}

/// What was read and is not in force as a whole.
#[derive(Debug)]
enum Pending {
    /// Nothing: it is.
    Nothing,
    /// What it holds, and the digest of its text.
    Whole(Decoded, [u8; 32]),
    /// It cannot be read. What was in force stays.
    Unusable(String),
}

/// No honest manifest is larger, in bytes; a file that is, is not read into memory.
pub const MAX_FILE: u64 = 64 * 1024 * 1024;
/// A file that changes for so long without a pause is named.
const LONG: Duration = Duration::from_secs(10);

/// Reads a file's text. One that is no UTF-8 is said in words.
pub fn read_text(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => io::Error::new(
            error.kind(),
            "it is no UTF-8: write it as UTF-8, not as UTF-16 or Latin-1",
        ),
        _ => error,
    })
}

// === impl ManifestFile ===

impl ManifestFile {
    /// A file that was not read yet.
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

    /// Takes a look at it: it looks like this now, and is so far.
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

    /// It is not there. Everything stays until the caller drops it.
    pub(super) fn is_gone(&mut self) {
        self.stamp = None;
        self.kept.extend(self.held.drain(..).map(|(_, object)| object));
    }

    /// Whether all that it holds is in force, and nothing else.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.pending, Pending::Nothing) && self.stamp.is_some()
    }

    /// Whether it was in force as a whole at least once.
    pub(super) fn digest(&self) -> Option<&[u8; 32]> {
        self.digest.as_ref()
    }

    /// What it holds, with lines.
    pub(super) fn held(&self) -> &[(usize, Object)] {
        &self.held
    }

    /// Whether it holds an object.
    pub(super) fn keys(&self) -> BTreeSet<ObjectKey> {
        self.held.iter().map(|(_, object)| object.key()).collect()
    }

    /// What it holds and cannot be used.
    pub(super) fn refused(&self) -> impl Iterator<Item = &ObjectKey> {
        self.refused.iter()
    }

    /// What it holds and is no object of the mesh.
    pub(super) fn passed_over(&self) -> &BTreeMap<PassedOver, Places> {
        &self.passed_over
    }

    /// What it held and is still in force.
    pub(super) fn kept(&self) -> &[Object] {
        &self.kept
    }

    pub(super) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// When another look at what has not changed says more.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.emptied.map(|since| since + QUIET)
    }

    /// Reads it. Returns whether it was the same afterwards.
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

    /// Puts into force what counts by now.
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
            // Nothing is awaited of it.
            (self.emptied, self.unsettled) = (None, None);
            self.kept = before.into_values().collect();
            return;
        }
        self.kept = before.into_values().collect();
        let since = *self.unsettled.get_or_insert(now);
        if now.saturating_duration_since(since) >= LONG && !self.kept.is_empty() {
            let reason = format!(
                "it changes without a pause of a second: {} objects that it lacks stay. Write it beside its place and rename it",
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

    /// What is wrong with an object.
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

    /// What is wrong with a document of which nothing is known.
    fn breakage(&self, problem: &DecodeProblem) -> Problem {
        self.problem(Some(problem.line), format!("{}; {}", problem.reason, self.until_mended()))
    }

    fn until_mended(&self) -> &'static str {
        match self.digest {
            Some(_) => "what it held before stays",
            // It may be a Namespace that opts out.
            None => "mend or remove it: until then nothing new is exported",
        }
    }

    fn problem(&self, line: Option<usize>, reason: String) -> Problem {
        Problem { file: self.path.clone(), line, reason }
    }
}

/// Whether a file still looks so.
fn is_still(path: &Path, stamp: Stamp) -> bool {
    fs::metadata(path).is_ok_and(|metadata| Stamp::of(&metadata) == stamp)
}
