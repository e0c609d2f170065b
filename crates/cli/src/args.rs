//! What can be typed. Each command's arguments are with the command.

use std::ffi::OsString;

use clap::builder::Styles;
use clap::builder::styling::AnsiColor;
use clap::{Parser, Subcommand};

use crate::command::*;

/// CI that runs the same on your laptop and on your server.
///
/// Without a command, shows what `kiln run` would run here.
#[derive(Parser, Debug)]
#[command(
    name = "kiln",
    version,
    styles = STYLES,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = EXIT_CODES,
    after_long_help = EXAMPLES,
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
}

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default());

const EXIT_CODES: &str = "\
Exit codes: 0 success, 1 the run failed, 2 bad manifest or usage, 3 the environment (no git, no
server), 70 a bug in kiln, 130 interrupted.";

const EXAMPLES: &str = "\
Examples:
  kiln                          what would run here
  kiln run                      run it, on the files as they are now
  kiln run test                 only `test` and what it needs
  kiln logs '#12/test'          a log of a local run
  kiln serve                    a server with a page, on http://127.0.0.1:7411
  kiln demo                     all of it, on a sample repository

A run is written project#12, a job project#12/test, a local run #12. The quotes keep the shell from
taking # for a comment.

Exit codes: 0 success, 1 the run failed, 2 bad manifest or usage, 3 the environment (no git, no
server), 70 a bug in kiln, 130 interrupted.";

/// Each is described where its arguments are.
#[derive(Subcommand, Debug)]
pub enum Command {
    Run(run::Args),
    Check(check::Args),
    Plan(plan::Args),
    Schema(schema::Args),
    Demo(demo::Args),
    Serve(serve::Args),
    #[command(subcommand)]
    Project(project::Command),
    Trigger(trigger::Args),
    Runs(runs::Args),
    Show(show::Args),
    Logs(logs::Args),
    Cancel(cancel::Args),
    Rerun(rerun::Args),
    Shell(shell::Args),
    Why(why::Args),
    Artifacts(artifacts::Args),
    #[command(subcommand)]
    Workspace(workspace::Command),
    #[command(subcommand)]
    Image(image::Command),
    #[command(subcommand)]
    Secret(secret::Command),
    Pin(pin::Args),
    Unpin(pin::UnpinArgs),
    Gc(gc::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
}

/// `kiln help run` is `kiln run --help`, for those whose fingers know it from git.
pub fn spelled_out(typed: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = typed.collect();
    if words.get(1).is_some_and(|word| word == "help") {
        words.remove(1);
        words.push("--help".into());
    }
    words
}

impl Command {
    /// Whether it may run jobs in this process, and so needs the process that starts them.
    pub fn runs_jobs(&self) -> bool {
        use Command::{Demo, Doctor, Image, Rerun, Run, Serve, Shell};
        matches!(self, Run(_) | Serve(_) | Demo(_) | Rerun(_) | Shell(_) | Doctor(_) | Image(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_can_be_asked_for_in_front() {
        let spelled = |line: &str| spelled_out(line.split(' ').map(OsString::from));
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(spelled("kiln help"), words("kiln --help"));
        assert_eq!(spelled("kiln help project add"), words("kiln project add --help"));
        assert_eq!(spelled("kiln run help"), words("kiln run help"));
    }
}
