//! `kiln cancel`: the jobs of a run are told to end.

use crate::error::{Exit, Failure, Result};
use crate::local::cancel_elsewhere;
use crate::origin::{Origin, OriginArgs};
use crate::output::Output;
use crate::place::user_name;
use crate::reference::Reference;

/// Cancel a run
///
/// Running jobs are told to end and get their grace period; asking twice is harmless.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
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

const EXAMPLES: &str = "\
Examples:
  kiln cancel '#12'
  kiln cancel 'site#12'";

pub async fn run(args: Args, out: &Output) -> Result<Exit> {
    if args.reference.job.is_some() {
        return Err(Failure::yours("a run is cancelled as a whole")
            .help(format!("kiln cancel '{}'", Reference { job: None, ..args.reference })));
    }
    let origin = Origin::find(&args.reference, &args.at).await?;
    let reference = origin.reference();
    let over = origin.detail().await?.run.state.is_over();
    if !over {
        match &origin {
            Origin::Local { local, row } => {
                cancel_elsewhere(&local.data, row.id, &user_name())?;
            }
            Origin::Server { client, project, number } => client.cancel(project, *number).await?,
        }
    }
    if args.json {
        out.json(&serde_json::json!({ "run": reference, "cancelled": !over }))?;
    } else if over {
        out.lines(&format!("{reference} is over already\n"))?;
    } else {
        out.lines(&format!("{reference} is being cancelled\n"))?;
    }
    Ok(Exit::Success)
}
