//! What is kept and what may go: pins, and the rows of runs, logs and artifacts that are collected.
//!
//! Always: rows say that a thing is gone before it is; a run that is removed is hidden first and then
//! taken apart in small pieces, so that nobody sees half of it and no writer waits for long. A run
//! that is not over, or is pinned, is never touched: each statement asks again.

use std::collections::{HashMap, HashSet};

use kiln_model::layer::{Digest, LayerId};
use kiln_model::{AttemptId, Event, EventKind, ProjectId, RunId, RunNumber};
use kiln_stdx::Timestamp;

use crate::db::{Db, Engine, Row, values};
use crate::store::{Order, Store};
use crate::{ArtifactUsage, KeepRow, OldRuns, ProjectUsage, StoreError};

/// Rows of one run that go in one transaction: some milliseconds of the writer's time.
const PIECE_ROWS: u32 = 2_000;

/// Free pages of SQLite's file that are given back in one go, and those that stay for what comes.
const PAGES_AT_ONCE: i64 = 500;
const PAGES_KEPT: i64 = 1_000;

macro_rules! select_keep {
    ($($tail:literal),*) => {
        concat!(
            "SELECT r.id, r.project, r.number, r.state, r.finished_at, r.pinned_at, p.last_number \
             FROM run r CROSS JOIN project p WHERE p.id = r.project AND r.gone_at IS NULL "
            $(, $tail)*
        )
    };
}

/// Over, not pinned, and old by age or by number.
macro_rules! select_old {
    ($tail:literal) => {
        select_keep!(
            "AND r.project = ?1 AND r.number > ?2 AND r.finished_at IS NOT NULL AND \
             r.pinned_at IS NULL AND r.state NOT IN ('queued', 'running', 'waiting') AND \
             ((r.finished_at < ?3 AND r.number <= ?4) OR r.number <= ?5) ",
            $tail,
            " ORDER BY r.number LIMIT ?6"
        )
    };
}

const OLD: &str = select_old!("");
const OLD_WITH_LOGS: &str =
    select_old!("AND (r.logs_collected_at IS NULL OR r.logs_collected_at < r.finished_at)");
const OLD_WITH_ARTIFACTS: &str = select_old!(
    "AND EXISTS (SELECT 1 FROM artifact a WHERE a.run = r.id AND a.collected_at IS NULL)"
);

/// In every statement that takes something from a run.
macro_rules! if_free {
    ($statement:literal) => {
        concat!(
            $statement,
            " AND pinned_at IS NULL AND state NOT IN ('queued', 'running', 'waiting')"
        )
    };
}

impl Store {
    /// Keeps a run with all that it has; `None` lets go. By whom and when stays in its row. False: it
    /// was so already.
    pub async fn pin(
        &self,
        id: RunId,
        pin: Option<(Timestamp, String)>,
    ) -> Result<bool, StoreError> {
        self.write(Order::Run(id), move |db| {
            Box::pin(async move {
                let n_rows = match &pin {
                    Some((at, by)) => {
                        let sql = "UPDATE run SET pinned_at = ?2, pinned_by = ?3 \
                                   WHERE id = ?1 AND pinned_at IS NULL AND gone_at IS NULL";
                        db.execute(sql, &values![id, *at, by]).await?
                    }
                    None => {
                        let sql = "UPDATE run SET pinned_at = NULL, pinned_by = NULL \
                                   WHERE id = ?1 AND pinned_at IS NOT NULL";
                        db.execute(sql, &values![id]).await?
                    }
                };
                let sql = "SELECT id FROM run WHERE id = ?1 AND gone_at IS NULL";
                match db.exists(sql, &values![id]).await? {
                    true => Ok(n_rows > 0),
                    false => Err(StoreError::NotFound("run")),
                }
            })
        })
        .await
    }

    /// Whether a project has had a run of this number: one that is not there now was collected.
    pub async fn has_had_run(
        &self,
        project: ProjectId,
        number: RunNumber,
    ) -> Result<bool, StoreError> {
        self.read(move |db| {
            Box::pin(async move {
                let sql = "SELECT id FROM project WHERE id = ?1 AND last_number >= ?2";
                Ok(number.0 > 0 && db.exists(sql, &values![project, number]).await?)
            })
        })
        .await
    }

    /// What decides whether these runs may lose something. Those that are not there are left out.
    pub async fn keep_rows(&self, ids: Vec<RunId>) -> Result<Vec<KeepRow>, StoreError> {
        self.read_long(move |db| {
            Box::pin(async move {
                let mut found = Vec::with_capacity(ids.len());
                for id in ids {
                    found.extend(db.row(select_keep!("AND r.id = ?1"), &values![id], keep).await?);
                }
                Ok(found)
            })
        })
        .await
    }

