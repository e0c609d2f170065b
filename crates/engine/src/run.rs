//! One run, as the sum of its events.
//!
//! Nothing edits a [`Run`]. Applying its events in order always gives the same run, so a restart, a
//! test and the live server share this one path.
//!
//! ```text
//! run:   Queued ──first job starts──▶ Running ◀──▶ Waiting        no plan: Failed
//!          │                             │  (only for people)
//!          └──────────last job over──────┴──▶ Success Warning Failed Cancelled ──rerun──▶ Running
//!
//! job:   Queued ──needs over──▶ Queued, offered ──started──▶ Running ──▶ Success Warning Failed Lost
//!          │  │                    ▲                            │            Cancelled
//!          │  └─approve─▶ Waiting  └──────────retry─────────────┘
//!          ├──need not met, condition false──▶ Skipped
//!          └──cancel──▶ Cancelled                     every state that is over ──rerun──▶ Queued
//!
//! attempt:  offered ──leased──▶ leased ──started──▶ running ──finished, lapsed──▶ over
//!             ▲                   │ └──────────────reused──────────────────────────▲
//!             └──lapsed or lost───┘  under the next epoch; the retry budget is untouched
//! ```
//!
//! Always:
//!
//! 1. An apply that fails leaves the run as it was; one that gives no action does too, its `seq`
//!    included, and the event is not to be kept.
//! 2. A run keeps the plan that it was planned with. It has one job for each job of the plan.
//! 3. A job has at most one attempt that is not over, its last; that one has at most one live epoch.
//!    What carries another epoch is refused as stale.
//! 4. No attempt is offered before all needs of its job are over. A need counts as met when it is
//!    `success` or `warning`: as with GitLab's `allow_failure` and GitHub's `continue-on-error`, what
//!    needs a job that was allowed to fail goes on.
//! 5. A need that is not met skips the job, with the need as the reason, unless the job is `always`
//!    or its condition asks how the needs ended. A job skipped by its condition is not met either.
//! 6. A started attempt is never offered again. Another attempt comes from a retry policy whose
//!    budget is not used up, or from a rerun, which brings a new budget.
//! 7. After a cancel nothing is offered, `always` or not. What had not been leased is cancelled at
//!    once; what runs ends as it ends: a job that succeeds all the same is a success.
//! 8. The run is over exactly when all its jobs are. Its state then is the first of: `cancelled` (a
//!    job is), `failed` (a job is failed or lost), `warning` (a job is), `success`. A run whose jobs
//!    were all skipped is a success, and says so.
//!
//! Cost: an event costs what it changes (a job, what needs it), not what the plan weighs. A clone
//! shares every job until it changes.
//!
//! Elsewhere: choosing an agent (`queue`); keeping events and deadlines (`server`).

use std::collections::BTreeSet;
use std::sync::Arc;

use kiln_model::{AttemptId, Trigger};
use kiln_model::{
    Earlier, Event, EventKind, JobIndex, JobState, LeaseId, Outcome, Plan, Reason, RunId, RunState,
};
use kiln_stdx::Timestamp;

pub use crate::action::{Action, Refused};
pub use crate::attempt::{Attempt, Cause, Service, Step};
pub use crate::job::Job;
pub use crate::layers::Below;

use crate::action::Effects;
use crate::attempt::{Finish, News};
use crate::graph::Graph;
use crate::job::Tally;
use crate::queue::Offer;

/// A run. [`Run::apply`] is the only thing that changes it.
#[derive(Clone, Debug)]
pub struct Run {
    pub id: RunId,
    pub trigger: Arc<Trigger>,
    pub plan: Option<Arc<Plan>>,
    pub state: RunState,
    /// While it is being cancelled: by whom. When it is over: what decided its state.
    pub reason: Option<Reason>,
    /// In plan order; empty until the run is planned.
    pub jobs: Vec<Arc<Job>>,
    /// The last event that was applied; 0: none yet.
    pub seq: u64,
    pub created_at: Timestamp,
    /// When its first job started.
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub(crate) graph: Arc<Graph>,
    pub(crate) tally: Tally,
    /// Jobs whose attempt an agent holds.
    pub(crate) held: BTreeSet<JobIndex>,
    /// Who asked for a cancel that no rerun has followed.
    pub(crate) cancelled_by: Option<String>,
}

