//! Reading the small text files of a folder.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    settling::{Moment, Progress, Settling, Stamp},
    watch::Written,
};

/// A folder of text files, and which of them are completely written.
#[derive(Debug)]
pub struct TextFolder {
    path: PathBuf,
    settling: Settling,
}

/// A file of the folder.
#[derive(Debug)]
pub enum TextFile {
    /// The text. Its writer has closed the file, or has not changed it for a second.
    Whole(String),
    /// A writer may not have finished it.
    BeingWritten,
    /// It cannot be read, is not UTF-8 ([`io::ErrorKind::InvalidData`]), or is longer than 1 MiB
    /// ([`io::ErrorKind::FileTooLarge`]).
    Unreadable(io::Error),
}

/// The maximum length of a file, in bytes. Longer ones are not read.
const MAX_BYTES: u64 = 1024 * 1024;

// === impl TextFolder ===

impl TextFolder {
    /// The folder at a path. Does no IO yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.into(), settling: Settling::default() }
    }

    /// Reads the files of the folder, without hidden files and subfolders. The key is the file's name. `written` is what a
    /// watch noticed since the last call.
    ///
    /// # Errors
    /// If the folder does not exist or cannot be read.
    pub fn read(
        &mut self,
        written: BTreeMap<PathBuf, Written>,
        at: Moment,
    ) -> io::Result<BTreeMap<String, TextFile>> {
        let mut files = BTreeMap::new();
        let found = files_in(&self.path)?;
        self.settling.note(written);
        for (name, stamp) in found {
            let path = self.path.join(&name);
            let text = read(&path, stamp);
            let unchanged = fs::metadata(&path).is_ok_and(|metadata| Stamp::of(&metadata) == stamp);
            let file = match self.settling.look(&path, Some(stamp), at) {
                Progress::Closed | Progress::Settled if unchanged => {
                    text.map_or_else(TextFile::Unreadable, TextFile::Whole)
                }
                _ => TextFile::BeingWritten,
            };
            files.insert(name, file);
        }
        self.settling.retain(|path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|n| files.contains_key(n))
        });
        Ok(files)
    }

    /// When to read again even if nothing changes: a file may count as complete then.
    pub fn next_look(&self) -> Option<std::time::Instant> {
        self.settling.next_look()
    }
}

/// Reads the files of a folder, without hidden files and subfolders, whether they are completely written or not. The key is
/// the file's name. A file that cannot be read, is longer than 1 MiB or is not UTF-8 has an error instead of a text.
///
/// # Errors
/// If the folder does not exist or cannot be read.
pub fn texts(folder: &Path) -> io::Result<BTreeMap<String, io::Result<String>>> {
    let text = |(name, stamp): (String, Stamp)| {
        let text = read(&folder.join(&name), stamp);
        (name, text)
    };
    Ok(files_in(folder)?.into_iter().map(text).collect())
}

/// The files of a folder by name, without hidden files and subfolders.
fn files_in(folder: &Path) -> io::Result<BTreeMap<String, Stamp>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        // Follows symlinks: Kubernetes mounts the files of ConfigMaps and Secrets as symlinks.
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() && !name.starts_with('.') => {
                found.insert(name.to_owned(), Stamp::of(&metadata));
            }
            // Removed since it was listed, a dangling symlink, or a subfolder.
            _ => {}
        }
    }
    Ok(found)
}

fn read(path: &Path, stamp: Stamp) -> io::Result<String> {
    if stamp.length() > MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {MAX_BYTES} bytes"),
        ));
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn files_are_read_when_they_are_complete() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &[u8]| fs::write(folder.path().join(name), text).unwrap();
        write("a", b"one");
        write(".hidden", b"two");
        write("binary", b"\xff\xfe");
        write("large", &vec![b'x'; 1024 * 1024 + 1]);
        fs::create_dir(folder.path().join("below")).unwrap();
        let mut files = TextFolder::new(folder.path());
        let start = Moment::now();
        let later = |ms| {
            let after = Duration::from_millis(ms);
            Moment { now: start.now + after, wall: start.wall + after }
        };
        let mut read = |written: &[(&str, Written)], ms| {
            let written = written.iter().map(|(name, seen)| (folder.path().join(name), *seen));
            let read = files.read(written.collect(), later(ms)).unwrap().into_iter();
            let text = |(name, file)| match file {
                TextFile::Whole(text) => format!("{name}: {text}"),
                TextFile::BeingWritten => format!("{name} is being written"),
                TextFile::Unreadable(error) => format!("{name}: {:?}", error.kind()),
            };
            read.map(text).collect::<Vec<_>>()
        };
        // The files are new, and no watch reported that they are complete.
        let writing = ["a", "binary", "large"].map(|name| format!("{name} is being written"));
        assert_eq!(read(&[], 0), writing);
        let seen = [("a", Written::Closed), ("binary", Written::Renamed)];
        assert_eq!(read(&seen, 1), ["a: one", "binary: InvalidData", "large is being written"]);
        assert_eq!(read(&[], 1_000), ["a: one", "binary: InvalidData", "large: FileTooLarge"]);

        let now = texts(folder.path()).unwrap().into_iter().map(|(name, text)| match text {
            Ok(text) => format!("{name}: {text}"),
            Err(error) => format!("{name}: {:?}", error.kind()),
        });
        let whole = ["a: one", "binary: InvalidData", "large: FileTooLarge"];
        assert_eq!(now.collect::<Vec<_>>(), whole);

        fs::remove_dir_all(folder.path()).unwrap();
        assert_eq!(texts(folder.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
        let gone = files.read(BTreeMap::new(), later(2_000)).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }
}
