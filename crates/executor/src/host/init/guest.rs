//! People who come into a session that runs: beside its owner, as many as like.
//!
//! A guest's command is born where the steps are, with what the running step has, and within the job's
//! bounds. The job knows nothing of it: nothing of it is logged, its end is no step's end, and when the job
//! ends, or is stopped, whatever a guest has on his terminal is killed at once, so that nobody's shell
//! keeps a job waiting.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use kiln_model::Exit;
use rustix::process::{Pid, Signal};

use super::step::{NotStarted, exit_of};
use super::visit::step_streams;
use super::{Inbox, Init, receive};
use crate::host::sys::{Ended, StepStreams};
use crate::host::wire::{Ask, StreamKind, Tell, encode};
use crate::{StepCommand, StepError};

/// More at a time are turned away.
const GUESTS_MAX: usize = 32;

pub(super) struct Guests {
    /// `None`: nobody can come in.
    door: Option<UnixListener>,
    inside: Vec<Guest>,
}

struct Guest {
    line: UnixStream,
    inbox: Inbox,
    /// It leads a session, or, without a terminal, its process group.
    child: Option<Pid>,
}

impl Guest {
    fn tell(&mut self, over: Result<Exit, StepError>) {
        let _ = self.line.write_all(&encode(&Tell::VisitOver(over)));
    }
}

impl Guests {
    pub fn at(door: Option<UnixListener>) -> Self {
        Self { door, inside: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.inside.is_empty()
    }

    /// What to listen on: the door, then everybody inside.
    pub fn lines(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        self.door.iter().map(AsFd::as_fd).chain(self.inside.iter().map(|guest| guest.line.as_fd()))
    }

    /// Takes note when it is a guest's command that has ended.
    pub fn heed(&mut self, ended: &Ended) -> bool {
        let Some(at) = self.inside.iter().position(|guest| guest.child == Some(ended.pid)) else {
            return false;
        };
        self.inside.remove(at).tell(Ok(exit_of(ended.status)));
        true
    }
}

impl Init {
    /// Lets in who stands at the door, and does what those inside ask. `stirred` is in the order of
    /// [`Guests::lines`].
    pub(super) fn heed_guests(&mut self, stirred: &[bool]) {
        let (at_door, inside) = match &self.guests.door {
            Some(_) => stirred.split_at(1.min(stirred.len())),
            None => (&[] as &[bool], stirred),
        };
        // From the last one: who leaves changes no other's place.
        for (at, _) in inside.iter().enumerate().rev().filter(|(_, stirred)| **stirred) {
            self.listen_to_guest(at);
        }
        if at_door.contains(&true)
            && let Some(Ok((line, _))) = self.guests.door.as_ref().map(UnixListener::accept)
            && self.guests.inside.len() < GUESTS_MAX
        {
            self.guests.inside.push(Guest { line, inbox: Inbox::default(), child: None });
        }
    }

    fn listen_to_guest(&mut self, at: usize) {
        let Some(guest) = self.guests.inside.get_mut(at) else { return };
        let n_bytes = receive(&mut guest.line, &mut guest.inbox).unwrap_or(0);
        loop {
            let Some(guest) = self.guests.inside.get_mut(at) else { return };
            match guest.inbox.next::<Ask>() {
                Ok(Some(Ask::Join { argv, env, label, on })) if guest.child.is_none() => {
                    let streams = std::mem::take(&mut guest.inbox.descriptors);
                    let begun = self.begin_guest((argv, env, label), &streams, on);
                    let guest = &mut self.guests.inside[at];
                    match begun {
                        Ok(child) => guest.child = Some(child),
                        Err(over) => {
                            guest.tell(over);
                            self.guests.inside.remove(at);
                            return;
                        }
                    }
                }
                Ok(Some(Ask::Signal { number })) => {
                    if let (Some(child), Some(signal)) =
                        (guest.child, Signal::from_named_raw(number))
                    {
                        let _ = rustix::process::kill_process_group(child, signal);
                        let _ = rustix::process::kill_process_group(child, Signal::CONT);
                    }
                }
                Ok(None) if n_bytes > 0 => return,
                // Gone, or it says what guests do not say.
                _ => {
                    let guest = self.guests.inside.remove(at);
                    self.end_guest(&guest);
                    return;
                }
            }
        }
    }

    fn begin_guest(
        &self,
        (argv, env, label): (Vec<String>, Vec<(String, String)>, String),
        streams: &[OwnedFd],
        on: StreamKind,
    ) -> Result<Pid, Result<Exit, StepError>> {
        let trouble = |why: &str| Err(StepError::Command(why.to_owned()));
        if self.far.is_some() {
            return Err(trouble("its steps run on another machine"));
        }
        let Some(wanted) = step_streams(streams, on) else {
            return Err(trouble("the streams of the command did not come with it"));
        };
        let step = self.latest.as_ref().filter(|_| self.running.is_some());
        let directory = step.and_then(|step| step.directory.clone());
        let commands: Vec<StepCommand> = shells(argv, &label)
            .into_iter()
            .map(|(argv, prompt)| {
                let mut all = step.map(|step| step.env.clone()).unwrap_or_default();
                all.extend(env.iter().cloned());
                all.extend(prompt.map(|prompt| ("PS1".to_owned(), prompt)));
                StepCommand { argv, env: all, directory: directory.clone(), timeout: None }
            })
            .collect();
        let mut missing = None;
        for command in &commands {
            match self.start_at_or_above(command, wanted) {
                Ok(child) => return Ok(child),
                Err(NotStarted::Exit(code, line)) => missing = Some((code, line)),
                Err(NotStarted::Trouble(error)) => return Err(Err(error)),
            }
        }
        let Some((code, line)) = missing else { return Err(trouble("the command is empty")) };
        // To the last of them: standard error, or the terminal.
        if let Some(stream) = streams.last().and_then(|stream| stream.try_clone().ok()) {
            let _: io::Result<()> = writeln!(File::from(stream), "{line}\r");
        }
        Err(Ok(Exit::Code { code }))
    }

    /// A step may remove the folder that it runs in.
    fn start_at_or_above(
        &self,
        command: &StepCommand,
        streams: StepStreams,
    ) -> Result<Pid, NotStarted> {
        match self.start(command, streams) {
            Err(NotStarted::Trouble(StepError::Directory { .. }))
                if command.directory.is_some() =>
            {
                self.start(&StepCommand { directory: None, ..command.clone() }, streams)
            }
            started => started,
        }
    }

    /// Everybody goes, now.
    pub(super) fn dismiss_guests(&mut self) {
        for mut guest in std::mem::take(&mut self.guests.inside) {
            self.end_guest(&guest);
            guest.tell(Err(StepError::Closed));
        }
    }

    /// What is on its terminal is killed. What it has put elsewhere lives on until the session is closed.
    fn end_guest(&self, guest: &Guest) {
        let Some(child) = guest.child else { return };
        for pid in self.descendants().into_iter().filter_map(Pid::from_raw) {
            if rustix::process::getsid(Some(pid)) == Ok(child) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        let _ = rustix::process::kill_process_group(child, Signal::KILL);
    }
}

/// What is run, with the prompt that it understands: the first of these that is there.
fn shells(argv: Vec<String>, label: &str) -> Vec<(Vec<String>, Option<String>)> {
    if !argv.is_empty() {
        return vec![(argv, None)];
    }
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    vec![
        (words(&["bash", "--norc"]), Some(format!("({label}) \\W \\$ "))),
        (words(&["sh"]), Some(format!("({label}) $ "))),
    ]
}
