//! Objects from a folder of manifests.
//!
//! Nothing is removed by ignorance: a file that cannot be read or understood keeps the objects it had, and a folder that
//! is empty or cannot be read changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use mesh_model::{
    EndpointSlice, ServiceName,
    object::{Kind, Node, Object, ObjectKey, Pod, Service},
    service::SERVICE_NAME_LABEL,
};
use sha2::{Digest as _, Sha256};

use crate::{
    decode::{Format, decode_kinds},
    drain::{Drain, DrainFile},
    endpoints,
    event::{ResourceVersion, SourceEvent},
};

/// A folder of manifests, and what was last read from it.
#[derive(Debug)]
pub struct ManifestsSource {
    folder: PathBuf,
    /// Objects of other kinds are passed over.
    kinds: &'static [Kind],
    files: BTreeMap<PathBuf, ManifestFile>,
    /// Beside the folder.
    drain: Option<DrainFile>,
    /// What was told, made endpoint slices included.
    told: BTreeMap<ObjectKey, Object>,
    resource_version: ResourceVersion,
    /// Each kind's listing was begun.
    begun: bool,
    listed: bool,
    problems: Vec<Problem>,
}

/// Something in the folder that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {reason}", file.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct Problem {
    /// The file, or the folder.
    pub file: PathBuf,
    /// The line, counted from 1, where one is to blame.
    pub line: Option<usize>,
    /// What is wrong.
    pub reason: String,
}

/// Why the folder says nothing.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its `drain.yaml` cannot be understood, and what it said before is not known: what is drained is not to be taken for
    /// what is not.
    #[error(transparent)]
    Drain(Problem),
    /// There is no manifest in it.
    #[error("{}: no manifest in it (*.yaml, *.yml, *.json). To remove the last object leave an empty file", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
}

#[derive(Debug)]
struct ManifestFile {
    /// What the file looked like when it was read, to see whether it changed since.
    stamp: Stamp,
    /// Of the text that it last held in full.
    digest: [u8; 32],
    /// What it last held in full, with lines.
    objects: Vec<(usize, Object)>,
    /// What is wrong with what it holds now.
    problems: Vec<Problem>,
    /// It was read in full at least once.
    known: bool,
    /// It holds something now that was not understood: what it held before stands.
    kept: bool,
}

/// Tells two contents of a file apart without reading it. Files that are written within a clock's tick and keep their
/// length are told apart by their inode, which an atomic write changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

/// No honest manifest is larger, in bytes; a file that is, is not read into memory.
pub const MAX_FILE: u64 = 64 * 1024 * 1024;

impl ManifestsSource {
    /// The folder, which is not read yet. Positions begin after `since`.
    pub fn new(folder: &Path, since: ResourceVersion) -> Self {
        Self {
            folder: folder.into(),
            kinds: &Kind::ALL,
            files: BTreeMap::new(),
            drain: None,
            told: BTreeMap::new(),
            resource_version: since,
            begun: false,
            listed: false,
            problems: Vec::new(),
        }
    }

    /// The same, but that it reads objects of these kinds only.
    pub fn of_kinds(self, kinds: &'static [Kind]) -> Self {
        Self { kinds, ..self }
    }

    /// The same, with a `drain.yaml` at a path.
    pub fn with_drain(self, path: &Path) -> Self {
        Self { drain: Some(DrainFile::new(path)), ..self }
    }

    /// What is drained by that file; not known before it was understood once.
    pub fn drain(&self) -> Option<&Drain> {
        self.drain.as_ref()?.drain()
    }

    /// Reads what changed in the folder and says what follows from it. On an error nothing changed.
    pub fn scan(&mut self) -> Result<Vec<SourceEvent>, ScanError> {
        let result = self.try_scan();
        match &result {
            Ok(_) => {}
            Err(ScanError::Drain(problem)) => self.problems = vec![problem.clone()],
            Err(error) => {
                let reason = error.to_string();
                self.problems = vec![Problem { file: self.folder.clone(), line: None, reason }];
            }
        }
        result
    }

