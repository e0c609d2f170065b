//! `job`: one row for each job of a run, as its page shows it.

use kiln_model::{JobIndex, RunId};

use crate::db::{Db, to_json, values};
use crate::store::Store;
use crate::{JobRow, StoreError};

impl Store {
    /// In the order of the plan.
    pub async fn jobs(&self, id: RunId) -> Result<Vec<JobRow>, StoreError> {
        self.read_long(move |db| {
            Box::pin(async move {
                let sql = "SELECT job, name, state, reason, attempt, started_at, finished_at, \
                           log_bytes FROM job WHERE run = ?1 ORDER BY job";
                db.rows(sql, &values![id], |row| {
                    Ok(JobRow {
                        job: JobIndex(row.count(0)?),
                        name: row.word(1)?,
                        state: row.word(2)?,
                        reason: row.optional_json(3)?,
                        attempt: row.count(4)?,
                        started_at: row.time(5)?,
                        finished_at: row.time(6)?,
                        log_bytes: row.count(7)?,
                    })
                })
                .await
            })
        })
        .await
    }
}

/// Writes rows; those of the same jobs are replaced.
pub(super) async fn upsert(db: &mut Db, run: RunId, jobs: &[JobRow]) -> Result<(), StoreError> {
    let sql = "INSERT INTO job (run, job, name, state, reason, attempt, started_at, finished_at, \
               log_bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
               ON CONFLICT (run, job) DO UPDATE SET name = excluded.name, \
               state = excluded.state, reason = excluded.reason, attempt = excluded.attempt, \
               started_at = excluded.started_at, finished_at = excluded.finished_at, \
               log_bytes = excluded.log_bytes";
    let mut rows = Vec::with_capacity(jobs.len());
    for job in jobs {
        let row = values![
            run,
            job.job,
            job.name.as_str(),
            job.state.as_str(),
            job.reason.as_ref().map(to_json).transpose()?,
            job.attempt,
            job.started_at,
            job.finished_at,
            job.log_bytes,
        ];
        rows.push(row.into());
    }
    db.execute_each(sql, &rows).await
}
