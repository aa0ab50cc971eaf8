//! The folder in which the CNI plugin keeps its attachments: its content, and what changed since the last scan.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use mesh_cni::{Attachment, AttachmentKey, Remembered};
use mesh_files::{Access, write_atomic};
use mesh_model::Identity;

use crate::staleness::{NetnsSeen, Stale, staleness};

/// The folder, and what was read of it.
#[derive(Debug)]
pub struct Attachments {
    folder: PathBuf,
    /// This boot, as the kernel names it; empty where it cannot be known.
    boot: String,
    /// Files that were read: they are read again when they are others.
    seen: BTreeMap<AttachmentKey, Stamp>,
    /// Errors of the folder, or of files, by name.
    problems: BTreeMap<String, String>,
}

/// Distinguishes a file from another of its name: the plugin replaces files, and never writes into one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    modified: (i64, i64),
}

/// An attachment in a scan of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachmentFound {
    /// It exists, for the first time or with other values than before, with the identity that the previous run knew.
    Attached(Attachment, Option<Identity>),
    /// It is unchanged.
    Unchanged(AttachmentKey),
    /// It no longer exists, or never did.
    Detached(AttachmentKey),
    /// Its container is gone, and so is now its file.
    Removed(Attachment, Stale),
}

/// Where the kernel names the boot.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// The key of the folder itself among the problems.
const FOLDER: &str = "";

// === impl Attachments ===

impl Attachments {
    /// A folder, which is made where there is none, so that it can be watched.
    pub fn new(folder: PathBuf) -> Self {
        let boot = fs::read_to_string(BOOT).unwrap_or_default().trim().to_owned();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        let problem = |e: io::Error| (FOLDER.to_owned(), format!("{}: {e}", folder.display()));
        let problems = made.err().map(problem).into_iter().collect();
        Self { folder, boot, seen: BTreeMap::new(), problems }
    }

    /// Scans everything. If the folder is missing or cannot be read, nothing follows.
    pub fn scan(&mut self) -> Vec<AttachmentFound> {
        self.problems.clear();
        let names = match self.names() {
            Ok(names) => names,
            Err(error) => {
                let problem = format!("{}: {error}", self.folder.display());
                self.problems.insert(FOLDER.into(), problem);
                return Vec::new();
            }
        };
        let gone = self.seen.keys().filter(|key| !names.contains(key)).cloned();
        let gone: Vec<AttachmentKey> = gone.collect();
        gone.iter().chain(&names).map(|key| self.look(key)).collect()
    }

    /// Looks at one attachment.
    pub fn look(&mut self, key: &AttachmentKey) -> AttachmentFound {
        let name = key.file_name();
        let path = self.folder.join(&name);
        self.problems.remove(&name);
        let stamp = match fs::metadata(&path) {
            Ok(file) => Stamp { inode: file.ino(), modified: (file.mtime(), file.mtime_nsec()) },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.forget(key);
                return AttachmentFound::Detached(key.clone());
            }
            Err(error) => return self.unread(key, error),
        };
        let read = fs::read(&path).map_err(|error| error.to_string());
        let read =
            read.and_then(|file| Attachment::decode(key, &file).map_err(|error| error.to_string()));
        let attachment = match read {
            Ok(attachment) => attachment,
            // It may be gone now; then the next scan notices.
            Err(error) => return self.unread(key, error),
        };
        let netns = seen(&attachment.netns.path);
        if let Some(stale) = staleness(&attachment, &self.boot, netns) {
            return match fs::remove_file(&path) {
                Ok(()) => {
                    self.forget(key);
                    AttachmentFound::Removed(attachment, stale)
                }
                Err(error) => {
                    self.unread(key, format!("{stale}, and it cannot be removed: {error}"))
                }
            };
        }
        match self.seen.insert(key.clone(), stamp) {
            Some(before) if before == stamp => AttachmentFound::Unchanged(key.clone()),
            _ => {
                let was = fs::read(self.folder.join(key.remembered_file_name()));
                let was = was.ok().and_then(|file| Remembered::decode(&attachment, &file));
                AttachmentFound::Attached(attachment, was.map(|was| Identity::new(was.identity)))
            }
        }
    }

    /// Keeps an attachment's identity for the next run. Without that, the next run waits for its cluster.
    pub fn remember(&self, attachment: &Attachment, identity: Identity) -> io::Result<()> {
        let Attachment { key, pod, uid, .. } = attachment;
        let was = Remembered { pod: pod.clone(), uid: uid.clone(), identity: identity.get() };
        let path = self.folder.join(key.remembered_file_name());
        write_atomic(&path, &was.encode(), Access::Owner)
    }

    /// Problems for an operator.
    pub fn problems(&self) -> impl Iterator<Item = &String> {
        self.problems.values()
    }

    fn names(&self) -> io::Result<Vec<AttachmentKey>> {
        let mut keys = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            keys.extend(name.to_str().and_then(AttachmentKey::of_file_name));
        }
        Ok(keys)
    }

    fn forget(&mut self, key: &AttachmentKey) {
        self.seen.remove(key);
        let _ = fs::remove_file(self.folder.join(key.remembered_file_name()));
    }

    /// A file that cannot be read leaves its attachment as it was.
    fn unread(&mut self, key: &AttachmentKey, why: impl ToString) -> AttachmentFound {
        let path = self.folder.join(key.file_name());
        self.problems.insert(key.file_name(), format!("{}: {}", path.display(), why.to_string()));
        AttachmentFound::Unchanged(key.clone())
    }
}

