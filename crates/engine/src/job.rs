//! A job of a run: its state, and the one place where it changes.

use std::collections::BTreeMap;

use kiln_model::{FromStep, JobIndex, JobState, Reason};
use kiln_stdx::Timestamp;

use crate::action::Effects;
use crate::attempt::{Attempt, Cause};
use crate::run::Run;

/// A job's present state, with its attempts.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub state: JobState,
    /// Why it waits or was not a success. Of many needs that are waited for, the first few.
    pub reason: Option<Reason>,
    /// When it came into its state.
    pub since: Timestamp,
    /// Numbered from 1; only the last one can be live.
    pub attempts: Vec<Attempt>,
    /// What its last attempt gave.
    pub outputs: BTreeMap<String, String>,
    /// How many different needs are not over.
    pub(crate) n_unmet: u32,
    /// What its next attempt comes from.
    pub(crate) cause: Cause,
    /// Attempts from before the last rerun; they are not counted against the retry budget.
    pub(crate) n_earlier: usize,
    /// Attempts from before the last rerun of a need: they saw other layers than those there are now.
    pub(crate) n_outdated: usize,
    /// Where its attempts begin since the last rerun.
    pub(crate) from: Option<FromStep>,
}

impl Job {
    pub(crate) fn new(n_needs: u32, since: Timestamp) -> Self {
        Self {
            state: JobState::Queued,
            reason: None,
            since,
            attempts: Vec::new(),
            outputs: BTreeMap::new(),
            n_unmet: n_needs,
            cause: Cause::First,
            n_earlier: 0,
            n_outdated: 0,
            from: None,
        }
    }

    /// What needs this job can go on.
    pub fn is_met(&self) -> bool {
        matches!(self.state, JobState::Success | JobState::Warning)
    }
}

/// How many jobs are in which state, so that nobody has to count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    by_state: [u32; JobState::ALL.len()],
    /// Jobs with an attempt that is offered or held.
    pub n_open: u32,
}

impl Tally {
    /// `n` jobs, all queued.
    pub fn queued(n: usize) -> Self {
        let mut tally = Self::default();
        tally.by_state[JobState::Queued as usize] = u32::try_from(n).unwrap_or(u32::MAX);
        tally
    }

    pub fn of(&self, state: JobState) -> u32 {
        self.by_state[state as usize]
    }

    pub fn all(&self) -> u32 {
        self.by_state.iter().sum()
    }

    pub fn over(&self) -> u32 {
        JobState::ALL.iter().filter(|state| state.is_over()).map(|state| self.of(*state)).sum()
    }

    fn moved(&mut self, from: JobState, to: JobState) {
        self.by_state[from as usize] -= 1;
        self.by_state[to as usize] += 1;
    }
}

impl Run {
    /// Gives a job its state. Nobody else assigns one.
    pub(crate) fn turn(
        &mut self,
        at: JobIndex,
        state: JobState,
        reason: Option<Reason>,
        now: Timestamp,
        effects: &mut Effects,
    ) {
        let job = self.job_mut(at);
        let from = std::mem::replace(&mut job.state, state);
        job.reason = reason;
        if from != state {
            job.since = now;
        }
        self.tally.moved(from, state);
        effects.jobs.push(at);
        if state.is_over() {
            effects.over.push_back(at);
        }
    }

    /// Makes a new attempt and offers it.
    pub(crate) fn open_attempt(
        &mut self,
        at: JobIndex,
        cause: Cause,
        now: Timestamp,
        effects: &mut Effects,
    ) {
        let n_steps = self.planned_job(at).steps.len();
        let number = self.jobs[at.at()].attempts.len() + 1;
        let attempt = u32::try_from(number).unwrap_or(u32::MAX);
        let id = kiln_model::AttemptId { run: self.id, job: at, attempt };
        let job = self.job_mut(at);
        job.outputs.clear();
        let from = job.from.clone();
        job.attempts.push(Attempt::offered(id, (cause, from), n_steps, now));
        self.tally.n_open += 1;
        self.turn(at, JobState::Queued, Some(Reason::NoAgent), now, effects);
        effects.offers.push(self.offer(id));
    }
}
