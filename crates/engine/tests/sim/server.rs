//! The server: a journal that survives, a memory that does not, and rules for silence (P4, P5).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use kiln_engine::queue::{Offer, Queue};
use kiln_engine::run::{Action, Refused, Run};
use kiln_model::limit::{DISCONNECT_GRACE, LEASE_FOR};
use kiln_model::{
    AgentId, AttemptId, Event, EventKind, LeaseId, Outcome, Plan, ProjectId, RunId, Trigger,
    TriggerKind,
};
use kiln_stdx::Timestamp;

use crate::agent::ms;
use crate::checks::Checks;
use crate::oracle::SILENT;
use crate::plans::Says;

/// Ways to break the scheduler, to prove that it would be noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A result of an older epoch counts as one of the present.
    NoFencing,
    /// What is over keeps its lock.
    KeepsLocks,
    /// Some facts are accepted and never written.
    ForgetsEvents,
    /// Every other job that was skipped is shown as a success.
    HidesSkips,
    /// A started attempt that is lost goes to the next agent as if it had never started.
    OffersStarted,
    /// An offer is made before the needs are over.
    OffersEarly,
}

impl Sabotage {
    pub const ALL: &[Self] = &[
        Self::NoFencing,
        Self::KeepsLocks,
        Self::ForgetsEvents,
        Self::HidesSkips,
        Self::OffersStarted,
        Self::OffersEarly,
    ];

    /// Words of the check that sees it.
    pub fn is_noticed_by(self) -> &'static str {
        match self {
            Self::NoFencing => "is not live, and was heard",
            Self::KeepsLocks => "not everything has ended",
            Self::ForgetsEvents => "refused when folded",
            Self::HidesSkips => "the oracle has skipped",
            Self::OffersStarted | Self::OffersEarly => "in the queue,",
        }
    }
}

/// What survives a crash, of one run.
pub struct Kept {
    pub id: RunId,
    pub project: ProjectId,
    pub trigger: Arc<Trigger>,
    pub plan: Arc<Plan>,
    pub says: Vec<Says>,
    pub journal: Vec<Event>,
}

/// What a server knows of a lease besides the run: when it was heard of.
struct Silence {
    heard_at: u64,
    stop: bool,
}

pub struct Server {
    pub kept: Vec<Kept>,
    pub runs: Vec<Run>,
    pub queue: Queue,
    silences: BTreeMap<LeaseId, Silence>,
    pub sabotage: Option<Sabotage>,
    pub n_crashes: u64,
    pub n_lapsed: u64,
    pub n_stale: u64,
}

impl Kept {
    pub fn new(id: RunId, project: ProjectId, plan: Plan, says: Vec<Says>) -> Self {
        let mut trigger = Trigger::new(TriggerKind::Push, "0".repeat(40));
        trigger.branch = Some("main".to_owned());
        Self {
            id,
            project,
            trigger: Arc::new(trigger),
            plan: Arc::new(plan),
            says,
            journal: Vec::new(),
        }
    }

    /// The run as its journal tells it.
    pub fn fold(&self) -> Result<Run, String> {
        let mut run = self.blank();
        for event in &self.journal {
            run.apply(event).map_err(|refused| format!("the journal is refused: {refused}"))?;
        }
        Ok(run)
    }

    pub fn blank(&self) -> Run {
        let mut run = Run::new(self.id, self.trigger.clone(), Timestamp::EPOCH);
        run.set_plan(self.plan.clone());
        run
    }
}

impl Server {
    pub fn new(kept: Vec<Kept>, sabotage: Option<Sabotage>) -> Self {
        let runs = kept.iter().map(Kept::blank).collect();
        Self {
            kept,
            runs,
            queue: Queue::default(),
            silences: BTreeMap::new(),
            sabotage,
            n_crashes: 0,
            n_lapsed: 0,
            n_stale: 0,
        }
    }

