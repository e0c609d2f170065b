//! `run`: one row for each run, as lists show it.
//!
//! Always: a project's runs are numbered from 1 without gaps; `last_seq` is the `seq` of the run's
//! last event. Only [`Store::append`] changes a run.

use std::cmp::Reverse;
use std::collections::HashMap;

use kiln_model::{Event, EventKind, ProjectId, ProjectName, RunId, RunNumber};

use crate::db::{Db, Row, Value, to_json, values};
use crate::store::{Lasts, Order, Store};
use crate::table::{artifact, event, job, job_key, plan, project};
use crate::{Append, NewRun, Pin, RunFilter, RunRow, RunUpdate, StoreError};

/// As [`read`] reads them.
macro_rules! columns {
    () => {
        "r.id, r.project, p.name, r.number, r.state, r.reason, r.trigger, r.source, \
         r.created_at, r.started_at, r.finished_at, r.n_jobs, r.n_jobs_over, r.last_seq, \
         r.pinned_at, r.pinned_by, r.logs_collected_at"
    };
}

// CROSS JOIN keeps SQLite from choosing the small table `project` for the outer loop, which would
// lose the order of `run`'s indexes and make it sort all runs. PostgreSQL reads it as any join.
macro_rules! select_runs {
    ($tail:literal) => {
        concat!(
            "SELECT ",
            columns!(),
            " FROM run r CROSS JOIN project p WHERE p.id = r.project AND r.gone_at IS NULL ",
            $tail
        )
    };
}

/// Numbers have no gaps, so which runs are the newest is known without looking.
const NEWEST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM project p CROSS JOIN run r ",
    "WHERE r.project = p.id AND r.number > p.last_number - ?1 AND r.gone_at IS NULL"
);

const ACTIVE: &str = select_runs!("AND r.state IN ('queued', 'running', 'waiting') ORDER BY r.id");

impl Store {
    pub async fn run(&self, id: RunId) -> Result<RunRow, StoreError> {
        self.read(move |db| {
            Box::pin(async move {
                let found = db.row(select_runs!("AND r.id = ?1"), &values![id], read).await?;
                found.ok_or(StoreError::NotFound("run"))
            })
        })
        .await
    }

    pub async fn run_by_number(
        &self,
        project: ProjectId,
        number: RunNumber,
    ) -> Result<RunRow, StoreError> {
        self.read(move |db| {
            Box::pin(async move {
                let sql = select_runs!("AND r.project = ?1 AND r.number = ?2");
                let found = db.row(sql, &values![project, number], read).await?;
                found.ok_or(StoreError::NotFound("run"))
            })
        })
        .await
    }

    /// Newest first.
    pub async fn runs(&self, filter: RunFilter) -> Result<Vec<RunRow>, StoreError> {
        self.read(move |db| {
            Box::pin(async move {
                let (sql, values) = list(&filter);
                db.rows(&sql, &values, read).await
            })
        })
        .await
    }

    /// Not over yet, the oldest first; an index by state finds them, whatever the number of old runs.
    pub async fn active_runs(&self) -> Result<Vec<RunRow>, StoreError> {
        self.read_long(move |db| Box::pin(async move { db.rows(ACTIVE, &[], read).await })).await
    }

    /// The one way in which a run changes: appends events whose `seq` continue the run's, and
    /// writes the rows that follow from them, in one transaction.
    ///
    /// Given at once (queued in order); durable when the future resolves, and done also when
    /// nobody waits for it. Fails with `Conflict` when `append.events[0].seq` is not the run's
    /// next. Without events the rows are written whatever the run's `seq` is.
    ///
    /// Durable means: after the death of this process always; after a loss of power too, except for
    /// events that nothing rests on until a later one (see [`lasts`]).
    pub fn append(
        &self,
        append: Append,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + 'static + use<> {
        let order = Order::Run(append.run);
        self.write_lasting(lasts(&append.events), order, move |db| {
            Box::pin(async move { apply(db, &append).await })
        })
    }
}

/// Nothing runs because of a lease or a key until its `Started` is durable, and how a step goes decides
/// nothing until its job's `Finished`: both stand behind these in the order of rows, and carry them.
fn lasts(events: &[Event]) -> Lasts {
    let of = |event: &Event| match event.kind {
        EventKind::Leased { .. }
        | EventKind::Keyed { .. }
        | EventKind::Awaited { .. }
        | EventKind::Service { .. }
        | EventKind::StepStarted { .. }
        | EventKind::StepFinished { .. } => Lasts::UntilPowerFails,
        _ => Lasts::Always,
    };
    events.iter().map(of).max().unwrap_or(Lasts::Always)
}