/// The present state of a network namespace's path.
fn seen(path: &Path) -> NetnsSeen {
    match fs::metadata(path) {
        Ok(file) => NetnsSeen::There(file.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match path.parent().is_some_and(Path::is_dir) {
                true => NetnsSeen::Gone,
                false => NetnsSeen::Hidden,
            }
        }
        Err(_) => NetnsSeen::Hidden,
    }
}

#[cfg(test)]
mod tests {
    use mesh_cni::PodName;

    use super::*;

    /// An attachment whose network namespace is a file in the folder.
    fn attachment(folder: &Path, container: &str) -> Attachment {
        let netns = folder.join(format!("netns-{container}"));
        fs::write(&netns, "").unwrap();
        Attachment {
            key: AttachmentKey::new(container, "eth0").unwrap(),
            pod: PodName::new("shop", "cart-0").unwrap(),
            uid: "u1".into(),
            netns: mesh_cni::Netns {
                inode: fs::metadata(&netns).unwrap().ino(),
                path: netns,
                cookie: 3,
            },
            addresses: Vec::new(),
            boot: fs::read_to_string(BOOT).unwrap().trim().into(),
            attached_unix_seconds: 0,
        }
    }

    /// As the plugin does it: a new file in the old one's place.
    fn write(folder: &Path, attachment: &Attachment) {
        let path = folder.join(attachment.key.file_name());
        write_atomic(&path, &attachment.encode(), Access::Owner).unwrap();
    }

    #[test]
    fn files_come_change_and_go() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("pods");
        let mut attachments = Attachments::new(folder.clone());
        assert_eq!(attachments.scan(), []);
        let mut one = attachment(temporary.path(), "c1");
        write(&folder, &one);
        fs::write(folder.join("note.txt"), "somebody's").unwrap();
        assert_eq!(attachments.scan(), [AttachmentFound::Attached(one.clone(), None)]);
        assert_eq!(attachments.scan(), [AttachmentFound::Unchanged(one.key.clone())]);
        // The next run knows its identity, but not that of a successor.
        attachments.remember(&one, Identity::new(70_000)).unwrap();
        let mut next_life = Attachments::new(folder.clone());
        let was = Some(Identity::new(70_000));
        assert_eq!(next_life.scan(), [AttachmentFound::Attached(one.clone(), was)]);
        one.uid = "u2".into();
        write(&folder, &one);
        assert_eq!(attachments.look(&one.key), AttachmentFound::Attached(one.clone(), None));
        fs::remove_file(folder.join(one.key.file_name())).unwrap();
        assert_eq!(attachments.scan(), [AttachmentFound::Detached(one.key.clone())]);
        assert_eq!(attachments.scan(), []);
        assert!(!folder.join(one.key.remembered_file_name()).exists());
        assert_eq!(attachments.look(&one.key), AttachmentFound::Detached(one.key.clone()));
    }

    #[test]
    fn a_container_that_is_gone_takes_its_file_along() {
        let folder = tempfile::tempdir().unwrap();
        let mut attachments = Attachments::new(folder.path().into());
        let one = attachment(folder.path(), "c1");
        write(folder.path(), &one);
        assert_eq!(attachments.scan(), [AttachmentFound::Attached(one.clone(), None)]);
        fs::remove_file(&one.netns.path).unwrap();
        assert_eq!(attachments.scan(), [AttachmentFound::Removed(one.clone(), Stale::Gone)]);
        assert_eq!(attachments.scan(), []);
        // One that was left by another boot, before the agent's first look.
        let mut other = attachment(folder.path(), "c2");
        other.boot = "another".into();
        write(folder.path(), &other);
        assert_eq!(attachments.scan(), [AttachmentFound::Removed(other, Stale::OtherBoot)]);
    }

    #[test]
    fn what_cannot_be_read_is_named_and_changes_nothing() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("pods");
        let mut attachments = Attachments::new(folder.clone());
        let one = attachment(temporary.path(), "c1");
        write(&folder, &one);
        attachments.scan();
        let path = folder.join(one.key.file_name());
        fs::write(&path, "{").unwrap();
        assert_eq!(attachments.scan(), [AttachmentFound::Unchanged(one.key.clone())]);
        let problems: Vec<&String> = attachments.problems().collect();
        assert!(problems[0].starts_with(&format!("{}: JSON: ", path.display())), "{problems:?}");
        write(&folder, &one);
        assert_eq!(attachments.scan(), [AttachmentFound::Attached(one.clone(), None)]);
        assert_eq!(attachments.problems().count(), 0);
        // Nor does a missing folder mean that nothing is attached.
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(attachments.scan(), []);
        assert_eq!(attachments.problems().count(), 1);
    }
}
