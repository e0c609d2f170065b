//! The process that holds the connection.
//!
//! It asks nobody anything: it passes words on to the far side, the steps' bytes into init's pipe, and
//! reports to init. When init is gone it ends, and with it the connection.
//!
//! Always: a step is reported as over only when all that it wrote before is in the pipe.

#![allow(unsafe_code, reason = "fork has no safe interface")]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use kiln_stdx::{Clock, SystemClock};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::line::{Line, Transfer};
use crate::Remote;
use crate::host::init::{receive, timespec};
use crate::host::sys::{self, Forked};
use crate::host::wire::{Inbox, encode};

/// From init.
#[derive(Serialize, Deserialize)]
pub(super) enum Order {
    Connect {
        remote: Remote,
        /// Of the folder there.
        name: String,
        #[serde(with = "kiln_stdx::path")]
        attempt_dir: PathBuf,
    },
    /// Lines for the far side.
    Say(String),
    /// An archive for the workspace there; its reading end comes attached.
    Send,
    /// The changed files of the workspace there, or all, into the end that comes attached.
    Fetch { whole: bool },
}

#[derive(Serialize, Deserialize)]
pub(super) enum Report {
    Connected { folder: String },
    Refused(String),
    Moved(Result<(), String>),
    Over(Over),
    Quiet { asked: u32, left: String },
    Gone(String),
}

/// How a step ended there.
#[derive(Serialize, Deserialize)]
pub(super) struct Over {
    /// As a shell tells it: 128 and more may be a signal.
    pub code: i32,
    /// The shell there said something of its own about the end, as it does of signals.
    pub remarked: bool,
    pub early: Option<String>,
    /// The file of the job's outputs.
    pub output: Vec<u8>,
}

/// A machine that answers at all does so within this time.
const CONNECT_FOR: Duration = Duration::from_secs(120);

/// Forks it. Gives the line to it. `output` is the pipe for what the steps write.
pub(super) fn start(output: &OwnedFd) -> io::Result<(UnixStream, Pid)> {
    let (ours, theirs) = UnixStream::pair()?;
    // SAFETY: init has one thread.
    match unsafe { sys::fork() }? {
        Forked::Parent(pid) => Ok((ours, pid)),
        Forked::Child => sys::run_and_exit(|| {
            drop(ours);
            match settle(theirs, output) {
                Ok((socket, output)) => Relay::new(socket, output).serve(),
                Err(_) => 1,
            }
        }),
    }
}

