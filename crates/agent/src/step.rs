//! One step: its command line, its time, its end.

use std::time::Duration;

use kiln_executor::StepCommand;
use kiln_model::plan::{Command, Step};

/// The command line of a step. A script goes to the shell as one argument, so no part of it is
/// quoted or joined by us; the shell stops at the first error.
pub(crate) fn command(step: &Step, timeout: Option<Duration>) -> StepCommand {
    let argv = match &step.run {
        Command::Argv { argv } => argv.clone(),
        Command::Shell { script, shell } => {
            let mut argv = vec![shell.clone()];
            // Only bash is sure to know pipefail; in a pipe the last command alone would count.
            if shell.rsplit('/').next() == Some("bash") {
                argv.extend(["-eo", "pipefail"].map(str::to_owned));
            } else {
                argv.push("-e".to_owned());
            }
            // A script that begins with `-` is a script all the same.
            argv.extend(["-c".to_owned(), "--".to_owned(), script.clone()]);
            argv
        }
    };
    StepCommand { argv, env: step.env.clone(), directory: step.directory.clone(), timeout }
}

/// Which bound a step meets first: its own, or what is left of the job's. `true`: the job's.
pub(crate) fn bound(step: &Step, job_left: Duration) -> (Duration, bool) {
    match step.timeout {
        Some(own) if own <= job_left => (own, false),
        _ => (job_left, true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(shell: &str) -> Step {
        let mut step = kiln_model::Job::sample("j", "echo '$x' | cat").steps.remove(0);
        step.run = Command::Shell { script: "echo '$x' | cat".into(), shell: shell.into() };
        step
    }

    #[test]
    fn a_script_is_one_argument_of_a_shell_that_stops_at_errors() {
        assert_eq!(command(&step("sh"), None).argv, ["sh", "-e", "-c", "--", "echo '$x' | cat"]);
        assert_eq!(
            command(&step("bash"), None).argv,
            ["bash", "-eo", "pipefail", "-c", "--", "echo '$x' | cat"]
        );
    }

    #[test]
    fn the_nearer_bound_counts() {
        let mut step = step("sh");
        step.timeout = Some(Duration::from_secs(5));
        assert_eq!(bound(&step, Duration::from_secs(9)), (Duration::from_secs(5), false));
        assert_eq!(bound(&step, Duration::from_secs(3)), (Duration::from_secs(3), true));
    }
}
