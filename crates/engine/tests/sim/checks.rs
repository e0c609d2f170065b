//! What must hold after every event.

use std::collections::{BTreeMap, BTreeSet};

use kiln_engine::queue::Queue;
use kiln_engine::run::{Cause, Run};
use kiln_model::{AttemptId, Epoch, Event, EventKind, JobIndex, JobState, LeaseId, Outcome};

use crate::oracle::Told;
use crate::server::Kept;

/// What was seen, told a second time and apart from the engine.
#[derive(Default)]
pub struct Checks {
    live: BTreeMap<AttemptId, Epoch>,
    newest: BTreeMap<AttemptId, Epoch>,
    started: BTreeSet<AttemptId>,
    ended: BTreeSet<AttemptId>,
    steps: BTreeSet<(AttemptId, u32)>,
    /// For each run: the fold of its events as they come back from text.
    shadows: BTreeMap<usize, Run>,
    pub told: BTreeMap<usize, Told>,
    pub n_retries: u64,
    pub n_skips: u64,
    pub n_reused: u64,
}

macro_rules! must {
    ($holds:expr, $($words:tt)*) => {
        if !$holds { return Err(format!($($words)*)); }
    };
}

impl Checks {
    pub fn same(&self, a: &Run, b: &Run, when: &str) -> Result<(), String> {
        let run =
            |run: &Run| (run.state, run.reason.clone(), run.seq, run.started_at, run.finished_at);
        must!(run(a) == run(b), "{when}: {:?} is not {:?}", run(a), run(b));
        must!(a.jobs == b.jobs, "{when}: {:?} is not {:?}", a.jobs, b.jobs);
        must!(a.leased() == b.leased(), "{when}: other leases");
        must!(a.offers() == b.offers(), "{when}: other offers");
        must!(a.stops() == b.stops(), "{when}: other stops");
        must!(a.n_jobs_over() == b.n_jobs_over(), "{when}: another count");
        Ok(())
    }

    pub fn accepted(
        &mut self,
        at: usize,
        kind: &EventKind,
        before: &Run,
        after: &Run,
        kept: &Kept,
    ) -> Result<(), String> {
        self.shadow(at, after, kept)?;
        self.told.entry(at).or_default().hear(kind, before, kept);
        if let Some(lease) = kind.lease() {
            self.lease(kind, lease, before, kept)?;
        }
        self.attempts(before, after, kept)?;
        self.beginnings(at, kind, after)?;
        if matches!(kind, EventKind::Leased { .. }) {
            must!(before.stops().is_empty(), "leased after a cancel");
        }
        must!(after.seq == before.seq + 1, "an accepted event does not count");
        must!(
            after.state.is_over() == after.jobs.iter().all(|job| job.state.is_over()),
            "the run is {} and its jobs are not",
            after.state
        );
        must!(
            after.state.is_over() == after.finished_at.is_some(),
            "over and its time do not agree"
        );
        Ok(())
    }

    /// An attempt begins where the last rerun of its job said, whether it is a retry or not.
    fn beginnings(&self, at: usize, kind: &EventKind, after: &Run) -> Result<(), String> {
        let Some(id) = kind.lease().map(|lease| lease.attempt) else { return Ok(()) };
        let begins = self.told.get(&at).and_then(|told| told.begins(id.job));
        let attempt = after.jobs[id.job.at()].attempts.iter().find(|attempt| attempt.id == id);
        if let EventKind::Leased { .. } = kind {
            let from = attempt.and_then(|attempt| attempt.from.as_ref());
            must!(from == begins, "{id} begins from {from:?} and not from {begins:?}");
        }
        if let EventKind::StepStarted { step, .. } = kind {
            let first = begins.map_or(0, |from| from.step);
            must!(*step >= first, "{id} runs step {step}, which it took over");
        }
        Ok(())
    }

    /// A fold of the events, each through its text, is the live run at every point.
    fn shadow(&mut self, at: usize, after: &Run, kept: &Kept) -> Result<(), String> {
        let mut shadow = self.shadows.remove(&at).unwrap_or_else(|| kept.blank());
        if let Some(event) = kept.journal.last() {
            let text = serde_json::to_string(event).map_err(|error| error.to_string())?;
            let event: Event = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            shadow.apply(&event).map_err(|refused| format!("refused when folded: {refused}"))?;
        }
        self.same(&shadow, after, "folded")?;
        self.shadows.insert(at, shadow);
        Ok(())
    }

