//! Init's side of a far session: what it asks of the relay, and what it makes of the answers.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, BufWriter, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use kiln_model::Exit;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{Pid, Signal, WaitOptions};
use zeroize::Zeroizing;

use super::relay::{self, Order, Over, Report};
use super::{archive, call, unpack, words};
use crate::contract::words as in_words;
use crate::host::init::{open_folder, receive};
use crate::host::wire::{Inbox, Opening, encode};
use crate::{Remote, StepCommand, StepError};

pub(in crate::host) struct Far {
    remote: Remote,
    /// Of the folder there.
    name: String,
    line: UnixStream,
    inbox: Inbox,
    relay: Pid,
    /// What the far side has, as far as we know.
    known: BTreeSet<PathBuf>,
    /// A step has run since the files were brought here.
    stale: bool,
    begun: bool,
    /// What runs there: its program and its directory.
    asked: (String, String),
    /// Where the steps' outputs are wanted.
    output: PathBuf,
    n_asked: u32,
    gone: Option<String>,
}

/// A step's end, as init tells it.
pub(in crate::host) enum Ended {
    Exit(Exit),
    /// With a line for the log.
    NotStarted(u8, String),
    Trouble(StepError),
}

/// What the far side answered, if it was for init.
pub(in crate::host) enum Word {
    Ended(Ended),
    /// No process is left there. With those that could not be killed.
    Quiet {
        asked: u32,
        left: String,
    },
    Gone,
}

impl Far {
    /// Before any namespace is entered.
    pub fn start(remote: Remote, output: &OwnedFd) -> io::Result<Self> {
        let (line, relay) = relay::start(output)?;
        let (inbox, known) = (Inbox::default(), BTreeSet::new());
        Ok(Self {
            remote,
            name: String::new(),
            line,
            inbox,
            relay,
            known,
            stale: false,
            begun: false,
            asked: Default::default(),
            output: PathBuf::new(),
            n_asked: 0,
            gone: None,
        })
    }

    /// Connects and sends the workspace. `owner`: when it goes, so do we.
    pub fn open(&mut self, spec: &Opening, owner: &UnixStream) -> Result<(), String> {
        self.output = spec.attempt_dir.join(&self.remote.output_file);
        let random = call::random().map_err(|cause| in_words(&cause))?;
        let name = format!("{}-{}", spec.attempt, &random[..8]);
        let (remote, attempt_dir) = (self.remote.clone(), spec.attempt_dir.clone());
        self.name.clone_from(&name);
        self.ask(&Order::Connect { remote, name, attempt_dir });
        match self.answer(owner)? {
            Report::Connected { .. } => {}
            Report::Refused(why) | Report::Gone(why) => return Err(why),
            _ => return Err("the far side does not speak our language".to_owned()),
        }
        self.send_workspace(&spec.directory, owner)
    }

    fn send_workspace(&mut self, workspace: &Path, owner: &UnixStream) -> Result<(), String> {
        let host = self.remote.host.clone();
        let failed = |why: &str| format!("cannot send the workspace to `{host}`: {why}");
        let root = open_folder(workspace).map_err(|cause| failed(&in_words(&cause)))?;
        let (theirs, ours) = io::pipe().map_err(|cause| failed(&in_words(&cause)))?;
        self.ask_with(&Order::Send, theirs.into()).map_err(|cause| failed(&in_words(&cause)))?;
        let mut known = BTreeSet::new();
        let mut to = BufWriter::with_capacity(256 << 10, ours);
        let mut each = |path: &Path| {
            known.insert(path.strip_prefix(".").unwrap_or(path).to_owned());
            match is_gone(owner) {
                true => Err(io::ErrorKind::Interrupted.into()),
                false => Ok(()),
            }
        };
        let packed = archive::pack(&root, &mut to, &mut each);
        // Its end is what the other side waits for.
        drop(to.into_parts());
        let moved = match self.answer(owner)? {
            Report::Moved(moved) => moved,
            Report::Gone(why) => Err(why),
            _ => Err("the far side does not speak our language".to_owned()),
        };
        self.known = known;
        match (packed, moved) {
            (Ok(()), Ok(())) => Ok(()),
            // A reader that is gone says more than the pipe that broke for it.
            (_, Err(why)) => Err(failed(&why)),
            (Err(cause), Ok(())) => Err(failed(&in_words(&cause))),
        }
    }

    /// The next report. Blocks until it is there or the owner is gone.
    fn answer(&mut self, owner: &UnixStream) -> Result<Report, String> {
        loop {
            match self.inbox.next::<Report>() {
                Ok(Some(report)) => return Ok(report),
                Ok(None) => {}
                Err(_) => return Err("the relay does not speak our language".to_owned()),
            }
            let mut fds =
                [PollFd::new(&self.line, PollFlags::IN), PollFd::new(owner, PollFlags::RDHUP)];
            let _ = poll(&mut fds, None);
            if !fds[1].revents().is_empty() {
                return Err("nobody waits for it any more".to_owned());
            }
            if receive(&mut self.line, &mut self.inbox).unwrap_or(0) == 0 {
                return Err("the process that holds the connection has ended".to_owned());
            }
        }
    }

