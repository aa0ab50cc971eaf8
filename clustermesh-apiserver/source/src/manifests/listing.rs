//! Lists the files of a folder of manifests.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use mesh_files::Stamp;

use crate::decode::Format;

/// The manifests below a folder, and the folder with its subfolders, each with its stamp.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) files: BTreeMap<PathBuf, Stamp>,
    pub(super) folders: BTreeMap<PathBuf, Stamp>,
}

impl Listing {
    /// Lists a folder recursively. Hidden files and folders are ignored.
    pub(super) fn of(folder: &Path) -> io::Result<Self> {
        let mut listing = Self::default();
        listing.add(folder)?;
        Ok(listing)
    }

    fn add(&mut self, folder: &Path) -> io::Result<()> {
        self.folders.insert(folder.into(), Stamp::of(&fs::metadata(folder)?));
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            // Follows symlinks: Kubernetes mounts the files of ConfigMaps as symlinks.
            let metadata = match fs::metadata(&path) {
                Ok(metadata) => metadata,
                // Removed since it was listed, or a dangling symlink.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if metadata.is_dir() {
                self.add(&path)?;
            } else if Format::of(&path).is_some() {
                self.files.insert(path, Stamp::of(&metadata));
            }
        }
        Ok(())
    }
}
