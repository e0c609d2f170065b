//! `kiln rerun`: new attempts of jobs, in the same run, under the same plan.

use std::collections::HashMap;

use kiln_api::user::Rerun;
use kiln_executor::Spawner;
use kiln_model::layer::Source;
use kiln_model::{JobIndex, JobState, Plan};
use kiln_stdx::{Clock, SystemClock};
use kiln_store::RunRow;

use crate::command::run::{Allow, allow, secrets, variables};
use crate::command::trigger::follow;
use crate::error::{Exit, Failure, Result};
use crate::local::Local;
use crate::local::drive::Drive;
use crate::origin::{Origin, OriginArgs};
use crate::output::{Output, Style};
use crate::pipeline::unknown_job;
use crate::reference::Reference;
use crate::watch::{Picture, Watched};

/// Run the jobs of a run again
///
/// New attempts of its jobs, and of the jobs that need them, under the same plan. A local run is
/// run again in this process, on the files as they were when it began; `kiln run` is for those of now.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// `#12`, `project#12`, or `project#12/test` for one job
    #[arg(value_name = "RUN")]
    reference: Reference,
    /// Only jobs that failed, were lost or were cancelled
    #[arg(long)]
    failed: bool,
    /// Only this job, or all of a matrix by the name before the colon
    #[arg(long, value_name = "JOB", conflicts_with = "failed")]
    job: Option<String>,
    /// Begin the job from this step, by its number or name, on the files as that step found them
    #[arg(long, value_name = "STEP", conflicts_with = "failed")]
    from: Option<String>,
    /// A secret for a local run, from the environment variable of that name
    #[arg(long = "secret", value_name = "NAME[=ENV]")]
    secrets: Vec<String>,
    /// A variable for a local run
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Let jobs of a local run have what makes them root of this machine
    #[arg(long, value_name = "WHAT", value_enum)]
    allow: Vec<Allow>,
    /// How many jobs of a local run run at once [default: one per core]
    #[arg(
        short = 'j',
        long = "jobs",
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..),
    )]
    jobs_at_once: Option<u16>,
    /// Watch a server's run and exit with its result
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    at: OriginArgs,
    /// As JSON: one event a line when the run is watched
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kiln rerun '#12' --failed
  kiln rerun 'site#12/test'
  kiln rerun 'site#12' --job test --follow
  kiln rerun 'site#12/test' --from 3";

pub async fn run(args: Args, spawner: Spawner, out: &Output) -> Result<Exit> {
    let job = args.job.clone().or(args.reference.job.clone());
    if job.is_some() && args.failed {
        return Err(Failure::yours("`--failed` and a job exclude each other"));
    }
    if args.reference.job.as_ref().is_some_and(|named| Some(named) != job.as_ref()) {
        return Err(Failure::yours("the reference names one job and `--job` another")
            .help("name the job once"));
    }
    match Origin::find(&args.reference, &args.at).await? {
        Origin::Local { mut local, row } => {
            allow(&mut local, &args.allow);
            rerun_here(args, job, spawner, out, &local, *row).await
        }
        Origin::Server { client, project, number } => {
            let seen = client.run(&project, number).await?;
            let seen = Picture::of_server(seen, HashMap::new());
            let began_at = Some(SystemClock.now());
            client
                .rerun(&project, number, &Rerun { failed: args.failed, job, from: args.from })
                .await?;
            if args.follow {
                let watched = Watched::server(client, project, number, began_at);
                return follow(out, args.json, watched, Some(seen)).await;
            }
            let reference = format!("{project}#{number}");
            if args.json {
                out.json(&serde_json::json!({ "run": reference }))?;
            } else {
                let page = out.paint(Style::Blue, &client.page(&project, number));
                out.lines(&format!("{reference}  {page}\n"))?;
            }
            Ok(Exit::Success)
        }
    }
}

async fn rerun_here(
    args: Args,
    job: Option<String>,
    spawner: Spawner,
    out: &Output,
    local: &Local,
    row: RunRow,
) -> Result<Exit> {
    let plan = local.store.plan(row.id).await?.ok_or_else(|| {
        Failure::yours(format!("run #{} has no plan, so there is nothing to run", row.number))
    })?;
    if let Source::WorkingTree { path } = &row.source
        && !path.is_dir()
    {
        return Err(Failure::yours(format!("the repository `{}` is not there", path.display())));
    }
    let jobs = chosen(local, &row, &plan, args.failed, job.as_deref()).await?;
    if jobs.is_empty() {
        out.note(&format!("no job of #{} failed, so there is nothing to run again", row.number));
        return Ok(Exit::Success);
    }
    let from = args.from;
    let drive = Drive {
        out,
        json: args.json,
        local,
        spawner,
        n_jobs: args.jobs_at_once.map(usize::from),
        secrets: secrets(&args.secrets)?,
        env: variables(&args.env)?,
    };
    drive.rerun(row, jobs, from.as_deref()).await
}

async fn chosen(
    local: &Local,
    row: &RunRow,
    plan: &Plan,
    failed: bool,
    job: Option<&str>,
) -> Result<Vec<JobIndex>> {
    if let Some(job) = job {
        let named = |at: &JobIndex| {
            let known = plan.job(*at);
            known.name.as_str() == job || known.group.as_str() == job
        };
        let found: Vec<JobIndex> = plan.indices().filter(named).collect();
        return match found.is_empty() {
            true => Err(unknown_job(job, plan.jobs.iter().map(|job| job.name.as_str()))),
            false => Ok(found),
        };
    }
    if !failed {
        return Ok(plan.indices().collect());
    }
    let states = local.store.jobs(row.id).await?;
    let again = |state| matches!(state, JobState::Failed | JobState::Lost | JobState::Cancelled);
    Ok(states.into_iter().filter(|row| again(row.state)).map(|row| row.job).collect())
}
