//! What is run: the person's command, or a shell that says where one is.

use std::io::{self, IsTerminal};
use std::path::Path;

use kiln_executor::StepCommand;

use super::Job;
use crate::output::visible;

/// Whether it runs on a terminal. One stream elsewhere is enough to want all bytes as they are, but a
/// shell's errors may well be thrown away.
pub fn has_terminal(command: &[String]) -> bool {
    let both = io::stdin().is_terminal() && io::stdout().is_terminal();
    both && (command.is_empty() || io::stderr().is_terminal())
}

/// What runs, with the variables of the step and of a terminal.
pub fn command(
    typed: &[String],
    job: &Job,
    terminal: bool,
    machine_env: &[(String, String)],
) -> StepCommand {
    let scene = &job.scene;
    let step = scene.step.and_then(|step| scene.assignment.job.steps.get(step as usize));
    let mut env = step.map(|step| step.env.clone()).unwrap_or_default();
    // What an image has is its own; every one that has a shell has this one.
    let own = match scene.assignment.job.image {
        Some(_) => "sh".to_owned(),
        None => shell(machine_env),
    };
    if terminal {
        if let Ok(kind) = std::env::var("TERM") {
            env.insert("TERM".to_owned(), kind);
        }
        env.insert("PS1".to_owned(), prompt(&own, &job.reference));
    }
    let argv = match (typed.is_empty(), name_of(&own)) {
        (false, _) => typed.to_vec(),
        // What a person's own files say is not what the steps had.
        (true, "bash") => vec![own, "--norc".to_owned()],
        (true, "zsh") => vec![own, "-f".to_owned()],
        (true, "fish") => vec![own, "--no-config".to_owned()],
        (true, _) => vec![own],
    };
    StepCommand {
        argv,
        env,
        directory: step.and_then(|step| step.directory.clone()),
        timeout: None,
    }
}

/// The person's own shell when the job could run it, too; else bash, else sh.
fn shell(machine_env: &[(String, String)]) -> String {
    let own = std::env::var("SHELL").ok().filter(|shell| Path::new(shell).is_file());
    let path = machine_env.iter().rev().find(|(name, _)| name == "PATH");
    let path = path.map_or("/usr/bin:/bin", |(_, path)| path);
    let has_bash = || path.split(':').any(|folder| Path::new(folder).join("bash").is_file());
    own.unwrap_or_else(|| if has_bash() { "bash" } else { "sh" }.to_owned())
}

fn name_of(shell: &str) -> &str {
    shell.rsplit('/').next().unwrap_or(shell)
}

/// Says where one is, in each shell's own words.
fn prompt(shell: &str, reference: &str) -> String {
    let place = visible(reference);
    match name_of(shell) {
        "bash" => format!("({place}) \\W \\$ "),
        "zsh" => format!("({}) %1~ %# ", place.replace('%', "%%")),
        _ => format!("({place}) $ "),
    }
}
