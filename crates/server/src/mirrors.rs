//! Each project's bare mirror on this machine, opened once.
//!
//! Git is read by programs and files, so everything here runs on a blocking thread.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use kiln_git::{GitError, Location, Mirror};
use kiln_model::ProjectId;
use kiln_store::ProjectRow;

use crate::runs::Places;

/// Cheap to clone.
#[derive(Clone)]
pub struct Mirrors {
    places: Places,
    open: Arc<Mutex<HashMap<ProjectId, Arc<Mirror>>>>,
}

impl Mirrors {
    pub fn new(places: Places) -> Self {
        Self { places, open: Arc::default() }
    }

    /// Reads or fetches with a project's mirror, which is made when it is not there.
    pub async fn with<T: Send + 'static>(
        &self,
        project: &ProjectRow,
        work: impl FnOnce(&Mirror) -> Result<T, GitError> + Send + 'static,
    ) -> Result<T, GitError> {
        let (mirrors, id, repo) = (self.clone(), project.id, project.repo.clone());
        let done = tokio::task::spawn_blocking(move || {
            let mirror = mirrors.open(id, &repo)?;
            work(&mirror)
        });
        // A panic is our bug, and this caller's trouble only.
        done.await.unwrap_or_else(|panic| {
            Err(GitError::Failed { doing: "reading the repository", message: panic.to_string() })
        })
    }

    /// Forgets a project's mirror and removes its files.
    pub async fn remove(&self, project: ProjectId) {
        let mirror = self.lock().remove(&project);
        let at = self.places.mirror(project);
        // Best effort: a left-over mirror costs disk and nothing else, and ids are never used again.
        let _ = tokio::task::spawn_blocking(move || {
            if let Some(mirror) = mirror {
                mirror.rest();
            }
            std::fs::remove_dir_all(at)
        })
        .await;
    }

    fn open(&self, id: ProjectId, repo: &str) -> Result<Arc<Mirror>, GitError> {
        let open = self.lock().get(&id).cloned();
        match open {
            Some(mirror) if mirror.is_whole() => return Ok(mirror),
            // Somebody has removed it, or a part of it. It is made again.
            Some(damaged) => {
                damaged.rest();
                self.lock().remove(&id);
            }
            None => {}
        }
        // Not under the lock: making a mirror takes milliseconds, and two makers are harmless.
        let mirror = Arc::new(Mirror::open(&self.places.mirror(id), &Location::parse(repo)?)?);
        Ok(self.lock().entry(id).or_insert(mirror).clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ProjectId, Arc<Mirror>>> {
        self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
