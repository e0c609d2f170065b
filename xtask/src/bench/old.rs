//! Starting on a data folder in which much has happened.

use anyhow::{Result, ensure};
use kiln_it::world::ran;
use kiln_it::{World, binary, http};
use kiln_model::layer::Source;
use kiln_model::{Event, EventKind};
use kiln_model::{JobIndex, JobName, JobState, Plan, ProjectName, RunState, Trigger, TriggerKind};
use kiln_stdx::clock::Stopwatch;
use kiln_stdx::{Clock, SystemClock};
use kiln_store::{JobRow, NewProject, NewRun, Store};

use super::figure::{Figure, Goal, Limit, Samples, ms, time};

const N_RUNS: usize = 100_000;
/// Runs written in one transaction.
const N_AT_ONCE: usize = 1_000;

/// From the start of the process to its first answer.
pub fn start() -> Result<Vec<Figure>> {
    let world = World::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(fill(&world))?;
    let mut values = Vec::new();
    for round in 0..12 {
        let since = Stopwatch::start();
        let server = world.serve();
        let answer = http::get(server.address, "/api/v1/projects/old/runs?limit=1")?;
        let took = ms(since.elapsed());
        ensure!(answer.status == 200, "it answers {}", answer.status);
        ensure!(answer.json()[0]["number"] == N_RUNS, "not all runs are there: {}", answer.text());
        // The first start finds a cold database.
        if round > 1 {
            values.push(took);
        }
        server.stop();
    }
    let limit = time(2, 10, || {
        ran(world.command(binary::kiln()).arg("--version")).success();
        Ok(())
    })?;
    Ok(vec![Figure {
        name: "start-100k-runs",
        unit: "ms",
        samples: Samples::new(values),
        limit: Limit::Measured { what: "kiln --version", samples: limit },
        goal: Goal::AtMost(25.0),
    }])
}

/// A project with many finished runs of one job each, through the store's own door.
async fn fill(world: &World) -> Result<()> {
    let store = Store::open(&world.data(), None, true).await?;
    let at = SystemClock.now();
    let name = ProjectName::new("old")?;
    let repo = world.bare("old.git").path.to_string_lossy().into_owned();
    let project = NewProject { name, repo, default_branch: None, poll_every_s: None, at };
    let project = store.add_project(project).await?;
    let commit = "0123456789abcdef0123456789abcdef01234567".to_owned();
    let mut trigger = Trigger::new(TriggerKind::Push, commit.clone());
    trigger.branch = Some("main".to_owned());
    trigger.title = "A change like any other".to_owned();
    let job = kiln_model::Job::sample("build", "true");
    let row = JobRow {
        job: JobIndex(0),
        name: JobName::new("build")?,
        state: JobState::Success,
        reason: None,
        attempt: 1,
        started_at: Some(at),
        finished_at: Some(at),
        log_bytes: 0,
    };
    let plan = Plan {
        version: kiln_model::plan::PLAN_VERSION,
        manifest: ".kiln.yml".to_owned(),
        inputs: std::collections::BTreeMap::new(),
        jobs: vec![job],
    };
    let run = NewRun {
        trigger,
        source: Source::Git { commit: commit.clone(), tree: commit },
        plan: Some(plan),
        at,
        first: vec![Event { seq: 1, at, kind: EventKind::Planned }],
        state: RunState::Success,
        reason: None,
        jobs: vec![row],
    };
    for _ in 0..N_RUNS / N_AT_ONCE {
        let runs = vec![run.clone(); N_AT_ONCE];
        store.settle_delivery(None, project.id, "filled", runs, Vec::new()).await?;
    }
    Ok(())
}
