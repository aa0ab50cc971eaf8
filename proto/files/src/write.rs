//! Replaces files atomically: no reader sees a part of one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// Who may read a file that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Its owner only (0600), for example private keys.
    Owner,
    /// All users (0644).
    All,
}

/// Writes `content` to a temporary file beside `path`, syncs it, and renames it to `path`. After a crash, the old file or the
/// new one is there. The file has its permissions before it has content.
///
/// # Errors
/// If the file cannot be written; then `path` is unchanged. Also if the folder cannot be synced; then `path` is replaced.
pub fn write_atomic(path: &Path, content: &[u8], access: Access) -> io::Result<()> {
    write_together(&[(path, content, access)])
}

/// Replaces several files that belong together: `(path, content, access)`. All are written and synced before the first one is
/// renamed, and then they are renamed in this order. If one cannot be written, none is replaced.
///
/// # Errors
/// As for [`write_atomic`]. If a rename fails, the files before it are replaced.
pub fn write_together(files: &[(&Path, &[u8], Access)]) -> io::Result<()> {
    let mut prepared: Vec<(PathBuf, &Path)> = Vec::new();
    let written = (|| {
        for (path, content, access) in files {
            let temporary = temporary(path)?;
            prepared.push((temporary.clone(), path));
            prepare(&temporary, content, *access)?;
        }
        prepared.iter().try_for_each(|(temporary, path)| fs::rename(temporary, path))
    })();
    if written.is_err() {
        for (temporary, _) in &prepared {
            let _ = fs::remove_file(temporary);
        }
    }
    written?;
    files.iter().try_for_each(|(path, ..)| File::open(folder(path))?.sync_all())
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The temporary file: hidden, so that readers of the folder ignore it, and with the process ID, so that two processes do not
/// write to the same file.
fn temporary(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}", std::process::id()));
    Ok(folder(path).join(temporary))
}

fn prepare(temporary: &Path, content: &[u8], access: Access) -> io::Result<()> {
    let mode = match access {
        Access::Owner => 0o600,
        Access::All => 0o644,
    };
    let _ = fs::remove_file(temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(temporary)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_are_replaced_together_with_their_permissions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_atomic(&path, b"one", Access::All).unwrap();
        write_atomic(&path, b"two", Access::Owner).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write_atomic(&folder.path().join("no/such"), b"", Access::All).is_err());

        let (other, nowhere) = (folder.path().join("other"), folder.path().join("no/such"));
        let both = [
            (path.as_path(), b"three".as_slice(), Access::Owner),
            (other.as_path(), b"3", Access::All),
        ];
        write_together(&both).unwrap();
        assert_eq!(
            (fs::read(&path).unwrap(), fs::read(&other).unwrap()),
            (b"three".to_vec(), b"3".to_vec())
        );
        let bad = [
            (path.as_path(), b"four".as_slice(), Access::Owner),
            (nowhere.as_path(), b"", Access::All),
        ];
        assert!(write_together(&bad).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"three", "no file is replaced");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
