//! How a run must end, computed naively from what its agents and people said.

use std::collections::{BTreeMap, BTreeSet};

use kiln_engine::run::Run;
use kiln_model::plan::RetryOn;
use kiln_model::{AttemptId, EventKind, Exit, FromStep, JobIndex, JobState, Outcome, RunState};

use crate::server::Kept;

/// What the server says in the place of an agent that says nothing.
pub const SILENT: [&str; 2] = ["silent for too long", "given up"];

/// What was said about a run, and accepted.
#[derive(Default)]
pub struct Told {
    started: BTreeSet<AttemptId>,
    /// The last word on each attempt that is over.
    outcomes: BTreeMap<AttemptId, Outcome>,
    /// Jobs whose fate a cancel decided.
    fates: BTreeMap<JobIndex, Fate>,
    /// The first attempt of each job that counts: later than all from before its last rerun.
    since: BTreeMap<JobIndex, u32>,
    /// Which steps of which attempt can be begun from.
    kept: BTreeMap<AttemptId, Vec<u32>>,
    /// The last attempt of each job that saw what its needs do not give any more.
    outdated: BTreeMap<JobIndex, u32>,
    /// Where attempts of a job begin since its last rerun.
    begins: BTreeMap<JobIndex, FromStep>,
}

#[derive(Clone, Copy)]
enum Fate {
    /// As it was when the cancel came.
    Is(JobState),
    /// An agent held this attempt.
    AsItEnds(AttemptId),
}

impl Told {
    pub fn hear(&mut self, kind: &EventKind, before: &Run, kept: &Kept) {
        match kind {
            EventKind::Started { lease, .. } => {
                self.started.insert(lease.attempt);
            }
            EventKind::Finished { lease, outcome, notes, .. } => {
                self.end(lease.attempt, outcome.clone());
                self.kept.insert(lease.attempt, notes.boundaries.clone());
            }
            EventKind::Reused { lease, .. } => self.end(lease.attempt, Outcome::Success),
            EventKind::Lapsed { lease, message } => {
                self.end(lease.attempt, Outcome::Lost { message: message.clone() });
            }
            EventKind::CancelAsked { .. } => {
                for (at, job) in before.jobs.iter().enumerate() {
                    let at = JobIndex(u32::try_from(at).expect("few"));
                    let held = job.attempts.last().filter(|last| last.is_held());
                    let fate = match (job.state, held) {
                        (state, _) if state.is_over() => Fate::Is(state),
                        (_, Some(held)) => Fate::AsItEnds(held.id),
                        _ => Fate::Is(JobState::Cancelled),
                    };
                    self.fates.insert(at, fate);
                }
            }
            EventKind::RerunAsked { jobs, from, .. } => {
                // What is fixed stays so, but for what runs again.
                let again = closure(jobs, kept);
                for &at in &again {
                    self.fates.remove(&at);
                    let n = u32::try_from(before.jobs[at.at()].attempts.len()).expect("few");
                    self.since.insert(at, n + 1);
                    self.begins.remove(&at);
                    if kept.plan.job(at).needs.iter().any(|need| again.contains(need)) {
                        self.outdated.insert(at, n);
                    }
                }
                let from = from.as_ref().filter(|from| from.step > 0);
                self.begins.extend(from.map(|from| (from.job, from.clone())));
            }
            _ => {}
        }
    }

    /// Whether there are files to begin from.
    pub fn keeps(&self, from: &FromStep) -> bool {
        self.kept_of(from.job).any(|kept| kept == (from.attempt, from.step))
    }

    /// Attempts of a job that are of use, with the steps that they keep.
    pub fn kept_of(&self, job: JobIndex) -> impl Iterator<Item = (u32, u32)> {
        let outdated = self.outdated.get(&job).copied().unwrap_or(0);
        let ours = self.kept.iter().filter(move |(id, _)| id.job == job && id.attempt > outdated);
        let over = ours.filter(|(id, _)| self.outcomes.contains_key(id));
        over.flat_map(|(id, steps)| steps.iter().map(|step| (id.attempt, *step)))
    }

    /// Where an attempt must begin, if not at its first step.
    pub fn begins(&self, job: JobIndex) -> Option<&FromStep> {
        self.begins.get(&job)
    }

    fn end(&mut self, attempt: AttemptId, outcome: Outcome) {
        let free = matches!(outcome, Outcome::Lost { .. }) && !self.started.contains(&attempt);
        if !free {
            self.outcomes.insert(attempt, outcome);
        }
    }

    /// Compares a run that is over with what it must be.
    pub fn judge(&self, run: &Run, kept: &Kept) -> Result<(), String> {
        let mut states: Vec<JobState> = Vec::new();
        for at in kept.plan.indices() {
            let expected = self.expected(at, &states, run, kept)?;
            let found = run.jobs[at.at()].state;
            if expected != found {
                return Err(format!("the oracle has {expected} for job {at}, the run {found}"));
            }
            states.push(expected);
        }
        let expected = of_run(&states);
        if expected != run.state {
            return Err(format!("the oracle has {expected} for the run, which is {}", run.state));
        }
        Ok(())
    }

