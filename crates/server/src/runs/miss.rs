//! Why a job ran although it says what it reads: what is another since it ran last.

use kiln_api::user::Compared;
use kiln_engine::run::{Attempt, Cause};
use kiln_model::key::Parts;
use kiln_model::layer::Digest;
use kiln_model::{AttemptId, EventKind, JobName};
use kiln_store::{KeyScope, RunRow, StoreError, object};

use super::Runs;

/// Parts larger than this were not written by kiln.
const PARTS_BYTES_MAX: u64 = 256 << 20;

impl Runs {
    /// Compares the key of an attempt that ran (or is about to) with that of the same job in the run
    /// before. `None`: it has no key, or took an earlier result.
    pub async fn compared(
        &self,
        row: &RunRow,
        job: &JobName,
        attempt: &Attempt,
    ) -> Result<Option<Compared>, StoreError> {
        let Some(key) = attempt.key.as_ref().filter(|_| attempt.reused_from().is_none()) else {
            return Ok(None);
        };
        let scope = KeyScope::of(&row.trigger);
        let before = self.store().key_before(row.project, job.as_str(), &scope, row.id).await?;
        let Some((earlier, parts)) = before else {
            let differences = vec!["it is the first time that this job has a key".to_owned()];
            return Ok(Some(Compared { with: None, differences }));
        };
        let number = match self.store().run(earlier.run).await {
            Err(StoreError::NotFound(_)) => return Ok(None),
            row => row?.number,
        };
        let differences = match (self.parts(parts).await, self.parts(key.parts.clone()).await) {
            (Ok(old), Ok(new)) => Parts::differences(&old, &new),
            _ => vec!["what the keys are made of is gone".to_owned()],
        };
        let differences = match differences.is_empty() {
            true => vec![self.not_taken(row, attempt, earlier).await?],
            false => differences,
        };
        Ok(Some(Compared { with: Some(format!("#{number}/{job}")), differences }))
    }

    /// Why a result with the same key was not taken.
    async fn not_taken(
        &self,
        row: &RunRow,
        attempt: &Attempt,
        earlier: AttemptId,
    ) -> Result<String, StoreError> {
        if row.trigger.no_cache {
            return Ok("nothing: the run was asked to take nothing from earlier ones".to_owned());
        }
        if matches!(attempt.cause, Cause::Rerun { .. }) {
            return Ok("nothing: it was asked to run again".to_owned());
        }
        if let Some(why) = attempt.unfit.first() {
            return Ok(format!("nothing, but {why}"));
        }
        let events = self.store().job_events(earlier.run, earlier.job).await?;
        let ended = events.iter().rev().find_map(|event| match &event.kind {
            EventKind::Finished { lease, outcome, notes, .. } if lease.attempt == earlier => {
                Some((outcome.is_success(), notes.not_reusable.clone()))
            }
            _ => None,
        });
        Ok(match ended {
            Some((true, Some(why))) => format!("nothing, but its result was not kept: {why}"),
            Some((true, None)) => "nothing; its result came too late for this one".to_owned(),
            _ => "nothing, but it was no success then".to_owned(),
        })
    }

    async fn parts(&self, digest: Digest) -> std::io::Result<Parts> {
        let objects = self.objects().clone();
        let read = move || {
            let bytes = object::unpacked(objects.open(&digest)?, PARTS_BYTES_MAX)?;
            Ok(serde_json::from_slice(&bytes)?)
        };
        tokio::task::spawn_blocking(read)
            .await
            .unwrap_or_else(|panic| Err(std::io::Error::other(panic)))
    }
}
