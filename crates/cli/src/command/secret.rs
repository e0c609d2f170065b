//! `kiln secret`: values that jobs get and nobody sees.
//!
//! They are sealed into the store of a data folder with the key of that folder; a server that runs
//! over it finds them at the next job. Values come from standard input, never from an argument,
//! which every user of the machine could read.

use std::path::PathBuf;

use kiln_model::{ProjectId, ProjectName};
use kiln_server::runs::{Places, Runs};
use kiln_stdx::{Secret, SystemClock};
use kiln_store::{Store, StoreError};

use crate::error::{Blame, Exit, Failure, Help, Result};
use crate::local::Local;
use crate::output::{Cell, Output, Style};
use crate::pipeline::repository;
use crate::place::{Data, directory};

/// Secrets of a server's data folder: set, list, remove
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Set a secret; its value comes from standard input or is asked for
    #[command(after_help = SET_EXAMPLES)]
    Set(OneArgs),
    /// List the names
    #[command(after_help = "Examples:\n  kiln secret ls site\n  kiln secret ls --local")]
    Ls(LsArgs),
    /// Remove a secret
    #[command(after_help = "Examples:\n  kiln secret rm site TOKEN")]
    Rm(OneArgs),
}

#[derive(clap::Args, Debug)]
pub struct OneArgs {
    /// The project and the secret's name; the name alone with --local or --all
    #[arg(value_name = "PROJECT] [NAME", num_args = 1..=2, required = true)]
    names: Vec<String>,
    #[command(flatten)]
    of: OfArgs,
}

#[derive(clap::Args, Debug)]
pub struct LsArgs {
    project: Option<String>,
    #[command(flatten)]
    of: OfArgs,
}

