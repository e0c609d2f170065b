//! What a copied workspace looked like before its job: the copy driver finds by it what changed.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use kiln_stdx::fs::{FsError, Named, write_atomic};
use kiln_stdx::{Clock, SystemClock};
use serde::{Deserialize, Serialize};

use crate::tree;

/// A file written so shortly before may be written again within the same tick of the clock that
/// stamps files, and keep its times and size. Its content is recorded too.
const RACY_FOR_NS: i64 = 1_000_000_000;

#[derive(Serialize, Deserialize)]
pub(crate) struct Record {
    entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    #[serde(with = "kiln_stdx::path")]
    path: PathBuf,
    seen: Seen,
}

/// Everything about a file that changes when the file does.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    mode: u32,
    owner: (u32, u32),
    /// With the time of birth: numbers are used again.
    inode: (u64, u64),
    /// Zero for folders, whose entries are seen by themselves.
    size: u64,
    modified_ns: i64,
    changed_ns: i64,
    content: Option<String>,
}

impl Seen {
    fn of(meta: &Metadata) -> Self {
        let born = meta.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let born = born.map_or(0, |at| u64::try_from(at.as_nanos()).unwrap_or(u64::MAX));
        let folder = meta.is_dir();
        let unless_folder = |n: i64| if folder { 0 } else { n };
        Self {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            inode: (meta.ino(), born),
            size: if folder { 0 } else { meta.size() },
            modified_ns: unless_folder(meta.mtime() * 1_000_000_000 + meta.mtime_nsec()),
            changed_ns: unless_folder(meta.ctime() * 1_000_000_000 + meta.ctime_nsec()),
            content: None,
        }
    }

    /// Whether the thing at `path` is still what was seen.
    pub(crate) fn is_still(&self, path: &Path, meta: &Metadata) -> Result<bool, FsError> {
        let now = Self { content: self.content.clone(), ..Self::of(meta) };
        match &self.content {
            _ if now != *self => Ok(false),
            Some(content) => Ok(*content == digest(path)?),
            None => Ok(true),
        }
    }

    /// Whether a folder is the same one, whatever its mode and owner are now.
    pub(crate) fn is_same_folder(&self, meta: &Metadata) -> bool {
        meta.is_dir() && self.inode == Self::of(meta).inode
    }
}

impl Record {
    /// Looks at everything below `root`.
    pub(crate) fn of(root: &Path) -> Result<Self, FsError> {
        let now_ns = SystemClock.now().as_millis() * 1_000_000;
        let mut record = Self { entries: Vec::new() };
        tree::deep(|| record.walk(root, root, now_ns))?;
        Ok(record)
    }

    fn walk(&mut self, root: &Path, folder: &Path, now_ns: i64) -> Result<(), FsError> {
        for (path, meta) in tree::entries(folder)? {
            let mut seen = Seen::of(&meta);
            if meta.is_file() && seen.modified_ns > now_ns - RACY_FOR_NS {
                seen.content = Some(digest(&path)?);
            }
            let relative = path.strip_prefix(root).unwrap_or(&path).to_owned();
            self.entries.push(Entry { path: relative, seen });
            if meta.is_dir() {
                self.walk(root, &path, now_ns)?;
            }
        }
        Ok(())
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), FsError> {
        write_atomic(path, &serde_json::to_vec(self).unwrap_or_default())
    }

    /// By path.
    pub(crate) fn read(path: &Path) -> Result<BTreeMap<PathBuf, Seen>, FsError> {
        let text = fs::read(path).named("read", path)?;
        let record: Self =
            serde_json::from_slice(&text).map_err(std::io::Error::other).named("read", path)?;
        Ok(record.entries.into_iter().map(|entry| (entry.path, entry.seen)).collect())
    }
}

fn digest(path: &Path) -> Result<String, FsError> {
    let mut hasher = blake3::Hasher::new();
    let file = fs::File::open(path).named("read", path)?;
    hasher.update_reader(file).named("read", path)?;
    Ok(hasher.finalize().to_hex().to_string())
}
