//! Reads objects from files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use mesh_model::object::{Object, ObjectKey};
use mesh_source::{
    Admitted, Copies, Decoded, Drain, Format, MAX_FILE, PassedOver, Problem, admit, decode,
    read_text,
};
use rayon::prelude::*;

/// The contents of manifests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// The objects. If several files have the same one, that of the first file.
    pub objects: BTreeMap<ObjectKey, Object>,
    /// Invalid objects, second objects of the same name, and malformed documents. They do not affect other objects.
    pub problems: Vec<Problem>,
    /// Invalid objects of which no file has a valid version, each with what is wrong.
    pub refused: BTreeMap<ObjectKey, Problem>,
    /// Objects of kinds that the mesh does not use, each kind once with the number of objects.
    pub notes: Vec<Problem>,
    /// What is drained in the cluster of the files.
    pub drain: Drain,
}

/// Why files cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// A file or folder cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file is too large, or a `drain.yaml` is invalid.
    #[error(transparent)]
    File(Problem),
}

/// Intermediate results.
#[derive(Default)]
struct Reading {
    /// The file and line of each object.
    places: BTreeMap<ObjectKey, (PathBuf, usize)>,
    /// Objects that occur twice.
    copies: Copies,
    /// The keys of invalid objects.
    unreadable: BTreeSet<ObjectKey>,
    /// Documents that are ignored: the place of the first, and their number.
    passed_over: BTreeMap<PassedOver, (PathBuf, usize, usize)>,
}

/// The name of the file with a cluster's settings, which is not a manifest.
pub(crate) const SETTINGS: &str = "cluster.yaml";
/// The name of the file with what is drained, which is not a manifest either.
pub(crate) const DRAIN: &str = "drain.yaml";

// === impl Objects ===

impl Objects {
    /// Reads a file, or all manifests below a folder, without `cluster.yaml` and `drain.yaml` in the folder itself.
    pub fn read(path: &Path) -> Result<Self, ObjectsError> {
        let mut objects = Self::default();
        let is_folder = fs::metadata(path).map_err(read_error(path))?.is_dir();
        let mut files = Vec::new();
        if is_folder {
            list(path, &mut files)?;
            files.retain(|file| *file != path.join(SETTINGS) && *file != path.join(DRAIN));
            objects.drain = read_drain(path)?;
        } else {
            files.push(path.into());
        }
        files.sort();
        let drain = std::mem::take(&mut objects.drain);
        Ok(Self { drain, ..Self::read_files(&files)? })
    }

    /// Reads the objects of files.
    pub(crate) fn read_files(files: &[PathBuf]) -> Result<Self, ObjectsError> {
        let (mut objects, mut reading) = (Self::default(), Reading::default());
        let read: Vec<Decoded> =
            files.par_iter().map(|file| read(file)).collect::<Result<_, _>>()?;
        for (file, decoded) in files.iter().zip(read) {
            objects.add(file, decoded, &mut reading);
        }
        objects.finish(reading);
        Ok(objects)
    }

    fn add(&mut self, file: &Path, decoded: Decoded, reading: &mut Reading) {
        let problem = |line, reason| Problem { file: file.into(), line, reason };
        for error in decoded.rejected.into_iter().chain(decoded.broken) {
            let problem = problem(Some(error.line), error.reason);
            if let Some(key) = error.key {
                self.refused.entry(key.clone()).or_insert_with(|| problem.clone());
                reading.unreadable.insert(key);
            }
            self.problems.push(problem);
        }
        for (what, places) in decoded.passed_over {
            let first = || (file.to_path_buf(), places.line, 0);
            reading.passed_over.entry(what).or_insert_with(first).2 += places.count;
        }
        for (line, object) in decoded.objects {
            let key = object.key();
            if let Some((owner, _)) = reading.places.get(&key) {
                reading.copies.add((file, line), owner, key);
                continue;
            }
            reading.places.insert(key.clone(), (file.into(), line));
            self.objects.insert(key, object);
        }
    }

    /// Adds the results that depend on all files.
    fn finish(&mut self, reading: Reading) {
        let Reading { places, copies, unreadable, passed_over } = reading;
        self.problems.extend(copies.problems());
        let given = std::mem::take(&mut self.objects);
        let Admitted { objects, refused } = admit(given, &unreadable, &BTreeMap::new());
        self.objects = objects;
        for (key, reason) in refused {
            let Some((file, line)) = places.get(&key) else { continue };
            let reason = format!("{key}: {reason}");
            let problem = Problem { file: file.clone(), line: Some(*line), reason };
            self.refused.entry(key).or_insert_with(|| problem.clone());
            self.problems.push(problem);
        }
        self.refused.retain(|key, _| !self.objects.contains_key(key));
        for (what, (file, line, count)) in passed_over {
            let reason = format!("{what} ({count} of them)");
            let problem = Problem { file, line: Some(line), reason };
            match what.is_mistake() {
                true => self.problems.push(problem),
                false => self.notes.push(problem),
            }
        }
    }
}