#[derive(clap::Args, Debug)]
struct OfArgs {
    /// Of the repository here, for `kiln run`
    #[arg(long, conflicts_with_all = ["all", "data"])]
    local: bool,
    /// Of every project of the server
    #[arg(long)]
    all: bool,
    /// The server's data folder [env: KILN_DATA]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

const SET_EXAMPLES: &str = "\
Examples:
  kiln secret set site TOKEN < token.txt
  kiln secret set --local TOKEN            for `kiln run` in this repository
  pass show ci/token | kiln secret set --all TOKEN";

/// More than any key or certificate, less than what an environment can hold.
const VALUE_BYTES_MAX: usize = 64 << 10;

pub async fn run(command: Command, out: &Output) -> Result<Exit> {
    match command {
        Command::Set(args) => set(&args, out).await,
        Command::Ls(args) => ls(&args, out).await,
        Command::Rm(args) => rm(&args, out).await,
    }
}

/// Whose secrets, in which store.
struct Scope {
    store: Store,
    places: Places,
    project: Option<ProjectId>,
}

async fn set(args: &OneArgs, out: &Output) -> Result<Exit> {
    let (project, name) = named(args)?;
    lawful(name)?;
    let scope = scope(&args.of, project).await?;
    let value = out
        .ask_hidden(&format!("value of {name}: "))
        .yours("cannot read the value")
        .help("the value is text, from standard input")?;
    let value = Secret::new(value);
    match value.expose().len() {
        0 => return Err(Failure::yours("the value is empty").help("give it on standard input")),
        n if n > VALUE_BYTES_MAX => {
            return Err(Failure::yours(format!(
                "the value has {n} bytes; {VALUE_BYTES_MAX} is the most"
            )));
        }
        _ if value.expose().contains('\0') => {
            return Err(Failure::yours("the value contains NUL, which no variable can hold"));
        }
        _ => {}
    }
    let runs =
        Runs::open(scope.store.clone(), scope.places, std::sync::Arc::new(SystemClock)).await?;
    let sealed =
        runs.secrets().seal(scope.project, name, &value).elsewhere("cannot seal the secret")?;
    scope.store.set_secret(scope.project, name, &sealed).await?;
    if args.of.json {
        out.json(&serde_json::json!({ "name": name }))?;
    } else {
        out.lines(&format!("{name} is set\n"))?;
    }
    Ok(Exit::Success)
}

async fn ls(args: &LsArgs, out: &Output) -> Result<Exit> {
    let scope = scope(&args.of, args.project.as_deref()).await?;
    let names = scope.store.secret_names(scope.project).await?;
    if args.of.json {
        let row = |(name, at): &(String, kiln_stdx::Timestamp)| serde_json::json!({ "name": name, "set_at": at });
        out.json(&names.iter().map(row).collect::<Vec<_>>())?;
    } else if names.is_empty() {
        out.note("no secrets");
    } else {
        let row = |(name, at): &(String, kiln_stdx::Timestamp)| {
            vec![Cell::styled(Style::Bold, name), Cell::from(at.to_string())]
        };
        out.table(&["name", "set"], &names.iter().map(row).collect::<Vec<_>>())?;
    }
    Ok(Exit::Success)
}

async fn rm(args: &OneArgs, out: &Output) -> Result<Exit> {
    let (project, name) = named(args)?;
    let scope = scope(&args.of, project).await?;
    if !scope.store.remove_secret(scope.project, name).await? {
        return Err(Failure::yours(format!("there is no secret `{name}`"))
            .help("`kiln secret ls` lists them"));
    }
    if args.of.json {
        out.json(&serde_json::json!({ "removed": name }))?;
    } else {
        out.lines(&format!("{name} is gone\n"))?;
    }
    Ok(Exit::Success)
}

fn named(args: &OneArgs) -> Result<(Option<&str>, &str)> {
    match (args.names.as_slice(), args.of.local || args.of.all) {
        ([name], true) => Ok((None, name)),
        ([project, name], false) => Ok((Some(project), name)),
        ([_], false) => Err(Failure::yours("a secret belongs to a project")
            .help("write PROJECT NAME, or `--local NAME`, or `--all NAME`")),
        _ => Err(Failure::yours("with --local or --all there is no project to name")),
    }
}

async fn scope(of: &OfArgs, project: Option<&str>) -> Result<Scope> {
    if of.local {
        if project.is_some() {
            return Err(Failure::yours("with --local there is no project to name"));
        }
        let tree = repository(&directory(None)?)?;
        let local = Local::open(Data::find(None)?).await?;
        let project = Some(local.project(&tree.root).await?.id);
        return Ok(Scope { store: local.store, places: local.data.local(), project });
    }
    let data = Data::find(of.data.as_deref())?;
    if !data.root.is_dir() {
        return Err(Failure::yours(format!("there is no data folder `{}`", data.root.display()))
            .help("name the server's with --data, or start one with `kiln serve`"));
    }
    let places = data.server();
    let store = Store::open(&places.data, None, false).await?;
    let project = match (project, of.all) {
        (None, true) => None,
        (None, false) => {
            return Err(Failure::yours("secrets belong to a project")
                .help("name it, or use --local or --all"));
        }
        (Some(_), true) => {
            return Err(Failure::yours("with --all there is no project to name"));
        }
        (Some(project), false) => Some(find(&store, project).await?),
    };
    Ok(Scope { store, places, project })
}

async fn find(store: &Store, project: &str) -> Result<ProjectId> {
    let name = ProjectName::new(project).yours(format!("`{project}` is not a project's name"))?;
    match store.project(&name).await {
        Err(StoreError::NotFound(_)) => {
            Err(Failure::yours(format!("there is no project `{name}` in this data folder"))
                .help("name the server's folder with --data"))
        }
        answer => Ok(answer?.id),
    }
}

/// It becomes a variable of the same name.
pub fn lawful(name: &str) -> Result<()> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if first && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && name.len() <= 100 {
        return Ok(());
    }
    Err(Failure::yours(format!(
        "`{}` cannot be the name of a variable",
        crate::output::visible(name)
    ))
    .help("a name has letters, digits and `_`, and does not begin with a digit"))
}
