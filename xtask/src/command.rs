//! What `cargo xtask` understands.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::{bench, check, generated, suite};

const HELP: &str = "\
The one door for who works on kiln.

  cargo xtask ci              format, lints, advisories, then every test: what `.ci/run` calls
  cargo xtask test [ARGS…]    installs what the tests need (as root on Debian), then runs them all;
                              ARGS go to `cargo test` instead of `--workspace`
  cargo xtask tidy            only the rules that the source and the documents must keep
  cargo xtask docs            writes the generated files again
  cargo xtask bench           the figures, each beside its limit
      --only NAME             only rows whose name contains NAME
      --json                  one object a row
      --cold                  also a release build from nothing (minutes)
";

/// Does what the arguments ask for.
pub fn enter(args: Vec<String>) -> ExitCode {
    match dispatch(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn dispatch(args: &[String]) -> Result<bool> {
    let (verb, rest) = match args.split_first() {
        Some((verb, rest)) => (verb.as_str(), rest),
        None => ("help", args),
    };
    match verb {
        "ci" => check::everything(),
        "test" => suite::run(rest),
        "tidy" => check::tidy(),
        "docs" => generated::write_all().map(|()| true),
        "bench" => bench::run(rest),
        "help" | "-h" | "--help" => {
            print!("{HELP}");
            Ok(true)
        }
        other => bail!("`{other}` is not a task; `cargo xtask help` lists them"),
    }
}