/// Reads and decodes a file.
fn read(file: &Path) -> Result<Decoded, ObjectsError> {
    let length = fs::metadata(file).map_err(read_error(file))?.len();
    if length > MAX_FILE {
        let reason = format!("larger than {MAX_FILE} bytes");
        return Err(ObjectsError::File(Problem { file: file.into(), line: None, reason }));
    }
    let text = read_text(file).map_err(read_error(file))?;
    Ok(decode(Format::of(file).unwrap_or(Format::Yaml), &text))
}

/// Reads what is drained in the cluster of a folder; nothing if the file does not exist.
pub(crate) fn read_drain(folder: &Path) -> Result<Drain, ObjectsError> {
    let file = folder.join(DRAIN);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Drain::default()),
        Err(error) => return Err(read_error(&file)(error)),
    };
    Drain::parse(&text).map_err(|error| {
        ObjectsError::File(Problem { file, line: None, reason: error.to_string() })
    })
}

/// Lists all manifests below a folder. Names that start with a dot are those of tools, and are skipped.
pub(crate) fn list(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), ObjectsError> {
    for entry in fs::read_dir(folder).map_err(read_error(folder))? {
        let entry = entry.map_err(read_error(folder))?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        // The entry has the type already, except that of what a link points to.
        let is_folder = match entry.file_type() {
            Ok(file_type) if !file_type.is_symlink() => file_type.is_dir(),
            _ => fs::metadata(&path).map_err(read_error(&path))?.is_dir(),
        };
        if is_folder {
            list(&path, found)?;
        } else if Format::of(&path).is_some() {
            found.push(path);
        }
    }
    Ok(())
}

pub(crate) fn read_error(path: &Path) -> impl FnOnce(io::Error) -> ObjectsError + use<> {
    let path = path.to_owned();
    |source| ObjectsError::Read { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMESPACE: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}";

    #[test]
    fn a_folder_is_read_to_its_bottom() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("cluster.yaml", "name: a\nid: 1\n");
        write("a/b/one.yml", NAMESPACE);
        write(
            "a/two.json",
            "{\"apiVersion\":\"v1\",\"kind\":\"Node\",\"metadata\":{\"name\":\"n1\"}}",
        );
        write(".hidden/x.yaml", "[");
        // Links to a file and to a folder, as Kubernetes mounts them.
        write("..data/b/three.yaml", &NAMESPACE.replace("shop", "team"));
        write("..data/four.yaml", &NAMESPACE.replace("shop", "test"));
        for (target, name) in [("..data/b", "b"), ("..data/four.yaml", "four.yaml")] {
            std::os::unix::fs::symlink(target, folder.path().join(name)).unwrap();
        }
        write("notes.txt", "[");
        write(
            "z.yaml",
            &format!("kind: Deployment\n---\n{NAMESPACE}\n---\nmetadata: {{name: x}}\n"),
        );
        let read = Objects::read(folder.path()).unwrap();
        let keys: Vec<String> = read.objects.keys().map(ToString::to_string).collect();
        assert_eq!(keys, ["Namespace shop", "Namespace team", "Namespace test", "Node n1"]);
        let place = format!("{}/", folder.path().display());
        let problems: Vec<String> =
            read.problems.iter().map(|p| p.to_string().replace(&place, "")).collect();
        assert_eq!(
            problems,
            [
                "z.yaml:5: an object without a kind",
                "z.yaml:3: Namespace shop is in a/b/one.yml already; that one stays",
            ]
        );
        assert_eq!(Objects::read(&folder.path().join("a/two.json")).unwrap().objects.len(), 1);
    }

    #[test]
    fn a_document_that_is_not_well_formed_is_named_and_costs_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        let node = "{apiVersion: v1, kind: Node, metadata: {name: n1}}";
        fs::write(&file, format!("{NAMESPACE}\n---\nkind: Pod\nmetadata: [\n---\n{node}\n"))
            .unwrap();
        let read = Objects::read(folder.path()).unwrap();
        let keys: Vec<String> = read.objects.keys().map(ToString::to_string).collect();
        assert_eq!(keys, ["Namespace shop", "Node n1"]);
        let [problem] = read.problems.as_slice() else { panic!("{:?}", read.problems) };
        let says = problem.to_string();
        let line = problem.line.unwrap();
        assert!((3..=5).contains(&line), "{says}");
        let place = format!("{}:{line}: document 2: not YAML: ", file.display());
        assert!(says.starts_with(&place), "{says}");
        // A file that is too large is an error.
        let large = fs::File::create(folder.path().join("b.yaml")).unwrap();
        large.set_len(MAX_FILE + 1).unwrap();
        let error = Objects::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("b.yaml: larger than "), "{error}");
        let error = Objects::read(Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent: "), "{error}");
    }
}
