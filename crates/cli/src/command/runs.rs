//! `kiln runs`: runs, newest first.

use std::path::PathBuf;

use kiln_api::user::Run;
use kiln_model::{RunNumber, RunState};
use kiln_server::view;
use kiln_stdx::{Clock, SystemClock, Timestamp, duration};
use kiln_store::RunFilter;

use crate::client::ServerArgs;
use crate::error::{Exit, Failure, Result};
use crate::local::Local;
use crate::output::{Cell, Output, Style};
use crate::pipeline::repository;
use crate::place::directory;
use crate::watch::summary::run_style;

/// List runs, newest first
///
/// Of a project of a server, when one is named. Else, in a repository, the local runs of it; and
/// anywhere else, or when a server is named, the runs of all projects of the server.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    project: Option<String>,
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,
    /// queued, running, waiting, success, warning, failed or cancelled
    #[arg(long, value_name = "STATE")]
    state: Option<RunState>,
    /// Only runs older than this number
    #[arg(long, value_name = "NUMBER")]
    before: Option<i64>,
    /// How many at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    limit: u32,
    /// The folder to start from
    #[arg(short = 'C', long = "directory", value_name = "DIR")]
    directory: Option<PathBuf>,
    /// The runs as a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

const EXAMPLES: &str = "\
Examples:
  kiln runs                        local runs of this repository
  kiln runs site --branch main     of a project of the server
  kiln runs --server http://127.0.0.1:7411 --state failed
  kiln runs --json | jq '.[0].state'";

pub async fn run(args: Args, out: &Output) -> Result<Exit> {
    let here = args.project.is_none() && !args.server.given();
    let tree = match here {
        true => kiln_git::WorkingTree::discover(&directory(args.directory.as_deref())?).ok(),
        false => None,
    };
    // A folder that was named must be a repository.
    let tree = match (&args.directory, tree) {
        (Some(folder), None) if here => Some(repository(&directory(Some(folder))?)?),
        (_, tree) => tree,
    };
    let (runs, local) = match tree {
        Some(tree) => (local_runs(&args, &tree.root).await?, true),
        None => (server_runs(&args).await?, false),
    };
    if args.json {
        out.json(&runs)?;
    } else if runs.is_empty() {
        out.note(if local { "no local runs here; `kiln run` makes one" } else { "no runs" });
    } else {
        table(out, &runs, local)?;
    }
    Ok(Exit::Success)
}

async fn local_runs(args: &Args, root: &std::path::Path) -> Result<Vec<Run>> {
    let local = Local::open_to_look().await?;
    let Some(project) = local.known_project(root).await? else { return Ok(Vec::new()) };
    let filter = RunFilter {
        project: Some(project.id),
        branch: args.branch.clone(),
        state: args.state,
        before: args.before.map(RunNumber),
        before_id: None,
        limit: args.limit,
    };
    Ok(view::run_list(&local.runs().await?, filter).await?)
}

async fn server_runs(args: &Args) -> Result<Vec<Run>> {
    if args.before.is_some() && args.project.is_none() {
        return Err(Failure::yours("`--before` counts within a project")
            .help("name the project: `kiln runs PROJECT --before N`"));
    }
    let mut query = vec![("limit", args.limit.to_string())];
    query.extend(args.branch.clone().map(|branch| ("branch", branch)));
    query.extend(args.state.map(|state| ("state", state.to_string())));
    query.extend(args.before.map(|before| ("before", before.to_string())));
    args.server.client()?.runs(args.project.as_deref(), &query).await
}

fn table(out: &Output, runs: &[Run], local: bool) -> Result<()> {
    let now = SystemClock.now();
    let row = |run: &Run| {
        let reference = match local {
            true => format!("#{}", run.number),
            false => format!("{}#{}", run.project, run.number),
        };
        vec![
            Cell::styled(Style::Bold, reference),
            Cell::styled(run_style(run.state), run.state.as_str()),
            Cell::from(run.branch.as_deref().or(run.tag.as_deref()).unwrap_or("-")),
            Cell::styled(Style::Dim, run.commit.get(..7).unwrap_or("-")),
            Cell::from(ago(run.created_at, now)),
            Cell::from(took(run.created_at, run.finished_at, now)),
            Cell::from(match &run.pinned {
                Some(_) => format!("[pinned] {}", about(run)),
                None => about(run).to_owned(),
            }),
        ]
    };
    let rows: Vec<_> = runs.iter().map(row).collect();
    out.table(&["run", "state", "branch", "commit", "started", "took", "about"], &rows)
}

/// A success speaks for itself; what went wrong is worth more than the title.
fn about(run: &Run) -> &str {
    match run.state {
        // The complaints of a manifest are many lines; the list has one for each run.
        RunState::Failed | RunState::Cancelled => {
            run.reason.as_deref().and_then(|reason| reason.lines().next()).unwrap_or(&run.title)
        }
        _ => &run.title,
    }
}

pub fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.since(then).as_secs();
    match seconds {
        0..=59 => format!("{seconds} s ago"),
        60..=3_599 => format!("{} min ago", seconds / 60),
        3_600..=172_799 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

pub fn took(from: Timestamp, to: Option<Timestamp>, now: Timestamp) -> String {
    duration::show(to.unwrap_or(now).since(from))
}
