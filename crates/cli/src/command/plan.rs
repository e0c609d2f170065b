//! `kiln plan`: the plan as it would be frozen with a run.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kiln_model::plan::{ExecutorKind, Job, Plan, Pull, Volume};
use kiln_model::{Trigger, TriggerKind};
use kiln_stdx::duration;

use crate::error::{Exit, Failure, Result};
use crate::output::{Cell, Output, Style};
use crate::pipeline::{self, Wanted, key_value};
use crate::place::directory;

/// Show the resolved plan
///
/// The plan of the working tree's manifest for a local run, or for the event that is named.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Only these jobs and what they need
    #[arg(value_name = "JOB")]
    jobs: Vec<String>,
    /// The folder to start from
    #[arg(short = 'C', long = "directory", value_name = "DIR")]
    directory: Option<PathBuf>,
    /// The manifest, instead of `.kiln.yml`
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A value for one of the manifest's inputs
    #[arg(short, long = "input", value_name = "KEY=VALUE", value_parser = key_value)]
    inputs: Vec<(String, String)>,
    /// What asks for the run
    #[arg(long, value_enum, default_value = "local")]
    event: Event,
    /// The branch, instead of the one that is checked out
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,
    /// The tag, for `--event tag`
    #[arg(long, value_name = "NAME")]
    tag: Option<String>,
    /// The frozen plan as JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kiln plan
  kiln plan test                        `test` and what it needs
  kiln plan --event push --branch main  what a push to main would run
  kiln plan --json | jq '.jobs[].name'";

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Event {
    Local,
    Push,
    Tag,
    Manual,
}

pub fn run(args: Args, out: &Output) -> Result<Exit> {
    let from = directory(args.directory.as_deref())?;
    let tree = pipeline::repository(&from)?;
    let manifest = pipeline::manifest(&tree.root, &from, args.file.as_deref())?;
    let (head, branch) = pipeline::head(&tree)?;
    let inputs: BTreeMap<String, String> = args.inputs.into_iter().collect();
    let trigger = Trigger {
        kind: kind(args.event, args.tag.as_deref())?,
        branch: args.branch.or(branch).filter(|_| args.tag.is_none()),
        tag: args.tag,
        ..pipeline::local_trigger(head, None, inputs)
    };
    match pipeline::plan(out, &manifest, &trigger)? {
        None => return Ok(Exit::Refused),
        Some(Wanted::Nothing(why)) if args.json => {
            out.note(&format!("nothing would run: {why}"));
            out.lines("null\n")?;
        }
        Some(Wanted::Nothing(why)) => out.lines(&format!("nothing would run: {why}\n"))?,
        Some(Wanted::Plan(plan)) => {
            let plan = pipeline::subset(plan, &args.jobs)?;
            if args.json { out.json(&plan)? } else { table(out, &plan)? }
        }
    }
    Ok(Exit::Success)
}

fn kind(event: Event, tag: Option<&str>) -> Result<TriggerKind> {
    match (event, tag) {
        (Event::Tag, None) => {
            Err(Failure::yours("`--event tag` needs a tag").help("add --tag NAME"))
        }
        (Event::Tag, Some(_)) => Ok(TriggerKind::Tag),
        (Event::Local, Some(_)) => Ok(TriggerKind::Tag),
        (_, Some(_)) => Err(Failure::yours("`--tag` goes with `--event tag`")),
        (Event::Local, None) => Ok(TriggerKind::Local),
        (Event::Push, None) => Ok(TriggerKind::Push),
        (Event::Manual, None) => Ok(TriggerKind::Manual),
    }
}

/// One row a job.
pub fn table(out: &Output, plan: &Plan) -> Result<()> {
    let rows: Vec<Vec<Cell>> = plan
        .jobs
        .iter()
        .map(|job| {
            let needs: Vec<&str> =
                job.needs.iter().map(|need| plan.job(*need).name.as_str()).collect();
            vec![
                Cell::styled(Style::Bold, job.name.as_str()),
                Cell::from(needs.join(", ")),
                Cell::from(job.steps.len().to_string()),
                Cell::styled(Style::Dim, notes(job)),
            ]
        })
        .collect();
    out.table(&["job", "needs", "steps", "notes"], &rows)
}

/// What its steps run in, as it is written.
fn surroundings(job: &Job) -> Vec<String> {
    let mut all = Vec::new();
    if job.executor != ExecutorKind::Auto {
        all.push(format!("executor {}", job.executor.as_str()));
    }
    if let Some(host) = &job.ssh {
        all.push(format!("on {host}"));
    }
    if let Some(image) = &job.image {
        let user = job.user.as_ref().map(|user| format!(" as {user}")).unwrap_or_default();
        let pull = match job.pull {
            Some(Pull::Always) => ", always pulled",
            Some(Pull::Never) => ", never pulled",
            Some(Pull::Missing) | None => "",
        };
        all.push(format!("image {image}{user}{pull}"));
    }
    match job.sandbox {
        Some(true) => all.push("in a sandbox".to_owned()),
        Some(false) => all.push("without a sandbox".to_owned()),
        None => {}
    }
    if job.privileged {
        all.push("privileged".to_owned());
    }
    all.extend(job.network.map(|network| format!("network {}", network.as_str())));
    if !job.limits.is_none() {
        all.push(format!("limits {}", job.limits.words().join(", ")));
    }
    let shown = job.volumes.iter().map(|Volume { from, to, read_only, .. }| {
        let end = if *read_only { ":ro" } else { "" };
        format!("{from}:{to}{end}")
    });
    let shown: Vec<String> = shown.collect();
    if !shown.is_empty() {
        all.push(format!("volumes {}", shown.join(", ")));
    }
    let services: Vec<&str> = job.services.keys().map(String::as_str).collect();
    if !services.is_empty() {
        all.push(format!("services {}", services.join(", ")));
    }
    all
}

/// What is not as usual about a job.
fn notes(job: &Job) -> String {
    let mut notes = Vec::new();
    if let Some(condition) = &job.condition {
        notes.push(format!("if {}", condition.as_str()));
    }
    notes.extend(surroundings(job));
    if let Some(lock) = &job.lock {
        let limit = if lock.limit > 1 { format!(" (limit {})", lock.limit) } else { String::new() };
        notes.push(format!("lock {}{limit}", lock.any.join(" or ")));
    }
    if job.retry.attempts > 1 {
        notes.push(format!("{} attempts", job.retry.attempts));
    }
    if job.always {
        notes.push("always".to_owned());
    }
    if job.allow_failure {
        notes.push("may fail".to_owned());
    }
    if job.timeout != kiln_model::limit::JOB_TIMEOUT {
        notes.push(format!("timeout {}", duration::show(job.timeout)));
    }
    if !job.labels.is_empty() {
        notes.push(format!("labels {}", job.labels.join(", ")));
    }
    if !job.secrets.is_empty() {
        notes.push(format!("secrets {}", job.secrets.join(", ")));
    }
    if !job.artifacts.is_empty() {
        let globs: Vec<&str> = job.artifacts.iter().map(|rule| rule.glob.as_str()).collect();
        notes.push(format!("artifacts {}", globs.join(", ")));
    }
    notes.join("; ")
}
