//! `drain.yaml` in the cluster directory: what is drained for maintenance.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use mesh_files::{Moment, Progress, QUIET, Settling, Stamp};
use mesh_model::excerpt;
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// What is drained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// Whether the whole cluster is drained.
    pub cluster: bool,
    /// The names of drained nodes.
    pub nodes: BTreeSet<String>,
}

/// Why a text cannot be used as `drain.yaml`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DrainError {
    /// Not YAML, or not of this shape.
    #[error("{0}")]
    Yaml(String),
    /// A name that no node can have.
    #[error("{0:?} is not a node name")]
    Node(String),
}

/// The file, and the content in force.
#[derive(Debug)]
pub(crate) struct DrainFile {
    path: PathBuf,
    /// The content in force; `None` until the file has been read once. A missing file means that nothing is drained.
    drain: Option<Drain>,
    /// Whether the current content of the file is in force.
    settled: bool,
    problem: Option<Problem>,
}

/// The YAML of the file. Unknown fields are errors: with a misspelt field, the cluster would not be drained.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DrainYaml {
    cluster: bool,
    nodes: Vec<String>,
}

/// The maximum size of the file, in bytes.
const MAX_FILE: u64 = 1024 * 1024;
/// The maximum length of a name in Kubernetes, in bytes.
const MAX_NAME: usize = 253;

// === impl Drain ===

impl Drain {
    /// Parses a `drain.yaml`. An empty one means that nothing is drained.
    pub fn parse(text: &str) -> Result<Self, DrainError> {
        let yaml: Option<DrainYaml> = serde_saphyr::from_str(text)
            .map_err(|error| DrainError::Yaml(error.without_snippet().to_string()))?;
        let DrainYaml { cluster, nodes } = yaml.unwrap_or_default();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        let is_name =
            |name: &String| !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(allowed);
        match nodes.iter().find(|name| !is_name(name)) {
            Some(name) => Err(DrainError::Node(excerpt(name, MAX_NAME).into_owned())),
            None => Ok(Self { cluster, nodes: nodes.into_iter().collect() }),
        }
    }

    /// The text of a `drain.yaml`.
    pub fn to_yaml(&self) -> Result<String, DrainError> {
        let Self { cluster, nodes } = self;
        let yaml = DrainYaml { cluster: *cluster, nodes: nodes.iter().cloned().collect() };
        serde_saphyr::to_string(&yaml).map_err(|error| DrainError::Yaml(error.to_string()))
    }

    /// Reads the file at a path. A missing file means that nothing is drained. The error is a message without the path.
    pub fn read(path: &Path) -> Result<Self, String> {
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error.to_string()),
            Ok(metadata) if metadata.len() > MAX_FILE => {
                return Err(format!("larger than {MAX_FILE} bytes"));
            }
            Ok(_) => {}
        }
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        Self::parse(&text).map_err(|error| error.to_string())
    }

    /// Whether nothing is drained.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

// === impl DrainFile ===

impl DrainFile {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.into(), drain: None, settled: false, problem: None }
    }

    /// Looks at the file. If it is invalid, not completely written, or missing for less than a second, the previous content
    /// stays in force.
    pub(crate) fn look(&mut self, settling: &mut Settling, at: Moment) {
        let stamp = || fs::metadata(&self.path).map(|metadata| Stamp::of(&metadata)).ok();
        let before = stamp();
        let read = Drain::read(&self.path);
        let progress = settling.look(&self.path, before, at);
        // An incomplete file would send clients back to a drained node, so do not trust an empty one too early.
        let nothing = read.as_ref().is_ok_and(Drain::is_empty);
        let needed = if nothing { Progress::Settled } else { Progress::Closed };
        // Do not wait for a missing file if the folder has not changed for a while.
        let never = before.is_none() && self.drain.is_none() && is_old(self.path.parent(), at);
        self.settled = (progress >= needed || never) && stamp() == before;
        if !self.settled {
            return;
        }
        self.problem = None;
        match read {
            Ok(drain) => self.drain = Some(drain),
            Err(reason) => {
                let stays = match self.drain {
                    Some(_) => "the previous content stays in force",
                    None => {
                        "there is no previous content: until it is corrected or removed, nothing new is exported"
                    }
                };
                let reason = format!("{reason}; {stays}");
                self.problem = Some(Problem { file: self.path.clone(), line: None, reason });
                self.settled = false;
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.settled
    }

    pub(crate) fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }

    pub(crate) fn drain(&self) -> Option<&Drain> {
        self.drain.as_ref()
    }
}

