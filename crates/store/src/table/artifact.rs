//! `artifact`: which files the attempts of a run gave. Their bytes are objects.

use kiln_model::artifact::Artifact;
use kiln_model::{AttemptId, JobIndex, RunId};

use crate::db::{Db, values};
use crate::store::Store;
use crate::{ArtifactRow, StoreError};

impl Store {
    /// Of every attempt, by job, attempt and path.
    pub async fn artifacts(&self, id: RunId) -> Result<Vec<ArtifactRow>, StoreError> {
        self.read_long(move |db| {
            Box::pin(async move {
                let sql = "SELECT a.job, a.attempt, j.name, a.path, a.n_bytes, a.digest, \
                           a.executable, a.collected_at FROM artifact a JOIN job j ON j.run = a.run AND \
                           j.job = a.job WHERE a.run = ?1";
                let mut rows = db
                    .rows(sql, &values![id], |row| {
                        let job = JobIndex(row.count(0)?);
                        Ok(ArtifactRow {
                            attempt: AttemptId { run: id, job, attempt: row.count(1)? },
                            job: row.word(2)?,
                            artifact: Artifact {
                                path: row.get(3)?,
                                n_bytes: row.count(4)?,
                                digest: kiln_model::layer::Digest::new(row.get::<String>(5)?)
                                    .map_err(|e| StoreError::unreadable("an artifact", e))?,
                                executable: row.get(6)?,
                            },
                            collected_at: row.time(7)?,
                        })
                    })
                    .await?;
                // Here and not in SQL, where the order of texts is the database's own.
                rows.sort_by(|a, b| {
                    (a.attempt, &a.artifact.path).cmp(&(b.attempt, &b.artifact.path))
                });
                Ok(rows)
            })
        })
        .await
    }
}

/// An agent may tell its result twice; a path that is known is replaced.
pub(super) async fn insert(
    db: &mut Db,
    artifacts: &[(AttemptId, Artifact)],
) -> Result<(), StoreError> {
    let sql = "INSERT INTO artifact (run, job, attempt, path, n_bytes, digest, executable) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (run, job, attempt, path) \
               DO UPDATE SET n_bytes = excluded.n_bytes, digest = excluded.digest, \
               executable = excluded.executable, collected_at = NULL";
    let mut rows = Vec::with_capacity(artifacts.len());
    for (AttemptId { run, job, attempt }, artifact) in artifacts {
        let Artifact { path, n_bytes, digest, executable } = artifact;
        let row = values![*run, *job, *attempt, path, *n_bytes, digest.as_str(), *executable];
        rows.push(row.into());
    }
    db.execute_each(sql, &rows).await
}
