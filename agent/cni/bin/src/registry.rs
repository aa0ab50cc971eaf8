//! The folder in which attachments are kept for the agent: one complete file each.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
};

use mesh_cni::{Attachment, AttachmentKey, CniError};
use mesh_files::{Access, write_atomic};

/// Writes an attachment, in place of an earlier one of that container and interface.
pub(crate) fn write(folder: &Path, attachment: &Attachment) -> Result<(), CniError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder).map_err(failed(folder))?;
    let path = folder.join(attachment.key.file_name());
    write_atomic(&path, &attachment.encode(), Access::Owner).map_err(failed(&path))
}

/// Reads an attachment; `None` if there is none.
pub(crate) fn read(folder: &Path, key: &AttachmentKey) -> Result<Option<Attachment>, CniError> {
    let path = folder.join(key.file_name());
    let file = match fs::read(&path) {
        Ok(file) => file,
        Err(error) if is_nowhere(&error) => return Ok(None),
        Err(error) => return Err(failed(&path)(error)),
    };
    let read = Attachment::decode(key, &file).map_err(|error| CniError::Io {
        what: path.display().to_string(),
        reason: error.to_string(),
    })?;
    Ok(Some(read))
}

/// Removes an attachment. It is no error if there is none.
pub(crate) fn remove(folder: &Path, key: &AttachmentKey) -> Result<(), CniError> {
    let path = folder.join(key.file_name());
    match fs::remove_file(&path) {
        Err(error) if !is_nowhere(&error) => Err(failed(&path)(error)),
        _ => Ok(()),
    }
}

fn is_nowhere(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

pub(crate) fn failed(path: &Path) -> impl FnOnce(io::Error) -> CniError {
    move |error| CniError::Io { what: path.display().to_string(), reason: error.to_string() }
}