    /// Runs that nothing may be taken from: pinned ones, and those that are not over; and the runs
    /// whose layers they use.
    pub async fn held_runs(&self) -> Result<HashSet<RunId>, StoreError> {
        self.read_long(|db| Box::pin(held(db))).await
    }

    /// Runs of a project that are old, in order of their numbers.
    pub async fn old_runs(&self, which: OldRuns) -> Result<Vec<KeepRow>, StoreError> {
        self.read_long(move |db| {
            Box::pin(async move {
                let OldRuns { project, after, before, age_up_to, up_to, kind, limit } = which;
                let sql = match kind {
                    crate::OldKind::Rows => OLD,
                    crate::OldKind::Logs => OLD_WITH_LOGS,
                    crate::OldKind::Artifacts => OLD_WITH_ARTIFACTS,
                };
                let values = values![project, after, before, age_up_to, up_to, limit];
                db.rows(sql, &values, keep).await
            })
        })
        .await
    }

    /// The artifacts of a run that are still there.
    pub async fn kept_artifacts(&self, id: RunId) -> Result<Vec<(Digest, u64)>, StoreError> {
        self.read_long(move |db| {
            Box::pin(async move {
                let sql =
                    "SELECT digest, n_bytes FROM artifact WHERE run = ?1 AND collected_at IS NULL";
                db.rows(sql, &values![id], |row| Ok((digest(row, 0)?, row.count(1)?))).await
            })
        })
        .await
    }

    /// Marks the artifacts of a run as collected, and gives the digests that no row names any more:
    /// their objects may go. None for a run that is pinned or not over.
    pub async fn collect_artifacts(
        &self,
        id: RunId,
        at: Timestamp,
    ) -> Result<Vec<Digest>, StoreError> {
        self.write(Order::Run(id), move |db| {
            Box::pin(async move {
                let sql = if_free!("SELECT id FROM run WHERE id = ?1");
                if !db.exists(sql, &values![id]).await? {
                    return Ok(Vec::new());
                }
                let sql = "SELECT DISTINCT digest FROM artifact \
                           WHERE run = ?1 AND collected_at IS NULL";
                let digests = db.rows(sql, &values![id], |row| digest(row, 0)).await?;
                let sql = "UPDATE artifact SET collected_at = ?2 \
                           WHERE run = ?1 AND collected_at IS NULL";
                db.execute(sql, &values![id, at]).await?;
                unnamed(db, digests).await
            })
        })
        .await
    }

    /// Marks a run's logs as collected. False: it is pinned, or not over.
    pub async fn collect_logs(&self, id: RunId, at: Timestamp) -> Result<bool, StoreError> {
        self.write(Order::Run(id), move |db| {
            Box::pin(async move {
                let sql =
                    if_free!("UPDATE run SET logs_collected_at = ?2, log_bytes = 0 WHERE id = ?1");
                Ok(db.execute(sql, &values![id, at]).await? > 0)
            })
        })
        .await
    }

    /// Hides a run for good: [`Store::remove_hidden`] takes its rows apart. False: it is pinned, or
    /// not over.
    pub async fn hide_run(&self, id: RunId, at: Timestamp) -> Result<bool, StoreError> {
        self.write(Order::Run(id), move |db| {
            Box::pin(async move {
                let sql = if_free!("UPDATE run SET gone_at = ?2 WHERE id = ?1");
                Ok(db.execute(sql, &values![id, at]).await? > 0)
            })
        })
        .await
    }

    /// Runs that are hidden and still have rows.
    pub async fn hidden_runs(&self) -> Result<Vec<RunId>, StoreError> {
        self.read_long(|db| {
            Box::pin(async move {
                let sql = "SELECT id FROM run WHERE gone_at IS NOT NULL ORDER BY id";
                db.rows(sql, &[], |row| Ok(RunId(row.get(0)?))).await
            })
        })
        .await
    }

    /// Removes some rows of a hidden run. True when it is all gone; with the objects that no row names
    /// any more.
    pub async fn remove_hidden(&self, id: RunId) -> Result<(bool, Vec<Digest>), StoreError> {
        self.write(Order::Run(id), move |db| Box::pin(async move { remove_piece(db, id).await }))
            .await
    }

