//! `kiln trigger`: a run of a project, because a person wants one.

use kiln_api::user::TriggerRun;

use crate::client::ServerArgs;
use crate::error::{Exit, Result};
use crate::interrupt::Interrupts;
use crate::output::{Output, Style};
use crate::pipeline::key_value;
use crate::watch::{Ended, Picture, Shown, Watched};

/// Start a run of a project
///
/// Without a branch, a tag or a commit: the head of the default branch.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    project: String,
    #[arg(long, value_name = "NAME", conflicts_with_all = ["tag", "commit"])]
    branch: Option<String>,
    #[arg(long, value_name = "NAME", conflicts_with = "commit")]
    tag: Option<String>,
    #[arg(long, value_name = "ID")]
    commit: Option<String>,
    /// A value for one of the manifest's inputs
    #[arg(short, long = "input", value_name = "KEY=VALUE", value_parser = key_value)]
    inputs: Vec<(String, String)>,
    /// Take nothing from earlier runs: every job runs, and finds no cache
    #[arg(long)]
    no_cache: bool,
    /// Watch the run and exit with its result
    #[arg(short, long)]
    follow: bool,
    /// The run as JSON; with --follow one event a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

const EXAMPLES: &str = "\
Examples:
  kiln trigger site
  kiln trigger site --branch dev -i target=staging
  kiln trigger site --follow && ./announce";

pub async fn run(args: Args, out: &Output) -> Result<Exit> {
    let client = args.server.client()?;
    let body = TriggerRun {
        branch: args.branch,
        tag: args.tag,
        commit: args.commit,
        inputs: args.inputs.into_iter().collect(),
        no_cache: args.no_cache,
    };
    let run = client.trigger(&args.project, &body).await?;
    if !args.follow {
        if args.json {
            out.json(&run)?;
        } else {
            let page = client.page(&run.project, run.number);
            let reference = format!("{}#{}", run.project, run.number);
            out.lines(&format!("{reference}  {}\n", out.paint(Style::Blue, &page)))?;
        }
        return Ok(Exit::Success);
    }
    let watched = Watched::server(client, run.project, run.number, None);
    follow(out, args.json, watched, None).await
}

/// Watches a run that is not driven here to its end. `seen`: what is not news.
pub async fn follow(
    out: &Output,
    json: bool,
    mut watched: Watched,
    seen: Option<Picture>,
) -> Result<Exit> {
    let mut interrupts = Interrupts::listen()?;
    let shown = Shown { out, json };
    match shown.watch(&mut watched, &mut interrupts, seen.as_ref()).await? {
        (Ended::Over(picture), shower) => shown.end(&watched, &picture, shower).await,
        (Ended::Left(picture), _) => {
            let reference = picture.reference;
            out.note(&format!("{reference} goes on; `kiln cancel '{reference}'` ends it"));
            Ok(Exit::Interrupted)
        }
    }
}
