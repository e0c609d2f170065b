//! Steps that run on another machine: as others, except that their ends are told by the connection.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use kiln_model::Exit;
use rustix::event::{PollFd, PollFlags, poll};

use super::descendants::Patience;
use super::meter::Meter;
use super::{Init, KILL_FOR, Running, Tell, now, timespec};
use crate::host::ssh::{Ended, Word};
use crate::{StepCommand, StepError};

impl Init {
    /// Starts a step on the far side; its result is told when it ends.
    pub(super) fn begin_far(&mut self, command: &StepCommand) {
        let Some(far) = &mut self.far else { return };
        if let Some(why) = far.gone() {
            let detail = why.to_owned();
            return self.step_over(Exit::HostGone { detail }, None);
        }
        if let Err(error) = far.begin(&self.spec, command) {
            return self.tell(&Tell::StepOver(Err(error)));
        }
        self.running = Some(Running {
            counter: self.done.len() as u32,
            // Nobody's child: its end is a word.
            child: rustix::process::getpid(),
            timeout: command.timeout,
            deadline: command.timeout.and_then(|timeout| now().checked_add(timeout)),
            ended: None,
            meter: Meter::begin(&self.gauge, self.bounds.begin_step()),
        });
    }

    pub(super) fn far_line(&self) -> Option<&UnixStream> {
        self.far.as_ref().and_then(|far| far.line())
    }

    /// Heeds what the connection says.
    pub(super) fn hear_far(&mut self) {
        let heard = self.far.as_mut().map(|far| far.hear()).unwrap_or_default();
        for word in heard {
            match word {
                Word::Ended(ended) if self.running.is_some() => {
                    self.drain();
                    match ended {
                        Ended::Exit(exit) => self.step_over(exit, None),
                        Ended::NotStarted(code, line) => {
                            self.log.say(&line);
                            self.step_over(Exit::Code { code }, None);
                        }
                        Ended::Trouble(error) => {
                            self.running = None;
                            self.tell(&Tell::StepOver(Err(error)));
                        }
                    }
                }
                Word::Gone if self.running.is_some() => {
                    let detail = self.far.as_ref().and_then(|far| far.gone());
                    let detail = detail.unwrap_or_default().to_owned();
                    self.drain();
                    self.step_over(Exit::HostGone { detail }, None);
                }
                // An answer that came after its time.
                Word::Ended(_) | Word::Gone | Word::Quiet { .. } => {}
            }
        }
    }

    /// Ends every process of the job on the far side: TERM, up to `grace`, KILL.
    pub(super) fn quell_far(&mut self, grace: Duration) -> Result<(), StepError> {
        let Some(far) = self.far.as_mut().filter(|far| far.gone().is_none() && far.has_begun())
        else {
            return Ok(());
        };
        if !grace.is_zero() {
            let asked = far.term();
            if self.await_quiet(asked, now() + grace, Patience::WhileAwaited).is_some() {
                return Ok(());
            }
        }
        let Some(asked) = self.far.as_mut().map(|far| far.kill()) else { return Ok(()) };
        match self.await_quiet(asked, now() + KILL_FOR, Patience::ToTheEnd) {
            Some(left) if left.is_empty() => Ok(()),
            Some(left) => {
                Err(StepError::Close(format!("these processes cannot be killed there: {left}")))
            }
            None => Err(StepError::Close(
                "the far side does not say that its processes are gone".to_owned(),
            )),
        }
    }

    /// Waits for the answer to a question. Gives what is left there; when the connection ends, nothing is.
    fn await_quiet(&mut self, asked: u32, until: Duration, patience: Patience) -> Option<String> {
        loop {
            let Some(line) = self.far_line() else { return Some(String::new()) };
            let mut fds =
                vec![PollFd::new(line, PollFlags::IN), PollFd::new(&self.output.0, PollFlags::IN)];
            if let (Some(control), None, Patience::WhileAwaited) =
                (&self.control, &self.door, patience)
            {
                fds.push(PollFd::new(control, PollFlags::RDHUP));
            }
            let left = until.saturating_sub(now());
            let _ = poll(&mut fds, Some(&timespec(left)));
            let stirred = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
            let (word, output, nobody) = (stirred(0), stirred(1), stirred(2));
            drop(fds);
            if output {
                self.take_output();
            }
            let heard = match word {
                true => self.far.as_mut().map(|far| far.hear()).unwrap_or_default(),
                false => Vec::new(),
            };
            for word in heard {
                match word {
                    Word::Quiet { asked: this, left } if this == asked => return Some(left),
                    Word::Gone => return Some(String::new()),
                    // The step that is being stopped.
                    Word::Quiet { .. } | Word::Ended(_) => {}
                }
            }
            if nobody || left.is_zero() {
                return None;
            }
        }
    }

    /// What was changed on the far side is here afterwards.
    pub(super) fn bring_back(&mut self) -> Result<(), StepError> {
        let Self { far, spec, log, output, .. } = self;
        let mut take = || {
            log.take(output.0.as_fd());
        };
        match far {
            Some(far) => far.fetch(&spec.directory, &output.0, &mut take),
            None => Ok(()),
        }
    }
}
