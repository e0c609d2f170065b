//! `kiln pin` and `kiln unpin`: a run that is kept whatever its age.

use crate::error::{Exit, Failure, Result};
use crate::origin::{Origin, OriginArgs};
use crate::output::Output;
use crate::place::user_name;
use crate::reference::Reference;

/// Keep a run with all that it has, whatever its age
///
/// Its logs, artifacts, layers and sources stay until `kiln unpin`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  kiln pin '#12'\n  kiln pin 'site#12'")]
pub struct Args {
    /// `#12` or `project#12`
    #[arg(value_name = "RUN")]
    reference: Reference,
    #[command(flatten)]
    at: OriginArgs,
    /// What was done, as JSON
    #[arg(long)]
    json: bool,
}

/// Let go of a run that was kept by `kiln pin`
///
/// It is collected when it is older than what is kept, like any other.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  kiln unpin '#12'\n  kiln unpin 'site#12'")]
pub struct UnpinArgs {
    #[command(flatten)]
    args: Args,
}

pub async fn pin(args: Args, out: &Output) -> Result<Exit> {
    set(args, true, out).await
}

pub async fn unpin(args: UnpinArgs, out: &Output) -> Result<Exit> {
    set(args.args, false, out).await
}

async fn set(args: Args, pinned: bool, out: &Output) -> Result<Exit> {
    let verb = if pinned { "pin" } else { "unpin" };
    if args.reference.job.is_some() {
        return Err(Failure::yours("a run is kept as a whole")
            .help(format!("kiln {verb} '{}'", Reference { job: None, ..args.reference })));
    }
    let origin = Origin::find(&args.reference, &args.at).await?;
    let reference = origin.reference();
    match &origin {
        Origin::Local { local, row } => {
            let runs = local.runs().await?;
            crate::local::collect::know_layers(&runs)?;
            runs.pin(row.id, pinned.then(user_name)).await?;
        }
        Origin::Server { client, project, number } => {
            client.pin(project, *number, pinned).await?;
        }
    }
    if args.json {
        out.json(&serde_json::json!({ "run": reference, "pinned": pinned }))?;
    } else if pinned {
        out.lines(&format!("{reference} is kept until `kiln unpin '{reference}'`\n"))?;
    } else {
        out.lines(&format!("{reference} is no longer kept\n"))?;
    }
    Ok(Exit::Success)
}