    pub fn line(&self) -> Option<&UnixStream> {
        self.gone.is_none().then_some(&self.line)
    }

    /// Begins a step.
    pub fn begin(&mut self, spec: &Opening, command: &StepCommand) -> Result<(), StepError> {
        let lines = words::step(spec, &self.remote, command)?;
        let program = command.argv.first().cloned().unwrap_or_default();
        self.asked = (program, command.directory.clone().unwrap_or_default());
        (self.stale, self.begun) = (true, true);
        self.say(&lines);
        Ok(())
    }

    /// Reads once what the relay says and gives all that is for init.
    pub fn hear(&mut self) -> Vec<Word> {
        let n = receive(&mut self.line, &mut self.inbox).unwrap_or(0);
        let mut heard = Vec::new();
        while let Ok(Some(report)) = self.inbox.next::<Report>() {
            heard.extend(match report {
                Report::Over(over) => Some(Word::Ended(self.over(over))),
                Report::Quiet { asked, left } => Some(Word::Quiet { asked, left }),
                Report::Gone(why) | Report::Refused(why) => {
                    self.gone.get_or_insert(why);
                    Some(Word::Gone)
                }
                Report::Connected { .. } | Report::Moved(_) => None,
            });
        }
        if n == 0 {
            let why = "the process that holds the connection has ended".to_owned();
            self.gone.get_or_insert(why);
            heard.push(Word::Gone);
        }
        heard
    }

    fn over(&self, over: Over) -> Ended {
        if let Err(cause) = self.keep_output(&over.output) {
            let why = format!("cannot keep the outputs: {}", in_words(&cause));
            return Ended::Trouble(StepError::Other(why));
        }
        if let Some(early) = over.early {
            let (kind, why) = early.split_once(' ').unwrap_or((&early, ""));
            let (program, directory) = self.asked.clone();
            return match kind {
                "directory" => {
                    Ended::Trouble(StepError::Directory { directory, cause: why.to_owned() })
                }
                _ => {
                    let code = u8::try_from(over.code).unwrap_or(127);
                    Ended::NotStarted(code, format!("cannot run `{program}`: {why}"))
                }
            };
        }
        Ended::Exit(exit_of(over.code, over.remarked))
    }

    fn keep_output(&self, output: &[u8]) -> io::Result<()> {
        if output.is_empty() && !self.output.exists() {
            return Ok(());
        }
        std::fs::write(&self.output, output)
    }

    pub fn term(&mut self) -> u32 {
        self.ask_far("t")
    }

    pub fn kill(&mut self) -> u32 {
        self.ask_far("k")
    }

    fn ask_far(&mut self, word: &str) -> u32 {
        self.n_asked += 1;
        let line = format!("{word} {}\n", self.n_asked);
        self.say(line.as_bytes());
        self.n_asked
    }

    /// Whether anything may run there.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Why the connection ended, if it has.
    pub fn gone(&self) -> Option<&str> {
        self.gone.as_deref()
    }

    /// Brings what the steps have changed into the workspace here, if they have run since the last time.
    ///
    /// `take` reads what is in the steps' pipe, `output`: while that is full, the relay does nothing else.
    pub fn fetch(
        &mut self,
        workspace: &Path,
        output: &OwnedFd,
        take: &mut dyn FnMut(),
    ) -> Result<(), StepError> {
        if !self.stale || self.gone.is_some() {
            return Ok(());
        }
        for whole in [false, true] {
            let complete = self.fetch_once(workspace, whole, output, take).map_err(|why| {
                let host = &self.remote.host;
                let what = format!("cannot fetch the files that were changed on `{host}`: {why}");
                StepError::Other(what)
            })?;
            if complete {
                break;
            }
        }
        self.stale = false;
        Ok(())
    }

    /// `false`: by difference it cannot be done.
    fn fetch_once(
        &mut self,
        workspace: &Path,
        whole: bool,
        output: &OwnedFd,
        take: &mut dyn FnMut(),
    ) -> Result<bool, String> {
        let root = open_folder(workspace).map_err(|cause| in_words(&cause))?;
        let (ours, theirs) = io::pipe().map_err(|cause| in_words(&cause))?;
        let order = Order::Fetch { whole };
        self.ask_with(&order, theirs.into()).map_err(|cause| in_words(&cause))?;
        let ours = Heeding { from: ours.into(), output, take: &mut *take };
        let mut from = BufReader::with_capacity(256 << 10, ours);
        let unpacked = skip_greeting(&mut from, &self.name)
            .and_then(|()| unpack::unpack(&root, &mut from, &mut self.known));
        drop(from);
        match (unpacked, self.moved(output, take)) {
            (Ok(complete), Ok(())) => Ok(complete),
            (Err(cause), Ok(())) => Err(in_words(&cause)),
            (Err(cause), Err(why)) if why.is_empty() => Err(in_words(&cause)),
            (_, Err(why)) => Err(why),
        }
    }

