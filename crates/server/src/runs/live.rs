//! One run in memory: the fold of its events, and what of it never changes.

use std::sync::{Arc, Mutex};

use kiln_engine::run::{Action, Run};
use kiln_model::{Event, EventKind, JobIndex, RunId};
use kiln_store::{Append, JobKeyRow, JobRow, KeyScope, Pin, RunRow, RunUpdate, Store, StoreError};
use tokio::sync::watch;

/// A run that is being driven or was looked at lately.
#[derive(Debug)]
pub(super) struct Live {
    pub id: RunId,
    /// As it was when it was loaded; what changes is read from `run`.
    pub row: RunRow,
    pub run: Mutex<Run>,
    /// Whoever keeps it; not part of what its events say.
    pub pinned: Mutex<Option<Pin>>,
    pub written: Written,
}

/// How much of a run in memory is in its rows too.
#[derive(Debug)]
pub(super) struct Written(watch::Sender<Result<u64, StoreError>>);

impl Written {
    fn from(seq: u64) -> Self {
        Self(watch::Sender::new(Ok(seq)))
    }

    /// Events up to `seq` are durable.
    pub fn up_to(&self, seq: u64) {
        self.0.send_modify(|written| {
            if let Ok(known) = written {
                *known = seq.max(*known);
            }
        });
    }

    /// This run in memory will never be written in full: it is to be read again.
    pub fn failed(&self, error: StoreError) {
        self.0.send_modify(|written| {
            if written.is_ok() {
                *written = Err(error);
            }
        });
    }

    /// Resolves when the events up to `seq` are durable, or will not be.
    pub async fn wait(&self, seq: u64) -> Result<(), StoreError> {
        let mut written = self.0.subscribe();
        let settled = written
            .wait_for(|written| written.as_ref().map_or(true, |known| *known >= seq))
            .await
            .expect("its sender lives as long as the run that is borrowed here");
        settled.as_ref().map(drop).map_err(Clone::clone)
    }
}

/// Reads a run and folds its events.
pub(super) async fn load(store: &Store, row: RunRow) -> Result<Arc<Live>, StoreError> {
    let events = store.events(row.id, 0).await?;
    fold(store, row, &events).await
}

/// A run as the sum of some first events of its own. Not to be driven unless they are all.
pub(super) async fn fold(
    store: &Store,
    row: RunRow,
    events: &[Event],
) -> Result<Arc<Live>, StoreError> {
    let plan = store.plan(row.id).await?;
    let mut run = Run::new(row.id, Arc::new(row.trigger.clone()), row.created_at);
    if let Some(plan) = plan {
        run.set_plan(Arc::new(plan));
    }
    for event in events {
        run.apply(event).map_err(|refused| {
            // Only events that were accepted are ever written, so this is damage, not a race.
            StoreError::Other(format!(
                "event {} of run {} is damaged: {refused}",
                event.seq, row.id
            ))
        })?;
    }
    let written = Written::from(run.seq);
    let pinned = Mutex::new(row.pinned.clone());
    Ok(Arc::new(Live { id: row.id, row, run: Mutex::new(run), pinned, written }))
}

/// What must be written when `event` has been applied to `run`.
pub(super) fn append_for(of: &RunRow, run: &Run, event: Event, actions: &[Action]) -> Append {
    let mut jobs: Vec<JobIndex> = Vec::new();
    let mut run_changed = false;
    for action in actions {
        match action {
            Action::JobChanged(job) => jobs.push(*job),
            Action::RunChanged => run_changed = true,
            _ => {}
        }
    }
    jobs.sort_unstable();
    jobs.dedup();
    // The count of jobs that are over is part of the row, and changes with the jobs.
    let row = (run_changed || !jobs.is_empty()).then(|| run_update(run));
    let artifacts = match &event.kind {
        EventKind::Finished { lease, artifacts, .. }
        | EventKind::Reused { lease, artifacts, .. } => {
            artifacts.iter().map(|artifact| (lease.attempt, artifact.clone())).collect()
        }
        _ => Vec::new(),
    };
    let jobs = jobs.into_iter().map(|job| job_row(run, job)).collect();
    let key = key_row(of, run, &event);
    Append { run: run.id, events: vec![event], row, jobs, artifacts, key }
}

/// What the attempt that an event ends depended on.
fn key_row(of: &RunRow, run: &Run, event: &Event) -> Option<JobKeyRow> {
    let (lease, usable) = match &event.kind {
        EventKind::Finished { lease, outcome, notes, .. } => {
            (lease, outcome.is_success() && notes.not_reusable.is_none())
        }
        // Who takes this result is given the one that it is.
        EventKind::Reused { lease, .. } => (lease, false),
        _ => return None,
    };
    let attempt = super::attempt_of(run, lease.attempt)?;
    Some(JobKeyRow {
        attempt: attempt.id,
        project: of.project,
        name: run.plan.as_ref()?.job(attempt.id.job).name.clone(),
        key: attempt.key.clone()?,
        scope: KeyScope::of(&of.trigger),
        usable,
    })
}

pub(super) fn run_update(run: &Run) -> RunUpdate {
    RunUpdate {
        state: run.state,
        reason: run.reason.clone(),
        started_at: run.started_at,
        finished_at: run.finished_at,
        n_jobs_over: run.n_jobs_over(),
    }
}

/// A job's row: its latest attempt's times.
pub fn job_row(run: &Run, job: JobIndex) -> JobRow {
    let state = &run.jobs[job.at()];
    let name = run.plan.as_ref().map(|plan| plan.job(job).name.clone());
    let latest = state.attempts.last();
    // Asked to run again and not offered yet: the times of the attempt before are not its own.
    let times = latest.filter(|latest| state.state.is_over() || !latest.state.is_over());
    JobRow {
        job,
        name: name.expect("a run has jobs only with a plan"),
        state: state.state,
        reason: state.reason.clone(),
        attempt: latest.map_or(0, |attempt| attempt.id.attempt),
        started_at: times.and_then(|attempt| attempt.started_at),
        finished_at: times.and_then(|attempt| attempt.finished_at),
        log_bytes: latest.map_or(0, |attempt| attempt.log_bytes),
    }
}
