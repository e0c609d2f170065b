//! A command for a person: on their own terminal or streams, beside the steps.
//!
//! Nothing of it passes through init but its end. What it leaves in the background lives on until the
//! session is closed, as with steps.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::ExitStatus;

use kiln_model::Exit;
use rustix::process::{Pid, Signal};

use super::step::{NotStarted, exit_of};
use super::{Init, Tell};
use crate::StepCommand;
use crate::StepError;
use crate::host::sys::StepStreams;
use crate::host::wire::StreamKind;

pub(super) struct Visit {
    /// It leads its process group.
    child: Pid,
    ended: Option<ExitStatus>,
}

impl Visit {
    /// Takes note when it is this one that has ended.
    pub(super) fn heed(&mut self, pid: Pid, status: ExitStatus) -> bool {
        let is_this = self.child == pid;
        if is_this {
            self.ended = Some(status);
        }
        is_this
    }
}

impl Init {
    /// Starts a command on the streams that came with the asking.
    pub(super) fn begin_visit(&mut self, command: &StepCommand, on: StreamKind) {
        let streams = std::mem::take(&mut self.inbox.descriptors);
        let refused = |why: &str| Tell::VisitOver(Err(StepError::Command(why.to_owned())));
        if self.visit.is_some() {
            return self.tell(&refused("another command of the same person is running"));
        }
        if self.far.is_some() {
            return self.tell(&refused("the steps run on another machine; enter that with `ssh`"));
        }
        let Some(wanted) = step_streams(&streams, on) else {
            return self.tell(&refused("the streams of the command did not come with it"));
        };
        match self.start(command, wanted) {
            Ok(child) => self.visit = Some(Visit { child, ended: None }),
            Err(NotStarted::Exit(code, line)) => {
                // To the last of them: standard error, or the terminal.
                if let Some(stream) = streams.into_iter().next_back() {
                    let _ = writeln!(File::from(stream), "{line}");
                }
                self.tell(&Tell::VisitOver(Ok(Exit::Code { code })));
            }
            Err(NotStarted::Trouble(error)) => self.tell(&Tell::VisitOver(Err(error))),
        }
    }

    /// A signal that comes after the end is late, and means nothing.
    pub(super) fn signal_visit(&self, number: i32) {
        let running = self.visit.as_ref().filter(|visit| visit.ended.is_none());
        if let (Some(visit), Some(signal)) = (running, Signal::from_named_raw(number)) {
            // A stopped process hears it only when it goes on; one that has ended needs none.
            let _ = rustix::process::kill_process_group(visit.child, signal);
            let _ = rustix::process::kill_process_group(visit.child, Signal::CONT);
        }
    }

    pub(super) fn finish_visit(&mut self) {
        if let Some(status) = self.visit.as_ref().and_then(|visit| visit.ended) {
            self.visit = None;
            self.tell(&Tell::VisitOver(Ok(exit_of(status))));
        }
    }
}

pub(super) fn step_streams(streams: &[OwnedFd], on: StreamKind) -> Option<StepStreams> {
    match (on, streams) {
        (StreamKind::Terminal, [end]) => {
            let end = end.as_fd().as_raw_fd();
            Some(StepStreams { stdin: end, stdout: end, stderr: end, terminal: true })
        }
        (StreamKind::Plain, [stdin, stdout, stderr]) => Some(StepStreams {
            stdin: stdin.as_raw_fd(),
            stdout: stdout.as_raw_fd(),
            stderr: stderr.as_raw_fd(),
            terminal: false,
        }),
        _ => None,
    }
}
