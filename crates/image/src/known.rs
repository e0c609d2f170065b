//! Which names lead to which images, as they were found the last time: small files, one a name.

use std::path::{Path, PathBuf};

use kiln_stdx::Timestamp;
use kiln_stdx::fs::{FsError, create_private_dir, write_atomic};
use serde::{Deserialize, Serialize};

use crate::Image;

/// Names that have led somewhere.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    folder: PathBuf,
}

/// A name and what it led to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// In full.
    pub name: String,
    pub image: Image,
    pub pulled_at: Timestamp,
}

impl Known {
    pub fn open(folder: PathBuf) -> Result<Self, FsError> {
        create_private_dir(&folder)?;
        Ok(Self { folder })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A name may be longer than a file's may, and has `/`.
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{}.json", crate::blob::digest(name.as_bytes())))
    }

    /// A file that cannot be read is as good as none: the image is then looked for again.
    pub fn get(&self, name: &str) -> Option<Entry> {
        let text = std::fs::read(self.path(name)).ok()?;
        let entry: Entry = serde_json::from_slice(&text).ok()?;
        (entry.name == name).then_some(entry)
    }

    pub fn set(&self, entry: &Entry) -> Result<(), FsError> {
        write_atomic(&self.path(&entry.name), &serde_json::to_vec(entry).unwrap_or_default())
    }

    pub fn remove(&self, name: &str) -> bool {
        std::fs::remove_file(self.path(name)).is_ok()
    }

    /// All that can be read, by name.
    pub fn all(&self) -> Vec<Entry> {
        let files = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let read = |path: PathBuf| serde_json::from_slice::<Entry>(&std::fs::read(path).ok()?).ok();
        let mut all: Vec<Entry> = files.filter_map(|file| read(file.path())).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}
