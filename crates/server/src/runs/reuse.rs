//! Results that need not be made again.
//!
//! An attempt whose key is known *seeks*: a success with the same key is found among the rows; while
//! another attempt with that key is being run, this one waits for it; else it is run, and others wait.
//!
//! Always: nobody who runs waits for a key, so nobody waits in a circle. Who waits is woken when the
//! rows of the one that it waits for are durable, and looks again. The table is only memory: after a
//! restart it is what the runs say.

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::Mutex;

use kiln_api::agent::{Found, JobSource, Keyed, LeaseError, Taken};
use kiln_engine::run::{Action, Cause};
use kiln_model::artifact::Artifact;
use kiln_model::layer::Digest;
use kiln_model::{AttemptId, Earlier, EventKind, JobKey, JobName, LeaseId, ProjectId, RunNumber};
use kiln_store::{KeyScope, RunRow, StoreError, object};
use tokio::sync::Notify;

use super::earlier::Gave;
use super::live::Live;
use super::source::lease_error;
use super::{ApplyError, Runs, attempt_of, lock};
use crate::report;

/// Attempts that are being run, with the keys of their results.
#[derive(Debug, Default)]
pub(super) struct Doers {
    table: Mutex<HashMap<AttemptId, Doer>>,
    /// One of them is gone.
    changed: Notify,
}

#[derive(Clone, Debug)]
pub(super) struct Doer {
    project: ProjectId,
    key: Digest,
    scope: KeyScope,
    number: RunNumber,
    job: JobName,
}

impl Doers {
    pub fn insert(&self, attempt: AttemptId, doer: Doer) {
        lock(&self.table).insert(attempt, doer);
    }

    /// Enters the table, unless another does the same for whom it may wait.
    fn join(&self, attempt: AttemptId, doer: &Doer) -> Option<Earlier> {
        let mut table = lock(&self.table);
        let same = |(other, known): &(&AttemptId, &Doer)| {
            **other != attempt
                && (known.project, &known.key) == (doer.project, &doer.key)
                && doer.scope.may_take(&known.scope)
        };
        let other = table.iter().find(same).map(|(other, known)| Earlier {
            attempt: *other,
            number: known.number,
            job: known.job.clone(),
            took_ms: 0,
        });
        if other.is_none() {
            table.insert(attempt, doer.clone());
        }
        other
    }

    pub fn remove(&self, attempts: &[AttemptId]) {
        let mut table = lock(&self.table);
        let n_before = table.len();
        attempts.iter().for_each(|attempt| drop(table.remove(attempt)));
        if table.len() < n_before {
            self.changed.notify_waiters();
        }
    }
}

/// Attempts that nobody runs any more when what led to these actions is durable.
pub(super) fn ended(actions: &[Action]) -> Vec<AttemptId> {
    let ended = |action: &Action| match action {
        Action::Release(attempt) => Some(*attempt),
        // Offered (again): whoever held it has given it up.
        Action::Offer(offer) => Some(offer.attempt),
        _ => None,
    };
    actions.iter().filter_map(ended).collect()
}

/// What an attempt is entered as, when it is being run with a key.
pub(super) fn doer(live: &Live, lease: LeaseId) -> Option<Doer> {
    let run = lock(&live.run);
    let attempt = attempt_of(&run, lease.attempt).filter(|held| held.started_at.is_some())?;
    let key = attempt.key.as_ref()?.digest.clone();
    let job = run.plan.as_ref()?.job(lease.attempt.job).name.clone();
    drop(run);
    Some(doer_of(&live.row, key, job))
}

fn doer_of(row: &RunRow, key: Digest, job: JobName) -> Doer {
    let scope = KeyScope::of(&row.trigger);
    Doer { project: row.project, key, scope, number: row.number, job }
}

