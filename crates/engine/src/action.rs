//! What follows from an event, and why an event is refused.

use std::collections::VecDeque;

use kiln_model::{AttemptId, JobIndex, LeaseId};

use crate::attempt::News;
use crate::queue::Offer;

/// What must now be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The attempt may be taken by an agent: `queue.offer`. If one held it until now without
    /// starting it, this frees its lock and gives it its old place.
    Offer(Offer),
    /// Nobody may take it any more: `queue.withdraw`.
    Withdraw(AttemptId),
    /// Tell the agent that holds the lease to stop it.
    Stop { lease: LeaseId, by: String },
    /// The attempt is over: `queue.release` frees its lock.
    Release(AttemptId),
    /// The job's row must be written (state, reason, attempts).
    JobChanged(JobIndex),
    /// The run's row must be written.
    RunChanged,
}

/// An event that cannot follow the state. The run is unchanged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refused {
    /// Another epoch holds the attempt, or it is over: the agent must stop.
    #[error("lease {lease} is stale")]
    StaleLease { lease: LeaseId },
    /// Says what cannot be done and, where there is one, the way out.
    #[error("{0}")]
    Illegal(String),
}

/// Actions as they are found, and what is still to be followed up.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Jobs that are over and whose dependents do not know yet.
    pub over: VecDeque<JobIndex>,
    pub jobs: Vec<JobIndex>,
    pub run: bool,
    pub released: Vec<AttemptId>,
    pub withdrawn: Vec<AttemptId>,
    pub stops: Vec<(LeaseId, String)>,
    pub offers: Vec<Offer>,
}

impl Effects {
    pub fn job_changed_by(&mut self, news: News, job: JobIndex) {
        if news == News::New {
            self.jobs.push(job);
        }
    }

    /// Everything that changes a run changes a row.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty() && !self.run
    }

    /// Rows first, then what frees, then what is new.
    pub fn into_actions(mut self) -> Vec<Action> {
        self.jobs.sort_unstable();
        self.jobs.dedup();
        let jobs = self.jobs.into_iter().map(Action::JobChanged);
        let run = self.run.then_some(Action::RunChanged);
        let stops = self.stops.into_iter().map(|(lease, by)| Action::Stop { lease, by });
        jobs.chain(run)
            .chain(self.withdrawn.into_iter().map(Action::Withdraw))
            .chain(self.released.into_iter().map(Action::Release))
            .chain(stops)
            .chain(self.offers.into_iter().map(Action::Offer))
            .collect()
    }
}