    /// Of these objects, those that no row names.
    pub async fn unnamed(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, StoreError> {
        self.read_long(move |db| Box::pin(async move { unnamed(db, digests).await })).await
    }

    /// Of these objects, those that are named by other runs than these, or as parts of a key.
    pub async fn named_by_others(
        &self,
        digests: Vec<Digest>,
        runs: HashSet<RunId>,
    ) -> Result<HashSet<Digest>, StoreError> {
        self.read_long(move |db| {
            Box::pin(async move {
                let sql = "SELECT DISTINCT run FROM artifact \
                           WHERE digest = ?1 AND collected_at IS NULL";
                let parts = "SELECT run FROM job_key WHERE parts = ?1 LIMIT 1";
                let mut named = HashSet::new();
                for digest in digests {
                    let by: Vec<RunId> = db
                        .rows(sql, &values![digest.as_str()], |row| Ok(RunId(row.get(0)?)))
                        .await?;
                    if by.iter().any(|run| !runs.contains(run))
                        || db.exists(parts, &values![digest.as_str()]).await?
                    {
                        named.insert(digest);
                    }
                }
                Ok(named)
            })
        })
        .await
    }

    /// When the oldest run that is not over began to be; `None`: all are over. What such a run has put
    /// into the store may not have a row yet.
    pub async fn active_since(&self) -> Result<Option<Timestamp>, StoreError> {
        let active = self.active_runs().await?;
        Ok(active.iter().map(|run| run.started_at.unwrap_or(run.created_at)).min())
    }

    /// Runs that are over and whose logs are still as they were written, with the time of their end;
    /// the oldest first.
    pub async fn unpacked_runs(&self, limit: u32) -> Result<Vec<(RunId, Timestamp)>, StoreError> {
        self.read_long(move |db| {
            Box::pin(async move {
                let sql = "SELECT id, finished_at FROM run WHERE log_bytes IS NULL AND \
                           finished_at IS NOT NULL AND gone_at IS NULL AND \
                           state NOT IN ('queued', 'running', 'waiting') \
                           ORDER BY finished_at LIMIT ?1";
                let read =
                    |row: &Row<'_>| Ok((RunId(row.get(0)?), row.time(1)?.unwrap_or_default()));
                db.rows(sql, &values![limit], read).await
            })
        })
        .await
    }

    /// What a run's logs take on disk now that they are packed. Forgotten when the run goes on.
    pub async fn set_packed(&self, id: RunId, n_bytes: u64) -> Result<(), StoreError> {
        self.write(Order::Run(id), move |db| {
            Box::pin(async move {
                let sql = if_over("UPDATE run SET log_bytes = ?2 WHERE id = ?1");
                db.execute(&sql, &values![id, n_bytes]).await.map(drop)
            })
        })
        .await
    }

    /// What the rows of each project know of its use of the disk.
    pub async fn usage(&self) -> Result<Vec<ProjectUsage>, StoreError> {
        self.read_long(|db| Box::pin(usage(db))).await
    }

    /// Which project each of these runs is of.
    pub async fn projects_of(
        &self,
        ids: Vec<RunId>,
    ) -> Result<HashMap<RunId, ProjectId>, StoreError> {
        let rows = self.keep_rows(ids).await?;
        Ok(rows.into_iter().map(|row| (row.id, row.project)).collect())
    }

    /// Gives some of the database's free pages back to the disk; true when there may be more. Only
    /// SQLite's file needs it, and only one that was made so (since 0003): an older file keeps its
    /// free pages for what comes.
    pub async fn give_back_pages(&self) -> Result<bool, StoreError> {
        self.write(Order::Any, |db| {
            Box::pin(async move {
                let Engine::Sqlite(sqlite) = &db.engine else { return Ok(false) };
                let failed = |e: rusqlite::Error| crate::sqlite::error::named(&db.place, &e);
                let number = |sql: &str| {
                    sqlite.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(failed)
                };
                const INCREMENTAL: i64 = 2;
                if number("PRAGMA auto_vacuum")? != INCREMENTAL {
                    return Ok(false);
                }
                let free = number("PRAGMA freelist_count")?;
                if free <= PAGES_KEPT {
                    return Ok(false);
                }
                let n_pages = (free - PAGES_KEPT).min(PAGES_AT_ONCE);
                let sql = format!("PRAGMA incremental_vacuum({n_pages})");
                sqlite.execute_batch(&sql).map_err(failed)?;
                Ok(free - n_pages > PAGES_KEPT)
            })
        })
        .await
    }
}

fn if_over(statement: &str) -> String {
    format!("{statement} AND state NOT IN ('queued', 'running', 'waiting')")
}

async fn held(db: &mut Db) -> Result<HashSet<RunId>, StoreError> {
    let id = |row: &Row<'_>| Ok(RunId(row.get(0)?));
    let active = "SELECT id FROM run WHERE state IN ('queued', 'running', 'waiting')";
    let pinned = "SELECT id FROM run WHERE pinned_at IS NOT NULL";
    let mut held: HashSet<RunId> = db.rows(active, &[], id).await?.into_iter().collect();
    held.extend(db.rows(pinned, &[], id).await?);
    // The word is in no other event by itself; in a text of a person's it costs a look.
    let reused = "SELECT body FROM event WHERE run = ?1 AND body LIKE '%reused%'";
    for run in held.clone() {
        let events: Vec<Event> = db.rows(reused, &values![run], |row| row.json(0)).await?;
        for event in events {
            if let EventKind::Reused { layer: Some(LayerId::Attempt(layer)), .. } = event.kind {
                held.extend(layer.parse::<AttemptId>().ok().map(|attempt| attempt.run));
            }
        }
    }
    Ok(held)
}

async fn unnamed(db: &mut Db, digests: Vec<Digest>) -> Result<Vec<Digest>, StoreError> {
    let artifact = "SELECT run FROM artifact WHERE digest = ?1 AND collected_at IS NULL LIMIT 1";
    let parts = "SELECT run FROM job_key WHERE parts = ?1 LIMIT 1";
    let mut free = Vec::new();
    for digest in digests {
        let named = db.exists(artifact, &values![digest.as_str()]).await?
            || db.exists(parts, &values![digest.as_str()]).await?;
        if !named {
            free.push(digest);
        }
    }
    Ok(free)
}

async fn remove_piece(db: &mut Db, id: RunId) -> Result<(bool, Vec<Digest>), StoreError> {
    let sql = "SELECT id FROM run WHERE id = ?1 AND gone_at IS NOT NULL";
    if !db.exists(sql, &values![id]).await? {
        return Ok((true, Vec::new()));
    }
    let sql = "DELETE FROM event WHERE run = ?1 AND seq < \
               (SELECT MIN(seq) FROM event WHERE run = ?1) + ?2";
    if db.execute(sql, &values![id, PIECE_ROWS]).await? >= u64::from(PIECE_ROWS) {
        return Ok((false, Vec::new()));
    }
    let sql = "SELECT digest FROM artifact WHERE run = ?1 AND collected_at IS NULL \
               UNION SELECT parts FROM job_key WHERE run = ?1";
    let digests = db.rows(sql, &values![id], |row| digest(row, 0)).await?;
    // The rest of its rows go with it: as many as it has jobs and artifacts.
    db.execute("DELETE FROM run WHERE id = ?1", &values![id]).await?;
    Ok((true, unnamed(db, digests).await?))
}

async fn usage(db: &mut Db) -> Result<Vec<ProjectUsage>, StoreError> {
    // PostgreSQL sums BIGINT to NUMERIC.
    let sql = "SELECT p.id, p.name, COUNT(r.id), COUNT(r.pinned_at), CAST(SUM(COALESCE(r.log_bytes, \
               (SELECT CAST(SUM(j.log_bytes) AS BIGINT) FROM job j WHERE j.run = r.id), 0)) \
               AS BIGINT) FROM project p LEFT JOIN run r ON r.project = p.id AND r.gone_at IS NULL \
               GROUP BY p.id, p.name ORDER BY p.name";
    let mut all = db
        .rows(sql, &[], |row| {
            Ok(ProjectUsage {
                project: ProjectId(row.get(0)?),
                name: row.word(1)?,
                n_runs: row.count(2)?,
                n_pinned: row.count(3)?,
                log_bytes: row.get::<Option<i64>>(4)?.unwrap_or(0).unsigned_abs(),
                artifacts: ArtifactUsage::default(),
            })
        })
        .await?;
    // An object that two runs name is there once.
    let sql = "SELECT project, COUNT(*), CAST(SUM(n_bytes) AS BIGINT) FROM (SELECT DISTINCT \
               r.project, a.digest, a.n_bytes FROM artifact a JOIN run r ON r.id = a.run \
               WHERE a.collected_at IS NULL) AS kept GROUP BY project";
    let read = |row: &Row<'_>| {
        let usage = ArtifactUsage { n_objects: row.count(1)?, n_bytes: row.count(2)? };
        Ok((ProjectId(row.get(0)?), usage))
    };
    let artifacts: HashMap<_, _> = db.rows(sql, &[], read).await?.into_iter().collect();
    for usage in &mut all {
        usage.artifacts = artifacts.get(&usage.project).copied().unwrap_or_default();
    }
    Ok(all)
}

fn digest(row: &Row<'_>, at: usize) -> Result<Digest, StoreError> {
    Digest::new(row.get::<String>(at)?).map_err(|e| StoreError::unreadable("a digest", e))
}

fn keep(row: &Row<'_>) -> Result<KeepRow, StoreError> {
    Ok(KeepRow {
        id: RunId(row.get(0)?),
        project: ProjectId(row.get(1)?),
        number: RunNumber(row.get(2)?),
        state: row.word(3)?,
        finished_at: row.time(4)?,
        pinned_at: row.time(5)?,
        last_number: RunNumber(row.get(6)?),
    })
}
