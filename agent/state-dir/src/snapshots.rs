//! The last reported state of clusters, `<state dir>/snapshots/<cluster>.jsonl`: written while they report, read by an
//! agent that finds a kernel without tables.
//!
//! A cluster's file is rewritten when what it reports has changed, and so seldom that it is a small part of the agent's
//! work whatever its size. The writing tasks are owned by [`Snapshots`]; one that is dropped leaves the old file or the
//! new one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use mesh_files::{Access, write_atomic};
use mesh_model::{ClusterId, ClusterLimit, ClusterName, KnownIdentities, Record};
use mesh_snapshot::{Part, Snapshot, SnapshotError};
use mesh_wire::Role;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// The content of the disk, and its wanted content.
#[derive(Debug)]
pub struct Snapshots {
    folder: PathBuf,
    /// Read at the start, of clusters that are not followed yet.
    waiting: BTreeMap<ClusterName, Snapshot>,
    files: BTreeMap<ClusterName, SnapshotFile>,
    /// Errors of files, by cluster.
    problems: BTreeMap<ClusterName, String>,
}

/// What a cluster reports: its ID, its nodes and services, and its identities and addresses.
pub type Content = (ClusterId, Vec<Record>, KnownIdentities);

/// A cluster's file.
#[derive(Debug)]
struct SnapshotFile {
    /// The cluster reported something since it was written.
    changed: bool,
    not_before: Instant,
    /// The checksum of its content, if this agent wrote it.
    checksum: Option<u32>,
    writing: Option<JoinHandle<io::Result<Written>>>,
    /// Which cluster it is, as its config has it.
    uuid: Option<Uuid>,
}

#[derive(Debug)]
struct Written {
    checksum: u32,
    took: Duration,
}

/// How long a file is left alone, at least.
const PAUSE: Duration = Duration::from_secs(5);
/// Writing takes no more of the time than one part in this many.
const SHARE: u32 = 50;
/// Files that are written at a time.
const AT_ONCE: usize = 4;
/// More than any cluster within its budget leads to.
const MAX_BYTES: u64 = 512 * 1024 * 1024;
const ENDING: &str = "jsonl";

// === impl Snapshots ===

