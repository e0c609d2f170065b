//! Everything that must hold before a change goes in, in the order of what fails fastest.

use std::process::Command;

use anyhow::{Context, Result};
use kiln_it::binary::checkout;
use kiln_stdx::process;

use crate::{machine, suite};

/// Every check and every test. All of them run, whatever failed before; the tests' summary is last.
pub fn everything() -> Result<bool> {
    machine::prepare()?;
    let mut verdicts = vec![
        ("format", passes(cargo(&["fmt", "--all", "--check"]))?),
        (
            "lints",
            passes(cargo(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ]))?,
        ),
    ];
    // Building it takes minutes, so it is used where it is and never installed.
    if machine::found("cargo-deny") {
        verdicts.push(("dependencies", passes(cargo(&["deny", "--offline", "check"]))?));
    }
    let tested = suite::all()?;
    for (name, held) in &verdicts {
        println!("{name}: {}", if *held { "ok" } else { "FAILED" });
    }
    let n_failed = verdicts.iter().filter(|(_, held)| !held).count();
    println!("{}", tested.and(verdicts.len() - n_failed, n_failed).summary());
    Ok(n_failed == 0 && tested.passed())
}

/// The source's own rules.
pub fn tidy() -> Result<bool> {
    passes(cargo(&["test", "--quiet", "--package", "xtask", "--", "--nocapture"]))
}

/// Cargo in the checkout; the same cargo that runs this.
pub fn cargo(args: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = process::command(program);
    command.args(args).current_dir(checkout());
    command
}

fn passes(mut command: Command) -> Result<bool> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot start `{name}`"))?;
    Ok(status.success())
}
