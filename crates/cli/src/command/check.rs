//! `kiln check`: every problem of a manifest, with its place.

use std::path::{Path, PathBuf};

use kiln_git::WorkingTree;
use kiln_manifest::diagnostic::Severity;

use crate::error::{Exit, Result};
use crate::output::{Output, Style};
use crate::pipeline::{self, errors_in_words};
use crate::place::directory;

/// Check the manifest and print every problem with its place
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The manifest [default: `.kiln.yml` of the repository here]
    file: Option<PathBuf>,
    /// The folder to start from
    #[arg(short = 'C', long = "directory", value_name = "DIR")]
    directory: Option<PathBuf>,
    /// The problems as a JSON array; line and column count from 1
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kiln check
  kiln check ci/release.yml
  kiln check --json | jq -r '.[] | \"\\(.line): \\(.message)\"'

Exits with 2 when there is an error; warnings alone give 0.";

pub fn run(args: &Args, out: &Output) -> Result<Exit> {
    let from = directory(args.directory.as_deref())?;
    let root = root(&from, args.file.as_deref());
    let manifest = pipeline::manifest(&root, &from, args.file.as_deref())?;
    let complaints = kiln_manifest::check(&manifest.file);
    let n_errors = complaints.iter().filter(|c| c.severity == Severity::Error).count();
    let refused = n_errors > 0;
    if args.json {
        out.json(&complaints)?;
    } else {
        if let (None, Some(other)) = (&args.file, pipeline::other_manifest(&root)) {
            out.note(&format!("`{other}` is not read, because `{}` is there", manifest.file.path));
        }
        out.lines(&pipeline::render(&complaints, &manifest.file.bytes, out.colour()))?;
        let path = &manifest.file.path;
        let n_warnings = complaints.len() - n_errors;
        let verdict = match n_warnings {
            _ if refused => out.paint(Style::Red, &errors_in_words(n_errors)),
            0 => "no problems".to_owned(),
            1 => "1 warning".to_owned(),
            n => format!("{n} warnings"),
        };
        out.lines(&format!("{path}: {verdict}\n"))?;
    }
    Ok(if refused { Exit::Refused } else { Exit::Success })
}

/// A named file can be checked anywhere; without one, the repository says where it is.
fn root(from: &Path, file: Option<&Path>) -> PathBuf {
    match (WorkingTree::discover(from), file) {
        (Ok(tree), None) => tree.root,
        _ => from.to_owned(),
    }
}
