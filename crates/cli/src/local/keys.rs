//! Jobs with the same key in several `kiln run` of one repository are run once.
//!
//! Within a process the runs themselves see to that. Between processes, whoever runs a job with a key
//! holds a file of that key, which the kernel gives back when the process ends, however it ends.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kiln_api::agent::{Assignment, LeaseError};
use kiln_model::layer::Digest;
use kiln_model::{LeaseId, ProjectId};
use kiln_stdx::fs::{FsError, Named};
use rustix::fs::{FlockOperation, flock};

/// Between two looks at a key that another process holds.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The keys of one process's jobs.
pub struct Keys {
    folder: PathBuf,
    project: ProjectId,
    held: Mutex<HashMap<LeaseId, (PathBuf, File)>>,
    /// Those that wait for nobody.
    alone: Mutex<HashSet<LeaseId>>,
}

impl Keys {
    pub fn new(folder: &Path, project: ProjectId) -> Self {
        let folder = folder.to_owned();
        Self { folder, project, held: Mutex::default(), alone: Mutex::default() }
    }

    pub fn want(&self, assignment: &Assignment) {
        if assignment.no_cache {
            lock(&self.alone).insert(assignment.lease);
        }
    }

    /// Holds the key for a lease. True when another process held it until now, and may have left a
    /// result.
    pub async fn hold(&self, lease: LeaseId, key: &Digest) -> Result<bool, LeaseError> {
        if lock(&self.held).contains_key(&lease) || lock(&self.alone).contains(&lease) {
            return Ok(false);
        }
        let path = self.folder.join(format!("key-{}-{key}", self.project));
        let mut waited = false;
        loop {
            let held = try_hold(&path);
            if let Some(file) = held.map_err(|error| LeaseError::Unavailable(error.to_string()))? {
                lock(&self.held).insert(lease, (path, file));
                return Ok(waited);
            }
            waited = true;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub fn release(&self, lease: LeaseId) {
        lock(&self.alone).remove(&lease);
        if let Some((path, held)) = lock(&self.held).remove(&lease) {
            // While it is held: who opened it meanwhile notices that it has no name any more.
            let _ = fs::remove_file(path);
            drop(held);
        }
    }
}

fn try_hold(path: &Path) -> Result<Option<File>, FsError> {
    loop {
        let file = File::create(path).named("open", path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if is_at(&file, path) => return Ok(Some(file)),
            // Its holder has just removed it; the next one is another file.
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(cause) => return Err(std::io::Error::from(cause)).named("lock", path),
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_held_once_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let held = try_hold(&path).unwrap().unwrap();
        assert!(try_hold(&path).unwrap().is_none());
        fs::remove_file(&path).unwrap();
        // Another may hold the next file of that name before the first one is let go.
        let next = try_hold(&path).unwrap().unwrap();
        drop(held);
        assert!(try_hold(&path).unwrap().is_none());
        drop(next);
        assert!(try_hold(&path).unwrap().is_some());
    }
}
