//! Which caches there are, and taking them away.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use kiln_model::{ProjectId, RunNumber};
use kiln_stdx::Timestamp;

use super::entry::read;
use super::find::scope_shown;
use crate::{WorkspaceError, Workspaces, tree};

/// A cache that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    /// Among all caches.
    pub name: String,
    pub project: ProjectId,
    /// A branch's name, or `pull/12`, `tag/v1`.
    pub scope: String,
    pub path: String,
    pub key: Option<String>,
    /// The run that left it.
    pub run: RunNumber,
    pub saved_at: Timestamp,
    pub used_at: Timestamp,
    /// Of all files, those that were replaced since included.
    pub n_bytes: u64,
}

impl Workspaces {
    /// Every cache that can be found, in no order. One whose file cannot be read is none.
    pub fn caches(&self) -> Result<Vec<CacheEntry>, WorkspaceError> {
        let mut found = Vec::new();
        for (file, meta) in tree::entries(&self.caches_dir())? {
            let Some(name) = file.file_name().and_then(|name| name.to_str()) else { continue };
            let Some(name) = name.strip_suffix(".json") else { continue };
            let Ok(Some(entry)) = read(&file) else { continue };
            let used = meta.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            let used = used.and_then(|since| i64::try_from(since.as_millis()).ok());
            found.push(CacheEntry {
                name: name.to_owned(),
                project: ProjectId(entry.project),
                scope: scope_shown(&entry.scope).to_owned(),
                run: RunNumber(entry.run),
                saved_at: entry.saved_at,
                used_at: used.map_or(entry.saved_at, Timestamp::from_millis),
                n_bytes: entry.n_bytes(),
                path: entry.path,
                key: entry.key,
            });
        }
        Ok(found)
    }

    /// Forgets a cache. Its files stay until they are collected: a job may be using them.
    pub fn remove_cache(&self, name: &str) -> Result<(), WorkspaceError> {
        Ok(tree::remove(&self.cache_file(name))?)
    }

    /// Every folder of any cache, found or not.
    pub fn cache_pieces(&self) -> Result<Vec<PathBuf>, WorkspaceError> {
        let is_whole = |path: &PathBuf| {
            path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.'))
        };
        let all = tree::entries(&self.cached_dir())?.into_iter().map(|(path, _)| path);
        Ok(all.filter(is_whole).collect())
    }

    /// The folders that a cache is made of now; none when its file is damaged, and so leads nowhere.
    pub fn cache_pieces_of(&self, name: &str) -> Result<Vec<PathBuf>, WorkspaceError> {
        let Ok(Some(entry)) = read(&self.cache_file(name)) else { return Ok(Vec::new()) };
        Ok(entry.pieces.iter().map(|piece| self.piece_dir(&piece.name)).collect())
    }

    /// The folders that all caches are made of now.
    pub fn cache_pieces_in_use(&self) -> Result<HashSet<PathBuf>, WorkspaceError> {
        let mut used = HashSet::new();
        for (file, _) in tree::entries(&self.caches_dir())? {
            let Ok(Some(entry)) = read(&file) else { continue };
            used.extend(entry.pieces.iter().map(|piece| self.piece_dir(&piece.name)));
        }
        Ok(used)
    }
}
