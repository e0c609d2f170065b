//! The command and the person: a terminal with a person at it, or plain streams.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use kiln_agent::Visiting;
use kiln_executor::host::terminal_in;
use kiln_executor::{Session, StepCommand, StepError, Streams};
use kiln_model::Exit as Ended;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::error::{Blame, Exit, Failure, Result};
use crate::output::Output;
use crate::terminal::{Lent, Raw};

/// Signals that end a look, or are passed on to a command that has no terminal.
const PASSED: [SignalKind; 3] =
    [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];

/// Signals, as they come. Nothing is lost between two looks.
struct Signals([Signal; 3]);

impl Signals {
    fn listen() -> Result<Self> {
        let [int, term, hup] = PASSED.map(signal);
        let all = (|| -> io::Result<_> { Ok([int?, term?, hup?]) })();
        Ok(Self(all.elsewhere("cannot listen for signals")?))
    }

    async fn next(&mut self) -> i32 {
        let [int, term, hup] = &mut self.0;
        tokio::select! {
            _ = int.recv() => PASSED[0].as_raw_value(),
            _ = term.recv() => PASSED[1].as_raw_value(),
            _ = hup.recv() => PASSED[2].as_raw_value(),
        }
    }
}

/// A place where a command can be run, once or more.
pub trait Look {
    /// Of its session.
    fn folder(&self) -> &Path;

    async fn run(
        &mut self,
        command: StepCommand,
        streams: Streams,
        signals: &mut mpsc::UnboundedReceiver<i32>,
    ) -> Ending;

    /// Leaves it, and takes away what was made for it.
    async fn end(self) -> Leaving;
}

pub type Ending = std::result::Result<Ended, StepError>;
pub type Leaving = std::result::Result<(), String>;

impl<S: Session> Look for Visiting<S> {
    fn folder(&self) -> &Path {
        Self::folder(self)
    }

    async fn run(
        &mut self,
        command: StepCommand,
        streams: Streams,
        signals: &mut mpsc::UnboundedReceiver<i32>,
    ) -> Ending {
        Self::run(self, command, streams, signals).await
    }

    async fn end(self) -> Leaving {
        Self::end(self).await
    }
}

pub async fn at_terminal(
    mut visiting: impl Look,
    command: StepCommand,
    out: &Output,
) -> Result<(Ending, Leaving)> {
    let mut signals = Signals::listen()?;
    let mut resized = signal(SignalKind::window_change()).elsewhere("cannot listen for signals")?;
    let went_on = SignalKind::from_raw(rustix::process::Signal::CONT.as_raw());
    let mut went_on = signal(went_on).elsewhere("cannot listen for signals")?;
    let raw = Raw::begin().elsewhere("cannot use the terminal")?;
    let (_keep, mut quiet) = mpsc::unbounded_channel();
    let (lent, inner) =
        Lent::begin(terminal_in(visiting.folder())).elsewhere("cannot make a terminal")?;
    let ended = {
        let mut run = std::pin::pin!(run_in(
            &mut visiting,
            command,
            Streams::Terminal(inner),
            &mut quiet,
            out
        ));
        loop {
            tokio::select! {
                ended = &mut run => break ended,
                number = signals.next() => break Ok(Ended::Killed { signal: number }),
                _ = resized.recv() => lent.resize(),
                _ = went_on.recv() => {
                    let _ = raw.again();
                    lent.resize();
                }
            }
        }
    };
    let left = visiting.end().await;
    lent.end().await;
    drop(raw);
    Ok((ended, left))
}

pub async fn on_streams(
    mut visiting: impl Look,
    command: StepCommand,
    out: &Output,
) -> Result<(Ending, Leaving)> {
    let mut signals = Signals::listen()?;
    let streams = own_streams().elsewhere("cannot pass the standard streams on")?;
    let (sender, mut received) = mpsc::unbounded_channel();
    let ended = {
        let mut run = std::pin::pin!(run_in(&mut visiting, command, streams, &mut received, out));
        let mut n_heard = 0;
        loop {
            tokio::select! {
                ended = &mut run => break ended,
                number = signals.next() => {
                    n_heard += 1;
                    // Who does not heed the first is not asked again.
                    if n_heard > 1 || sender.send(number).is_err() {
                        break Ok(Ended::Killed { signal: number });
                    }
                }
            }
        }
    };
    let left = visiting.end().await;
    Ok((ended, left))
}

/// Runs the command. A step's folder that is not there at this moment is no reason not to look.
async fn run_in(
    visiting: &mut impl Look,
    command: StepCommand,
    streams: Streams,
    signals: &mut mpsc::UnboundedReceiver<i32>,
    out: &Output,
) -> Ending {
    let again = streams.try_clone().map_err(|cause| StepError::Spawn(cause.to_string()))?;
    match visiting.run(command.clone(), streams, signals).await {
        Err(error @ StepError::Directory { .. }) if command.directory.is_some() => {
            // The terminal may be raw by now.
            out.note(&format!("note: {error}; this is the workspace's root\r"));
            let root = StepCommand { directory: None, ..command };
            visiting.run(root, again, signals).await
        }
        ended => ended,
    }
}

/// This process's own, for the command to have as they are.
fn own_streams() -> io::Result<Streams> {
    let again = |stream: std::os::fd::BorrowedFd<'_>| stream.try_clone_to_owned();
    Ok(Streams::Plain([
        again(io::stdin().as_fd())?,
        again(io::stdout().as_fd())?,
        again(io::stderr().as_fd())?,
    ]))
}

/// The command's end as this process's own.
pub fn passed(ended: Ending, left: Leaving, out: &Output) -> Result<Exit> {
    if let Err(error) = left {
        out.note(&format!("note: what was left there could not be cleared away: {error}"));
    }
    match ended {
        Ok(Ended::Code { code }) => Ok(Exit::Passed(code)),
        Ok(Ended::Killed { signal }) => {
            Ok(Exit::Passed(u8::try_from(128 + signal).unwrap_or(u8::MAX)))
        }
        Ok(other) => Err(Failure::elsewhere(format!("the command {}", other.ended()))),
        Err(error) => Err(Failure::elsewhere(error)),
    }
}