    /// What is wrong in the folder now.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Whether everything was told once. Not while a file is broken whose former content nobody knows: what it held must
    /// not be taken for removed.
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    /// The content that the objects are from, in short: the same for everybody who read the same files.
    pub fn fingerprint(&self) -> String {
        let mut all = Sha256::new();
        for (path, file) in self.files.iter().filter(|(_, file)| file.known) {
            let path = path.strip_prefix(&self.folder).unwrap_or(path).as_os_str();
            all.update(path.as_encoded_bytes());
            all.update([0]);
            all.update(file.digest);
        }
        // Whoever drains nothing has the fingerprint of the files alone.
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

    /// Whether what some file held before stands, because what it holds now was not understood.
    pub fn keeps_something(&self) -> bool {
        let drain = self.drain.as_ref().and_then(DrainFile::problem);
        drain.is_some() || self.files.values().any(|file| file.kept)
    }

    fn try_scan(&mut self) -> Result<Vec<SourceEvent>, ScanError> {
        if let Some(drain) = &mut self.drain {
            drain.scan().map_err(ScanError::Drain)?;
        }
        let mut found = BTreeMap::new();
        list(&self.folder, &mut found)
            .map_err(|source| ScanError::Unreadable { path: self.folder.clone(), source })?;
        if found.is_empty() {
            return Err(ScanError::Empty { path: self.folder.clone() });
        }
        self.files.retain(|path, _| found.contains_key(path));
        for (path, stamp) in found {
            match self.files.get_mut(&path) {
                Some(file) if file.stamp == stamp => {}
                Some(file) => file.read(self.kinds, &path, stamp),
                None => {
                    let mut file = ManifestFile {
                        stamp,
                        digest: [0; 32],
                        objects: Vec::new(),
                        problems: Vec::new(),
                        known: false,
                        kept: false,
                    };
                    file.read(self.kinds, &path, stamp);
                    self.files.insert(path, file);
                }
            }
        }
        let now = self.gather();
        Ok(self.tell(now))
    }

    /// All objects, each from the first file that has it, and the endpoint slices that follow from them.
    fn gather(&mut self) -> BTreeMap<ObjectKey, Object> {
        let mut objects = BTreeMap::new();
        let mut owners = BTreeMap::<ObjectKey, &PathBuf>::new();
        self.problems.clear();
        self.problems.extend(self.drain.as_ref().and_then(DrainFile::problem).cloned());
        for (path, file) in &self.files {
            self.problems.extend(file.problems.iter().cloned());
            for (line, object) in &file.objects {
                let key = object.key();
                if let Some(owner) = owners.get(&key) {
                    let reason = format!("{key} is in {} already; that one stays", owner.display());
                    self.problems.push(Problem { file: path.clone(), line: Some(*line), reason });
                    continue;
                }
                owners.insert(key.clone(), path);
                objects.insert(key, object.clone());
            }
        }
        for slice in derived_slices(&objects) {
            let object = Object::EndpointSlice(slice);
            objects.entry(object.key()).or_insert(object);
        }
        objects
    }

    fn tell(&mut self, now: BTreeMap<ObjectKey, Object>) -> Vec<SourceEvent> {
        let mut events = Vec::new();
        if !std::mem::replace(&mut self.begun, true) {
            events.extend(Kind::ALL.map(|kind| SourceEvent::Listing { kind }));
        }
        let gone = self.told.keys().filter(|key| !now.contains_key(key)).cloned();
        let changed = now.iter().filter(|(key, object)| self.told.get(key) != Some(object));
        let gone: Vec<ObjectKey> = gone.collect();
        let changed: Vec<Object> = changed.map(|(_, object)| object.clone()).collect();
        for object in changed {
            let resource_version = self.next_version();
            events.push(SourceEvent::Applied { resource_version, object });
        }
        for key in gone {
            let resource_version = self.next_version();
            events.push(SourceEvent::Deleted { resource_version, key });
        }
        if !self.listed && self.files.values().all(|file| file.known) {
            self.listed = true;
            let resource_version = self.resource_version;
            events.extend(Kind::ALL.map(|kind| SourceEvent::Listed { kind, resource_version }));
        }
        self.told = now;
        events
    }

    /// How far it has read.
    pub fn resource_version(&self) -> ResourceVersion {
        self.resource_version
    }

    fn next_version(&mut self) -> ResourceVersion {
        self.resource_version.0 += 1;
        self.resource_version
    }
}

impl ManifestFile {
    fn read(&mut self, kinds: &[Kind], path: &Path, stamp: Stamp) {
        self.stamp = stamp;
        let problem =
            |line: Option<usize>, reason: String| Problem { file: path.into(), line, reason };
        let format = Format::of(path).unwrap_or(Format::Yaml);
        let text = match stamp.length {
            0..=MAX_FILE => fs::read_to_string(path),
            _ => Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("larger than {MAX_FILE} bytes"),
            )),
        };
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                self.problems = vec![problem(None, error.to_string())];
                self.kept = true;
                return;
            }
        };
        match decode_kinds(kinds, format, &text) {
            Ok(decoded) => {
                self.problems = decoded
                    .rejected
                    .iter()
                    .map(|p| problem(Some(p.line), p.reason.clone()))
                    .collect();
                self.objects = decoded.objects;
                self.digest = Sha256::digest(&text).into();
                (self.known, self.kept) = (true, false);
            }
            Err(error) => {
                self.kept = true;
                let kept = if self.known { "; what it held before stays" } else { "" };
                self.problems = vec![problem(Some(error.line), format!("{}{kept}", error.reason))];
            }
        }
    }
}

