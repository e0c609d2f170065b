//! `kiln demo`: everything at once, on a sample repository.
//!
//! It does what a person would: serves a data folder, adds a project, installs the hook, pushes a
//! commit with git, watches the run through the API.

mod sample;

use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_api::user::AddProject;
use kiln_executor::Spawner;
use kiln_model::ProjectName;
use kiln_server::{ServeOptions, Server, hook};

use crate::client::{Client, Note};
use crate::command::serve::{agent_of, start, stop};
use crate::error::{Blame, Exit, Failure, Kind, Result};
use crate::interrupt::Interrupts;
use crate::local::machine::{Folder, Part, host_name};
use crate::output::{Output, Style};
use crate::place::Data;
use crate::watch::{Ended, Shown, Watched};

/// Make a sample repository, serve it, push to it and follow the run
///
/// Needs nothing but git. Without `--data` everything is in a temporary folder, which is gone
/// afterwards.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Keep everything in this folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Exit with the run's result instead of serving until Ctrl-C
    #[arg(long)]
    once: bool,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    listen: String,
    /// One event a line, for programs
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kiln demo                 watch it here, then look at it in a browser; Ctrl-C ends it
  kiln demo --once          exit with the run's result
  kiln demo --data demo     keep the repositories and the runs, to play with";

const PROJECT: &str = "lighthouse";

pub async fn run(args: Args, spawner: Spawner, out: &Output) -> Result<Exit> {
    let mut interrupts = Interrupts::listen()?;
    // Held to the end: when it is dropped, the folder is gone.
    let temporary = match &args.data {
        Some(_) => None,
        None => Some(
            tempfile::Builder::new()
                .prefix("kiln-demo-")
                .tempdir()
                .elsewhere("cannot make a temporary folder")?,
        ),
    };
    let folder = args.data.as_deref().or(temporary.as_ref().map(tempfile::TempDir::path));
    let data = Data::find(folder)?;
    let server = start(ServeOptions::new(&data.root, &args.listen)).await?;
    let part = Part {
        name: host_name(),
        labels: Vec::new(),
        n_jobs: None,
        // The folder may be gone a moment later, so nothing may outlive this process.
        orphan_for: Duration::ZERO,
        folder: Folder::Ours,
        config: data.config(),
        env: Vec::new(),
    };
    let agent = agent_of(&server, spawner, &data, part).await?;
    Note::write(&data, server.url())?;
    let done = tokio::select! {
        done = show(&args, &data, &server, out) => done,
        _ = interrupts.next() => Ok(Exit::Interrupted),
    };
    let exit = match done {
        Ok(exit) if !args.once && exit != Exit::Interrupted => {
            interrupts.next().await;
            Ok(Exit::Success)
        }
        other => other,
    };
    tokio::select! {
        () = stop(server, Some(agent)) => {}
        _ = interrupts.next() => {}
    }
    Note::remove(&data);
    exit
}

async fn show(args: &Args, data: &Data, server: &Server, out: &Output) -> Result<Exit> {
    let say = |text: String| match args.json {
        true => out.json_line(&serde_json::json!({ "type": "note", "text": text })),
        false => out.lines(&format!("{} {text}\n", out.paint(Style::Dim, "kiln demo:"))),
    };
    let client = Client::at(server.url())?;
    let folder = data.root.join("demo");
    let (work, bare) = (folder.join("work"), folder.join(format!("{PROJECT}.git")));
    say(format!("serving {} at {}", data.root.display(), server.url()))?;
    blocking({
        let (work, bare) = (work.clone(), bare.clone());
        move || sample::make(&work, &bare)
    })
    .await?;
    say(format!("a sample repository is in {}", work.display()))?;
    add(&client, &bare).await?;
    let kiln = std::env::current_exe().elsewhere("cannot find this program's own file")?;
    let name = ProjectName::new(PROJECT).map_err(Failure::ours)?;
    let hook = hook::install(&bare, &kiln, &data.root, &name);
    hook.elsewhere("cannot install the hook into the sample repository")?;
    say("git push".to_owned())?;
    let before = newest(&client).await?;
    blocking(move || sample::push(&work)).await?;
    let number = pushed(&client, before).await?;
    let page = client.page(PROJECT, number);
    let exit = follow(args, out, Watched::server(client, PROJECT.to_owned(), number, None)).await?;
    if exit == Exit::Interrupted {
        return Ok(exit);
    }
    match args.json {
        true => out.json_line(&serde_json::json!({ "type": "page", "url": page }))?,
        false => {
            out.lines(&format!("\nlook at it: {}\n", out.paint(Style::Blue, &page)))?;
            if !args.once {
                out.lines(&format!(
                    "serving until Ctrl-C; push more from {}\n",
                    folder.join("work").display()
                ))?;
            }
        }
    }
    Ok(exit)
}

async fn follow(args: &Args, out: &Output, mut watched: Watched) -> Result<Exit> {
    let mut interrupts = Interrupts::listen()?;
    let shown = Shown { out, json: args.json };
    match shown.watch(&mut watched, &mut interrupts, None).await? {
        (Ended::Over(picture), shower) => shown.end(&watched, &picture, shower).await,
        (Ended::Left(_), _) => Ok(Exit::Interrupted),
    }
}

/// Adds the project, unless an earlier demo in this folder has.
async fn add(client: &Client, bare: &Path) -> Result<()> {
    if client.projects().await?.iter().any(|known| known.project == PROJECT) {
        return Ok(());
    }
    let repo = bare.to_str().ok_or_else(|| {
        Failure::yours(format!("the folder's name `{}` is not UTF-8", bare.display()))
    })?;
    let new = AddProject { name: PROJECT.to_owned(), repo: repo.to_owned(), poll_every_s: None };
    client.add_project(&new).await?;
    Ok(())
}

async fn newest(client: &Client) -> Result<i64> {
    let runs = client.runs(Some(PROJECT), &[("limit", "1".to_owned())]).await?;
    Ok(runs.first().map_or(0, |run| run.number))
}

/// The run that the push started. The hook has told the server of it before `git push` returned.
async fn pushed(client: &Client, before: i64) -> Result<i64> {
    const TRIES: u32 = 100;
    const BETWEEN: Duration = Duration::from_millis(50);
    for _ in 0..TRIES {
        let number = newest(client).await?;
        if number > before {
            return Ok(number);
        }
        tokio::time::sleep(BETWEEN).await;
    }
    Err(Failure::ours("the push started no run"))
}

/// Runs what waits for other programs where it does not keep the server from answering them.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => Err(Failure { kind: Kind::Ours, error: panic.into(), help: None }),
    }
}
