//! `kiln schema`: the JSON schema of the manifest.

use crate::error::{Exit, Result};
use crate::output::Output;

/// Print the JSON schema of `.kiln.yml`, for editors
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The schema is JSON with and without this
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kiln schema > .kiln.schema.json
  # then, as the first line of .kiln.yml:
  # yaml-language-server: $schema=.kiln.schema.json";

pub fn run(out: &Output) -> Result<Exit> {
    out.json(&kiln_manifest::schema())?;
    Ok(Exit::Success)
}