/// All manifests below a folder. What begins with a dot is somebody's tool's, not the user's.
fn list(folder: &Path, found: &mut BTreeMap<PathBuf, Stamp>) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        // Follows links: that is how Kubernetes mounts files.
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            // Removed since it was listed, or a link to nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if metadata.is_dir() {
            list(&path, found)?;
        } else if Format::of(&path).is_some() {
            let stamp = Stamp {
                modified: metadata.modified().ok(),
                length: metadata.len(),
                inode: metadata.ino(),
            };
            found.insert(path, stamp);
        }
    }
    Ok(())
}

/// The endpoint slices of the services that have none of their own, as the kube-controller-manager would make them.
pub fn derived_slices(objects: &BTreeMap<ObjectKey, Object>) -> Vec<EndpointSlice> {
    let mut given = BTreeSet::new();
    let mut pods = BTreeMap::<&str, Vec<&Pod>>::new();
    let mut services: Vec<&Service> = Vec::new();
    let mut nodes = BTreeMap::<&str, &Node>::new();
    for object in objects.values() {
        match object {
            Object::EndpointSlice(slice) => {
                let service = slice.labels.get(SERVICE_NAME_LABEL);
                given.extend(service.map(|name| ServiceName::new(&slice.namespace, name)));
            }
            Object::Pod(pod) => pods.entry(pod.namespace.as_str()).or_default().push(pod),
            Object::Service(service) => services.push(service),
            Object::Node(node) => {
                nodes.insert(node.name.as_str(), node);
            }
            Object::Namespace(_)
            | Object::CiliumNode(_)
            | Object::CiliumIdentity(_)
            | Object::CiliumEndpoint(_)
            | Object::CiliumEndpointSlice(_) => {}
        }
    }
    services
        .retain(|service| !given.contains(&ServiceName::new(&service.namespace, &service.name)));
    services
        .into_iter()
        .flat_map(|service| {
            let pods = pods.get(service.namespace.as_str()).map(Vec::as_slice).unwrap_or_default();
            endpoints::slices(service, pods.iter().copied(), &nodes)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drained_is_part_of_what_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let [manifests, drain] = ["manifests", "drain.yaml"].map(|name| folder.path().join(name));
        fs::create_dir(&manifests).unwrap();
        fs::write(manifests.join("a.yaml"), namespace("one")).unwrap();
        let new =
            || ManifestsSource::new(&manifests, ResourceVersion::default()).with_drain(&drain);
        fs::write(&drain, "cluster: x").unwrap();
        let mut source = new();
        assert!(matches!(source.scan(), Err(ScanError::Drain(_))), "nobody knows what was drained");
        assert!(source.problems()[0].to_string().contains("drain.yaml: "));
        assert!(source.drain().is_none() && !source.is_listed());

        fs::remove_file(&drain).unwrap();
        assert!(!source.scan().unwrap().is_empty());
        let nothing = source.fingerprint();
        fs::write(&drain, "nodes: [n1]").unwrap();
        source.scan().unwrap();
        assert!(source.drain().unwrap().nodes.contains("n1"));
        assert_ne!(source.fingerprint(), nothing, "another revision");
        fs::write(&drain, "nodes: [").unwrap();
        source.scan().unwrap();
        assert!(source.drain().unwrap().nodes.contains("n1") && source.keeps_something());
        assert!(source.problems()[0].to_string().ends_with("what was in force stays"));
        fs::write(&drain, "").unwrap();
        source.scan().unwrap();
        assert_eq!((source.fingerprint(), source.problems().len()), (nothing, 0));
    }

    struct Folder {
        folder: tempfile::TempDir,
        source: ManifestsSource,
    }

    impl Folder {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let source = ManifestsSource::new(folder.path(), ResourceVersion::default());
            Self { folder, source }
        }

        /// Replaces a file as a careful writer does.
        fn write(&self, name: &str, text: &str) {
            let path = self.folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(self.folder.path().join(".tmp"), text).unwrap();
            fs::rename(self.folder.path().join(".tmp"), path).unwrap();
        }

        /// What the next scan says, in short: `+key`, `-key`, `listed`.
        fn scan(&mut self) -> Vec<String> {
            let events = self.source.scan().unwrap().into_iter();
            events
                .filter_map(|event| match event {
                    SourceEvent::Applied { object, .. } => Some(format!("+{}", object.key())),
                    SourceEvent::Deleted { key, .. } => Some(format!("-{key}")),
                    SourceEvent::Listed { kind: Kind::Node, .. } => Some("listed".into()),
                    _ => None,
                })
                .collect()
        }

        fn problems(&self) -> Vec<String> {
            let folder = format!("{}/", self.folder.path().display());
            self.source.problems().iter().map(|p| p.to_string().replace(&folder, "")).collect()
        }
    }

    fn namespace(name: &str) -> String {
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
    }

    const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.101.0.10, selector: {app: web}, ports: [{port: 80}]}
