//! Made-up runs for the tests of the pages.

use std::collections::BTreeMap;
use std::time::Duration;

use kiln_api::user::{
    ArtifactRow, Attempt, JobDetail, JobRow, Project, Run, RunDetail, Step, Why, WhyLine,
};
use kiln_model::artifact::Artifact;
use kiln_model::layer::Digest;
use kiln_model::{Exit, JobState, ProjectId, ProjectName, RunState, TriggerKind, Usage};
use kiln_stdx::Timestamp;
use kiln_store::ProjectRow;

pub const NOW: Timestamp = Timestamp::from_millis(1_795_227_048_000);

/// So many seconds before [`NOW`].
pub fn ago(seconds: i64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() - seconds * 1_000)
}

pub fn run(number: i64, state: RunState) -> Run {
    let created_at = ago(600);
    Run {
        project: "glaze".into(),
        number,
        state,
        reason: (state == RunState::Failed).then(|| "`test:15` and `lint`".to_owned()),
        event: TriggerKind::Push,
        branch: Some("main".into()),
        tag: None,
        commit: "3f2a9c71d0e4b85566778899aabbccddeeff0011".into(),
        title: "Cool the glaze slowly".into(),
        author: "Ada Ember <ada@example.org>".into(),
        actor: Some("ada".into()),
        inputs: BTreeMap::new(),
        pinned: None,
        created_at,
        started_at: Some(created_at.plus(Duration::from_secs(1))),
        finished_at: state.is_over().then(|| created_at.plus(Duration::from_secs(90))),
        n_jobs: 4,
        n_jobs_over: if state.is_over() { 4 } else { 2 },
    }
}

/// Newest first, numbered down to 1, of growing length.
pub fn runs(n: usize) -> Vec<Run> {
    let states = [RunState::Success, RunState::Failed, RunState::Warning, RunState::Cancelled];
    let one = |number: usize| {
        let mut run = run(number as i64, states[number % states.len()]);
        run.finished_at = Some(run.created_at.plus(Duration::from_secs(number as u64)));
        run
    };
    (1..=n).rev().map(one).collect()
}

pub fn project() -> Project {
    Project {
        project: "glaze".into(),
        repo: "/srv/git/glaze.git".into(),
        default_branch: Some("main".into()),
        poll_every_s: None,
        created_at: ago(86_400),
        runs: runs(30),
        problem: None,
    }
}

pub fn project_row() -> ProjectRow {
    ProjectRow {
        id: ProjectId(1),
        name: ProjectName::new("glaze").unwrap(),
        repo: "/srv/git/glaze.git".into(),
        default_branch: Some("main".into()),
        poll_every_s: Some(60),
        created_at: ago(86_400),
    }
}

pub fn job_row(name: &str, needs: &[&str], state: JobState, from_s: i64, to_s: i64) -> JobRow {
    let at = |s: i64| Timestamp::from_millis(ago(600).as_millis() + s * 1_000);
    JobRow {
        job: name.into(),
        group: name.split(':').next().unwrap_or(name).into(),
        state,
        reason: None,
        needs: needs.iter().map(|need| (*need).to_owned()).collect(),
        allow_failure: false,
        attempt: 1,
        started_at: Some(at(from_s)),
        finished_at: state.is_over().then(|| at(to_s)),
        log_bytes: 4_096,
        warnings: Vec::new(),
        reused_from: None,
    }
}

/// build → {lint, test} → publish, over in 90 seconds.
pub fn diamond() -> RunDetail {
    let row = |name, needs: &[&str], from, to| job_row(name, needs, JobState::Success, from, to);
    let jobs = vec![
        row("build", &[], 1, 21),
        row("lint", &["build"], 21, 30),
        row("test", &["build"], 22, 80),
        row("publish", &["lint", "test"], 81, 90),
    ];
    RunDetail { run: run(7, RunState::Success), jobs, seq: 20 }
}

/// A run of ten groups of many jobs, each of which needs one of the group before; one has failed.
pub fn wide(n: usize) -> RunDetail {
    let groups = ["build", "unit", "lint", "docs", "e2e", "bench", "fuzz", "pack", "sign", "ship"];
    let name = |at: usize| format!("{}:{}", groups[at * groups.len() / n], at % (n / groups.len()));
    let mut jobs: Vec<JobRow> = (0..n)
        .map(|at| {
            let before = at.checked_sub(n / groups.len()).map(&name);
            let needs: Vec<&str> = before.as_deref().into_iter().collect();
            let from = (at * 80 / n) as i64;
            job_row(&name(at), &needs, JobState::Success, from, from + 3 + (at % 7) as i64)
        })
        .collect();
    jobs[3].state = JobState::Failed;
    let mut run = run(8, RunState::Failed);
    (run.n_jobs, run.n_jobs_over) = (n as u32, n as u32);
    RunDetail { run, jobs, seq: 4_000 }
}

pub fn artifacts() -> Vec<ArtifactRow> {
    let artifact = Artifact {
        path: "dist/a <b>.tar.gz".into(),
        n_bytes: 1_440_000,
        digest: Digest::from_bytes([7; 32]),
        executable: false,
    };
    vec![ArtifactRow { job: "build".into(), attempt: 1, artifact, collected_at: None }]
}

fn step(step: u32, name: &str, state: JobState, exit: Option<Exit>) -> Step {
    Step {
        step,
        name: name.into(),
        state,
        reason: exit.as_ref().map(Exit::to_string),
        exit,
        started_at: Some(ago(570)),
        finished_at: Some(ago(540)),
        log_from: Some(0),
        log_to: Some(99),
        kept: step > 0,
        attempt: None,
        usage: Some(Usage {
            user_us: Some(1_100_000),
            system_us: Some(150_000),
            process_bytes: Some(85_000_000),
            ..Usage::default()
        }),
    }
}

pub fn job() -> JobDetail {
    let mut row = job_row("test", &["build"], JobState::Failed, 22, 80);
    row.attempt = 2;
    row.reason = Some("step 2 `cargo test` ended with exit code 101".into());
    let attempt = |n: u32, state: JobState| Attempt {
        attempt: n,
        state,
        reason: row.reason.clone(),
        agent: Some("embedded".into()),
        lock: None,
        queued_at: ago(579),
        started_at: Some(ago(578)),
        finished_at: Some(ago(520)),
        log_bytes: 99,
        surroundings: None,
        services: Vec::new(),
        steps: vec![
            step(0, "cargo build", JobState::Success, Some(Exit::SUCCESS)),
            step(1, "cargo test", JobState::Failed, Some(Exit::Code { code: 101 })),
        ],
        artifacts: artifacts().into_iter().map(|row| row.artifact).collect(),
        warnings: Vec::new(),
        reused_from: None,
        collected: Vec::new(),
    };
    JobDetail {
        matrix: BTreeMap::from([("db".into(), "15".into())]),
        outputs: BTreeMap::from([("version".into(), "1.4.2".into())]),
        attempts: vec![attempt(1, JobState::Lost), attempt(2, JobState::Failed)],
        row,
    }
}

pub fn why() -> Why {
    let line = |s: i64, text: &str| WhyLine { at: ago(s), text: text.to_owned() };
    Why {
        of: "glaze#7/test".into(),
        state: "failed".into(),
        summary: "step 2 `cargo test` ended with exit code 101".into(),
        reason: None,
        history: vec![
            line(600, "the run was planned"),
            line(579, "its need `build` succeeded"),
            line(578, "agent `embedded` took attempt 1"),
        ],
        trace: Some("branch == \"main\"  ->  true  (branch is \"main\")".into()),
        compared: None,
    }
}