impl Snapshots {
    /// The clusters that have a file.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterName> {
        self.files.keys()
    }

    /// Opens the folder, and reads a part of its files. The local cluster's contain more than others'.
    pub fn open(
        folder: PathBuf,
        local: &ClusterName,
        limit: ClusterLimit,
        part: Part,
        now: Instant,
    ) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let mut snapshots = Self {
            folder,
            waiting: BTreeMap::new(),
            files: BTreeMap::new(),
            problems: BTreeMap::new(),
        };
        for entry in fs::read_dir(&snapshots.folder)?.flatten() {
            let path = entry.path();
            let Some(cluster) = cluster_of(&path) else { continue };
            snapshots.file(&cluster, now);
            let role = if cluster == *local { Role::Local } else { Role::Remote };
            match load(&path, &cluster, role, limit, part) {
                Ok((snapshot, problem)) => {
                    snapshots.waiting.insert(cluster.clone(), snapshot);
                    snapshots.problems.extend(problem.map(|problem| (cluster, problem)));
                }
                Err(problem) => {
                    tracing::warn!(peer = %cluster, problem, "a snapshot is not used");
                    let problem = format!("{}: not used: {problem}", path.display());
                    snapshots.problems.insert(cluster, problem);
                }
            }
        }
        Ok(snapshots)
    }

    /// The clusters' state of the previous run, once.
    pub fn take_all(&mut self) -> BTreeMap<ClusterName, Snapshot> {
        std::mem::take(&mut self.waiting)
    }

    /// A cluster reported something new.
    pub fn changed(&mut self, cluster: &ClusterName, now: Instant) {
        self.file(cluster, now).changed = true;
    }

    /// A cluster's config names the cluster's UUID.
    pub fn is_now(&mut self, cluster: &ClusterName, uuid: Option<Uuid>, now: Instant) {
        let file = self.file(cluster, now);
        if file.uuid != uuid {
            file.uuid = uuid;
            file.changed = true;
        }
    }

    /// Begins to write what is due.
    /// `content` gives what a cluster reports, if it was listed in full.
    pub fn write(
        &mut self,
        now: Instant,
        mut content: impl FnMut(&ClusterName) -> Option<Content>,
    ) {
        self.finish(now).now_or_never();
        self.write_records(now, |name, uuid| {
            let (id, records, known) = content(name)?;
            Some(Snapshot { cluster: name.clone(), id, uuid, records, known })
        });
    }

    /// `records` gives a cluster's snapshot, if there is all of it to be had.
    fn write_records(
        &mut self,
        now: Instant,
        mut records: impl FnMut(&ClusterName, Option<Uuid>) -> Option<Snapshot>,
    ) {
        let running = self.files.values().filter(|file| file.writing.is_some()).count();
        let mut room = AT_ONCE.saturating_sub(running);
        let mut due: Vec<_> = self
            .files
            .iter_mut()
            .filter(|(_, file)| file.changed && file.writing.is_none() && now >= file.not_before)
            .collect();
        // Those that wait longest first: a cluster that changes all the time does not keep others from being written.
        due.sort_by_key(|(_, file)| file.not_before);
        for (cluster, file) in due {
            if room == 0 {
                break;
            }
            let began = Instant::now();
            let Some(snapshot) = records(cluster, file.uuid) else { continue };
            room -= 1;
            file.changed = false;
            let (path, before) = (path(&self.folder, cluster), file.checksum);
            file.writing = Some(tokio::task::spawn_blocking(move || {
                let checksum = store(&path, &snapshot, before)?;
                Ok(Written { checksum, took: began.elapsed() })
            }));
        }
    }

    /// Writes all changes, the cluster `first` before others, and returns when they are on disk. A file that is not
    /// begun by `end` stays as it was.
    pub async fn write_all(
        &mut self,
        first: &ClusterName,
        end: Instant,
        mut content: impl FnMut(&ClusterName) -> Option<Content>,
    ) {
        let mut files: Vec<_> = self.files.iter_mut().collect();
        files.sort_by_key(|(cluster, _)| *cluster != first);
        for (cluster, file) in files {
            if let Some(writing) = file.writing.take() {
                let _ = writing.await;
            }
            if !file.changed || Instant::now() >= end {
                continue;
            }
            let Some((id, records, known)) = content(cluster) else { continue };
            let (cluster_of, uuid) = (cluster.clone(), file.uuid);
            let snapshot = Snapshot { cluster: cluster_of, id, uuid, records, known };
            match store(&path(&self.folder, cluster), &snapshot, None) {
                Ok(_) => file.changed = false,
                Err(error) => {
                    tracing::warn!(peer = %cluster, %error, "a snapshot cannot be written")
                }
            }
        }
    }

    /// Records what was written.
    pub async fn finish(&mut self, now: Instant) {
        for (cluster, file) in &mut self.files {
            let Some(writing) = file.writing.take_if(|writing| writing.is_finished()) else {
                continue;
            };
            let took = match writing.await.map_err(io::Error::other).flatten() {
                Ok(Written { checksum, took }) => {
                    file.checksum = Some(checksum);
                    self.problems.remove(cluster);
                    took
                }
                Err(error) => {
                    tracing::warn!(peer = %cluster, %error, "a snapshot cannot be written");
                    let path = path(&self.folder, cluster);
                    self.problems.insert(cluster.clone(), format!("{}: {error}", path.display()));
                    file.changed = true;
                    Duration::ZERO
                }
            };
            file.not_before = now + PAUSE.max(took * SHARE);
        }
    }

    /// Only these clusters exist; others are forgotten.
    pub fn retain(&mut self, names: &BTreeSet<ClusterName>) {
        let gone: Vec<ClusterName> =
            self.files.keys().filter(|cluster| !names.contains(*cluster)).cloned().collect();
        for cluster in gone {
            self.waiting.remove(&cluster);
            self.problems.remove(&cluster);
            self.files.remove(&cluster);
            let path = path(&self.folder, &cluster);
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "a snapshot cannot be removed");
            }
        }
    }

    /// Errors of the files.
    pub fn problems(&self) -> impl Iterator<Item = &String> {
        self.problems.values()
    }

    fn file(&mut self, cluster: &ClusterName, now: Instant) -> &mut SnapshotFile {
        self.files.entry(cluster.clone()).or_insert_with(|| SnapshotFile {
            changed: false,
            not_before: now,
            checksum: None,
            writing: None,
            uuid: None,
        })
    }
}