/// Whether a folder's entries have not changed for a second.
fn is_old(folder: Option<&Path>, at: Moment) -> bool {
    let modified = folder.and_then(|folder| fs::metadata(folder).ok()?.modified().ok());
    modified.is_some_and(|modified| at.wall.duration_since(modified).is_ok_and(|age| age >= QUIET))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_files_are_parsed() {
        let drain = |cluster, nodes: &[&str]| Drain {
            cluster,
            nodes: nodes.iter().map(|name| (*name).to_owned()).collect(),
        };
        for (text, says) in [
            ("", drain(false, &[])),
            ("# nothing\n", drain(false, &[])),
            ("{}", drain(false, &[])),
            ("cluster: true\n", drain(true, &[])),
            ("nodes: [n2, n1]\n", drain(false, &["n1", "n2"])),
            ("cluster: false\nnodes:\n- n1\n- n1\n", drain(false, &["n1"])),
        ] {
            let read = Drain::parse(text).unwrap();
            assert_eq!(read, says, "{text}");
            assert_eq!(Drain::parse(&read.to_yaml().unwrap()), Ok(read));
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, says) in [
            ("cluster: maybe", "bool"),
            ("node: [n1]", "node"),
            ("nodes: n1", "sequence"),
            ("nodes: ['']", "\"\" is not a node name"),
            ("nodes: ['a/b']", "\"a/b\" is not a node name"),
            ("nodes: [", "line 1"),
            ("just text", ""),
        ] {
            let error = Drain::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        let long = Drain::parse(&format!("nodes: [{}]", "n".repeat(MAX_NAME + 1))).unwrap_err();
        let begin = "n".repeat(MAX_NAME);
        assert_eq!(long.to_string(), format!("\"{begin}…\" is not a node name"));
    }

    #[test]
    fn an_invalid_file_changes_nothing_and_a_removed_one_ends_the_drain() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drain.yaml");
        let (mut file, mut settling, start) =
            (DrainFile::new(&path), Settling::default(), Moment::now());
        // Files are written now. The look takes place `ms` milliseconds after the start.
        let mut look = |file: &mut DrainFile, ms| {
            let after = std::time::Duration::from_millis(ms);
            file.look(&mut settling, Moment { now: start.now + after, wall: start.wall + after });
        };
        fs::write(&path, "nodes: [").unwrap();
        look(&mut file, 1_500);
        let problem = file.problem().unwrap().to_string();
        assert!(
            problem.contains("drain.yaml: ") && problem.contains("there is no previous content"),
            "{problem}"
        );
        assert_eq!(file.drain(), None);

        fs::write(&path, "nodes: [n1]").unwrap();
        look(&mut file, 3_000);
        fs::write(&path, "nodes: [").unwrap();
        look(&mut file, 4_500);
        assert!(file.drain().unwrap().nodes.contains("n1"));
        let problem = file.problem().unwrap().to_string();
        assert!(problem.ends_with("; the previous content stays in force"), "{problem}");
        fs::remove_file(&path).unwrap();
        look(&mut file, 6_000);
        assert!(file.drain().unwrap().nodes.contains("n1"), "a second look follows");
        look(&mut file, 7_000);
        assert_eq!((file.drain(), file.problem()), (Some(&Drain::default()), None));
    }
}
