//! A person wants the run to end.

use kiln_model::{JobIndex, JobState, Outcome, Reason, RunState};
use kiln_stdx::Timestamp;

use crate::action::{Effects, Refused};
use crate::run::Run;

impl Run {
    /// Ends what no agent holds, and tells the agents that hold the rest. Asking twice is harmless.
    pub(crate) fn cancel(
        &mut self,
        by: &str,
        at: Timestamp,
        effects: &mut Effects,
    ) -> Result<(), Refused> {
        if self.state.is_over() {
            let message =
                format!("the run is over already ({}); there is nothing to cancel", self.state);
            return Err(Refused::Illegal(message));
        }
        if self.cancelled_by.is_some() {
            return Ok(());
        }
        self.cancelled_by = Some(by.to_owned());
        effects.run = true;
        if self.jobs.is_empty() {
            self.state = RunState::Cancelled;
            self.reason = Some(Reason::CancelAsked { by: by.to_owned() });
            self.finished_at = Some(at);
            return Ok(());
        }
        for index in 0..self.jobs.len() {
            self.cancel_job(JobIndex(u32::try_from(index).unwrap_or(u32::MAX)), by, at, effects);
        }
        Ok(())
    }

    fn cancel_job(&mut self, at: JobIndex, by: &str, now: Timestamp, effects: &mut Effects) {
        let job = &self.jobs[at.at()];
        if job.state.is_over() {
            return;
        }
        if let Some(attempt) = job.attempts.last() {
            if attempt.is_held() {
                return effects.stops.push((attempt.lease_id(), by.to_owned()));
            }
            if attempt.is_offered() {
                effects.withdrawn.push(attempt.id);
                self.close_attempt(at, Outcome::Cancelled, now);
                self.tally.n_open -= 1;
            }
        }
        let reason = Reason::CancelAsked { by: by.to_owned() };
        self.turn(at, JobState::Cancelled, Some(reason), now, effects);
    }
}
