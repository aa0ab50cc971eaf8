//! One manifest, and what of it is in force.
//!
//! A file in the middle of being written is not trusted. What it adds counts at once, but for its last object, whose end may be
//! cut off. What it lacks is kept until it is known that it is meant to be gone.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mesh_files::{Progress, QUIET, Stamp};
use mesh_model::object::{Kind, Object, ObjectKey};
use sha2::{Digest as _, Sha256};

use crate::{
    decode::{DecodeProblem, Decoded, Format, decode_kinds},
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
    /// In force too: what it held before and lacks now, or what is cut off of it.
    kept: Vec<Object>,
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
    /// What it holds cannot be read or understood, in this line. What was in force stays.
    Unusable(Option<usize>, String),
}

/// No honest manifest is larger, in bytes; a file that is, is not read into memory.
pub const MAX_FILE: u64 = 64 * 1024 * 1024;
/// A file that changes for so long without a pause is named.
const LONG: Duration = Duration::from_secs(10);

// === impl ManifestFile ===

impl ManifestFile {
    /// A file that was not read yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            stamp: None,
            pending: Pending::Unusable(None, String::new()),
            held: Vec::new(),
            kept: Vec::new(),
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
            0..=MAX_FILE => fs::read_to_string(&self.path),
            _ => Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("larger than {MAX_FILE} bytes"),
            )),
        };
        let format = Format::of(&self.path).unwrap_or(Format::Yaml);
        self.pending = match &text {
            Ok(text) => match decode_kinds(kinds, format, text) {
                Ok(decoded) => Pending::Whole(decoded, Sha256::digest(text).into()),
                Err(error) => Pending::Unusable(Some(error.line), error.reason),
            },
            Err(error) => Pending::Unusable(None, error.to_string()),
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
        if progress > Progress::Writing {
            let problem = |p: &DecodeProblem| self.problem(Some(p.line), p.reason.clone());
            self.problems = decoded.rejected.iter().map(problem).collect();
        }
        self.held = held;
        if progress == Progress::Settled && looked_twice {
            self.digest = Some(*digest);
            self.pending = Pending::Nothing;
            (self.emptied, self.unsettled) = (None, None);
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

    /// Of a text whose end is not there yet it is not reported that it is broken.
    fn note_unusable(&mut self, progress: Progress) {
        let Pending::Unusable(line, reason) = &self.pending else { return };
        if progress > Progress::Writing {
            let stays = match self.digest {
                Some(_) => "what it held before stays",
                None => "mend or remove it: until then nothing new is exported",
            };
            self.problems = vec![self.problem(*line, format!("{reason}; {stays}"))];
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
