//! Every test of the workspace, and one summary of all of them at the end.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::check::cargo;
use crate::machine;

/// What the tests came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tested {
    n_passed: usize,
    n_failed: usize,
    n_ignored: usize,
    n_filtered: usize,
    /// Something ended badly without a failed test: it did not build, or a suite died.
    broken: bool,
}

/// Prepares the machine and runs the tests; prints the sum last.
pub fn run(args: &[String]) -> Result<bool> {
    machine::prepare()?;
    let tested = if args.is_empty() { all()? } else { with(args)? };
    println!("{}", tested.summary());
    Ok(tested.passed())
}

/// Runs every test of the workspace.
pub fn all() -> Result<Tested> {
    with(&["--workspace".to_owned()])
}

/// Runs `cargo test ARGS`, passes on what it prints and adds up the suites' own summaries.
fn with(args: &[String]) -> Result<Tested> {
    let mut command = cargo(&["test", "--no-fail-fast"]);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start cargo")?;
    let Some(output) = child.stdout.take() else { bail!("cargo's output is not piped") };
    let mut tested = Tested::default();
    let mut to = std::io::stdout().lock();
    let mut lines = BufReader::new(output);
    let mut line = Vec::new();
    // Lines are bytes: a failing test may print anything.
    while lines.read_until(b'\n', &mut line)? > 0 {
        to.write_all(&line)?;
        tested.read(&String::from_utf8_lossy(&line));
        line.clear();
    }
    tested.broken = !child.wait()?.success() && tested.n_failed == 0;
    Ok(tested)
}

impl Tested {
    pub fn passed(self) -> bool {
        self.n_failed == 0 && !self.broken
    }

    /// With other checks counted in.
    pub fn and(self, n_passed: usize, n_failed: usize) -> Self {
        Self { n_passed: self.n_passed + n_passed, n_failed: self.n_failed + n_failed, ..self }
    }

    /// One line in the words of Rust's own test runner.
    pub fn summary(self) -> String {
        let verdict = if self.passed() { "ok" } else { "FAILED" };
        // What did not build has no failed test to count, and must not read as a success.
        let n_failed = if self.broken { self.n_failed + 1 } else { self.n_failed };
        format!(
            "\ntest result: {verdict}. {} passed; {n_failed} failed; {} ignored; 0 measured; {} filtered out",
            self.n_passed, self.n_ignored, self.n_filtered
        )
    }

    /// Adds `test result: ok. 12 passed; 0 failed; 0 ignored; …`.
    fn read(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        for count in counts.split(['.', ';']) {
            let Some((number, what)) = count.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<usize>() else { continue };
            match what {
                "passed" => self.n_passed += number,
                "failed" => self.n_failed += number,
                "ignored" => self.n_ignored += number,
                "filtered out" => self.n_filtered += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_added_up() {
        let mut tested = Tested::default();
        tested.read("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s\n");
        tested.read("test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s\n");
        tested.read("running 3 tests\n");
        assert_eq!(
            tested.and(2, 0).summary(),
            "\ntest result: FAILED. 17 passed; 1 failed; 1 ignored; 0 measured; 2 filtered out"
        );
    }

    #[test]
    fn what_does_not_build_is_no_success() {
        let tested = Tested { n_passed: 5, broken: true, ..Tested::default() };
        assert!(tested.summary().contains("FAILED. 5 passed; 1 failed"));
        assert!(!tested.passed());
    }
}