    fn expected(
        &self,
        at: JobIndex,
        states: &[JobState],
        run: &Run,
        kept: &Kept,
    ) -> Result<JobState, String> {
        let (job, says) = (kept.plan.job(at), kept.says[at.at()]);
        let ended = self.last_outcome(at);
        match self.fates.get(&at) {
            Some(Fate::Is(state)) => return Ok(*state),
            Some(Fate::AsItEnds(held)) => {
                return Ok(match self.outcomes.get(held) {
                    Some(Outcome::Success) => JobState::Success,
                    Some(outcome) if !obeyed(outcome) => bad(outcome, job.allow_failure),
                    _ => JobState::Cancelled,
                });
            }
            None => {}
        }
        let needs: Vec<JobState> = job.needs.iter().map(|need| states[need.at()]).collect();
        let met = |state: &JobState| matches!(state, JobState::Success | JobState::Warning);
        if !job.always && !says.asks_needs() && !needs.iter().all(met) {
            return Ok(JobState::Skipped);
        }
        let gave =
            job.needs.first().is_some_and(|need| need.0.is_multiple_of(2) && self.gave(*need, run));
        if !says.holds(&needs, gave) {
            return Ok(JobState::Skipped);
        }
        let Some((n_tries, outcome)) = ended else {
            return Err(format!("job {at} should have run, and is {}", run.jobs[at.at()].state));
        };
        let state = match outcome {
            Outcome::Success => return Ok(JobState::Success),
            Outcome::Cancelled => return Ok(JobState::Cancelled),
            outcome => bad(outcome, job.allow_failure),
        };
        if n_tries < job.retry.attempts && job.retry.on.contains(&kind(outcome)) {
            return Err(format!("job {at} should have been tried again after {outcome:?}"));
        }
        Ok(state)
    }

    /// How many tries ended since the last rerun, and how the last did.
    fn last_outcome(&self, at: JobIndex) -> Option<(u32, &Outcome)> {
        let since = self.since.get(&at).copied().unwrap_or(1);
        let tries = self.outcomes.iter().filter(|(id, _)| id.job == at && id.attempt >= since);
        let last = tries.clone().max_by_key(|(id, _)| id.attempt)?;
        Some((u32::try_from(tries.count()).expect("few"), last.1))
    }

    /// An agent told the end of a job's last attempt, with outputs, and no rerun followed.
    fn gave(&self, at: JobIndex, run: &Run) -> bool {
        let since = self.since.get(&at).copied().unwrap_or(1);
        let last = run.jobs[at.at()].attempts.last().filter(|last| last.id.attempt >= since);
        match last.and_then(|last| self.outcomes.get(&last.id)) {
            Some(Outcome::Lost { message }) => !SILENT.contains(&message.as_str()),
            Some(_) => true,
            None => false,
        }
    }
}

/// Jobs and everything that needs them.
pub fn closure(jobs: &[JobIndex], kept: &Kept) -> BTreeSet<JobIndex> {
    let mut all: BTreeSet<JobIndex> = jobs.iter().copied().collect();
    // Needs point to earlier jobs only.
    for at in kept.plan.indices() {
        if kept.plan.job(at).needs.iter().any(|need| all.contains(need)) {
            all.insert(at);
        }
    }
    all
}

fn obeyed(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Cancelled
            | Outcome::Lost { .. }
            | Outcome::StepFailed { exit: Exit::HostGone { .. } | Exit::Cancelled, .. }
    )
}

fn bad(outcome: &Outcome, allowed: bool) -> JobState {
    match (allowed, kind(outcome)) {
        (true, _) => JobState::Warning,
        (false, RetryOn::Lost) => JobState::Lost,
        _ => JobState::Failed,
    }
}

fn kind(outcome: &Outcome) -> RetryOn {
    match outcome {
        Outcome::Lost { .. } | Outcome::StepFailed { exit: Exit::HostGone { .. }, .. } => {
            RetryOn::Lost
        }
        Outcome::TimedOut { .. } | Outcome::StepFailed { exit: Exit::TimedOut { .. }, .. } => {
            RetryOn::Timeout
        }
        Outcome::Error { .. } => RetryOn::Error,
        _ => RetryOn::Failed,
    }
}

fn of_run(jobs: &[JobState]) -> RunState {
    let has = |state| jobs.contains(&state);
    match () {
        () if has(JobState::Cancelled) => RunState::Cancelled,
        () if has(JobState::Failed) || has(JobState::Lost) => RunState::Failed,
        () if has(JobState::Warning) => RunState::Warning,
        () => RunState::Success,
    }
}
