//! `kiln shell`: a look at a past job from within.

pub(super) mod find;
mod start;
mod attach;
mod live;

use std::path::PathBuf;
use std::sync::Arc;

use kiln_agent::{VisitError, Visiting};
use kiln_api::scene::{Enter, Moment, Scene};
use kiln_executor::{HostExecutor, Spawner};
use kiln_workspace::WorkspaceError;

use crate::command::run::{Allow, secrets, variables};
use crate::error::{Exit, Failure, Result};
use crate::local::machine::{images, machine_env, workspaces};
use crate::origin::OriginArgs;
use crate::output::{Output, Style, visible};
use crate::reference::Reference;

/// Open a shell where a job was
///
/// With the job's files, variables and folder, as they were when it failed or was over. Whatever is
/// changed is thrown away at the end; the job, its run and your own files stay as they are. Jobs of a
/// server are entered on the server's machine, by the user who owns its data folder, whether the
/// server runs or not.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// `#12/test` or `project#12/test`; without a job, the only one or the only one that failed
    #[arg(value_name = "RUN[/JOB]")]
    reference: Reference,
    /// What to run instead of a shell
    #[arg(value_name = "CMD", last = true)]
    command: Vec<String>,
    /// The files as this step found them, by its number or name, and its own variables and folder
    #[arg(long, value_name = "STEP")]
    step: Option<String>,
    /// The files as the step left them
    #[arg(long, requires = "step")]
    after: bool,
    /// The files as the first step found them
    #[arg(long, conflicts_with = "step")]
    fresh: bool,
    /// In the job itself, while it runs: its own files and processes
    #[arg(long, conflicts_with_all = ["step", "fresh", "attempt", "secret", "secrets"])]
    live: bool,
    /// Of an earlier attempt [default: the last]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    /// A secret, from the environment variable of the same name or of the one given
    #[arg(long = "secret", value_name = "NAME[=ENV]")]
    secret: Vec<String>,
    /// The job's secrets, as the server keeps them
    #[arg(long)]
    secrets: bool,
    /// A variable of this environment that the job gets too, or one with a value
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Of a local run: what it was allowed, its shell must be allowed again
    #[arg(long, value_name = "WHAT")]
    allow: Vec<Allow>,
    #[command(flatten)]
    at: OriginArgs,
}

const EXAMPLES: &str = "\
Examples:
  kiln shell '#12'                            where the only failed job of a local run failed
  kiln shell 'site#12/test' --step 2          as its second step found the files
  kiln shell '#12/test' -- make test          one command
  kiln shell --live 'site#12/test'            in the job itself, while it runs
  kiln shell '#12/build' -- tar c out | tar x what it made

Where standard input and output are a terminal, so they are inside, with Ctrl-C, Ctrl-Z and the size
of the window; otherwise bytes go through as they are. A job of a local run has the secrets that
`kiln rerun` would give it; one of a server has none without --secrets.

With --live nothing is a copy: what you change, the job sees, and you have the variables, the folder
and the limits of the step that runs. The job does not wait for you; when it ends, so does your shell.

Exit codes: the command's own, 128 and the signal's number when a signal ended it; 2, 3 and 70 when
kiln could not open the place, and says so.";

/// A job that was found, on this machine.
pub(super) struct Job {
    pub scene: Scene,
    /// How the person writes it.
    pub reference: String,
    pub layers: PathBuf,
    /// The configuration file of its data folder.
    pub config: PathBuf,
    is_local: bool,
}