    fn lease(
        &mut self,
        kind: &EventKind,
        lease: LeaseId,
        before: &Run,
        kept: &Kept,
    ) -> Result<(), String> {
        let id = lease.attempt;
        if let EventKind::Leased { .. } = kind {
            must!(!self.live.contains_key(&id), "{id} has two live epochs");
            must!(!self.started.contains(&id), "{id} had started and is leased again");
            let newest = self.newest.insert(id, lease.epoch);
            must!(newest < Some(lease.epoch), "{lease} is no newer than {newest:?}");
            self.live.insert(id, lease.epoch);
            return self.may_run(id.job, before, kept);
        }
        must!(self.live.get(&id) == Some(&lease.epoch), "{lease} is not live, and was heard");
        match kind {
            EventKind::Started { .. } => {
                must!(self.started.insert(id), "{id} starts twice");
                self.may_run(id.job, before, kept)
            }
            EventKind::StepStarted { step, .. } => {
                must!(self.steps.insert((id, *step)), "step {step} of {id} is noted twice");
                must!(self.started.contains(&id), "{id} has a step and has not started");
                Ok(())
            }
            EventKind::Finished { outcome, .. } => {
                self.live.remove(&id);
                let unstarted = !self.started.contains(&id);
                if !(unstarted && matches!(outcome, Outcome::Lost { .. })) {
                    must!(self.ended.insert(id), "{id} ends twice");
                }
                Ok(())
            }
            EventKind::Reused { .. } => {
                self.live.remove(&id);
                self.n_reused += 1;
                must!(!self.started.contains(&id), "{id} has started and takes another's result");
                must!(self.ended.insert(id), "{id} ends twice");
                self.may_run(id.job, before, kept)
            }
            EventKind::Lapsed { .. } => {
                self.live.remove(&id);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// No job is with an agent before all its needs are over.
    fn may_run(&self, job: JobIndex, run: &Run, kept: &Kept) -> Result<(), String> {
        for need in &kept.plan.job(job).needs {
            let state = run.jobs[need.at()].state;
            must!(state.is_over(), "job {job} goes while its need {need} is {state}");
        }
        Ok(())
    }

    fn attempts(&mut self, before: &Run, after: &Run, kept: &Kept) -> Result<(), String> {
        let mut held: BTreeMap<String, u32> = BTreeMap::new();
        for (at, job) in after.jobs.iter().enumerate() {
            let budget = usize::try_from(kept.plan.jobs[at].retry.attempts).expect("few");
            let mut n_tries = 0;
            for (position, attempt) in job.attempts.iter().enumerate() {
                n_tries = if attempt.cause == Cause::Retry { n_tries + 1 } else { 1 };
                must!(n_tries <= budget, "job {at} has {n_tries} tries of {budget}");
                let last = position + 1 == job.attempts.len();
                must!(last || attempt.state.is_over(), "{} is not over", attempt.id);
            }
            let live = job.attempts.last().filter(|last| last.is_held());
            if let Some(lock) = live.and_then(|live| live.lock.clone()) {
                *held.entry(lock).or_default() += 1;
            }
            let n_before = before.jobs.get(at).map_or(0, |job| job.attempts.len());
            let retried = job.attempts.last().is_some_and(|last| last.cause == Cause::Retry);
            self.n_retries += u64::from(retried && job.attempts.len() > n_before);
            let was = before.jobs.get(at).map(|job| job.state);
            self.n_skips +=
                u64::from(job.state == JobState::Skipped && was != Some(JobState::Skipped));
        }
        Ok(())
    }

    /// The queue holds exactly what the runs offer, and no lock is over its limit of one.
    pub fn queue(&self, runs: &[Run], queue: &Queue) -> Result<(), String> {
        let mut n_offers = 0;
        let mut held: BTreeMap<(usize, String), AttemptId> = BTreeMap::new();
        for run in runs {
            for offer in run.offers() {
                n_offers += 1;
                let id = offer.attempt;
                must!(queue.blocked(id).is_some(), "{id} is offered by its run only");
            }
            for lease in run.leased() {
                let id = lease.attempt;
                must!(queue.blocked(id).is_none(), "{id} is held, and offered by the queue");
                let Some(project) = queue.project_of(id) else { continue };
                let attempt = run.jobs[id.job.at()].attempts.last();
                if let Some(lock) = attempt.and_then(|attempt| attempt.lock.clone()) {
                    let key = (usize::try_from(project.0).expect("few"), lock);
                    let other = held.insert(key, id);
                    must!(other.is_none(), "{id} and {other:?} hold the same lock");
                }
            }
        }
        must!(queue.len() == n_offers, "{} in the queue, {n_offers} offered", queue.len());
        Ok(())
    }
}