    /// All memory is gone; what the journal says comes back. Every lease gets a full new term (P4).
    pub fn crash(&mut self, now: u64, checks: &Checks) -> Result<(), String> {
        self.n_crashes += 1;
        self.queue = Queue::default();
        self.silences.clear();
        for (at, kept) in self.kept.iter().enumerate() {
            let folded = kept.fold()?;
            checks.same(&folded, &self.runs[at], "after a restart")?;
            let stops = folded.stops();
            for lease in folded.leased() {
                let stop = stops.iter().any(|(stopped, _)| *stopped == lease);
                self.silences.insert(lease, Silence { heard_at: now, stop });
                let attempt = folded.jobs[lease.attempt.job.at()].attempts.last();
                let lock = attempt.and_then(|attempt| attempt.lock.clone());
                self.queue.resume(kept.project, lease.attempt, lock);
            }
            for offer in folded.offers() {
                self.queue.offer(kept.project, offer);
            }
            self.runs[at] = folded;
        }
        Ok(())
    }

    /// Accepts an event or refuses it. With `crash`, the server dies after it was written.
    pub fn apply(
        &mut self,
        at: usize,
        kind: EventKind,
        (now, wall): (u64, Timestamp),
        crash: bool,
        checks: &mut Checks,
    ) -> Result<Result<(), Refused>, String> {
        let before = self.runs[at].clone();
        let mut event = Event { seq: before.seq + 1, at: wall, kind: kind.clone() };
        let applied = match self.runs[at].apply(&event) {
            Err(Refused::StaleLease { lease }) if self.sabotage == Some(Sabotage::NoFencing) => {
                let job = &self.runs[at].jobs[lease.attempt.job.at()];
                match (job.attempts.last().filter(|last| last.is_held()), event.kind) {
                    (Some(held), EventKind::Finished { outcome, .. }) => {
                        event.kind = finished(held.lease_id(), outcome);
                        self.runs[at].apply(&event)
                    }
                    (_, kind) => {
                        event.kind = kind;
                        Err(Refused::StaleLease { lease })
                    }
                }
            }
            applied => applied,
        };
        let mut actions = match applied {
            Err(refused) => {
                self.n_stale += u64::from(matches!(refused, Refused::StaleLease { .. }));
                checks.same(&before, &self.runs[at], "after a refusal")?;
                return Ok(Err(refused));
            }
            Ok(actions) => actions,
        };
        if actions.is_empty() {
            checks.same(&before, &self.runs[at], "after a duplicate")?;
            return Ok(Ok(()));
        }
        self.sabotage_actions(at, &event, &mut actions);
        if !(self.sabotage == Some(Sabotage::ForgetsEvents)
            && matches!(event.kind, EventKind::StepFinished { .. }))
        {
            self.kept[at].journal.push(event);
        }
        checks.accepted(at, &kind, &before, &self.runs[at], &self.kept[at])?;
        if crash {
            self.crash(now, checks)?;
        } else {
            self.act(at, actions);
        }
        checks.queue(&self.runs, &self.queue)?;
        Ok(Ok(()))
    }

    fn act(&mut self, at: usize, actions: Vec<Action>) {
        let project = self.kept[at].project;
        for action in actions {
            match action {
                Action::Offer(offer) => self.queue.offer(project, offer),
                Action::Withdraw(attempt) => self.queue.withdraw(attempt),
                Action::Release(attempt) => {
                    self.queue.release(attempt);
                }
                Action::Stop { lease, .. } => {
                    if let Some(silence) = self.silences.get_mut(&lease) {
                        silence.stop = true;
                    }
                }
                Action::JobChanged(_) | Action::RunChanged => {}
            }
        }
    }

    fn sabotage_actions(&mut self, at: usize, event: &Event, actions: &mut Vec<Action>) {
        match (self.sabotage, &event.kind) {
            (Some(Sabotage::KeepsLocks), _) => {
                actions.retain(|action| !matches!(action, Action::Release(_)));
            }
            (Some(Sabotage::OffersStarted), EventKind::Lapsed { lease, .. }) => {
                let job = self.kept[at].plan.job(lease.attempt.job);
                actions.push(Action::Offer(Offer {
                    attempt: lease.attempt,
                    labels: job.labels.clone(),
                    priority: job.priority,
                    lock: job.lock.clone(),
                }));
            }
            (Some(Sabotage::OffersEarly), EventKind::Planned) => {
                let id = self.kept[at].id;
                for job in self.kept[at].plan.indices() {
                    let attempt = AttemptId { run: id, job, attempt: 1 };
                    let (labels, priority, lock) = (Vec::new(), 0, None);
                    let offer = Offer { attempt, labels, priority, lock };
                    actions.push(Action::Offer(offer));
                }
            }
            _ => {}
        }
    }

