//! One try at a job, from its offer to its end. What an agent writes is checked here.
//!
//! ```text
//! offered ──lease──▶ leased ──start──▶ running ──finish, lapse──▶ over
//!    ▲                 │ │                                         ▲
//!    └──lapse, lost────┘ └───────finish (not a success), reuse─────┘
//! ```
//!
//! Always: the epoch grows by one with each lease and never otherwise. Steps go one at a time and
//! forward; one that does not run (an earlier one failed) is passed over. A success has no step that
//! ended otherwise. What is told twice under the same lease is accepted and changes nothing.

use std::collections::BTreeMap;

use kiln_model::artifact::Artifact;
use kiln_model::layer::LayerId;
use kiln_model::{
    AgentId, AttemptId, Earlier, EarlierStep, Epoch, Exit, FromStep, JobKey, JobState, LeaseId,
    Notes, Outcome, ServiceChange, ServiceEnd, ServiceState, Surroundings, Usage,
};
use kiln_stdx::Timestamp;

use crate::action::Refused;

/// One try, with what is known of it. `state` in the job's words: `queued` until it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    pub id: AttemptId,
    pub cause: Cause,
    /// What it takes over; `None`: it begins at its first step.
    pub from: Option<FromStep>,
    /// How often it was leased.
    pub epoch: Epoch,
    pub state: JobState,
    /// Who holds it or, when it is over, held it.
    pub agent: Option<(AgentId, String)>,
    pub lock: Option<String>,
    pub queued_at: Timestamp,
    pub leased_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// What its steps run in; absent: it has not started, or that was not told.
    pub surroundings: Option<Surroundings>,
    /// One for each step of the plan.
    pub steps: Vec<Step>,
    /// Those that were begun, by name.
    pub services: BTreeMap<String, Service>,
    pub outcome: Option<Outcome>,
    pub layer: Option<LayerId>,
    pub artifacts: Vec<Artifact>,
    pub log_bytes: u64,
    pub notes: Notes,
    /// What its result depends on, when that was asked for.
    pub key: Option<JobKey>,
    /// Why earlier results with that key were not taken.
    pub unfit: Vec<String>,
    /// Whose result it has, or waits for while it is not over.
    pub earlier: Option<Earlier>,
}

/// What brought an attempt about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    First,
    /// The policy of the job, after an attempt that was not a success.
    Retry,
    Rerun {
        by: String,
    },
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub exit: Option<Exit>,
    /// Bytes of the attempt's log that are this step's.
    pub log_from: u64,
    pub log_to: Option<u64>,
    /// Absent: not known.
    pub usage: Option<Box<Usage>>,
}

/// A container beside the attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub started_at: Timestamp,
    pub ready_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub end: Option<ServiceEnd>,
    /// Known at its end.
    pub log_bytes: u64,
}

/// Whether an event told something that was not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    New,
    Known,
}

/// What an agent says at the end.
#[derive(Clone, Copy)]
pub(crate) struct Finish<'a> {
    pub outcome: &'a Outcome,
    pub layer: &'a Option<LayerId>,
    pub artifacts: &'a [Artifact],
    /// Absent: not known, because the agent is gone.
    pub log_bytes: Option<u64>,
    pub notes: &'a Notes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Offered,
    Leased,
    Running,
    Over,
}

impl Attempt {
    pub(crate) fn offered(
        id: AttemptId,
        (cause, from): (Cause, Option<FromStep>),
        n_steps: usize,
        at: Timestamp,
    ) -> Self {
        Self {
            id,
            cause,
            from,
            epoch: Epoch(0),
            state: JobState::Queued,
            agent: None,
            lock: None,
            queued_at: at,
            leased_at: None,
            started_at: None,
            finished_at: None,
            surroundings: None,
            steps: vec![Step::default(); n_steps],
            services: BTreeMap::new(),
            outcome: None,
            layer: None,
            artifacts: Vec::new(),
            log_bytes: 0,
            notes: Notes::default(),
            key: None,
            unfit: Vec::new(),
            earlier: None,
        }
    }