/// The newest runs of each project, the newest first.
pub(super) async fn newest(
    db: &mut Db,
    n_runs: u32,
) -> Result<HashMap<ProjectId, Vec<RunRow>>, StoreError> {
    let mut runs = db.rows(NEWEST, &values![n_runs], read).await?;
    runs.sort_by_key(|run| Reverse(run.number));
    let mut by_project: HashMap<_, Vec<_>> = HashMap::new();
    for run in runs {
        by_project.entry(run.project).or_default().push(run);
    }
    Ok(by_project)
}

/// Numbers and writes new runs with everything that belongs to them.
pub(super) async fn add(
    db: &mut Db,
    project: ProjectId,
    runs: Vec<NewRun>,
) -> Result<Vec<RunRow>, StoreError> {
    let first = project::take_numbers(db, project, runs.len()).await?;
    let sql = "SELECT name FROM project WHERE id = ?1";
    let name = db.row(sql, &values![project], |row| row.word(0)).await?;
    let project_name: ProjectName = name.ok_or(StoreError::NotFound("project"))?;
    let mut rows = Vec::with_capacity(runs.len());
    for (number, new) in (first.0..).zip(runs) {
        event::check_sequence(&new.first, 1)?;
        let mut row = RunRow {
            id: RunId(0),
            project,
            project_name: project_name.clone(),
            number: RunNumber(number),
            state: new.state,
            reason: new.reason,
            trigger: new.trigger,
            source: new.source,
            created_at: new.at,
            started_at: None,
            finished_at: new.state.is_over().then_some(new.at),
            n_jobs: count(new.jobs.len()),
            n_jobs_over: count(new.jobs.iter().filter(|job| job.state.is_over()).count()),
            last_seq: new.first.len() as u64,
            pinned: None,
            logs_collected_at: None,
        };
        row.id = insert(db, &row).await?;
        if let Some(frozen) = &new.plan {
            plan::insert(db, row.id, frozen).await?;
        }
        event::insert(db, row.id, &new.first).await?;
        job::upsert(db, row.id, &new.jobs).await?;
        rows.push(row);
    }
    Ok(rows)
}

async fn insert(db: &mut Db, row: &RunRow) -> Result<RunId, StoreError> {
    let sql = "INSERT INTO run (project, number, state, reason, trigger, source, branch, \
               created_at, started_at, finished_at, n_jobs, n_jobs_over, last_seq) VALUES \
               (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) RETURNING id";
    let values = values![
        row.project,
        row.number,
        row.state.as_str(),
        row.reason.as_ref().map(to_json).transpose()?,
        to_json(&row.trigger)?,
        to_json(&row.source)?,
        row.trigger.branch.as_ref(),
        row.created_at,
        row.started_at,
        row.finished_at,
        row.n_jobs,
        row.n_jobs_over,
        row.last_seq,
    ];
    let id = db.row(sql, &values, |row| row.get(0)).await?;
    id.map(RunId).ok_or_else(|| StoreError::other("the database gave a new run no id"))
}

async fn apply(db: &mut Db, append: &Append) -> Result<(), StoreError> {
    let Append { run, events, row, jobs, artifacts, key } = append;
    advance(db, *run, events.first().map(|event| event.seq), events.len()).await?;
    event::check_sequence(events, events.first().map_or(1, |event| event.seq))?;
    if let Some(row) = row {
        update(db, *run, row).await?;
    }
    event::insert(db, *run, events).await?;
    job::upsert(db, *run, jobs).await?;
    artifact::insert(db, artifacts).await?;
    job_key::insert(db, key.as_ref()).await
}

/// Moves `last_seq` on, if nobody else has.
async fn advance(
    db: &mut Db,
    run: RunId,
    first: Option<u64>,
    n_events: usize,
) -> Result<(), StoreError> {
    if let Some(first) = first {
        let sql = "UPDATE run SET last_seq = last_seq + ?3 WHERE id = ?1 AND last_seq = ?2 - 1 \
                   AND gone_at IS NULL";
        if db.execute(sql, &values![run, first, n_events]).await? > 0 {
            return Ok(());
        }
    }
    match (
        db.exists("SELECT id FROM run WHERE id = ?1 AND gone_at IS NULL", &values![run]).await?,
        first,
    ) {
        (false, _) => Err(StoreError::NotFound("run")),
        (true, Some(_)) => Err(StoreError::Conflict(run)),
        (true, None) => Ok(()),
    }
}

async fn update(db: &mut Db, run: RunId, row: &RunUpdate) -> Result<(), StoreError> {
    let sql = "UPDATE run SET state = ?2, reason = ?3, started_at = ?4, finished_at = ?5, \
               n_jobs_over = ?6, log_bytes = NULL WHERE id = ?1";
    let reason = row.reason.as_ref().map(to_json).transpose()?;
    let values =
        values![run, row.state.as_str(), reason, row.started_at, row.finished_at, row.n_jobs_over];
    db.execute(sql, &values).await.map(drop)
}