fn path(folder: &Path, cluster: &ClusterName) -> PathBuf {
    folder.join(cluster.as_str()).with_extension(ENDING)
}

/// The cluster whose file it is; temporary and others' files are of none.
fn cluster_of(path: &Path) -> Option<ClusterName> {
    let ending = path.extension()?;
    (ending == ENDING).then(|| ClusterName::new(path.file_stem()?.to_str()?).ok()).flatten()
}

/// A cluster's snapshot, and what is wrong with parts of it.
fn load(
    path: &Path,
    cluster: &ClusterName,
    role: Role,
    limit: ClusterLimit,
    part: Part,
) -> Result<(Snapshot, Option<String>), String> {
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > MAX_BYTES {
        return Err(format!("it is larger than {MAX_BYTES} bytes"));
    }
    let file = fs::read(path).map_err(|error| error.to_string())?;
    let loaded = Snapshot::decode(cluster, role, limit, part, &file)
        .map_err(|e: SnapshotError| e.to_string())?;
    let problem = loaded
        .rejected
        .map(|(count, last)| format!("{}: {count} records not used, last {last}", path.display()));
    Ok((loaded.snapshot, problem))
}

/// Writes a snapshot where it differs from what was written before; returns its checksum.
fn store(path: &Path, snapshot: &Snapshot, before: Option<u32>) -> io::Result<u32> {
    let file = snapshot.encode();
    if u64::try_from(file.len()).unwrap_or(u64::MAX) > MAX_BYTES {
        return Err(io::Error::other(format!("it would be larger than {MAX_BYTES} bytes")));
    }
    let checksum = crc32c::crc32c(&file);
    if before != Some(checksum) {
        write_atomic(path, &file, Access::Owner)?;
    }
    Ok(checksum)
}

#[cfg(test)]
mod tests {
    use mesh_model::ClusterId;

    use super::*;

    fn snapshot(id: u32) -> Snapshot {
        Snapshot {
            cluster: ClusterName::new("b").unwrap(),
            id: ClusterId::new(id, ClusterLimit::Max255).unwrap(),
            uuid: None,
            records: Vec::new(),
            known: KnownIdentities::default(),
        }
    }