    /// It is over, and an earlier attempt's result is its own.
    pub fn reused_from(&self) -> Option<&Earlier> {
        self.earlier.as_ref().filter(|_| self.state.is_over())
    }

    /// The lease under which it is or was held last.
    pub fn lease_id(&self) -> LeaseId {
        LeaseId { attempt: self.id, epoch: self.epoch }
    }

    /// The lease that the next agent gets.
    pub fn next_lease(&self) -> LeaseId {
        LeaseId { attempt: self.id, epoch: Epoch(self.epoch.0 + 1) }
    }

    /// The position of the first step that it runs itself.
    pub fn first_step(&self) -> u32 {
        self.from.as_ref().map_or(0, |from| from.step)
    }

    /// An agent may take it.
    pub fn is_offered(&self) -> bool {
        self.phase() == Phase::Offered
    }

    /// An agent has it.
    pub fn is_held(&self) -> bool {
        matches!(self.phase(), Phase::Leased | Phase::Running)
    }

    fn phase(&self) -> Phase {
        match (self.state.is_over(), &self.agent, self.started_at) {
            (true, _, _) => Phase::Over,
            (false, None, _) => Phase::Offered,
            (false, Some(_), None) => Phase::Leased,
            (false, Some(_), Some(_)) => Phase::Running,
        }
    }

    pub(crate) fn lease(
        &mut self,
        lease: LeaseId,
        (agent, name): (AgentId, &str),
        lock: Option<&str>,
        at: Timestamp,
    ) -> Result<News, Refused> {
        match self.phase() {
            Phase::Offered if lease == self.next_lease() => {
                self.epoch = lease.epoch;
                self.agent = Some((agent, name.to_owned()));
                self.lock = lock.map(str::to_owned);
                self.leased_at = Some(at);
                Ok(News::New)
            }
            Phase::Leased | Phase::Running
                if lease == self.lease_id()
                    && self.agent.as_ref().is_some_and(|(holder, _)| *holder == agent)
                    && self.lock.as_deref() == lock =>
            {
                Ok(News::Known)
            }
            _ if lease.epoch <= self.epoch || self.state.is_over() => {
                Err(Refused::StaleLease { lease })
            }
            _ => Err(self.illegal(lease, "be leased")),
        }
    }

    /// What its result depends on. Told again when an earlier result turned out to be unfit.
    pub(crate) fn key(
        &mut self,
        lease: LeaseId,
        key: &JobKey,
        unfit: &[String],
    ) -> Result<News, Refused> {
        self.fence(lease)?;
        if self.key.as_ref() == Some(key) && self.unfit == unfit {
            return Ok(News::Known);
        }
        // One that begins in the middle rests on more than a key says.
        if self.phase() != Phase::Leased || self.first_step() > 0 {
            return Err(self.illegal(lease, "be given a key"));
        }
        self.key = Some(key.clone());
        self.unfit = unfit.to_vec();
        Ok(News::New)
    }

    /// It waits for the result of another.
    pub(crate) fn wait_for(&mut self, lease: LeaseId, from: &Earlier) -> Result<News, Refused> {
        self.fence(lease)?;
        if self.phase() != Phase::Leased {
            return Err(self.illegal(lease, "wait for another"));
        }
        if self.earlier.as_ref() == Some(from) {
            return Ok(News::Known);
        }
        self.earlier = Some(from.clone());
        Ok(News::New)
    }

