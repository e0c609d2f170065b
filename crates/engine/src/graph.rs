//! Who waits for whom, and what becomes of a job when the last of its needs is over.

use std::sync::Arc;

use kiln_model::{JobIndex, JobState, Plan, Reason};
use kiln_stdx::Timestamp;

use crate::action::Effects;
use crate::run::Run;

/// How many needs a waiting job names. A job that joins 9,999 others would else have a row of
/// 200 kB, written again with each of them.
const NEEDS_NAMED: usize = 8;

/// The edges of a plan, turned around. A need that is written twice counts once.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    /// Where a job's dependents begin in `dependents`; one more than there are jobs.
    starts: Vec<usize>,
    dependents: Vec<JobIndex>,
    n_needs: Vec<u32>,
}

impl Graph {
    pub fn of(plan: &Plan) -> Self {
        let mut edges: Vec<(JobIndex, JobIndex)> = Vec::new();
        for job in plan.indices() {
            edges.extend(plan.job(job).needs.iter().map(|need| (*need, job)));
        }
        edges.sort_unstable();
        edges.dedup();
        let mut starts = vec![0; plan.jobs.len() + 1];
        let mut n_needs = vec![0; plan.jobs.len()];
        for (need, job) in &edges {
            starts[need.at() + 1] += 1;
            n_needs[job.at()] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        Self { starts, dependents: edges.into_iter().map(|(_, job)| job).collect(), n_needs }
    }

    /// Jobs that need this one, in plan order.
    pub fn dependents(&self, job: JobIndex) -> &[JobIndex] {
        &self.dependents[self.starts[job.at()]..self.starts[job.at() + 1]]
    }

    pub fn n_needs(&self, job: JobIndex) -> u32 {
        self.n_needs[job.at()]
    }
}

impl Run {
    /// Queues these jobs, whose unmet needs are counted, and decides on those that have none.
    pub(crate) fn queue_jobs(&mut self, jobs: &[JobIndex], at: Timestamp, effects: &mut Effects) {
        for &job in jobs {
            let reason = self.waits_for(job);
            self.turn(job, JobState::Queued, reason, at, effects);
        }
        for &job in jobs {
            if self.jobs[job.at()].n_unmet == 0 {
                self.decide(job, at, effects);
            }
        }
    }

    /// Tells the jobs that need `over`. Those that now wait for nothing are decided on.
    pub(crate) fn need_over(&mut self, over: JobIndex, at: Timestamp, effects: &mut Effects) {
        let graph = Arc::clone(&self.graph);
        for &job in graph.dependents(over) {
            let waiting = &self.jobs[job.at()];
            // One that was cancelled waits no more.
            if waiting.state != JobState::Queued || waiting.n_unmet == 0 {
                continue;
            }
            let job_mut = self.job_mut(job);
            job_mut.n_unmet -= 1;
            if job_mut.n_unmet == 0 {
                self.decide(job, at, effects);
            } else {
                self.forget_need(job, over, effects);
            }
        }
    }

    /// All needs are over: the job is skipped, waits for a person, or is offered.
    fn decide(&mut self, at: JobIndex, now: Timestamp, effects: &mut Effects) {
        let plan = Arc::clone(self.plan.as_ref().expect("a run has jobs only with a plan"));
        let job = plan.job(at);
        if !self.runs_regardless(at)
            && let Some(need) = job.needs.iter().find(|need| !self.jobs[need.at()].is_met())
        {
            let reason = Reason::NeedNotMet {
                job: plan.job(*need).name.to_string(),
                state: self.jobs[need.at()].state.to_string(),
            };
            return self.turn(at, JobState::Skipped, Some(reason), now, effects);
        }
        if let Some(reason) = self.condition_fails(at) {
            return self.turn(at, JobState::Skipped, Some(reason), now, effects);
        }
        if job.approve.is_some() {
            return self.turn(at, JobState::Waiting, Some(Reason::Approval), now, effects);
        }
        let cause = self.jobs[at.at()].cause.clone();
        self.open_attempt(at, cause, now, effects);
    }

    /// Whether needs that are not met leave the decision to the job itself.
    pub(crate) fn runs_regardless(&self, at: JobIndex) -> bool {
        let job = self.planned_job(at);
        job.always || job.condition.as_ref().is_some_and(|condition| condition.asks_needs())
    }

    fn waits_for(&self, at: JobIndex) -> Option<Reason> {
        let plan = self.plan.as_ref()?;
        let mut jobs: Vec<String> = Vec::new();
        for need in plan.job(at).needs.iter().filter(|need| !self.jobs[need.at()].state.is_over()) {
            let name = plan.job(*need).name.as_str();
            if jobs.len() == NEEDS_NAMED {
                break;
            }
            if !jobs.iter().any(|known| known == name) {
                jobs.push(name.to_owned());
            }
        }
        (!jobs.is_empty()).then_some(Reason::Needs { jobs })
    }

    /// Takes a need out of what a job says it waits for, and names further ones when none is left.
    fn forget_need(&mut self, at: JobIndex, need: JobIndex, effects: &mut Effects) {
        let Some(plan) = self.plan.clone() else { return };
        let name = plan.job(need).name.as_str();
        let Some(Reason::Needs { jobs }) = &mut self.job_mut(at).reason else { return };
        let Some(position) = jobs.iter().position(|job| job == name) else { return };
        jobs.remove(position);
        let none_left = jobs.is_empty();
        if none_left {
            let reason = self.waits_for(at);
            self.job_mut(at).reason = reason;
        }
        effects.jobs.push(at);
    }
}