impl Run {
    /// A run that has no events yet: `queued`, without a plan.
    pub fn new(id: RunId, trigger: Arc<Trigger>, created_at: Timestamp) -> Self {
        Self {
            id,
            trigger,
            plan: None,
            state: RunState::Queued,
            reason: None,
            jobs: Vec::new(),
            seq: 0,
            created_at,
            started_at: None,
            finished_at: None,
            graph: Arc::default(),
            tally: Tally::default(),
            held: BTreeSet::new(),
            cancelled_by: None,
        }
    }

    /// The plan, to be given before `Planned` is applied (it is stored with the run, not in the
    /// event). A run that has been planned keeps the plan that it has.
    pub fn set_plan(&mut self, plan: Arc<Plan>) {
        if self.jobs.is_empty() {
            self.plan = Some(plan);
        }
    }

    /// Folds one event in. `Ok` gives what must now be done, in order; a duplicate of what already
    /// holds gives `Ok(vec![])`, changes nothing and must not be kept.
    pub fn apply(&mut self, event: &Event) -> Result<Vec<Action>, Refused> {
        if event.seq != self.seq + 1 {
            let (got, last) = (event.seq, self.seq);
            let message = format!("event {got} cannot follow event {last} of run {}", self.id);
            return Err(Refused::Illegal(message));
        }
        let at = event.at;
        let mut effects = Effects::default();
        match &event.kind {
            EventKind::Planned => self.planned(at, &mut effects)?,
            EventKind::PlanRefused { message } => self.plan_refused(message, at, &mut effects)?,
            EventKind::Leased { lease, agent, agent_name, lock } => {
                self.check_lock(*lease, lock.as_deref())?;
                let attempt = self.attempt_mut(*lease)?;
                let news = attempt.lease(*lease, (*agent, agent_name), lock.as_deref(), at)?;
                self.leased_now(*lease, news, &mut effects);
            }
            EventKind::Started { lease, surroundings } => {
                let surroundings = surroundings.as_deref();
                let news = self.attempt_mut(*lease)?.start(*lease, surroundings, at)?;
                self.started_now(*lease, news, at, &mut effects);
            }
            EventKind::Service { lease, service, change } => {
                let attempt = self.attempt_mut(*lease)?;
                let news = attempt.change_service(*lease, service, change, at)?;
                effects.job_changed_by(news, lease.attempt.job);
            }
            EventKind::Keyed { lease, key, unfit } => {
                let news = self.attempt_mut(*lease)?.key(*lease, key, unfit)?;
                effects.job_changed_by(news, lease.attempt.job);
            }
            EventKind::Awaited { lease, from } => {
                let news = self.attempt_mut(*lease)?.wait_for(*lease, from)?;
                self.awaits(*lease, from, news, &mut effects);
            }
            EventKind::Reused {
                lease,
                from,
                outputs,
                layer,
                artifacts,
                log_bytes,
                steps,
                notes,
            } => {
                let outcome = &Outcome::Success;
                let log_bytes = Some(*log_bytes);
                let finish = Finish { outcome, layer, artifacts, log_bytes, notes };
                let news = self.attempt_mut(*lease)?.reuse(*lease, from, finish, steps, at)?;
                if news == News::New {
                    self.job_mut(lease.attempt.job).outputs.clone_from(outputs);
                    self.begun_by(at, &mut effects);
                }
                self.attempt_ended(*lease, news, at, &mut effects);
            }
            EventKind::StepStarted { lease, step, log_from } => {
                let news = self.attempt_mut(*lease)?.start_step(*lease, *step, *log_from, at)?;
                effects.job_changed_by(news, lease.attempt.job);
            }
            EventKind::StepFinished { lease, step, exit, log_to, usage } => {
                let attempt = self.attempt_mut(*lease)?;
                let news =
                    attempt.finish_step((*lease, *step), exit, *log_to, usage.as_deref(), at)?;
                effects.job_changed_by(news, lease.attempt.job);
            }
            EventKind::Finished { lease, outcome, outputs, layer, artifacts, log_bytes, notes } => {
                let log_bytes = Some(*log_bytes);
                let finish = Finish { outcome, layer, artifacts, log_bytes, notes };
                let news = self.attempt_mut(*lease)?.finish(*lease, finish, at)?;
                let job = self.job_mut(lease.attempt.job);
                let over = job.attempts.last().is_some_and(|last| last.state.is_over());
                if news == News::New && over {
                    job.outputs.clone_from(outputs);
                }
                self.attempt_ended(*lease, news, at, &mut effects);
            }
            EventKind::Lapsed { lease, message } => {
                let news = self.attempt_mut(*lease)?.lapse(*lease, message, at)?;
                self.attempt_ended(*lease, news, at, &mut effects);
            }
            EventKind::CancelAsked { by } => self.cancel(by, at, &mut effects)?,
            EventKind::RerunAsked { jobs, by, from } => {
                self.rerun(jobs, by, from.as_ref(), at, &mut effects)?;
            }
        }
        if effects.is_empty() {
            return Ok(Vec::new());
        }
        self.settle(at, &mut effects);
        self.seq = event.seq;
        Ok(effects.into_actions())
    }

