//! `kiln project`: the repositories that a server watches.

use std::path::{Path, PathBuf};

use kiln_api::user::{AddProject, Project};
use kiln_git::Location;
use kiln_model::{ProjectName, RunState};
use kiln_server::hook::{self, HookError};
use kiln_stdx::duration;

use crate::client::ServerArgs;
use crate::error::{Blame, Exit, Failure, Kind, Result};
use crate::output::{Cell, Output, Style};
use crate::place::Data;
use crate::watch::summary::run_style;

/// Projects of a server: add, list, remove, install the git hook
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Add(AddArgs),
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    Rm(RmArgs),
    Hook(HookArgs),
}

/// Watch a repository
///
/// A repository on this machine tells of pushes by its hook (`kiln project hook`); one that is given
/// by URL is looked at every minute, or as `--poll` says.
#[derive(clap::Args, Debug)]
#[command(after_help = ADD_EXAMPLES)]
pub struct AddArgs {
    name: String,
    /// A path on this machine, or a URL (https, http, ssh, git, file, or user@host:path)
    #[arg(long, value_name = "PATH_OR_URL")]
    repo: String,
    /// How often to look for pushes: `off`, or a time such as `5m` [default: 1m for a URL, else off]
    #[arg(long, value_name = "EVERY", value_parser = poll)]
    poll: Option<Poll>,
    /// Install the post-receive hook as well
    #[arg(long)]
    hook: bool,
    /// The project as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

const ADD_EXAMPLES: &str = "\
Examples:
  kiln project add site --repo /srv/git/site.git --hook
  kiln project add curl --repo https://github.com/curl/curl --poll 5m";

/// List the projects
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  kiln project ls\n  kiln project ls --json | jq -r '.[].project'"
)]
pub struct LsArgs {
    /// As a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Forget a project with its runs and logs
///
/// The repository is not touched. There is no way back.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  kiln project rm site --yes")]
pub struct RmArgs {
    name: String,
    /// Really
    #[arg(long)]
    yes: bool,
    /// What was done, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Install the post-receive hook into a project's repository on this machine
///
/// A hook that is there is kept and called first. With it a push is known at once, and one that
/// comes while the server is down is noted and runs when it is back.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  kiln project hook site")]
pub struct HookArgs {
    name: String,
    /// The repository, when it is not where the project says
    #[arg(long, value_name = "PATH")]
    repo: Option<PathBuf>,
    /// Where the hook is, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Clone, Copy, Debug)]
struct Poll(Option<u32>);

/// How often a repository that is given by URL is looked at when nothing is said.
const POLL_URL_EVERY_S: u32 = 60;

/// `off` or a duration of at least a second. The server knows how short is too short.
fn poll(text: &str) -> std::result::Result<Poll, String> {
    if text == "off" {
        return Ok(Poll(None));
    }
    let every = duration::parse(text).map_err(|error| error.to_string())?;
    match u32::try_from(every.as_secs()) {
        Ok(0) | Err(_) => Err("must be `off` or between 10s and 1000d".to_owned()),
        Ok(seconds) => Ok(Poll(Some(seconds))),
    }
}

pub async fn run(command: Command, out: &Output) -> Result<Exit> {
    match command {
        Command::Add(args) => add(args, out).await,
        Command::Ls(args) => ls(&args, out).await,
        Command::Rm(args) => rm(&args, out).await,
        Command::Hook(args) => hook(&args, out).await,
    }
}

async fn add(args: AddArgs, out: &Output) -> Result<Exit> {
    let repo = located(&args.repo)?;
    let poll_every_s = match args.poll {
        Some(Poll(asked)) => asked,
        None => (!Path::new(&repo).is_absolute()).then_some(POLL_URL_EVERY_S),
    };
    let new = AddProject { name: args.name, repo, poll_every_s };
    let project = args.server.client()?.add_project(&new).await?;
    let hook = match args.hook {
        true => Some(install(&project.project, &place(&project.repo), &args.server)?),
        false => None,
    };
    if args.json {
        out.json(&project)?;
        return Ok(Exit::Success);
    }
    out.lines(&format!("{} watches {}\n", project.project, project.repo))?;
    match hook {
        Some(at) => out.lines(&format!("hook: {}\n", at.display()))?,
        None if on_disk(&project.repo).is_some() => out.note(&format!(
            "`kiln project hook {}` lets it know of pushes at once",
            project.project
        )),
        None if project.poll_every_s.is_none() => {
            out.note("it is not polled: runs start by `kiln trigger` only; see --poll");
        }
        None => {}
    }
    Ok(Exit::Success)
}

/// A path is made absolute here, because the server stands in another folder.
fn located(repo: &str) -> Result<String> {
    let path = Path::new(repo);
    if !path.exists() {
        // A URL; or nothing, which the server says in its own words.
        return Ok(repo.to_owned());
    }
    let path = path.canonicalize().yours(format!("cannot find `{repo}`"))?;
    path.into_os_string()
        .into_string()
        .map_err(|path| Failure::yours(format!("the path `{}` is not UTF-8", path.display())))
}

/// The folder of a repository on this machine, be it written as a path or as a `file:` URL.
fn on_disk(repo: &str) -> Option<PathBuf> {
    match Location::parse(repo) {
        Ok(Location::Path(path)) => path.is_dir().then_some(path),
        Ok(Location::Url(_)) | Err(_) => None,
    }
}

/// As [`on_disk`]; what is elsewhere keeps its name, for the error that follows.
fn place(repo: &str) -> PathBuf {
    on_disk(repo).unwrap_or_else(|| PathBuf::from(repo))
}

async fn ls(args: &LsArgs, out: &Output) -> Result<Exit> {
    let projects = args.server.client()?.projects().await?;
    if args.json {
        out.json(&projects)?;
    } else if projects.is_empty() {
        out.note("no projects; `kiln project add NAME --repo PATH_OR_URL` adds one");
    } else {
        let rows: Vec<_> = projects.iter().map(row).collect();
        out.table(&["project", "last run", "poll", "repo"], &rows)?;
    }
    Ok(Exit::Success)
}

fn row(project: &Project) -> Vec<Cell> {
    let last = match project.runs.first() {
        Some(run) => Cell::styled(run_style(run.state), format!("#{} {}", run.number, run.state)),
        None => Cell::styled(run_style(RunState::Queued), "-"),
    };
    let poll = match project.poll_every_s {
        Some(seconds) => duration::show(std::time::Duration::from_secs(seconds.into())),
        None => "off".to_owned(),
    };
    vec![
        Cell::styled(Style::Bold, &project.project),
        last,
        Cell::from(poll),
        Cell::from(&project.repo),
    ]
}

async fn rm(args: &RmArgs, out: &Output) -> Result<Exit> {
    let client = args.server.client()?;
    let project = client.project(&args.name).await?;
    if !args.yes {
        return Err(Failure::yours(format!(
            "`{}` and all its runs and logs would be gone for good",
            project.project
        ))
        .help("add --yes"));
    }
    client.remove_project(&args.name).await?;
    if args.json {
        out.json(&serde_json::json!({ "removed": project.project }))?;
    } else {
        out.lines(&format!("{} is gone\n", project.project))?;
    }
    Ok(Exit::Success)
}

async fn hook(args: &HookArgs, out: &Output) -> Result<Exit> {
    let repo = match &args.repo {
        Some(repo) => repo.clone(),
        None => place(&args.server.client()?.project(&args.name).await?.repo),
    };
    let at = install(&args.name, &repo, &args.server)?;
    if args.json {
        out.json(&serde_json::json!({ "project": args.name, "hook": at }))?;
    } else {
        out.lines(&format!("hook: {}\n", at.display()))?;
    }
    Ok(Exit::Success)
}

fn install(name: &str, repo: &Path, server: &ServerArgs) -> Result<PathBuf> {
    let name = ProjectName::new(name).yours(format!("`{name}` is not the name of a project"))?;
    let data = Data::find(server.data.as_deref())?;
    if !data.root.is_dir() {
        return Err(Failure::yours(format!("there is no data folder `{}`", data.root.display()))
            .help(
                "name the server's folder with --data; the hook speaks to the server through it",
            ));
    }
    let kiln = std::env::current_exe().elsewhere("cannot find this program's own file")?;
    hook::install(repo, &kiln, &data.root, &name).map_err(|error| {
        let elsewhere = matches!(error, HookError::NotARepository(_));
        let help = "a hook can only be put into a repository on this machine; others are polled \
                    (--poll)";
        let help = elsewhere.then(|| help.to_owned());
        Failure { kind: Kind::Yours, error: error.into(), help }
    })
}
