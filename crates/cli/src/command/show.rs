//! `kiln show`: a run with its jobs, or a job with its steps.

use std::collections::HashMap;

use kiln_api::user::{Attempt, JobDetail, Service, Step};
use kiln_model::{ServiceState, Usage};
use kiln_stdx::{Clock, SystemClock, bytes, duration};

use crate::command::runs::ago;
use crate::error::{Exit, Result};
use crate::origin::{Origin, OriginArgs};
use crate::output::{Cell, Output, Style, visible};
use crate::reference::Reference;
use crate::watch::{Picture, summary};

/// Show a run with its jobs, or a job with its steps
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// `#12`, `project#12`, `project#12/test` or the address of a page
    #[arg(value_name = "RUN[/JOB]")]
    reference: Reference,
    #[command(flatten)]
    at: OriginArgs,
    /// As JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kiln show '#12'
  kiln show 'site#12/test'
  kiln show 'site#12' --json | jq -r '.jobs[] | select(.state == \"failed\") | .job'";

pub async fn run(args: Args, out: &Output) -> Result<Exit> {
    let origin = Origin::find(&args.reference, &args.at).await?;
    match &args.reference.job {
        Some(job) => {
            let detail = origin.job(job).await?;
            if args.json { out.json(&detail)? } else { show_job(out, &origin, &detail)? }
        }
        None => show_run(&args, out, &origin).await?,
    }
    Ok(Exit::Success)
}

async fn show_run(args: &Args, out: &Output, origin: &Origin) -> Result<()> {
    let detail = origin.detail().await?;
    if args.json {
        return out.json(&detail);
    }
    let run = detail.run.clone();
    let mut picture = Picture::of_server(detail, HashMap::new());
    picture.reference = origin.reference();
    summary::tree(out, &picture)?;
    out.lines("\n")?;
    let mut facts = vec![("started", ago(run.created_at, SystemClock.now()))];
    facts.push(("by", format!("{} ({})", run.actor.as_deref().unwrap_or("nobody"), run.event)));
    if !run.author.is_empty() {
        facts.push(("author", run.author));
    }
    for (name, value) in &run.inputs {
        facts.push(("input", format!("{name}={value}")));
    }
    if let Some(pin) = &run.pinned {
        facts.push(("pinned", format!("by {}, {}", pin.by, ago(pin.at, SystemClock.now()))));
    }
    if let Some(reason) = run.reason {
        facts.push(("because", reason));
    }
    if let Some(page) = origin.page(out) {
        facts.push(("page", page));
    }
    show_facts(out, &facts)?;
    summary::warnings(out, &picture)?;
    summary::verdict(out, &picture)
}

fn show_facts(out: &Output, facts: &[(&str, String)]) -> Result<()> {
    for (name, value) in facts {
        // A page's address has been painted here; what came from elsewhere is made harmless.
        let value = if *name == "page" { value.clone() } else { visible(value) };
        out.lines(&format!("{} {value}\n", out.paint(Style::Dim, &format!("{name:<8}"))))?;
    }
    Ok(())
}

fn show_job(out: &Output, origin: &Origin, detail: &JobDetail) -> Result<()> {
    let row = &detail.row;
    let state = out.paint(summary::style(row.state), row.state.as_str());
    let name = format!("{}/{}", origin.reference(), row.job);
    out.lines(&format!("{} {state}\n", out.paint(Style::Bold, &name)))?;
    let mut facts = Vec::new();
    if let Some(reason) = &row.reason {
        facts.push(("because", reason.clone()));
    }
    if !row.needs.is_empty() {
        facts.push(("needs", row.needs.join(", ")));
    }
    for (axis, value) in &detail.matrix {
        facts.push(("matrix", format!("{axis}={value}")));
    }
    for (name, value) in &detail.outputs {
        facts.push(("output", format!("{name}={value}")));
    }
    show_facts(out, &facts)?;
    for attempt in &detail.attempts {
        show_attempt(out, attempt)?;
    }
    out.lines(&format!("\nits log: kiln logs '{name}'\n"))?;
    match row.state.is_over() {
        true => out.lines(&format!("its files: kiln shell '{name}'\n")),
        false => Ok(()),
    }
}

/// How it ended, if not well, and what it used.
fn beside(step: &Step) -> String {
    let used = step.usage.iter().flat_map(Usage::words);
    step.reason.iter().cloned().chain(used).collect::<Vec<_>>().join(", ")
}

fn show_services(out: &Output, attempt: &Attempt) -> Result<()> {
    if attempt.services.is_empty() {
        return Ok(());
    }
    let row = |service: &Service| {
        let style = match service.state {
            ServiceState::Starting => Style::Blue,
            ServiceState::Ready => Style::Green,
            ServiceState::Stopped => Style::Dim,
            ServiceState::Ended => Style::Yellow,
            ServiceState::Failed => Style::Red,
        };
        let ready = service.ready_at.map(|at| duration::show(at.since(service.started_at)));
        let reason = service.reason.as_deref().and_then(|reason| reason.lines().next());
        vec![
            Cell::from(service.service.as_str()),
            Cell::styled(style, service.state.as_str()),
            Cell::from(ready.unwrap_or_default()),
            Cell::from(service.image.as_str()),
            Cell::styled(Style::Dim, reason.unwrap_or_default()),
        ]
    };
    let rows: Vec<Vec<Cell>> = attempt.services.iter().map(row).collect();
    out.table(&["service", "state", "ready after", "image", ""], &rows)
}

fn show_attempt(out: &Output, attempt: &Attempt) -> Result<()> {
    let now = SystemClock.now();
    let agent = attempt.agent.as_deref().map(|agent| format!(" on {agent}")).unwrap_or_default();
    out.lines(&format!(
        "\nattempt {} {}{}, log of {}\n",
        attempt.attempt,
        attempt.state,
        visible(&agent),
        bytes::show(attempt.log_bytes)
    ))?;
    if let Some(surroundings) = &attempt.surroundings {
        show_facts(out, &surroundings.facts())?;
    }
    let rows: Vec<Vec<Cell>> = attempt
        .steps
        .iter()
        .map(|step| {
            let took = step.started_at.map(|from| step.finished_at.unwrap_or(now).since(from));
            vec![
                Cell::from((step.step + 1).to_string()),
                Cell::styled(summary::style(step.state), step.state.as_str()),
                Cell::from(took.map(duration::show).unwrap_or_default()),
                Cell::from(step.name.lines().next().unwrap_or("")),
                Cell::styled(Style::Dim, beside(step)),
            ]
        })
        .collect();
    out.table(&["step", "state", "took", "name", ""], &rows)?;
    show_services(out, attempt)?;
    for warning in &attempt.warnings {
        let head = out.paint(Style::Yellow, "warning:");
        out.lines(&format!("{head} {}\n", visible(warning)))?;
    }
    let gone = |what: &str| match attempt.collected.iter().any(|gone| gone == what) {
        true => " (collected)",
        false => "",
    };
    for artifact in &attempt.artifacts {
        let size = bytes::show(artifact.n_bytes);
        let gone = gone("artifacts");
        out.lines(&format!("artifact {} ({size}){gone}\n", visible(&artifact.path)))?;
    }
    for what in attempt.collected.iter().filter(|what| *what != "artifacts") {
        out.lines(&format!("{what} collected\n"))?;
    }
    Ok(())
}