    /// Attempts that an agent holds now.
    pub fn leased(&self) -> Vec<LeaseId> {
        let lease = |job: &JobIndex| self.jobs[job.at()].attempts.last().map(Attempt::lease_id);
        self.held.iter().filter_map(lease).collect()
    }

    /// Leases that were told to stop and have not ended yet, and who wants that.
    pub fn stops(&self) -> Vec<(LeaseId, String)> {
        let Some(by) = &self.cancelled_by else { return Vec::new() };
        self.leased().into_iter().map(|lease| (lease, by.clone())).collect()
    }

    /// Offers that a queue must hold now: used when a server starts.
    pub fn offers(&self) -> Vec<Offer> {
        let offered = |job: &Arc<Job>| job.attempts.last().filter(|a| a.is_offered()).map(|a| a.id);
        self.jobs.iter().filter_map(offered).map(|attempt| self.offer(attempt)).collect()
    }

    /// Who asked for the cancel that it is in or ended with; a rerun forgets it.
    pub fn cancel_asked_by(&self) -> Option<&str> {
        self.cancelled_by.as_deref()
    }

    /// How many jobs are over.
    pub fn n_jobs_over(&self) -> u32 {
        self.tally.over()
    }

    /// How many jobs are in a state.
    pub fn n_jobs_in(&self, state: JobState) -> u32 {
        self.tally.of(state)
    }

    pub(crate) fn offer(&self, attempt: AttemptId) -> Offer {
        let job = self.planned_job(attempt.job);
        Offer {
            attempt,
            labels: job.labels.clone(),
            priority: job.priority,
            lock: job.lock.clone(),
        }
    }

    /// A job of the plan. Only asked about jobs that the run has, so there is a plan.
    pub(crate) fn planned_job(&self, at: JobIndex) -> &kiln_model::Job {
        self.plan.as_ref().expect("a run has jobs only with a plan").job(at)
    }

    pub(crate) fn job_mut(&mut self, at: JobIndex) -> &mut Job {
        Arc::make_mut(&mut self.jobs[at.at()])
    }

    fn planned(&mut self, at: Timestamp, effects: &mut Effects) -> Result<(), Refused> {
        let Some(plan) = self.plan.clone() else {
            let message = "the run cannot be planned: its plan was not given".to_owned();
            return Err(Refused::Illegal(message));
        };
        if !self.jobs.is_empty() {
            return Ok(());
        }
        self.must_be_unplanned()?;
        let fault = if plan.jobs.is_empty() {
            Some("it has no jobs".to_owned())
        } else {
            plan.check().err().map(|error| error.to_string())
        };
        if let Some(fault) = fault {
            // A run must end, and say why; a plan that cannot be driven is no plan.
            return self.plan_refused(&fault, at, effects);
        }
        let graph = Arc::new(Graph::of(&plan));
        self.jobs = plan.indices().map(|job| Arc::new(Job::new(graph.n_needs(job), at))).collect();
        self.tally = Tally::queued(self.jobs.len());
        self.graph = graph;
        self.queue_jobs(&plan.indices().collect::<Vec<_>>(), at, effects);
        effects.run = true;
        Ok(())
    }

    fn plan_refused(
        &mut self,
        message: &str,
        at: Timestamp,
        effects: &mut Effects,
    ) -> Result<(), Refused> {
        let reason = Reason::NoPlan { message: message.to_owned() };
        if self.reason.as_ref() == Some(&reason) {
            return Ok(());
        }
        self.must_be_unplanned()?;
        self.plan = None;
        self.state = RunState::Failed;
        self.reason = Some(reason);
        self.finished_at = Some(at);
        effects.run = true;
        Ok(())
    }

    fn must_be_unplanned(&self) -> Result<(), Refused> {
        if !self.jobs.is_empty() {
            return Err(Refused::Illegal(format!("run {} has its plan already", self.id)));
        }
        if self.state.is_over() {
            return Err(Refused::Illegal(format!("run {} is over ({})", self.id, self.state)));
        }
        Ok(())
    }

