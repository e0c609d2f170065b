//! `job_key`: what the results of jobs depend on.

use kiln_model::layer::Digest;
use kiln_model::{AttemptId, JobIndex, JobKey, ProjectId, RunId};

use crate::StoreError;
use crate::db::{Db, Row, values};
use crate::store::Store;
use crate::{JobKeyRow, KeyScope};

/// A few are enough: of those that cannot be used, the newest are looked at.
const FOUND_MAX: u32 = 4;

const BY_KEY: &str = "SELECT run, job, attempt FROM job_key WHERE project = ?1 AND key = ?2 AND \
                      usable AND scope IN ('', ?3) ORDER BY run DESC, job DESC, attempt DESC LIMIT ?4";

const BEFORE: &str = "SELECT run, job, attempt, parts FROM job_key WHERE project = ?1 AND \
                      name = ?2 AND scope IN ('', ?3) AND run < ?4 \
                      ORDER BY run DESC, job DESC, attempt DESC LIMIT 1";

impl Store {
    /// Successful attempts of a project whose result depends on the same, the newest first. Those of
    /// another scope are left out.
    pub async fn attempts_by_key(
        &self,
        project: ProjectId,
        key: &Digest,
        scope: &KeyScope,
    ) -> Result<Vec<AttemptId>, StoreError> {
        let (key, scope) = (key.clone(), scope.clone());
        self.read(move |db| {
            Box::pin(async move {
                let values = values![project, key.as_str(), scope.as_str(), FOUND_MAX];
                db.rows(BY_KEY, &values, attempt).await
            })
        })
        .await
    }

    /// The last attempt of a job of this name in an earlier run, and the parts of its key.
    pub async fn key_before(
        &self,
        project: ProjectId,
        name: &str,
        scope: &KeyScope,
        run: RunId,
    ) -> Result<Option<(AttemptId, Digest)>, StoreError> {
        let (name, scope) = (name.to_owned(), scope.clone());
        self.read(move |db| {
            Box::pin(async move {
                let values = values![project, &name, scope.as_str(), run];
                db.row(BEFORE, &values, |row| Ok((attempt(row)?, digest(row, 3)?))).await
            })
        })
        .await
    }

    /// The key that an attempt ended with.
    pub async fn key_of(&self, id: AttemptId) -> Result<Option<JobKey>, StoreError> {
        self.read(move |db| {
            Box::pin(async move {
                let sql =
                    "SELECT key, parts FROM job_key WHERE run = ?1 AND job = ?2 AND attempt = ?3";
                let AttemptId { run, job, attempt } = id;
                let read =
                    |row: &Row<'_>| Ok(JobKey { digest: digest(row, 0)?, parts: digest(row, 1)? });
                db.row(sql, &values![run, job, attempt], read).await
            })
        })
        .await
    }
}

fn attempt(row: &Row<'_>) -> Result<AttemptId, StoreError> {
    let (run, job) = (RunId(row.get(0)?), JobIndex(row.count(1)?));
    Ok(AttemptId { run, job, attempt: row.count(2)? })
}

fn digest(row: &Row<'_>, at: usize) -> Result<Digest, StoreError> {
    Digest::new(row.get::<String>(at)?).map_err(|e| StoreError::unreadable("a job's key", e))
}

/// An agent may tell its result twice: the row is replaced.
pub(super) async fn insert(db: &mut Db, key: Option<&JobKeyRow>) -> Result<(), StoreError> {
    let Some(JobKeyRow { attempt, project, name, key, scope, usable }) = key else {
        return Ok(());
    };
    let sql = "INSERT INTO job_key (run, job, attempt, project, name, key, scope, parts, usable) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (run, job, attempt) \
               DO UPDATE SET key = excluded.key, parts = excluded.parts, usable = excluded.usable";
    let AttemptId { run, job, attempt } = *attempt;
    let (digest, parts) = (key.digest.as_str(), key.parts.as_str());
    let name = name.as_str();
    let row = values![run, job, attempt, *project, name, digest, scope.as_str(), parts, *usable];
    db.execute(sql, &row).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::explain::{explain, follows};

    #[test]
    fn keys_are_found_by_an_index() {
        let values = values![ProjectId(1), "k", "", 4_u32];
        follows(&explain(BY_KEY, &values), "INDEX job_key_key (project=? AND key=?)");
        let values = values![ProjectId(1), "test", "", RunId(9)];
        follows(&explain(BEFORE, &values), "INDEX job_key_name (project=? AND name=? AND run<?)");
    }
}