";

    fn pod(ready: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: shop, labels: {{app: web}}}}\nstatus: {{podIP: 10.1.1.1, conditions: [{{type: Ready, status: '{ready}'}}]}}\n"
        )
    }

    #[test]
    fn files_come_change_and_go() {
        let mut folder = Folder::new();
        folder.write("a.yaml", &namespace("one"));
        folder.write("sub/b.yml", &namespace("two"));
        folder.write(".hidden.yaml", "[");
        folder.write("notes.txt", "[");
        assert_eq!(folder.scan(), ["+Namespace one", "+Namespace two", "listed"]);
        assert!(folder.scan().is_empty());

        folder.write("sub/b.yml", &namespace("three"));
        assert_eq!(folder.scan(), ["+Namespace three", "-Namespace two"]);
        fs::remove_file(folder.folder.path().join("a.yaml")).unwrap();
        assert_eq!(folder.scan(), ["-Namespace one"]);
        folder.write("sub/b.yml", "");
        assert_eq!(folder.scan(), ["-Namespace three"]);
    }

    #[test]
    fn a_broken_file_keeps_what_it_held_and_is_named() {
        let mut folder = Folder::new();
        folder.write("a.yaml", &namespace("one"));
        folder.write("b.yaml", &namespace("two"));
        folder.scan();
        folder.write("a.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: [\n");
        assert!(folder.scan().is_empty());
        let problems = folder.problems();
        assert_eq!(problems.len(), 1);
        assert!(
            problems[0].starts_with("a.yaml:") && problems[0].contains("what it held before stays"),
            "{problems:?}"
        );
        folder.write("a.yaml", &namespace("one"));
        assert!(folder.scan().is_empty());
        assert!(folder.problems().is_empty());
    }

    #[test]
    fn nothing_is_complete_while_a_file_was_never_understood() {
        let mut folder = Folder::new();
        folder.write("a.yaml", "a: [");
        folder.write("b.yaml", &namespace("two"));
        assert_eq!(folder.scan(), ["+Namespace two"]);
        assert!(!folder.source.is_listed());
        folder.write("a.yaml", &namespace("one"));
        assert_eq!(folder.scan(), ["+Namespace one", "listed"]);
    }

    #[test]
    fn who_read_the_same_files_has_the_same_fingerprint() {
        let mut folder = Folder::new();
        folder.write("a.yaml", &namespace("one"));
        folder.scan();
        let one = folder.source.fingerprint();
        let mut other = ManifestsSource::new(folder.folder.path(), ResourceVersion(9));
        other.scan().unwrap();
        assert_eq!(other.fingerprint(), one);
        // Written again it is the same; what is not understood leaves what was there.
        folder.write("a.yaml", &namespace("one"));
        folder.scan();
        folder.write("a.yaml", "a: [");
        folder.scan();
        assert_eq!(
            (folder.source.fingerprint(), folder.source.keeps_something()),
            (one.clone(), true)
        );
        folder.write("a.yaml", &namespace("two"));
        folder.scan();
        assert!(folder.source.fingerprint() != one && !folder.source.keeps_something());
        folder.write("a.yaml", &namespace("one"));
        folder.scan();
        assert_eq!(folder.source.fingerprint(), one);
        folder.write("b.yaml", "");
        folder.scan();
        assert_ne!(folder.source.fingerprint(), one, "a file more");
    }

    #[test]
    fn an_empty_or_unreadable_folder_changes_nothing() {
        let mut folder = Folder::new();
        assert!(matches!(folder.source.scan(), Err(ScanError::Empty { .. })));
        folder.write("a.yaml", &namespace("one"));
        assert_eq!(folder.scan(), ["+Namespace one", "listed"]);
        fs::remove_file(folder.folder.path().join("a.yaml")).unwrap();
        let error = folder.source.scan().unwrap_err().to_string();
        assert!(error.contains("To remove the last object leave an empty file"), "{error}");
        fs::remove_dir(folder.folder.path()).unwrap();
        assert!(matches!(folder.source.scan(), Err(ScanError::Unreadable { .. })));
        fs::create_dir(folder.folder.path()).unwrap();
        folder.write("b.yaml", "");
        assert_eq!(folder.scan(), ["-Namespace one"]);
    }

    #[test]
    fn the_first_file_keeps_an_object_that_two_have() {
        let mut folder = Folder::new();
        folder.write("b.yaml", &namespace("one"));
        folder.scan();
        folder.write("a.yaml", &namespace("one"));
        assert!(folder.scan().is_empty());
        let problems = folder.problems();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("b.yaml:1: Namespace one is in"), "{problems:?}");
        assert!(problems[0].ends_with("a.yaml already; that one stays"), "{problems:?}");
    }

    #[test]
    fn endpoints_follow_from_pods_unless_they_are_given() {
        let mut folder = Folder::new();
        folder.write("service.yaml", SERVICE);
        folder.write("pod.yaml", &pod("True"));
        let first = folder.scan();
        let made = first
            .iter()
            .find(|event| event.starts_with("+EndpointSlice shop/web-"))
            .unwrap()
            .clone();
        folder.write("pod.yaml", &pod("False"));
        assert_eq!(folder.scan(), ["+Pod shop/p".to_owned(), made.clone()]);

        folder.write("slice.yaml", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, namespace: shop, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nendpoints: [{addresses: [10.1.1.9]}]\n");
        assert_eq!(folder.scan(), ["+EndpointSlice shop/s".to_owned(), made.replace('+', "-")]);
        fs::remove_file(folder.folder.path().join("slice.yaml")).unwrap();
        assert_eq!(folder.scan(), [made, "-EndpointSlice shop/s".to_owned()]);
    }
}
