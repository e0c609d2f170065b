//! What becomes of a job when nobody holds its attempt any more: over, tried again, offered again.

use kiln_model::plan::RetryOn;
use kiln_model::{Exit, JobIndex, JobState, LeaseId, Outcome, Reason};
use kiln_stdx::Timestamp;

use crate::action::Effects;
use crate::attempt::{Cause, News};
use crate::run::Run;

/// How many agents may take an attempt without starting it. A job that kills whoever unpacks it
/// would otherwise go round for ever; one that is unlucky with restarts never comes near.
pub(crate) const LEASES_UNSTARTED_MAX: u32 = 50;

impl Run {
    /// Follows up an attempt that was just finished or given up.
    pub(crate) fn attempt_ended(
        &mut self,
        lease: LeaseId,
        news: News,
        at: Timestamp,
        effects: &mut Effects,
    ) {
        if news == News::Known {
            return;
        }
        let job = lease.attempt.job;
        self.held.remove(&job);
        let free = self.jobs[job.at()].attempts.last().is_some_and(|last| last.is_offered());
        if !free {
            self.attempt_over(job, at, effects);
        } else if self.cancelled_by.is_some() {
            self.close_attempt(job, Outcome::Cancelled, at);
            self.attempt_over(job, at, effects);
        } else if lease.epoch.0 >= LEASES_UNSTARTED_MAX {
            let message = format!("{LEASES_UNSTARTED_MAX} agents took it and none started it");
            self.close_attempt(job, Outcome::Lost { message }, at);
            self.attempt_over(job, at, effects);
        } else {
            self.turn(job, JobState::Queued, Some(Reason::NoAgent), at, effects);
            effects.offers.push(self.offer(lease.attempt));
        }
    }

    /// Ends the last attempt of a job, which no agent holds.
    pub(crate) fn close_attempt(&mut self, job: JobIndex, outcome: Outcome, at: Timestamp) {
        if let Some(last) = self.job_mut(job).attempts.last_mut() {
            last.close(outcome, at);
        }
    }

    fn attempt_over(&mut self, at: JobIndex, now: Timestamp, effects: &mut Effects) {
        let Some(attempt) = self.jobs[at.at()].attempts.last() else { return };
        let Some(outcome) = attempt.outcome.clone() else { return };
        let reused = attempt.reused_from().map(|from| {
            let (run, took_ms) = (from.number.0, from.took_ms);
            Reason::Reused { run, took_ms }
        });
        effects.released.push(attempt.id);
        self.tally.n_open -= 1;
        let Some((kind, reason)) = self.failure(at, &outcome) else {
            let (state, reason) = match outcome {
                Outcome::Cancelled => (JobState::Cancelled, Some(self.cancelled_reason(at))),
                _ => (JobState::Success, reused),
            };
            return self.turn(at, state, reason, now, effects);
        };
        if self.cancelled_by.is_some() && is_stop(&outcome) {
            if let Some(last) = self.job_mut(at).attempts.last_mut() {
                last.state = JobState::Cancelled;
            }
            let reason = self.cancelled_reason(at);
            return self.turn(at, JobState::Cancelled, Some(reason), now, effects);
        }
        if self.may_retry(at, kind) {
            return self.open_attempt(at, Cause::Retry, now, effects);
        }
        let state = match (self.planned_job(at).allow_failure, kind) {
            (true, _) => JobState::Warning,
            (false, RetryOn::Lost) => JobState::Lost,
            (false, _) => JobState::Failed,
        };
        self.turn(at, state, Some(reason), now, effects);
    }

    fn may_retry(&self, at: JobIndex, kind: RetryOn) -> bool {
        let (job, retry) = (&self.jobs[at.at()], &self.planned_job(at).retry);
        let n_tried = job.attempts.len() - job.n_earlier;
        let within = u32::try_from(n_tried).is_ok_and(|tried| tried < retry.attempts);
        self.cancelled_by.is_none() && within && retry.on.contains(&kind)
    }

    /// What kind of failure an outcome is for a retry policy, and why; `None` when it is none.
    fn failure(&self, at: JobIndex, outcome: &Outcome) -> Option<(RetryOn, Reason)> {
        let failure = match outcome {
            Outcome::Success | Outcome::Cancelled => return None,
            Outcome::StepFailed { step, exit } => {
                let kind = match exit {
                    Exit::TimedOut { .. } => RetryOn::Timeout,
                    Exit::HostGone { .. } => RetryOn::Lost,
                    Exit::Code { .. }
                    | Exit::Killed { .. }
                    | Exit::Cancelled
                    | Exit::OutOfMemory { .. } => RetryOn::Failed,
                };
                let steps = &self.planned_job(at).steps;
                let planned = usize::try_from(*step).ok().and_then(|step| steps.get(step));
                let name = planned.map_or_else(String::new, |step| step.name.clone());
                (kind, Reason::Step { step: *step, name, exit: exit.clone() })
            }
            Outcome::TimedOut { after_ms } => {
                (RetryOn::Timeout, Reason::JobTimedOut { after_ms: *after_ms })
            }
            Outcome::Error { message } => {
                (RetryOn::Error, Reason::Error { message: message.clone() })
            }
            Outcome::Lost { message } => {
                (RetryOn::Lost, Reason::AgentLost { message: message.clone() })
            }
        };
        Some(failure)
    }

    /// Without a cancel, the agent ended it of its own accord.
    fn cancelled_reason(&self, at: JobIndex) -> Reason {
        let by = self.cancelled_by.clone().unwrap_or_else(|| {
            let attempt = self.jobs[at.at()].attempts.last();
            let agent = attempt.and_then(|attempt| attempt.agent.as_ref());
            agent.map_or_else(|| "its agent".to_owned(), |(_, name)| format!("agent {name}"))
        });
        Reason::CancelAsked { by }
    }
}

/// What an attempt that was told to stop ends with, when it obeys or its agent goes away over it.
/// Other failures were the job's own.
fn is_stop(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Lost { .. }
            | Outcome::StepFailed { exit: Exit::Cancelled | Exit::HostGone { .. }, .. }
    )
}