    /// Waits until nothing is being written any more.
    async fn settled(snapshots: &mut Snapshots, now: Instant) {
        while snapshots.files.values().any(|file| file.writing.is_some()) {
            snapshots.finish(now).await;
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn files_are_written_when_something_changed_and_not_too_often() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("snapshots");
        let cluster = ClusterName::new("b").unwrap();
        let now = Instant::now();
        let local = ClusterName::new("a").unwrap();
        let open =
            || Snapshots::open(at.clone(), &local, ClusterLimit::Max255, Part::All, now).unwrap();
        let mut snapshots = open();
        snapshots.changed(&cluster, now);
        snapshots.write_records(now, |_, _| None);
        assert!(!at.join("b.jsonl").exists(), "not all was reported yet");
        snapshots.write_records(now, |_, _| Some(snapshot(2)));
        settled(&mut snapshots, now).await;
        let first = fs::read(at.join("b.jsonl")).unwrap();

        snapshots.write_records(now + PAUSE, |_, _| panic!("nothing changed"));
        snapshots.changed(&cluster, now);
        snapshots.write_records(now + PAUSE / 2, |_, _| panic!("too soon"));
        fs::remove_file(at.join("b.jsonl")).unwrap();
        let later = now + PAUSE * 1_000;
        snapshots.write_records(later, |_, _| Some(snapshot(2)));
        settled(&mut snapshots, later).await;
        assert!(!at.join("b.jsonl").exists(), "the same is not written again");
        snapshots.changed(&cluster, later);
        let later = later + PAUSE * 1_000;
        snapshots.write_records(later, |_, _| Some(snapshot(3)));
        settled(&mut snapshots, later).await;
        assert_ne!(fs::read(at.join("b.jsonl")).unwrap(), first);

        let mut next = open();
        assert_eq!(next.take_all().remove(&cluster), Some(snapshot(3)));
        assert!(next.take_all().is_empty());
        next.retain(&BTreeSet::new());
        assert!(!at.join("b.jsonl").exists(), "a peer that is gone takes its file with it");
    }

    #[tokio::test]
    async fn an_agent_that_stops_writes_what_changed_just_now() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("snapshots");
        let now = Instant::now();
        let [a, b, c] = ["a", "b", "c"].map(|name| ClusterName::new(name).unwrap());
        let open =
            || Snapshots::open(at.clone(), &a, ClusterLimit::Max255, Part::All, now).unwrap();
        let mut snapshots = open();
        snapshots.changed(&b, now);
        snapshots.write_records(now, |_, _| Some(snapshot(2)));
        // One is being written, and changes meanwhile; one was not listed in full.
        [&a, &b, &c].into_iter().for_each(|cluster| snapshots.changed(cluster, now));
        let id = |id| ClusterId::new(id, ClusterLimit::Max255).unwrap();
        let mut asked = Vec::new();
        let end = now + Duration::from_secs(3_600);
        let records = |cluster: &ClusterName| {
            asked.push(cluster.clone());
            (*cluster != c).then(|| (id(3), Vec::new(), KnownIdentities::default()))
        };
        snapshots.write_all(&b, end, records).await;
        assert_eq!(asked, [b.clone(), a.clone(), c.clone()]);
        let mut next = open();
        let found = next.take_all();
        assert_eq!(found.keys().collect::<Vec<_>>(), [&a, &b]);
        assert!(found.values().all(|snapshot| snapshot.id == id(3)), "{found:?}");

        let records = |of: &ClusterName| {
            assert_eq!(*of, c, "others did not change");
            None
        };
        snapshots.write_all(&b, end, records).await;
        next.changed(&b, now);
        next.write_all(&b, now, |_| panic!("too late")).await;
    }

    #[tokio::test]
    async fn no_cluster_keeps_others_from_being_written() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("snapshots");
        let now = Instant::now();
        let name = |n: usize| ClusterName::new(&format!("c{n:02}")).unwrap();
        let mut snapshots =
            Snapshots::open(at.clone(), &name(0), ClusterLimit::Max255, Part::All, now).unwrap();
        // The first ones by name are never listed in full, the next ones change all the time.
        let listed = |of: &ClusterName| *of >= name(10);
        for round in 0..8 {
            let now = now + PAUSE * round;
            (0..40).for_each(|n| snapshots.changed(&name(n), now));
            snapshots.write_records(now, |of, _| listed(of).then(|| snapshot(round + 1)));
            settled(&mut snapshots, now).await;
        }
        let written = |n: &usize| at.join(format!("c{n:02}.jsonl")).exists();
        assert_eq!((0..40).filter(written).collect::<Vec<_>>(), (10..40).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_bad_file_is_named_and_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, content: &[u8]| fs::write(folder.path().join(name), content).unwrap();
        let whole = snapshot(2).encode();
        write("b.jsonl", &whole[..whole.len() - 3]);
        write("c.jsonl", &whole);
        write(".b.jsonl.77", b"half");
        write("No_Name.jsonl", b"");
        let open = |part| {
            let local = ClusterName::new("a").unwrap();
            let at = folder.path().into();
            Snapshots::open(at, &local, ClusterLimit::Max255, part, Instant::now()).unwrap()
        };
        let snapshots = open(Part::All);
        let problems: Vec<&String> = snapshots.problems().collect();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(
            problems[0].contains("b.jsonl: not used: 19 of 22 bytes are there"),
            "{problems:?}"
        );
        assert!(problems[1].contains("c.jsonl: not used: it is of cluster b"), "{problems:?}");
        assert!(snapshots.waiting.is_empty());
        assert_eq!(open(Part::Identities).problems().count(), 2);
    }
}