impl Runs {
    pub(super) async fn seek_result(
        &self,
        lease: LeaseId,
        key: Keyed,
        unfit: Vec<(AttemptId, String)>,
    ) -> Result<Option<Found>, LeaseError> {
        let unavailable = |error: StoreError| LeaseError::Unavailable(error.to_string());
        let live = self.load(lease.attempt.run).await.map_err(unavailable)?;
        let (job, may_take) = self.sought_by(&live, lease)?;
        let doer = doer_of(&live.row, key.digest.clone(), job);
        if may_take {
            let found = self.earlier(lease, &doer, &unfit).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        self.inner.doers.insert(lease.attempt, doer);
        let reasons = unfit.into_iter().map(|(_, why)| why).collect();
        let kept = self.keep_key(lease, key, reasons).await;
        if kept.is_err() {
            self.inner.doers.remove(&[lease.attempt]);
        }
        kept.map(|()| None)
    }

    /// A result that is there, or that another attempt which is being run now comes to.
    async fn earlier(
        &self,
        lease: LeaseId,
        doer: &Doer,
        unfit: &[(AttemptId, String)],
    ) -> Result<Option<Found>, LeaseError> {
        let find = async || {
            let found = self.find(doer, unfit).await;
            found.map_err(|error| LeaseError::Unavailable(error.to_string()))
        };
        if let Some(found) = find().await? {
            return Ok(Some(found));
        }
        let Some(other) = self.inner.doers.join(lease.attempt, doer) else {
            // Somebody may have been done between the look and the entry.
            let found = find().await?;
            if found.is_some() {
                self.inner.doers.remove(&[lease.attempt]);
            }
            return Ok(found);
        };
        self.note(lease, EventKind::Awaited { lease, from: other.clone() })?;
        self.gone(other.attempt).await;
        // It may have come to nothing. Others who waited for it make their own try now, and are not
        // waited for in turn.
        find().await
    }

    /// Resolves when an attempt is not being run any more.
    async fn gone(&self, attempt: AttemptId) {
        loop {
            let mut changed = pin!(self.inner.doers.changed.notified());
            changed.as_mut().enable();
            if !lock(&self.inner.doers.table).contains_key(&attempt) {
                return;
            }
            changed.await;
        }
    }

    /// The job's name, and whether an earlier result may be taken: not when somebody has asked for it
    /// to run.
    fn sought_by(&self, live: &Live, lease: LeaseId) -> Result<(JobName, bool), LeaseError> {
        let run = lock(&live.run);
        let attempt = attempt_of(&run, lease.attempt).filter(|held| held.lease_id() == lease);
        let attempt = attempt.ok_or(LeaseError::Stale(lease))?;
        let plan = run.plan.as_ref().ok_or(LeaseError::Stale(lease))?;
        let asked = matches!(attempt.cause, Cause::Rerun { .. }) || live.row.trigger.no_cache;
        Ok((plan.job(lease.attempt.job).name.clone(), !asked))
    }

    /// The newest success with this key that is not unfit.
    async fn find(
        &self,
        sought: &Doer,
        unfit: &[(AttemptId, String)],
    ) -> Result<Option<Found>, StoreError> {
        let (project, key, scope) = (sought.project, &sought.key, &sought.scope);
        for attempt in self.store().attempts_by_key(project, key, scope).await? {
            if unfit.iter().any(|(known, _)| *known == attempt) {
                continue;
            }
            if let Some((number, gave)) = self.gave(attempt).await? {
                let Gave { took_ms, layer, notes, .. } = gave;
                let earlier = Earlier { attempt, number, job: sought.job.clone(), took_ms };
                return Ok(Some(Found { earlier, layer, covered: notes.covered }));
            }
        }
        Ok(None)
    }

    /// The key becomes part of the history, its parts an object.
    async fn keep_key(
        &self,
        lease: LeaseId,
        key: Keyed,
        unfit: Vec<String>,
    ) -> Result<(), LeaseError> {
        let Keyed { digest, parts } = key;
        let packed = tokio::task::spawn_blocking(move || {
            let packed = object::packed(&serde_json::to_vec(&*parts)?)?;
            Ok((object::Objects::name(&packed), packed))
        });
        let packed: io::Result<_> =
            packed.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        let (name, packed) = packed.map_err(|cause| LeaseError::Unavailable(cause.to_string()))?;
        self.note(lease, EventKind::Keyed { lease, key: JobKey { digest, parts: name }, unfit })?;
        let objects = self.objects().clone();
        // The job need not wait for the disk: without the object its key is as good, and only cannot
        // be explained.
        tokio::task::spawn_blocking(move || {
            if let Err(cause) = objects.put(packed.as_slice()) {
                report::say(&format!("cannot keep what the key of {lease} is made of: {cause}"));
            }
        });
        Ok(())
    }

    pub(super) async fn take_result(
        &self,
        lease: LeaseId,
        found: Found,
        warnings: Vec<String>,
    ) -> Result<Taken, LeaseError> {
        let unavailable = |error: StoreError| LeaseError::Unavailable(error.to_string());
        let Earlier { attempt, number, .. } = found.earlier;
        let unfit = |what: &str| Ok(Taken::Unfit(format!("{what} of run #{number} is gone")));
        let Some((_, gave)) = self.gave(attempt).await.map_err(unavailable)? else {
            return unfit("the history");
        };
        let Some(key) = self.store().key_of(attempt).await.map_err(unavailable)? else {
            return unfit("the key");
        };
        let (logs, objects) = (self.logs().clone(), self.objects().clone());
        let (log_bytes, files) = (gave.log_bytes, gave.artifacts.clone());
        let missing = tokio::task::spawn_blocking(move || {
            let gone = |file: &&Artifact| !objects.path(&file.digest).is_file();
            if let Some(file) = files.iter().find(gone) {
                return Some(format!("the artifact `{}`", file.path));
            }
            let shared = logs.share(attempt, lease.attempt);
            let len = shared.and_then(|()| logs.len(lease.attempt));
            len.map_or(true, |len| len != log_bytes).then(|| "the log".to_owned())
        });
        if let Some(what) = missing.await.unwrap_or_else(|_| Some("the log".to_owned())) {
            return unfit(&what);
        }
        let mut notes = gave.notes;
        notes.warnings = warnings;
        // Steps of another attempt: there is nothing of it to begin from in this one.
        notes.boundaries = Vec::new();
        self.note(lease, EventKind::Keyed { lease, key, unfit: Vec::new() })?;
        let reused = EventKind::Reused {
            lease,
            from: found.earlier,
            outputs: gave.outputs,
            layer: gave.layer,
            artifacts: gave.artifacts,
            log_bytes,
            steps: gave.steps,
            notes,
        };
        let done = self.apply(lease.attempt.run, reused).await;
        if !matches!(done, Err(ApplyError::Store(_))) {
            self.inner.leases.remove(lease);
            self.log_grew(lease, log_bytes);
        }
        done.map(|()| Taken::Done).map_err(|error| lease_error(lease, &error))
    }
}
