//! `kiln run`: the pipeline here, on the working tree as it is.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use kiln_agent::Looked;
use kiln_executor::Spawner;
use kiln_git::WorkingTree;
use kiln_stdx::Secret;

use crate::command::secret::lawful;
use crate::error::{Exit, Failure, Help, Result};
use crate::local::Local;
use crate::local::drive::{Drive, Looking, New};
use crate::output::Output;
use crate::pipeline::{self, Wanted, key_value};
use crate::place::{Data, directory};

/// Run the pipeline here, on the working tree as it is
///
/// Jobs see the files as they are now, changed and untracked ones included, and with `--all` those
/// that git ignores, too; whatever they write stays in layers of their own. No file here changes, no network and no server
/// is needed. The run is kept: `kiln runs`, `show`, `logs`, `why`, `rerun` and `cancel` know it as
/// `#NUMBER`.
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
    /// A secret, from the environment variable of the same name or of the one given
    #[arg(long = "secret", value_name = "NAME[=ENV]")]
    secrets: Vec<String>,
    /// A variable of this environment that jobs get too, or one with a value
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// How many jobs run at once [default: one per core]
    #[arg(
        short = 'j',
        long = "jobs",
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..),
    )]
    jobs_at_once: Option<u16>,
    /// Let jobs have what makes them root of this machine: `privileged` containers, or the
    /// `docker-socket` as a volume
    #[arg(long, value_name = "WHAT", value_enum)]
    allow: Vec<Allow>,
    /// Show jobs also what git ignores
    #[arg(long)]
    all: bool,
    /// Take nothing from earlier runs: every job runs, and finds no cache
    #[arg(long)]
    no_cache: bool,
    /// One event a line, for programs
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kiln run                              the whole pipeline
  kiln run test lint                    two jobs and what they need
  kiln run -i target=staging            with an input
  kiln run --secret TOKEN=GITHUB_TOKEN  with a secret from a variable of this shell
  kiln run --json | jq -c 'select(.type == \"job\")'

With --json each line is an object with a `type`: `run`, `job` and `step` when their `state` changes,
`log` with the whole lines that a `job` wrote (`text`, or `base64` where that is not UTF-8) and the
`offset` of their first byte, `note`, and last `result`, with the `exit_code` and all `jobs`.

Ctrl-C cancels: jobs are told to end, get 5 s for it, and nothing is left behind. A second Ctrl-C
does not wait. Exit codes: 0 success, 1 a job failed, 2 bad manifest or usage, 3 the environment,
130 cancelled.";

pub async fn run(args: Args, spawner: Spawner, out: &Output) -> Result<Exit> {
    let from = directory(args.directory.as_deref())?;
    let tree = pipeline::repository(&from)?;
    let looking = look(&tree, args.all);
    let manifest = pipeline::manifest(&tree.root, &from, args.file.as_deref())?;
    let (head, branch) = pipeline::head(&tree)?;
    let inputs: BTreeMap<String, String> = args.inputs.into_iter().collect();
    let mut trigger = pipeline::local_trigger(head, branch, inputs);
    trigger.no_cache = args.no_cache;
    let plan = match pipeline::plan(out, &manifest, &trigger)? {
        None => return Ok(Exit::Refused),
        Some(Wanted::Nothing(why)) => {
            out.note(&format!("nothing to run: {why}"));
            return Ok(Exit::Success);
        }
        Some(Wanted::Plan(plan)) => pipeline::subset(plan, &args.jobs)?,
    };
    let secrets = secrets(&args.secrets)?;
    let env = variables(&args.env)?;
    let mut local = Local::open(Data::find(None)?).await?;
    allow(&mut local, &args.allow);
    let project = local.project(&tree.root).await?;
    let policy = local.governor()?.of(project.name.as_str());
    policy.check(&plan).map_err(|denied| denied_locally(&denied))?;
    let drive = Drive {
        out,
        json: args.json,
        local: &local,
        spawner,
        n_jobs: args.jobs_at_once.map(usize::from),
        secrets,
        env,
    };
    drive.start(New { project, trigger, plan, root: tree.root, looking }).await
}

/// What a person allows for once.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allow {
    Privileged,
    DockerSocket,
}

/// Widens what jobs of local runs may have.
pub fn allow(local: &mut Local, all: &[Allow]) {
    local.policy.privileged |= all.contains(&Allow::Privileged);
    local.policy.docker_socket |= all.contains(&Allow::DockerSocket);
}

fn denied_locally(denied: &str) -> Failure {
    let failure = with_way(Failure::yours(denied.to_owned()));
    match failure.help {
        Some(_) => failure,
        None => failure.help("what jobs may have is in `[jobs]` of `kiln.toml` in the data folder"),
    }
}

/// What a local run's job is denied and a person may allow for once is said with the way.
pub fn with_way(failure: Failure) -> Failure {
    let ways = [("(privileged)", "privileged"), ("(docker_socket)", "docker-socket")];
    let denied = format!("{:#}", failure.error);
    match ways.into_iter().find(|(key, _)| denied.contains(key)) {
        Some((_, word)) => {
            failure.help(format!("if you trust this pipeline as you trust root: `--allow {word}`"))
        }
        None => failure,
    }
}

/// Begins to look at the tree. What else is to be done before the first job is done meanwhile.
fn look(tree: &WorkingTree, all: bool) -> Looking {
    let tree = tree.clone();
    tokio::task::spawn_blocking(move || Looked::at(tree, all))
}

/// Values come from the environment, never from the command line, where everybody could read them.
pub fn secrets(given: &[String]) -> Result<HashMap<String, Secret<String>>> {
    let mut secrets = HashMap::new();
    for text in given {
        let (name, variable) = text.split_once('=').unwrap_or((text, text));
        if name.is_empty() || variable.is_empty() {
            return Err(Failure::yours("a secret is written NAME or NAME=ENV"));
        }
        lawful(name)?;
        let value = of_environment(variable)
            .help(format!("set it for this command: {variable}=… kiln … --secret {text}"))?;
        secrets.insert(name.to_owned(), Secret::new(value));
    }
    Ok(secrets)
}

/// `NAME=VALUE` as it is; `NAME` from this environment.
pub fn variables(given: &[String]) -> Result<Vec<(String, String)>> {
    let variable = |text: &String| {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => (text.as_str(), of_environment(text).help(format!("or write {text}=VALUE"))?),
        };
        if name.is_empty() {
            return Err(Failure::yours("a variable is written NAME or NAME=VALUE"));
        }
        lawful(name)?;
        if name.starts_with("KILN_") {
            return Err(Failure::yours(format!(
                "`{name}` cannot be set: variables that begin with `KILN_` are kiln's"
            ))
            .help("choose another name"));
        }
        Ok((name.to_owned(), value))
    };
    given.iter().map(variable).collect()
}

fn of_environment(name: &str) -> Result<String> {
    use std::env::VarError;
    if name.contains('\0') {
        return Err(Failure::yours("a variable's name cannot contain NUL"));
    }
    match std::env::var(name) {
        Ok(value) => Ok(value),
        Err(VarError::NotPresent) => {
            Err(Failure::yours(format!("the environment variable `{name}` is not set")))
        }
        Err(VarError::NotUnicode(_)) => {
            Err(Failure::yours(format!("the value of `{name}` is not UTF-8")))
        }
    }
}