/// Keeps the two descriptors that it needs and nothing else of init's.
fn settle(socket: UnixStream, output: &OwnedFd) -> io::Result<(UnixStream, File)> {
    sys::set_process_name(c"kiln-ssh", "kiln-ssh");
    let _ = rustix::process::setsid();
    let kept = rustix::io::fcntl_dupfd_cloexec(&socket, 10)?;
    let pipe = rustix::io::fcntl_dupfd_cloexec(output, 10)?;
    drop(socket);
    for (from, to) in [(kept.as_raw_fd(), 3), (pipe.as_raw_fd(), 4)] {
        // SAFETY: the process was just forked for this; nobody else will use what it had there.
        if unsafe { libc::dup3(from, to, libc::O_CLOEXEC) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    // Their numbers are closed by the next line.
    [kept, pipe].into_iter().for_each(std::mem::forget);
    sys::close_from(5);
    // SAFETY: both are open since the lines above and owned by nobody else.
    unsafe { Ok((UnixStream::from_raw_fd(3), File::from_raw_fd(4))) }
}

struct Relay {
    socket: UnixStream,
    inbox: Inbox,
    output: File,
    line: Option<Line>,
}

impl Relay {
    fn new(socket: UnixStream, output: File) -> Self {
        Self { socket, inbox: Inbox::default(), output, line: None }
    }

    fn serve(mut self) -> i32 {
        let ended = loop {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => break 0,
                Err(_) => break 1,
            }
        };
        if let Some(line) = self.line.take() {
            line.hang_up();
        }
        ended
    }

    /// Waits for something and heeds it. `false`: init is gone.
    fn turn(&mut self) -> io::Result<bool> {
        let mut fds = vec![PollFd::new(&self.socket, PollFlags::IN)];
        if let Some(Line { ssh, ended, .. }) = &self.line {
            let streams = (ssh.stdout.as_ref(), ssh.stderr.as_ref());
            if let (Some(stdout), Some(stderr)) = streams {
                // A stream that has ended would be ready for ever.
                let flags = |ended| if ended { PollFlags::empty() } else { PollFlags::IN };
                fds.push(PollFd::new(stdout, flags(ended.0)));
                fds.push(PollFd::new(stderr, flags(ended.1)));
            }
        }
        poll(&mut fds, None).or_else(|cause| match cause {
            rustix::io::Errno::INTR => Ok(0),
            other => Err(other),
        })?;
        let is_ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        let (socket, stdout, stderr) = (is_ready(0), is_ready(1), is_ready(2));
        drop(fds);
        if stdout || stderr {
            self.hear(stdout, stderr)?;
        }
        match socket {
            true => self.listen(),
            false => Ok(true),
        }
    }

    fn listen(&mut self) -> io::Result<bool> {
        if receive(&mut self.socket, &mut self.inbox)? == 0 {
            return Ok(false);
        }
        while let Some(order) =
            self.inbox.next::<Order>().map_err(|_| io::ErrorKind::InvalidData)?
        {
            self.obey(order)?;
        }
        Ok(true)
    }

    fn obey(&mut self, order: Order) -> io::Result<()> {
        match order {
            Order::Connect { remote, name, attempt_dir } => {
                match Line::connect(remote, name, attempt_dir) {
                    Ok(line) => self.line = Some(line),
                    Err(why) => self.report(&Report::Refused(why))?,
                }
                self.await_connection()
            }
            Order::Say(lines) => {
                let lines = zeroize::Zeroizing::new(lines);
                if let Some(words) = self.line.as_mut().and_then(|line| line.words.as_mut()) {
                    // A connection that is gone is heard of by the end of its streams.
                    let _ = words.write_all(lines.as_bytes());
                }
                Ok(())
            }
            Order::Send => self.transfer(Transfer::Send),
            Order::Fetch { whole } => self.transfer(Transfer::Fetch { whole }),
        }
    }

    fn transfer(&mut self, what: Transfer) -> io::Result<()> {
        let end = self.inbox.descriptors.pop();
        let moved = match (&self.line, end) {
            (Some(line), Some(end)) => line.transfer(what, end),
            _ => Err("there is no connection".to_owned()),
        };
        self.report(&Report::Moved(moved))
    }

    /// Until the far side is there, or has failed.
    fn await_connection(&mut self) -> io::Result<()> {
        let give_up_at = SystemClock.monotonic() + CONNECT_FOR;
        while let Some(line) = &self.line
            && !line.connected
        {
            let left = give_up_at.saturating_sub(SystemClock.monotonic());
            if left.is_zero() {
                let why = format!("`{}` did not answer within 2 minutes", line.remote.host);
                self.line.take().into_iter().for_each(Line::hang_up);
                return self.report(&Report::Refused(why));
            }
            let (Some(stdout), Some(stderr)) = (&line.ssh.stdout, &line.ssh.stderr) else { break };
            let mut fds = [
                PollFd::new(stderr, PollFlags::IN),
                PollFd::new(stdout, if line.ended.0 { PollFlags::empty() } else { PollFlags::IN }),
                PollFd::new(&self.socket, PollFlags::RDHUP),
            ];
            let _ = poll(&mut fds, Some(&timespec(left)));
            let ready = fds.each_ref().map(|fd| !fd.revents().is_empty());
            if ready[2] {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.hear(ready[1], ready[0])?;
        }
        Ok(())
    }

    fn report(&mut self, report: &Report) -> io::Result<()> {
        self.socket.write_all(&encode(report))
    }

    /// Takes what the connection gives.
    fn hear(&mut self, stdout: bool, stderr: bool) -> io::Result<()> {
        let Some(line) = &mut self.line else { return Ok(()) };
        if stdout {
            line.take_bytes(&mut self.output)?;
        }
        let mut reports = Vec::new();
        if stderr {
            line.take_reports(&mut reports);
        }
        reports.extend(line.over_now());
        if line.ended == (true, true) {
            let connected = line.connected;
            let why = line.explain();
            self.line.take().into_iter().for_each(Line::hang_up);
            reports.push(if connected { Report::Gone(why) } else { Report::Refused(why) });
        }
        reports.iter().try_for_each(|report| self.report(report))
    }
}