    /// Another's result is its own: a success without a step.
    pub(crate) fn reuse(
        &mut self,
        lease: LeaseId,
        from: &Earlier,
        finish: Finish<'_>,
        steps: &[EarlierStep],
        at: Timestamp,
    ) -> Result<News, Refused> {
        let same = self.reused_from() == Some(from);
        if self.phase() == Phase::Over && same && self.ended_so(lease, finish) {
            return Ok(News::Known);
        }
        self.fence(lease)?;
        let whole = self.first_step() == 0 && finish.outcome.is_success();
        if self.phase() != Phase::Leased || !whole {
            return Err(self.illegal(lease, "take an earlier result"));
        }
        for (step, earlier) in self.steps.iter_mut().zip(steps) {
            step.exit.clone_from(&earlier.exit);
            step.log_from = earlier.log_from;
            step.log_to = earlier.exit.is_some().then_some(earlier.log_to);
        }
        self.earlier = Some(from.clone());
        self.end(finish, at);
        Ok(News::New)
    }

    pub(crate) fn start(
        &mut self,
        lease: LeaseId,
        surroundings: Option<&Surroundings>,
        at: Timestamp,
    ) -> Result<News, Refused> {
        self.fence(lease)?;
        if self.phase() == Phase::Running {
            return Ok(News::Known);
        }
        self.surroundings = surroundings.cloned();
        self.state = JobState::Running;
        self.started_at = Some(at);
        // Whom it has waited for did not give it a result.
        self.earlier = None;
        Ok(News::New)
    }

    pub(crate) fn start_step(
        &mut self,
        lease: LeaseId,
        step: u32,
        log_from: u64,
        at: Timestamp,
    ) -> Result<News, Refused> {
        self.fence(lease)?;
        let position = self.position(lease, step)?;
        if self.phase() != Phase::Running {
            return Err(self.illegal(lease, &format!("start step {}", step + 1)));
        }
        if step < self.first_step() {
            let message = format!("{lease}: step {} was taken over and cannot start", step + 1);
            return Err(Refused::Illegal(message));
        }
        let this = &self.steps[position];
        if this.started_at.is_some() && this.log_from == log_from {
            return Ok(News::Known);
        }
        let later = &self.steps[position..];
        let open = self.steps[..position].iter().any(Step::is_open);
        if open || later.iter().any(|step| step.started_at.is_some()) {
            let message =
                format!("{lease}: step {} cannot start after a later or open one", step + 1);
            return Err(Refused::Illegal(message));
        }
        self.steps[position] = Step { started_at: Some(at), log_from, ..Step::default() };
        Ok(News::New)
    }

    pub(crate) fn finish_step(
        &mut self,
        (lease, step): (LeaseId, u32),
        exit: &Exit,
        log_to: u64,
        usage: Option<&Usage>,
        at: Timestamp,
    ) -> Result<News, Refused> {
        self.fence(lease)?;
        let position = self.position(lease, step)?;
        let this = &mut self.steps[position];
        if this.exit.as_ref() == Some(exit) && this.log_to == Some(log_to) {
            return Ok(News::Known);
        }
        if !this.is_open() || log_to < this.log_from {
            let message = format!("{lease}: step {} has not started or ended otherwise", step + 1);
            return Err(Refused::Illegal(message));
        }
        this.finished_at = Some(at);
        this.exit = Some(exit.clone());
        this.log_to = Some(log_to);
        this.usage = usage.cloned().map(Box::new);
        Ok(News::New)
    }

    /// Something has become of one of its services. What is told again, or after its end, is known.
    pub(crate) fn change_service(
        &mut self,
        lease: LeaseId,
        name: &str,
        change: &ServiceChange,
        at: Timestamp,
    ) -> Result<News, Refused> {
        self.fence(lease)?;
        if self.phase() != Phase::Running {
            return Err(self.illegal(lease, &format!("have the service `{name}`")));
        }
        let known = self.services.get_mut(name);
        match (known, change) {
            (None, ServiceChange::Ready) => {
                let message = format!("{lease}: the service `{name}` was never started");
                return Err(Refused::Illegal(message));
            }
            (None, change) => {
                let mut new = Service::started(at);
                if let ServiceChange::Ended { end, log_bytes } = change {
                    new.end(end, *log_bytes, at);
                }
                self.services.insert(name.to_owned(), new);
            }
            (Some(_), ServiceChange::Started) => return Ok(News::Known),
            (Some(known), _) if known.end.is_some() => return Ok(News::Known),
            (Some(known), ServiceChange::Ready) if known.ready_at.is_some() => {
                return Ok(News::Known);
            }
            (Some(known), ServiceChange::Ready) => known.ready_at = Some(at),
            (Some(known), ServiceChange::Ended { end, log_bytes }) => {
                known.end(end, *log_bytes, at);
            }
        }
        Ok(News::New)
    }