    /// Whoever takes a job that has a lock holds one of its names, and nobody holds another.
    fn check_lock(&mut self, lease: LeaseId, held: Option<&str>) -> Result<(), Refused> {
        self.attempt_mut(lease)?;
        let any = self.planned_job(lease.attempt.job).lock.as_ref().map(|lock| &lock.any);
        match (any, held) {
            (None, None) => Ok(()),
            (Some(any), Some(held)) if any.iter().any(|name| name == held) => Ok(()),
            (_, held) => {
                let held =
                    held.map_or_else(|| "no lock".to_owned(), |held| format!("lock `{held}`"));
                let message =
                    format!("{lease} cannot be leased with {held}: the plan says otherwise");
                Err(Refused::Illegal(message))
            }
        }
    }

    fn leased_now(&mut self, lease: LeaseId, news: News, effects: &mut Effects) {
        if news == News::New {
            let job = lease.attempt.job;
            self.held.insert(job);
            self.job_mut(job).reason = None;
            effects.jobs.push(job);
        }
    }

    fn started_now(&mut self, lease: LeaseId, news: News, at: Timestamp, effects: &mut Effects) {
        if news == News::New {
            self.turn(lease.attempt.job, JobState::Running, None, at, effects);
            self.begun_by(at, effects);
        }
    }

    /// A run begins with the first job that starts, or that has no need to.
    fn begun_by(&mut self, at: Timestamp, effects: &mut Effects) {
        if self.started_at.is_none() {
            self.started_at = Some(at);
            effects.run = true;
        }
    }

    fn awaits(&mut self, lease: LeaseId, from: &Earlier, news: News, effects: &mut Effects) {
        if news == News::New {
            let reason = Reason::SameJob { run: from.number.0, job: from.job.to_string() };
            self.job_mut(lease.attempt.job).reason = Some(reason);
            effects.jobs.push(lease.attempt.job);
        }
    }

    /// The attempt that a lease speaks of, whatever its state.
    fn attempt_mut(&mut self, lease: LeaseId) -> Result<&mut Attempt, Refused> {
        let AttemptId { run, job, attempt } = lease.attempt;
        let position = usize::try_from(attempt).ok().and_then(|number| number.checked_sub(1));
        let known = self.jobs.get(job.at()).map_or(0, |job| job.attempts.len());
        match position {
            Some(position) if run == self.id && position < known => {
                Ok(&mut self.job_mut(job).attempts[position])
            }
            _ => {
                let message = format!("run {} has no attempt {}", self.id, lease.attempt);
                Err(Refused::Illegal(message))
            }
        }
    }

    /// Lets what is over reach what needs it, then draws the run's own state from its jobs.
    fn settle(&mut self, at: Timestamp, effects: &mut Effects) {
        while let Some(over) = effects.over.pop_front() {
            self.need_over(over, at, effects);
        }
        if self.jobs.is_empty() {
            return;
        }
        let (state, reason) = self.verdict();
        let finished_at = state.is_over().then_some(at);
        if (state, &reason, finished_at) != (self.state, &self.reason, self.finished_at) {
            (self.state, self.reason, self.finished_at) = (state, reason, finished_at);
            effects.run = true;
        }
    }

    /// Invariant 8, and what a run is before it is over.
    fn verdict(&self) -> (RunState, Option<Reason>) {
        let n = |state| self.tally.of(state);
        let cancelled = self.cancelled_by.clone().map(|by| Reason::CancelAsked { by });
        if self.tally.over() < self.tally.all() {
            let state = match () {
                () if self.tally.n_open == 0 && n(JobState::Waiting) > 0 => RunState::Waiting,
                () if self.started_at.is_some() => RunState::Running,
                () => RunState::Queued,
            };
            return (state, cancelled);
        }
        match () {
            () if n(JobState::Cancelled) > 0 => {
                (RunState::Cancelled, cancelled.or_else(|| self.because_of(&[JobState::Cancelled])))
            }
            () if n(JobState::Failed) + n(JobState::Lost) > 0 => {
                (RunState::Failed, self.because_of(&[JobState::Failed, JobState::Lost]))
            }
            () if n(JobState::Warning) > 0 => {
                (RunState::Warning, self.because_of(&[JobState::Warning]))
            }
            () if n(JobState::Skipped) == self.tally.all() => {
                (RunState::Success, Some(Reason::AllSkipped))
            }
            () => (RunState::Success, None),
        }
    }

    fn because_of(&self, states: &[JobState]) -> Option<Reason> {
        let plan = self.plan.as_ref()?;
        let such = self.jobs.iter().zip(&plan.jobs).filter(|(job, _)| states.contains(&job.state));
        Some(Reason::Jobs { jobs: such.map(|(_, job)| job.name.to_string()).collect() })
    }
}