pub async fn run(args: Args, spawner: Spawner, out: &Output) -> Result<Exit> {
    if args.command.first().is_some_and(String::is_empty) {
        return Err(Failure::yours("the command after `--` is empty"));
    }
    let given = secrets(&args.secret)?;
    let more = variables(&args.env)?;
    let enter = Enter {
        project: args.reference.project.clone().unwrap_or_default(),
        number: args.reference.number,
        job: args.reference.job.clone(),
        attempt: args.attempt,
        moment: match (&args.step, args.after) {
            (Some(step), true) => Moment::After(step.clone()),
            (Some(step), false) => Moment::Before(step.clone()),
            (None, _) if args.live => Moment::Live,
            (None, _) if args.fresh => Moment::Start,
            (None, _) => Moment::Left,
        },
        secrets: args.secrets,
    };
    let mut job = find::job(&args.reference, &args.at, enter, &args.allow).await?;
    if args.live {
        return live::run(&job, args.command, more, out).await;
    }
    let scene = &mut job.scene;
    scene.without.retain(|name| !given.contains_key(name));
    let (wanted, other): (Vec<_>, Vec<_>) =
        given.into_iter().partition(|(name, _)| scene.assignment.job.secrets.contains(name));
    let not_its = other.iter().map(|(name, _)| format!("the job has no secret `{name}`"));
    scene.notes.extend(not_its);
    scene.secrets.extend(wanted);
    scene.assignment.secrets = scene.secrets.clone();
    let machine_env = match scene.machine_env.is_empty() {
        true => machine_env(more),
        false => scene.machine_env.iter().cloned().chain(more).collect(),
    };
    let terminal = start::has_terminal(&args.command);
    let command = start::command(&args.command, &job, terminal, &machine_env);
    welcome(out, &job, args.command.is_empty() && terminal);
    let executor = HostExecutor::new(spawner);
    let workspaces = Arc::new(workspaces(&executor, &job.layers).await?);
    let images = images(&workspaces, &job.layers.with_file_name("images"), &job.config)?;
    let assignment = &job.scene.assignment;
    let begun = Visiting::begin(&executor, workspaces, &images, assignment, &machine_env).await;
    let visiting = begun.map_err(|error| refused(&job, error))?;
    let (ended, left) = match terminal {
        true => attach::at_terminal(visiting, command, out).await?,
        false => attach::on_streams(visiting, command, out).await?,
    };
    attach::passed(ended, left, out)
}

/// Which job, whose files as of when, and how to leave; for a command of one's own only what it must
/// be known for.
fn welcome(out: &Output, job: &Job, in_full: bool) {
    let scene = &job.scene;
    if in_full {
        let attempt = scene.attempt.map(|n| format!(", attempt {n}")).unwrap_or_default();
        let name = out.paint(Style::Bold, &visible(&job.reference));
        out.note(&format!("{name}{attempt}, {}: its files {}", scene.state, visible(&scene.when)));
        out.note("what you change here is thrown away; leave with `exit` or Ctrl-D");
    } else if scene.chosen {
        out.note(&format!("in {}", visible(&job.reference)));
    }
    for note in &scene.notes {
        out.note(&format!("note: {}", visible(note)));
    }
    if let Some(host) = &scene.assignment.job.ssh {
        out.note(&format!(
            "note: it ran on `{}`; its files are here as they came back, with this machine's programs",
            visible(host)
        ));
    }
    let outside = |path: &&str| path.starts_with(['/', '~']);
    for path in scene.assignment.job.cache.iter().map(|rule| rule.path.as_str()).filter(outside) {
        out.note(&format!(
            "note: the cache `{}` is not here; in its place you see this machine's own files",
            visible(path)
        ));
    }
    let services: Vec<&str> = scene.assignment.job.services.keys().map(String::as_str).collect();
    if !services.is_empty() {
        let names = visible(&services.join(", "));
        out.note(&format!(
            "note: its services are not running here: {names}; they run beside the job itself: `kiln rerun`, then \
             `kiln shell --live`"
        ));
    }
    if !scene.without.is_empty() {
        let names = scene.without.join(", ");
        let how = match job.is_local {
            true => "give them with `--secret NAME`",
            false => "`--secrets` gives those that the server keeps, `--secret NAME` others",
        };
        out.note(&format!("note: without its secrets {}; {how}", visible(&names)));
    }
}

fn refused(job: &Job, error: VisitError) -> Failure {
    let reference = visible(&job.reference);
    match &error {
        VisitError::Workspace(WorkspaceError::Missing(missing)) => {
            let assignment = &job.scene.assignment;
            // Over what its needs left lies its own.
            let mut left = assignment.layers.iter().zip(&assignment.layers_of);
            let need = left.find(|(layer, _)| missing.contains(layer)).map(|(_, need)| need);
            let maker = need.unwrap_or(&assignment.job.name);
            let run = reference.rsplit_once('/').map_or(reference.as_str(), |(run, _)| run);
            let again = format!("kiln rerun '{run}' --job '{maker}'");
            Failure::yours(format!("the files of {reference} are gone: {error}"))
                .help(format!("`{again}` makes them again"))
        }
        VisitError::Unsupported(_) => {
            Failure::yours(format!("{reference} cannot be entered: {error}"))
        }
        _ => Failure::elsewhere(format!("{reference} cannot be entered: {error}")),
    }
}