    /// The agent's last word. An attempt that never started and was lost is free again.
    pub(crate) fn finish(
        &mut self,
        lease: LeaseId,
        finish: Finish<'_>,
        at: Timestamp,
    ) -> Result<News, Refused> {
        if self.phase() == Phase::Over && self.ended_so(lease, finish) {
            return Ok(News::Known);
        }
        self.fence(lease)?;
        match (self.phase(), finish.outcome) {
            (Phase::Leased, Outcome::Lost { .. }) => self.free(),
            (Phase::Leased, Outcome::Success | Outcome::StepFailed { .. }) => {
                return Err(self.illegal(lease, "have run a step"));
            }
            (_, outcome) => {
                self.check_outcome(lease, outcome)?;
                self.earlier = None;
                self.end(finish, at);
            }
        }
        Ok(News::New)
    }

    /// Its agent was silent for too long.
    pub(crate) fn lapse(
        &mut self,
        lease: LeaseId,
        message: &str,
        at: Timestamp,
    ) -> Result<News, Refused> {
        self.fence(lease)?;
        if self.phase() == Phase::Leased {
            self.free();
        } else {
            let outcome = Outcome::Lost { message: message.to_owned() };
            let gone = Finish {
                outcome: &outcome,
                layer: &None,
                artifacts: &[],
                log_bytes: None,
                notes: &Notes::default(),
            };
            self.end(gone, at);
        }
        Ok(News::New)
    }

    /// Ends an attempt that nobody holds.
    pub(crate) fn close(&mut self, outcome: Outcome, at: Timestamp) {
        self.state = state_of(&outcome);
        self.outcome = Some(outcome);
        self.finished_at = Some(at);
        self.earlier = None;
    }

    /// Only the holder may speak, and only until the end.
    fn fence(&self, lease: LeaseId) -> Result<(), Refused> {
        match self.phase() {
            Phase::Leased | Phase::Running if lease == self.lease_id() => Ok(()),
            _ if lease.epoch <= self.epoch => Err(Refused::StaleLease { lease }),
            _ => Err(Refused::Illegal(format!("lease {lease} was never given"))),
        }
    }

    fn position(&self, lease: LeaseId, step: u32) -> Result<usize, Refused> {
        let n_steps = self.steps.len();
        match usize::try_from(step) {
            Ok(position) if position < n_steps => Ok(position),
            _ => {
                let message = format!("{lease}: there is no step {step}; the job has {n_steps}");
                Err(Refused::Illegal(message))
            }
        }
    }

    fn check_outcome(&self, lease: LeaseId, outcome: &Outcome) -> Result<(), Refused> {
        let failed = |step: &Step| step.exit.as_ref().is_some_and(|exit| !exit.is_success());
        match outcome {
            Outcome::Success if self.steps.iter().any(failed) => {
                let message = format!("{lease} cannot be a success: a step of it has failed");
                Err(Refused::Illegal(message))
            }
            Outcome::StepFailed { step, exit } if exit.is_success() => {
                let message = format!("{lease}: step {} cannot have failed with {exit}", step + 1);
                Err(Refused::Illegal(message))
            }
            Outcome::StepFailed { step, .. } => self.position(lease, *step).map(drop),
            _ => Ok(()),
        }
    }

