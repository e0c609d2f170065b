//! Rows to write, and what most tests begin with.

use kiln_model::layer::Source;
use kiln_model::plan::PLAN_VERSION;
use kiln_model::*;
use kiln_stdx::Timestamp;
use kiln_store::*;

pub const AT: Timestamp = Timestamp::from_millis(1_763_700_000_123);

pub fn new_project(name: &str) -> NewProject {
    NewProject {
        name: ProjectName::new(name).unwrap(),
        repo: format!("/srv/{name}.git"),
        default_branch: Some("main".into()),
        poll_every_s: None,
        at: AT,
    }
}

pub async fn project(store: &Store, name: &str) -> ProjectRow {
    store.add_project(new_project(name)).await.unwrap()
}

pub fn event(seq: u64, kind: EventKind) -> Event {
    Event { seq, at: AT, kind }
}

pub fn job_row(job: u32, state: JobState) -> JobRow {
    JobRow {
        job: JobIndex(job),
        name: JobName::new(format!("job{job}")).unwrap(),
        state,
        reason: None,
        attempt: 0,
        started_at: None,
        finished_at: None,
        log_bytes: 0,
    }
}

pub fn plan(n_jobs: u32) -> Plan {
    let jobs = (0..n_jobs).map(|at| Job::sample(&format!("job{at}"), "true")).collect();
    Plan { version: PLAN_VERSION, manifest: ".kiln.yml".into(), inputs: Default::default(), jobs }
}

/// Of two jobs, on `branch`.
pub fn new_run(branch: &str) -> NewRun {
    let trigger = Trigger {
        branch: Some(branch.into()),
        title: "say \u{1f980} \0 and \"quotes\"".into(),
        ..Trigger::new(TriggerKind::Push, "c".repeat(40))
    };
    NewRun {
        trigger,
        source: Source::Git { commit: "c".repeat(40), tree: "d".repeat(40) },
        plan: Some(plan(2)),
        at: AT,
        first: vec![event(1, EventKind::Planned)],
        state: RunState::Queued,
        reason: None,
        jobs: vec![job_row(0, JobState::Queued), job_row(1, JobState::Queued)],
    }
}

pub async fn run(store: &Store, project: ProjectId) -> RunRow {
    let made = store.settle_delivery(None, project, "", vec![new_run("main")], vec![]).await;
    made.unwrap().remove(0)
}

pub fn append(run: RunId, seq: u64) -> Append {
    let events = vec![event(seq, EventKind::CancelAsked { by: format!("person {seq}") })];
    Append { run, events, row: None, jobs: vec![], artifacts: vec![], key: None }
}

pub fn delivery(project: ProjectId, key: &str) -> NewDelivery {
    NewDelivery { project, key: key.into(), body: format!("{{\"key\":\"{key}\"}}"), at: AT }
}
