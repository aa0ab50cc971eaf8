//! The journal's file, which several processes read and append to. A reader or writer holds the lock, a file of its
//! own: the journal itself may be replaced, by a shorter one or from a backup.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use mesh_files::{Access, Lock, write_atomic};

use super::{
    JournalError,
    entry::{Entry, parse},
};

/// An open journal file.
#[derive(Debug)]
pub(super) struct SharedFile {
    path: PathBuf,
    file: File,
    inode: u64,
    /// How much of it was read.
    offset: u64,
    /// How long a thread waits for the process that holds the lock.
    patience: Duration,
}

/// The right to read the file and to append to it.
pub(super) struct Locked<'a> {
    shared: &'a mut SharedFile,
    _lock: Lock,
}

/// The entries of others since the last read.
pub(super) enum News {
    /// They appended, perhaps nothing.
    Appended(Vec<Entry>),
    /// Another file replaced it: all of it.
    Replaced(Vec<Entry>),
}

impl SharedFile {
    /// Opens the file, which is made where there is none. Nothing is read yet.
    pub(super) fn open(path: &Path, patience: Duration) -> Result<Self, JournalError> {
        let io = |source| JournalError::Io { path: path.into(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io)?;
        }
        let _lock = lock(path, patience)?;
        let file = OpenOptions::new().create(true).read(true).append(true).open(path);
        let file = file.map_err(io)?;
        let inode = file.metadata().map_err(io)?.ino();
        Ok(Self { path: path.into(), file, inode, offset: 0, patience })
    }

    /// Whether the file is as it was when it was last read. Costs no lock.
    pub(super) fn is_unchanged(&self) -> Result<bool, JournalError> {
        let metadata = self.metadata()?;
        Ok(metadata.ino() == self.inode && metadata.len() == self.offset)
    }

    pub(super) fn lock(&mut self) -> Result<Locked<'_>, JournalError> {
        let lock = lock(&self.path, self.patience)?;
        Ok(Locked { shared: self, _lock: lock })
    }

    fn metadata(&self) -> Result<fs::Metadata, JournalError> {
        fs::metadata(&self.path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => JournalError::Gone { path: self.path.clone() },
            _ => self.io(source),
        })
    }

    fn io(&self, source: io::Error) -> JournalError {
        JournalError::Io { path: self.path.clone(), source }
    }
}

impl Locked<'_> {
    /// Reads what others wrote. A last line that was cut off is dropped: the process that wrote it died before using
    /// it.
    pub(super) fn read(&mut self, lines: usize) -> Result<News, JournalError> {
        let metadata = self.shared.metadata()?;
        let replaced = metadata.ino() != self.shared.inode || metadata.len() < self.shared.offset;
        if replaced {
            let path = self.shared.path.clone();
            let file = OpenOptions::new().read(true).append(true).open(path);
            self.shared.file = file.map_err(|source| self.shared.io(source))?;
            (self.shared.inode, self.shared.offset) = (metadata.ino(), 0);
        }
        let SharedFile { path, file, offset, .. } = &mut *self.shared;
        let io = |source| JournalError::Io { path: path.clone(), source };
        let mut content = Vec::new();
        file.seek(SeekFrom::Start(*offset)).map_err(io)?;
        file.read_to_end(&mut content).map_err(io)?;
        let first = if replaced { 1 } else { lines + 1 };
        let parsed = parse(path, first, &content);
        if parsed.is_err() {
            self.unread();
        }
        let (entries, whole) = parsed?;
        let SharedFile { path, file, offset, .. } = &mut *self.shared;
        let io = |source| JournalError::Io { path: path.clone(), source };
        let end = *offset + u64::try_from(whole).unwrap_or(u64::MAX);
        if whole < content.len() {
            let bytes = content.len() - whole;
            tracing::warn!(path = %path.display(), bytes, "the journal's last line was cut off; dropped it");
            file.set_len(end).and_then(|()| file.sync_all()).map_err(io)?;
        }
        *offset = end;
        Ok(if replaced { News::Replaced(entries) } else { News::Appended(entries) })
    }

    /// The last read cannot be used: all of it is read again the next time.
    pub(super) fn unread(&mut self) {
        (self.shared.inode, self.shared.offset) = (0, 0);
    }

    /// Writes entries and waits until the disk has them. A partial write is undone. All existing entries must have been
    /// read.
    pub(super) fn append(&mut self, entries: &[Entry]) -> Result<(), JournalError> {
        let text = text(entries).map_err(|source| self.shared.io(source))?;
        let SharedFile { file, offset, .. } = &mut *self.shared;
        let written = file.write_all(&text).and_then(|()| file.sync_all());
        match written {
            Ok(()) => *offset += u64::try_from(text.len()).unwrap_or(u64::MAX),
            Err(_) => {
                let _ = file.set_len(*offset);
            }
        }
        written.map_err(|source| self.shared.io(source))
    }

    /// Puts a file in the journal's place that has these entries. A crash leaves the old one or the new one.
    pub(super) fn replace(&mut self, entries: &[Entry]) -> Result<(), JournalError> {
        let SharedFile { path, .. } = &*self.shared;
        let io = |source| JournalError::Io { path: path.clone(), source };
        let text = text(entries).map_err(io)?;
        write_atomic(path, &text, Access::All).map_err(io)?;
        let file = OpenOptions::new().read(true).append(true).open(path).map_err(io)?;
        let inode = file.metadata().map_err(io)?.ino();
        let offset = u64::try_from(text.len()).unwrap_or(u64::MAX);
        (self.shared.file, self.shared.inode, self.shared.offset) = (file, inode, offset);
        Ok(())
    }
}

fn lock(path: &Path, patience: Duration) -> Result<Lock, JournalError> {
    Ok(Lock::wait(&path.with_extension("lock"), patience)?)
}

fn text(entries: &[Entry]) -> io::Result<Vec<u8>> {
    let lines: Result<Vec<Vec<u8>>, _> = entries.iter().map(Entry::line).collect();
    Ok(lines?.concat())
}