    /// What the oracle is shown.
    pub fn shown(&self, at: usize) -> Run {
        let mut run = self.runs[at].clone();
        if self.sabotage == Some(Sabotage::HidesSkips) {
            for job in &mut run.jobs {
                if job.state == kiln_model::JobState::Skipped {
                    Arc::make_mut(job).state = kiln_model::JobState::Success;
                }
            }
        }
        run
    }

    /// Gives an agent the best offer for it. `None`: there is none.
    pub fn take(
        &mut self,
        agent: usize,
        labels: &[String],
        when: (u64, Timestamp),
        crash: bool,
        checks: &mut Checks,
    ) -> Result<Option<(LeaseId, Range<u32>)>, String> {
        let Some((offer, lock)) = self.queue.take(labels) else { return Ok(None) };
        let at = self.run_of(offer.attempt.run);
        let job = offer.attempt.job;
        // Sometimes the agent hangs up in between.
        if when.0.is_multiple_of(13) {
            self.queue.put_back(self.kept[at].project, offer);
            return Ok(None);
        }
        let Some(last) = self.runs[at].jobs[job.at()].attempts.last() else {
            return Err(format!("{} was offered and does not exist", offer.attempt));
        };
        let (lease, first_step) = (last.next_lease(), last.first_step());
        let kind = EventKind::Leased {
            lease,
            agent: AgentId(i64::try_from(agent).expect("few")),
            agent_name: format!("agent-{agent}"),
            lock,
        };
        self.silences.insert(lease, Silence { heard_at: when.0, stop: false });
        match self.apply(at, kind, when, crash, checks)? {
            Err(refused) => Err(format!("an offer cannot be leased: {refused}")),
            Ok(()) if crash => Ok(None),
            Ok(()) => {
                let n_steps = u32::try_from(self.kept[at].plan.job(job).steps.len());
                Ok(Some((lease, first_step..n_steps.expect("few"))))
            }
        }
    }

    /// Leases that are alive of these, and of them those that must stop.
    pub fn renew(&mut self, leases: &[LeaseId], now: u64) -> (Vec<LeaseId>, Vec<LeaseId>) {
        let live: Vec<LeaseId> = self.runs.iter().flat_map(Run::leased).collect();
        let (mut alive, mut stop) = (Vec::new(), Vec::new());
        for lease in leases.iter().filter(|lease| live.contains(lease)) {
            alive.push(*lease);
            if let Some(silence) = self.silences.get_mut(lease) {
                silence.heard_at = now;
                if silence.stop {
                    stop.push(*lease);
                }
            }
        }
        (alive, stop)
    }

    /// Gives up what has been silent for a whole term while the server was up.
    pub fn expire(&mut self, when: (u64, Timestamp), checks: &mut Checks) -> Result<(), String> {
        let live: Vec<LeaseId> = self.runs.iter().flat_map(Run::leased).collect();
        self.silences.retain(|lease, _| live.contains(lease));
        for lease in live {
            let at = self.run_of(lease.attempt.run);
            let job = &self.runs[at].jobs[lease.attempt.job.at()];
            let started = job.attempts.last().is_some_and(|last| last.started_at.is_some());
            let term = ms(if started { DISCONNECT_GRACE } else { LEASE_FOR });
            let heard_at = self.silences.get(&lease).map_or(0, |silence| silence.heard_at);
            if when.0.saturating_sub(heard_at) > term {
                self.n_lapsed += 1;
                let message = SILENT[0].to_owned();
                let kind = EventKind::Lapsed { lease, message };
                self.apply(at, kind, when, false, checks)?
                    .map_err(|refused| format!("a live lease cannot lapse: {refused}"))?;
            }
        }
        Ok(())
    }

    pub fn run_of(&self, id: RunId) -> usize {
        self.kept.iter().position(|kept| kept.id == id).expect("every id is of a run")
    }
}

fn finished(lease: LeaseId, outcome: Outcome) -> EventKind {
    let outputs = BTreeMap::new();
    EventKind::Finished {
        lease,
        outcome,
        outputs,
        layer: None,
        artifacts: Vec::new(),
        log_bytes: 0,
        notes: Default::default(),
    }
}