    /// How a transfer went.
    fn moved(&mut self, output: &OwnedFd, take: &mut dyn FnMut()) -> Result<(), String> {
        loop {
            match self.inbox.next::<Report>() {
                Ok(Some(Report::Moved(moved))) => return moved,
                Ok(Some(Report::Gone(why))) => {
                    self.gone = Some(why.clone());
                    return Err(why);
                }
                // The answer to a question that nobody waits for any more.
                Ok(Some(_)) => continue,
                Ok(None) => {}
                Err(_) => return Err("the relay does not speak our language".to_owned()),
            }
            await_readable(self.line.as_fd(), output, take);
            if receive(&mut self.line, &mut self.inbox).unwrap_or(0) == 0 {
                let why = "the process that holds the connection has ended".to_owned();
                self.gone = Some(why.clone());
                return Err(why);
            }
        }
    }

    /// Ends the connection, and with it all that is left there.
    pub fn end(&self) {
        let _ = rustix::net::shutdown(&self.line, rustix::net::Shutdown::Write);
        // It gives the far side ten seconds to tidy up.
        while let Err(rustix::io::Errno::INTR) =
            rustix::process::waitpid(Some(self.relay), WaitOptions::empty())
        {}
    }

    fn say(&mut self, lines: &[u8]) {
        let lines = String::from_utf8_lossy(lines).into_owned();
        self.ask(&Order::Say(lines));
    }

    /// That nobody hears it is heard when the line is next listened to.
    fn ask(&mut self, order: &Order) {
        let _ = self.line.write_all(&Zeroizing::new(encode(order)));
    }

    fn ask_with(&self, order: &Order, lent: OwnedFd) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut attached = SendAncillaryBuffer::new(&mut space);
        let ends = [lent.as_fd()];
        if !attached.push(SendAncillaryMessage::ScmRights(&ends)) {
            return Err(io::Error::other("no room for a descriptor"));
        }
        let frame = encode(order);
        // It is short, and the line is empty: it goes as a whole.
        let whole = [IoSlice::new(&frame)];
        rustix::net::sendmsg(&self.line, &whole, &mut attached, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

/// Of one line that a login shell says; what is longer is as many.
const GREETING_LINE_BYTES_MAX: u64 = 64 << 10;

impl Drop for Far {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.relay, Signal::TERM);
    }
}

/// Reads, and keeps the steps' pipe from filling meanwhile.
struct Heeding<'a> {
    from: OwnedFd,
    output: &'a OwnedFd,
    take: &'a mut dyn FnMut(),
}

impl io::Read for Heeding<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        await_readable(self.from.as_fd(), self.output, self.take);
        Ok(rustix::io::read(&self.from, buffer)?)
    }
}

/// Reads up to the line with the name of the folder there. Before it is what a login shell says to
/// everybody.
fn skip_greeting(from: &mut impl BufRead, name: &str) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let n_read = from.take(GREETING_LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        // A greeting without an end of its own line stands before ours.
        match line.strip_suffix(b"\n") {
            Some(line) if line.ends_with(name.as_bytes()) => return Ok(()),
            _ if n_read == 0 => return Err(archive::odd("it has no beginning")),
            _ => {}
        }
    }
}

fn await_readable(from: BorrowedFd<'_>, output: &OwnedFd, take: &mut dyn FnMut()) {
    loop {
        let mut fds =
            [PollFd::from_borrowed_fd(from, PollFlags::IN), PollFd::new(output, PollFlags::IN)];
        let _ = poll(&mut fds, None);
        let (ready, more) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if more {
            take();
        }
        if ready {
            return;
        }
    }
}

fn is_gone(owner: &UnixStream) -> bool {
    let mut fds = [PollFd::new(owner, PollFlags::RDHUP)];
    let now = rustix::event::Timespec::default();
    poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
}

/// A shell tells a signal as 128 and its number, which a program may end with too. Of a signal it says so
/// as well, except of those that it takes for somebody's wish.
fn exit_of(code: i32, remarked: bool) -> Exit {
    match code {
        129..=192 if remarked => Exit::Killed { signal: code - 128 },
        // As ksh has it: no program can end with so much.
        257.. => Exit::Killed { signal: code - 256 },
        code => Exit::Code { code: u8::try_from(code & 0xff).unwrap_or(u8::MAX) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_told_apart_by_what_the_shell_says_of_it() {
        assert_eq!(exit_of(137, true), Exit::Killed { signal: 9 });
        assert_eq!(exit_of(137, false), Exit::Code { code: 137 });
        assert_eq!(exit_of(265, false), Exit::Killed { signal: 9 });
        assert_eq!(exit_of(1, true), Exit::Code { code: 1 });
    }
}