    fn ended_so(&self, lease: LeaseId, finish: Finish<'_>) -> bool {
        lease == self.lease_id()
            && self.outcome.as_ref() == Some(finish.outcome)
            && self.layer == *finish.layer
            && self.artifacts == finish.artifacts
            && Some(self.log_bytes) == finish.log_bytes
    }

    /// As it was before it was leased, but for the epoch.
    fn free(&mut self) {
        self.agent = None;
        self.lock = None;
        self.leased_at = None;
        (self.key, self.unfit, self.earlier) = (None, Vec::new(), None);
    }

    fn end(&mut self, finish: Finish<'_>, at: Timestamp) {
        let written = self.steps.iter().filter_map(|step| step.log_to).max().unwrap_or(0);
        self.log_bytes = finish.log_bytes.unwrap_or(written);
        if let Some((position, step)) = self.steps.iter_mut().enumerate().find(|(_, s)| s.is_open())
        {
            step.finished_at = Some(at);
            step.log_to = finish.log_bytes.map(|end| end.max(step.log_from));
            step.exit = Some(exit_of_open(position, finish.outcome));
        }
        // None outlives its job; of one that nothing was told of that is all that is known.
        for service in self.services.values_mut().filter(|service| service.end.is_none()) {
            service.end(&ServiceEnd::Stopped, 0, at);
        }
        self.state = state_of(finish.outcome);
        self.outcome = Some(finish.outcome.clone());
        self.layer.clone_from(finish.layer);
        self.artifacts = finish.artifacts.to_vec();
        self.notes.clone_from(finish.notes);
        self.finished_at = Some(at);
    }

    fn illegal(&self, lease: LeaseId, act: &str) -> Refused {
        let phase = match self.phase() {
            Phase::Offered => "offered",
            Phase::Leased => "leased and has not started",
            Phase::Running => "running",
            Phase::Over => "over",
        };
        Refused::Illegal(format!("{lease} cannot {act}: the attempt is {phase}"))
    }
}

impl Service {
    fn started(at: Timestamp) -> Self {
        Self { started_at: at, ready_at: None, finished_at: None, end: None, log_bytes: 0 }
    }

    fn end(&mut self, end: &ServiceEnd, log_bytes: u64, at: Timestamp) {
        (self.end, self.log_bytes) = (Some(end.clone()), log_bytes);
        self.finished_at = Some(at);
    }

    pub fn state(&self) -> ServiceState {
        match (&self.end, self.ready_at) {
            (Some(end), _) => end.state(),
            (None, Some(_)) => ServiceState::Ready,
            (None, None) => ServiceState::Starting,
        }
    }
}

impl Step {
    fn is_open(&self) -> bool {
        self.started_at.is_some() && self.exit.is_none()
    }
}

fn state_of(outcome: &Outcome) -> JobState {
    match outcome {
        Outcome::Success => JobState::Success,
        Outcome::Cancelled => JobState::Cancelled,
        Outcome::Lost { .. } | Outcome::StepFailed { exit: Exit::HostGone { .. }, .. } => {
            JobState::Lost
        }
        Outcome::StepFailed { .. } | Outcome::TimedOut { .. } | Outcome::Error { .. } => {
            JobState::Failed
        }
    }
}

/// How the step ended that was running when its attempt did, and of which nothing else was told.
fn exit_of_open(position: usize, outcome: &Outcome) -> Exit {
    match outcome {
        Outcome::Success => Exit::SUCCESS,
        Outcome::StepFailed { step, exit } if usize::try_from(*step) == Ok(position) => {
            exit.clone()
        }
        Outcome::StepFailed { .. } | Outcome::Cancelled => Exit::Cancelled,
        Outcome::TimedOut { after_ms } => Exit::TimedOut { after_ms: *after_ms },
        Outcome::Error { message } | Outcome::Lost { message } => {
            Exit::HostGone { detail: message.clone() }
        }
    }
}
