//! A look into a job that runs: beside its steps, in its own session.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kiln_executor::host::Guest;
use kiln_executor::{StepCommand, StepError, Streams};
use kiln_model::Exit as Ended;
use rustix::process::Signal;
use tokio::sync::mpsc;

use super::attach::{self, Look};
use super::{Job, start};
use crate::error::{Exit, Failure, Result};
use crate::output::{Output, Style, visible};

/// A running session, as a place to run one command in.
pub(super) struct Live {
    guest: Option<Guest>,
    folder: PathBuf,
    label: String,
}

impl Look for Live {
    fn folder(&self) -> &Path {
        &self.folder
    }

    async fn run(
        &mut self,
        command: StepCommand,
        streams: Streams,
        signals: &mut mpsc::UnboundedReceiver<i32>,
    ) -> std::result::Result<Ended, StepError> {
        let guest = self.guest.take().ok_or(StepError::Closed)?;
        let StepCommand { argv, env, .. } = command;
        guest.run(argv, env, self.label.clone(), streams, signals).await
    }

    /// Nothing of it is left but what the job will end with.
    async fn end(self) -> std::result::Result<(), String> {
        Ok(())
    }
}

pub(super) async fn run(
    job: &Job,
    typed: Vec<String>,
    more: Vec<(String, String)>,
    out: &Output,
) -> Result<Exit> {
    let reference = visible(&job.reference);
    let assignment = &job.scene.assignment;
    if let Some(host) = &assignment.job.ssh {
        return Err(Failure::yours(format!("{reference} runs on `{}`, not here", visible(host)))
            .help("a live shell is for jobs whose steps run on this machine"));
    }
    let attempt = assignment.lease.attempt.to_string();
    let folder = job.layers.join("attempts").join(attempt);
    let entered = Guest::enter(&folder);
    let entered = entered.map_err(|error| Failure::elsewhere(format!("{reference}: {error}")))?;
    let guest = entered.ok_or_else(|| {
        Failure::elsewhere(format!(
            "{reference} has no session on this machine that can be entered"
        ))
        .help("it is about to begin or to end, or its steps run elsewhere; `kiln show` says which")
    })?;
    let terminal = start::has_terminal(&typed);
    let in_full = typed.is_empty() && terminal;
    if in_full {
        welcome(out, job);
    } else if job.scene.chosen {
        out.note(&format!("in {reference}"));
    }
    let mut env: BTreeMap<String, String> = more.into_iter().collect();
    if terminal && let Ok(kind) = std::env::var("TERM") {
        env.insert("TERM".to_owned(), kind);
    }
    // Without a shell's name: which there is, the session knows.
    let command = StepCommand { argv: typed, env, directory: None, timeout: None };
    let place = Live { guest: Some(guest), folder, label: reference.clone() };
    let (ended, left) = match terminal {
        true => attach::at_terminal(place, command, out).await?,
        false => attach::on_streams(place, command, out).await?,
    };
    if matches!(ended, Err(StepError::Closed | StepError::Gone)) {
        out.note(&format!("{reference} has ended, or was stopped, and this with it"));
        // As a terminal that goes away: what ran was killed.
        let ended = Ok(Ended::Killed { signal: Signal::HUP.as_raw() });
        return if in_full { Ok(Exit::Success) } else { attach::passed(ended, left, out) };
    }
    attach::passed(ended, left, out)
}

fn welcome(out: &Output, job: &Job) {
    let scene = &job.scene;
    let name = out.paint(Style::Bold, &visible(&job.reference));
    let step = scene.step.and_then(|at| scene.assignment.job.steps.get(at as usize));
    let at = scene.step.zip(step).map(|(at, step)| {
        let name = step.name.lines().next().unwrap_or_default();
        format!(", at step {} ({})", at + 1, visible(name))
    });
    out.note(&format!("{name} runs{}: these are its own files", at.unwrap_or_default()));
    out.note("what you change here the job sees; leave with `exit` or Ctrl-D");
}
