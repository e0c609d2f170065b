//! Names of caches, and the files that say which pieces a cache has.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kiln_model::ProjectId;
use kiln_model::plan::CacheRule;
use kiln_stdx::Timestamp;
use kiln_stdx::fs::{FsError, Named, write_atomic};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
use serde::{Deserialize, Serialize};

use crate::Workspaces;
use crate::source::is_name;

/// What a cache's file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub project: i64,
    pub scope: String,
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The number of the run that left it.
    pub run: i64,
    pub saved_at: Timestamp,
    /// Lowest first.
    pub pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Piece {
    /// A folder in `cached`.
    pub name: String,
    pub n_bytes: u64,
}

impl Entry {
    pub fn n_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.n_bytes).sum()
    }

    pub fn name(&self) -> String {
        name(ProjectId(self.project), &self.scope, &self.path, self.key.as_deref())
    }
}

/// The name of a cache. Lengths go in too, so that no two lists of parts give the same text.
fn name(project: ProjectId, scope: &str, path: &str, key: Option<&str>) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&project.0.to_le_bytes());
    for part in [scope, path, key.unwrap_or_default()] {
        hasher.update(&part.len().to_le_bytes()).update(part.as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

pub(super) fn name_of(project: ProjectId, scope: &str, rule: &CacheRule) -> String {
    name(project, scope, &rule.path, rule.key.as_deref())
}

impl Workspaces {
    pub(super) fn caches_dir(&self) -> PathBuf {
        self.root().join("caches")
    }

    pub(crate) fn cached_dir(&self) -> PathBuf {
        self.root().join("cached")
    }

    pub(super) fn cache_file(&self, name: &str) -> PathBuf {
        self.caches_dir().join(format!("{name}.json"))
    }

    pub(super) fn piece_dir(&self, name: &str) -> PathBuf {
        self.cached_dir().join(name)
    }

    /// The cache of this name, if it is there and whole.
    ///
    /// # Errors
    ///
    /// It is damaged, and how: a part of a sentence.
    pub(super) fn cache_entry(&self, name: &str) -> Result<Option<Entry>, String> {
        let entry = match read(&self.cache_file(name)) {
            Ok(None) => return Ok(None),
            Ok(Some(entry)) => entry,
            Err(error) => return Err(format!("{error}: {}", error.cause)),
        };
        if entry.name() != name {
            return Err("its file is another cache's".to_owned());
        }
        let is_there = |piece: &Piece| {
            let meta = fs::symlink_metadata(self.piece_dir(&piece.name));
            is_name(&piece.name) && meta.is_ok_and(|meta| meta.is_dir())
        };
        match entry.pieces.iter().find(|piece| !is_there(piece)) {
            Some(_) => Err("some of its files are gone".to_owned()),
            None => Ok(Some(entry)),
        }
    }

    pub(super) fn write_entry(&self, entry: &Entry) -> Result<(), FsError> {
        let text = serde_json::to_vec(entry).unwrap_or_default();
        write_atomic(&self.cache_file(&entry.name()), &text)
    }

    /// It was of use just now: what was used longest ago is collected first.
    pub(super) fn touch_cache(&self, name: &str) {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        // Best effort: it only looks older than it is.
        let _ = utimensat(CWD, self.cache_file(name), &times, AtFlags::empty());
    }
}

/// What a cache's file says; `None` when there is none.
pub(super) fn read(file: &Path) -> Result<Option<Entry>, FsError> {
    let text = match fs::read(file) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.named("read", file)?,
    };
    let damaged = |cause| io::Error::new(io::ErrorKind::InvalidData, cause);
    serde_json::from_slice(&text).map(Some).map_err(damaged).named("read", file)
}
