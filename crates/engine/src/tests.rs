//! Facts about runs and queues, told with a handful of jobs. What random plans and faults do to them
//! is told by `tests/sim`.

mod attempts;
mod cancels;
mod histories;
mod needs;
mod queues;
mod reruns;
mod reuse;

use std::collections::BTreeMap;
use std::sync::Arc;

use kiln_model::condition::Condition;
use kiln_model::layer::LayerId;
use kiln_model::plan::PLAN_VERSION;
use kiln_model::{
    AgentId, AttemptId, Event, EventKind, Exit, Job, JobIndex, JobState, LeaseId, Outcome, Plan,
    Reason, RunId, RunState, Trigger, TriggerKind,
};
use kiln_stdx::Timestamp;

use crate::run::{Action, Attempt, Refused, Run};

/// A run, its events, and a clock that ticks once for each.
struct Story {
    run: Run,
    events: Vec<Event>,
}

fn job(name: &str, needs: &[u32]) -> Job {
    Job {
        needs: needs.iter().copied().map(JobIndex).collect(),
        ..Job::sample(name, &format!("make {name}"))
    }
}

fn with_condition(job: Job, text: &str) -> Job {
    Job { condition: Some(Condition::parse(text).expect("tests give right conditions")), ..job }
}

fn plan_of(jobs: Vec<Job>) -> Plan {
    Plan { version: PLAN_VERSION, manifest: ".kiln.yml".into(), inputs: BTreeMap::new(), jobs }
}

/// A run of these jobs on branch `main`, planned.
fn story(jobs: Vec<Job>) -> Story {
    let mut story = unplanned();
    story.run.set_plan(Arc::new(plan_of(jobs)));
    story.apply(EventKind::Planned);
    story
}

fn unplanned() -> Story {
    let mut trigger = Trigger::new(TriggerKind::Push, "0".repeat(40));
    trigger.branch = Some("main".to_owned());
    Story { run: Run::new(RunId(7), Arc::new(trigger), Timestamp::EPOCH), events: Vec::new() }
}

fn exit(code: u8) -> Outcome {
    Outcome::StepFailed { step: 0, exit: Exit::Code { code } }
}

impl Story {
    fn try_apply(&mut self, kind: EventKind) -> Result<Vec<Action>, Refused> {
        let seq = self.run.seq + 1;
        let at = Timestamp::from_millis(i64::try_from(seq).expect("few") * 1_000);
        let event = Event { seq, at, kind };
        let actions = self.run.apply(&event)?;
        if !actions.is_empty() {
            self.events.push(event);
        }
        Ok(actions)
    }

    fn apply(&mut self, kind: EventKind) -> Vec<Action> {
        self.try_apply(kind).expect("this event is lawful")
    }

    /// The words of a refusal. The run is as it was.
    fn refused(&mut self, kind: EventKind) -> String {
        let before = format!("{:?}", self.run);
        let words = self.try_apply(kind).expect_err("this event is not lawful").to_string();
        assert_eq!(format!("{:?}", self.run), before);
        words
    }

    fn attempt(&self, job: u32) -> &Attempt {
        self.run.jobs[job as usize].attempts.last().expect("the job has an attempt")
    }

    fn lease_id(&self, job: u32) -> LeaseId {
        self.attempt(job).lease_id()
    }

    fn lease(&mut self, job: u32) -> LeaseId {
        let lease = self.attempt(job).next_lease();
        let planned = self.run.planned_job(JobIndex(job));
        let lock = planned.lock.as_ref().map(|lock| lock.any[0].clone());
        self.apply(leased(lease, lock));
        lease
    }

    fn start(&mut self, job: u32) -> LeaseId {
        let lease = self.lease(job);
        self.apply(EventKind::started(lease));
        lease
    }

    fn finish(&mut self, job: u32, outcome: Outcome) -> Vec<Action> {
        let lease = self.lease_id(job);
        self.apply(finished(lease, outcome))
    }

    fn run_job(&mut self, job: u32, outcome: Outcome) -> Vec<Action> {
        self.start(job);
        self.finish(job, outcome)
    }

    fn succeed(&mut self, jobs: &[u32]) {
        for job in jobs {
            self.run_job(*job, Outcome::Success);
        }
    }

    fn cancel(&mut self) -> Vec<Action> {
        self.apply(EventKind::CancelAsked { by: "ada".to_owned() })
    }

    fn rerun(&mut self, jobs: &[u32]) -> Vec<Action> {
        self.apply(rerun_of(jobs))
    }

    /// `success skipped …`, in plan order.
    fn states(&self) -> String {
        let states: Vec<&str> = self.run.jobs.iter().map(|job| job.state.as_str()).collect();
        states.join(" ")
    }

    fn reason(&self, job: u32) -> String {
        let reason = self.run.jobs[job as usize].reason.as_ref();
        reason.map(Reason::to_string).unwrap_or_default()
    }

    /// Jobs that are offered.
    fn offered(&self) -> Vec<u32> {
        self.run.offers().iter().map(|offer| offer.attempt.job.0).collect()
    }
}

fn leased(lease: LeaseId, lock: Option<String>) -> EventKind {
    EventKind::Leased { lease, agent: AgentId(1), agent_name: "forge-1".to_owned(), lock }
}

fn finished(lease: LeaseId, outcome: Outcome) -> EventKind {
    EventKind::Finished {
        lease,
        outcome,
        outputs: BTreeMap::from([("job".to_owned(), lease.attempt.job.to_string())]),
        layer: Some(LayerId::Attempt(lease.attempt.to_string())),
        artifacts: Vec::new(),
        log_bytes: 10,
        notes: Default::default(),
    }
}

fn lapsed(lease: LeaseId) -> EventKind {
    EventKind::Lapsed { lease, message: "silent".to_owned() }
}

fn rerun_of(jobs: &[u32]) -> EventKind {
    let jobs = jobs.iter().copied().map(JobIndex).collect();
    EventKind::RerunAsked { jobs, by: "bob".to_owned(), from: None }
}

fn attempt_id(job: u32, attempt: u32) -> AttemptId {
    AttemptId { run: RunId(7), job: JobIndex(job), attempt }
}
