//! What an attempt of any run gave, from its own events: the run need not be in memory.

use std::collections::BTreeMap;

use kiln_model::artifact::Artifact;
use kiln_model::layer::LayerId;
use kiln_model::{AttemptId, EarlierStep, Event, EventKind, Notes, Outcome, RunNumber};
use kiln_stdx::Timestamp;
use kiln_store::StoreError;

use super::Runs;

/// The result of an attempt that was a success.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Gave {
    pub took_ms: u64,
    pub outputs: BTreeMap<String, String>,
    pub layer: Option<LayerId>,
    pub artifacts: Vec<Artifact>,
    pub log_bytes: u64,
    /// By position; shorter than the job's when the last ones did not run.
    pub steps: Vec<EarlierStep>,
    pub notes: Notes,
}

impl Runs {
    /// With the number of its run; `None` when there is no such attempt (any more), or it was no
    /// success.
    pub(super) async fn gave(
        &self,
        attempt: AttemptId,
    ) -> Result<Option<(RunNumber, Gave)>, StoreError> {
        let row = match self.store().run(attempt.run).await {
            Err(StoreError::NotFound(_)) => return Ok(None),
            row => row?,
        };
        let events = self.store().job_events(attempt.run, attempt.job).await?;
        Ok(told(attempt, &events).map(|gave| (row.number, gave)))
    }
}

fn told(of: AttemptId, events: &[Event]) -> Option<Gave> {
    let mut gave = Gave::default();
    let mut started_at = None;
    let mut step_at: Option<Timestamp> = None;
    let own = |event: &&Event| event.kind.lease().is_some_and(|lease| lease.attempt == of);
    for event in events.iter().filter(own) {
        match &event.kind {
            EventKind::Started { .. } => started_at = Some(event.at),
            EventKind::StepStarted { step, log_from, .. } => {
                step_at = Some(event.at);
                let position = usize::try_from(*step).ok()?;
                gave.steps.resize(position + 1, EarlierStep::default());
                gave.steps[position].log_from = *log_from;
            }
            EventKind::StepFinished { step, exit, log_to, .. } => {
                let this = gave.steps.get_mut(usize::try_from(*step).ok()?)?;
                this.exit = Some(exit.clone());
                this.log_to = *log_to;
                this.took_ms = millis(step_at, event.at);
            }
            EventKind::Finished {
                outcome: Outcome::Success,
                outputs,
                layer,
                artifacts,
                log_bytes,
                notes,
                ..
            } => {
                gave.took_ms = millis(started_at, event.at);
                gave.outputs.clone_from(outputs);
                gave.layer.clone_from(layer);
                gave.artifacts.clone_from(artifacts);
                gave.log_bytes = *log_bytes;
                gave.notes.clone_from(notes);
                return Some(gave);
            }
            _ => {}
        }
    }
    None
}

fn millis(from: Option<Timestamp>, to: Timestamp) -> u64 {
    from.map_or(0, |from| u64::try_from(to.since(from).as_millis()).unwrap_or(u64::MAX))
}