/// The statement for a list, made so that an index gives the rows in order.
fn list(filter: &RunFilter) -> (String, Vec<Value<'_>>) {
    let mut sql = select_runs!("").to_owned();
    let mut values = Vec::new();
    let mut and = |condition: &str, value: Value<'static>| {
        values.push(value);
        sql.push_str(&format!("AND {condition} ?{} ", values.len()));
    };
    if let Some(project) = filter.project {
        and("r.project =", project.into());
    }
    if let Some(branch) = &filter.branch {
        and("r.branch =", branch.clone().into());
    }
    if let Some(state) = filter.state {
        and("r.state =", state.as_str().into());
    }
    if let Some(before) = filter.before {
        and("r.number <", before.into());
    }
    if let Some(before) = filter.before_id {
        and("r.id <", before.into());
    }
    let order = if filter.project.is_some() { "r.number" } else { "r.id" };
    values.push(filter.limit.into());
    sql.push_str(&format!("ORDER BY {order} DESC LIMIT ?{}", values.len()));
    (sql, values)
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn read(row: &Row<'_>) -> Result<RunRow, StoreError> {
    Ok(RunRow {
        id: RunId(row.get(0)?),
        project: ProjectId(row.get(1)?),
        project_name: row.word(2)?,
        number: RunNumber(row.get(3)?),
        state: row.word(4)?,
        reason: row.optional_json(5)?,
        trigger: row.json(6)?,
        source: row.json(7)?,
        created_at: row.time(8)?.unwrap_or_default(),
        started_at: row.time(9)?,
        finished_at: row.time(10)?,
        n_jobs: row.count(11)?,
        n_jobs_over: row.count(12)?,
        last_seq: row.count(13)?,
        pinned: row
            .time(14)?
            .map(|at| {
                Ok::<_, StoreError>(Pin { at, by: row.get::<Option<_>>(15)?.unwrap_or_default() })
            })
            .transpose()?,
        logs_collected_at: row.time(16)?,
    })
}

#[cfg(test)]
mod tests {
    use kiln_model::RunState;

    use super::*;
    use crate::table::explain::{explain, follows};

    #[test]
    fn lists_read_an_index_in_order_and_no_more() {
        let project = Some(ProjectId(1));
        let branch = Some("main".to_owned());
        let state = Some(RunState::Failed);
        let before = Some(RunNumber(9));
        let before_id = Some(RunId(9));
        let all = RunFilter { limit: 9, ..RunFilter::default() };
        let of_project = RunFilter { project, ..all.clone() };
        let cases = [
            (of_project.clone(), "(project=?)"),
            (RunFilter { before, ..of_project.clone() }, "(project=? AND number<?)"),
            (
                RunFilter { branch: branch.clone(), before, ..of_project.clone() },
                "run_project_branch (project=? AND branch=? AND number<?)",
            ),
            (
                RunFilter { state, before, ..of_project.clone() },
                "run_project_state (project=? AND state=? AND number<?)",
            ),
            (RunFilter { branch: branch.clone(), state, ..of_project }, "(project=? AND "),
            (RunFilter { before_id, ..all.clone() }, "INTEGER PRIMARY KEY (rowid<?)"),
            (RunFilter { branch, before_id, ..all.clone() }, "run_branch (branch=? AND id<?)"),
            (RunFilter { state, before_id, ..all.clone() }, "run_state (state=? AND id<?)"),
        ];
        for (filter, index) in cases {
            let (sql, values) = list(&filter);
            follows(&explain(&sql, &values), index);
        }
        // All runs of all projects: the table itself, from its end, as far as the limit.
        let (sql, values) = list(&all);
        let steps = explain(&sql, &values);
        assert!(steps.starts_with("SCAN r\nSEARCH p "), "{steps}");
        assert!(!steps.contains("TEMP B-TREE"), "{steps}");
    }

    #[test]
    fn active_runs_are_found_without_reading_old_ones() {
        let steps = explain(ACTIVE, &[]);
        assert!(steps.contains("INDEX run_state (state=?)"), "{steps}");
        assert!(!steps.contains("SCAN"), "{steps}");
    }

    #[test]
    fn the_newest_runs_of_a_project_are_found_without_reading_old_ones() {
        let steps = explain(NEWEST, &values![10_u32]);
        let found =
            "SCAN p\nSEARCH r USING INDEX sqlite_autoindex_run_1 (project=? AND number>?)\n";
        assert_eq!(steps, found);
    }
}
