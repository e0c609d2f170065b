//! The process that holds the connection.
//!
//! It asks nobody anything: it passes words on to the far side, the steps' bytes into init's pipe, and
//! reports to init. When init is gone it ends, and with it the connection.
//!
//! Always: a step is reported as over only when all that it wrote before is in the pipe.

#![allow(unsafe_code, reason = "fork has no safe interface")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use kiln_stdx::{Clock, SystemClock, process};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::words::{self, Heard};
use crate::Remote;
use crate::contract::words as in_words;
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
    /// The changed files of the workspace there, into the end that comes attached.
    Fetch,
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

/// In the attempt's folder: where the connection's own folder is.
const FOLDER: &str = "ssh";
const FOLDER_PREFIX: &str = "kiln-ssh-";

/// Removes what a killed relay has left on this machine.
pub(in crate::host) fn remove_traces(attempt_dir: &Path) {
    let noted = attempt_dir.join(FOLDER);
    let Ok(folder) = std::fs::read_to_string(&noted) else { return };
    let folder = Path::new(&folder);
    let ours = folder
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(FOLDER_PREFIX.as_bytes()));
    if ours {
        let _ = std::fs::remove_dir_all(folder);
    }
    let _ = std::fs::remove_file(noted);
}

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

/// A connection.
struct Line {
    remote: Remote,
    name: String,
    ssh: Child,
    words: Option<ChildStdin>,
    /// What begins every report of the far side, and stands behind a step's bytes.
    mark: String,
    /// The end of the steps' bytes so far that may be the beginning of a mark.
    held: Vec<u8>,
    n_marks: usize,
    /// What came on the second stream and is not a whole line yet.
    unread: Vec<u8>,
    /// Lines that are not ours.
    chatter: Vec<String>,
    early: Option<String>,
    /// Ended, and its bytes may still be on their way.
    over: Option<Over>,
    folder: PathBuf,
    attempt_dir: PathBuf,
    connected: bool,
    /// Both its streams have ended.
    ended: (bool, bool),
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
            Order::Send | Order::Fetch => {
                let end = self.inbox.descriptors.pop();
                let moved = match (&self.line, end) {
                    (Some(line), Some(end)) => line.transfer(matches!(order, Order::Send), end),
                    _ => Err("there is no connection".to_owned()),
                };
                self.report(&Report::Moved(moved))
            }
        }
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

impl Line {
    fn connect(remote: Remote, name: String, attempt_dir: PathBuf) -> Result<Self, String> {
        // The user's configuration may put it into a command line (`ProxyCommand … %h`).
        let plain = |c: char| c.is_ascii_alphanumeric() || "@.:_%+[]/-".contains(c);
        let host = remote.host.as_str();
        if host.is_empty() || host.starts_with('-') || !host.chars().all(plain) {
            return Err(format!("`{}` is no name of a host", remote.host));
        }
        let folder = make_folder(&attempt_dir).map_err(|cause| {
            format!("cannot make a folder for the connection: {}", in_words(&cause))
        })?;
        let mark = random().map_err(|cause| format!("no random numbers: {}", in_words(&cause)))?;
        let mut command = ssh(&remote, &folder, "yes");
        // One line that every login shell understands; the rest comes over standard input.
        command.arg("exec sh -c 'IFS= read -r s; eval \"$(printf %b \"$s\")\"'");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut ssh = command.spawn().map_err(|cause| {
            let _ = std::fs::remove_dir_all(&folder);
            process::failed_start(&command, cause).to_string()
        })?;
        let mut words = ssh.stdin.take();
        let mut first = Vec::new();
        words::encode(words::RUNNER.as_bytes(), &mut first);
        let keep = remote.machine_env.join(" ");
        first.extend(format!("\n{mark}\n{name}\n{keep}\n").bytes());
        if let Some(words) = &mut words {
            // A host that refuses says so on the other stream.
            let _ = words.write_all(&first);
        }
        Ok(Self {
            remote,
            name,
            ssh,
            words,
            mark,
            held: Vec::new(),
            n_marks: 0,
            unread: Vec::new(),
            chatter: Vec::new(),
            early: None,
            over: None,
            folder,
            attempt_dir,
            connected: false,
            ended: (false, false),
        })
    }

    /// Passes the steps' bytes on, all but the marks.
    fn take_bytes(&mut self, output: &mut File) -> io::Result<()> {
        let mut chunk = vec![0; 64 << 10];
        let n = match self.ssh.stdout.as_mut().map(|stdout| stdout.read(&mut chunk)) {
            Some(Ok(n)) => n,
            _ => 0,
        };
        self.held.extend_from_slice(&chunk[..n]);
        let mark = format!("{}\n", self.mark);
        let mut from = 0;
        while let Some(at) = memchr::memmem::find(&self.held[from..], mark.as_bytes()) {
            // Before a step's bytes there may be some of the steps before it: nothing is between.
            output.write_all(&self.held[from..from + at])?;
            from += at + mark.len();
            self.n_marks += usize::from(self.connected);
        }
        let rest = &self.held[from..];
        let n_held = if n == 0 { 0 } else { beginning(rest, mark.as_bytes()) };
        output.write_all(&rest[..rest.len() - n_held])?;
        self.held.drain(..self.held.len() - n_held);
        self.ended.0 = n == 0;
        Ok(())
    }

    fn take_reports(&mut self, reports: &mut Vec<Report>) {
        let mut chunk = vec![0; 64 << 10];
        let n = match self.ssh.stderr.as_mut().map(|stderr| stderr.read(&mut chunk)) {
            Some(Ok(n)) => n,
            _ => 0,
        };
        self.ended.1 = n == 0;
        self.unread.extend_from_slice(&chunk[..n]);
        if n == 0 && !self.unread.is_empty() {
            self.unread.push(b'\n');
        }
        while let Some(at) = memchr::memchr(b'\n', &self.unread) {
            let line = String::from_utf8_lossy(&self.unread[..at]).trim_end().to_owned();
            let heard = words::heard(&self.mark, &line);
            if let Heard::Over { n_output_bytes, code } = heard {
                let Some(output) = self.unread.get(at + 1..at + 1 + n_output_bytes) else {
                    if n == 0 {
                        self.unread.clear();
                    }
                    return;
                };
                let remarked = !self.chatter.is_empty();
                let (early, output) = (self.early.take(), output.to_vec());
                self.chatter.clear();
                self.over = Some(Over { code, remarked, early, output });
                self.unread.drain(..at + 1 + n_output_bytes);
                continue;
            }
            self.unread.drain(..=at);
            reports.extend(self.note(heard));
        }
    }

    fn note(&mut self, heard: Heard) -> Option<Report> {
        match heard {
            Heard::Ready { folder } => {
                self.connected = true;
                self.chatter.clear();
                return Some(Report::Connected { folder });
            }
            Heard::Quiet { asked, left } => return Some(Report::Quiet { asked, left }),
            Heard::Early(why) => self.early = Some(why),
            Heard::Refused(why) => self.chatter = vec![why],
            Heard::Chatter(line) if !line.is_empty() => {
                const LINES_MAX: usize = 20;
                self.chatter.truncate(LINES_MAX);
                self.chatter.push(line);
            }
            Heard::Chatter(_) | Heard::Gone | Heard::Over { .. } => {}
        }
        None
    }

    /// The end of a step, if its last byte has been passed on.
    fn over_now(&mut self) -> Option<Report> {
        if self.n_marks == 0 || self.over.is_none() {
            return None;
        }
        self.n_marks -= 1;
        self.over.take().map(Report::Over)
    }

    /// Moves files in a channel of their own of the same connection.
    fn transfer(&self, send: bool, end: OwnedFd) -> Result<(), String> {
        let mut command = ssh(&self.remote, &self.folder, "no");
        // The name is ours and holds nothing that a shell would mistake.
        let script = if send { SEND } else { FETCH };
        command.arg(format!("exec sh -c '{}'", script.replace("NAME", &self.name)));
        match send {
            true => command.stdin(end).stdout(Stdio::null()),
            false => command.stdin(Stdio::null()).stdout(end),
        };
        let child = command.stderr(Stdio::piped()).spawn();
        // The command has its own end of the pipe; ours would keep init reading for ever.
        let program = "ssh";
        let child =
            child.map_err(|cause| format!("cannot start `{program}`: {}", in_words(&cause)))?;
        drop(command);
        let done = child.wait_with_output().map_err(|cause| in_words(&cause))?;
        if done.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&done.stderr);
        let said = said.trim();
        Err(match said.is_empty() {
            true => format!("`ssh` ended with {}", done.status),
            false => said.lines().next_back().unwrap_or(said).to_owned(),
        })
    }

    /// Why the connection ended, with the way out where there is one.
    fn explain(&self) -> String {
        let host = &self.remote.host;
        let said = self.chatter.join("\n");
        let has = |text: &str| said.contains(text);
        let trial = format!(
            "`ssh {host} true` must work without a question for the user that kiln runs as"
        );
        if has("IDENTIFICATION HAS CHANGED") {
            return format!(
                "the host key of `{host}` is not the one that is known: either the machine is new, or \
                 somebody stands between; when you are sure, remove the old key with `ssh-keygen -R`"
            );
        }
        if has("Host key verification failed") {
            return format!("the host key of `{host}` is not known here; {trial}");
        }
        if has("Permission denied") {
            return format!("`{host}` accepts no key of ours ({}); {trial}", self.last_words());
        }
        match (self.chatter.is_empty(), self.connected) {
            (true, _) => format!("the connection to `{host}` ended without a word"),
            (false, true) => format!("the connection to `{host}` ended: {}", self.last_words()),
            (false, false) => format!("cannot connect to `{host}`: {}", self.last_words()),
        }
    }

    fn last_words(&self) -> &str {
        self.chatter.last().map_or("", |line| line.trim())
    }

    /// Ends the connection. The far side hears it and tidies up, if it still hears anything.
    fn hang_up(mut self) {
        const TIDY_FOR: Duration = Duration::from_secs(10);
        drop(self.words.take());
        let until = SystemClock.monotonic() + TIDY_FOR;
        // It closes its streams when everything there is gone.
        while self.ended != (true, true) {
            let left = until.saturating_sub(SystemClock.monotonic());
            let (Some(stdout), Some(stderr)) = (&self.ssh.stdout, &self.ssh.stderr) else { break };
            let flags = |ended| if ended { PollFlags::empty() } else { PollFlags::IN };
            let mut fds = [
                PollFd::new(stdout, flags(self.ended.0)),
                PollFd::new(stderr, flags(self.ended.1)),
            ];
            if left.is_zero() || poll(&mut fds, Some(&timespec(left))).is_err() {
                break;
            }
            let ready = fds.each_ref().map(|fd| !fd.revents().is_empty());
            let mut nothing = [0; 4 << 10];
            if ready[0] {
                let read = self.ssh.stdout.as_mut().map(|stdout| stdout.read(&mut nothing));
                self.ended.0 = !matches!(read, Some(Ok(1..)));
            }
            if ready[1] {
                let read = self.ssh.stderr.as_mut().map(|stderr| stderr.read(&mut nothing));
                self.ended.1 = !matches!(read, Some(Ok(1..)));
            }
        }
        let _ = self.ssh.kill();
        let _ = self.ssh.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
        let _ = std::fs::remove_file(self.attempt_dir.join(FOLDER));
    }
}

/// Unpacks, and waits until the file system's clock has moved on: what is changed later is newer than the
/// mark, whatever dates it is given.
const SEND: &str = "cd \"$HOME/.cache/kiln/NAME/work\" && tar -xpof - && cd .. && : > mark || exit 1; \
    find mark -cnewer mark >/dev/null 2>&1 || rm -f mark; \
    i=0; until [ ! -e mark ] || { : > probe; [ -n \"$(find probe -cnewer mark 2>/dev/null)\" ]; }; do i=$((i+1)); \
    [ $i -lt 600 ] || { rm -f mark; break; }; done; rm -f probe";

/// With a find and a tar that can: the names of all, and those files whose inode has changed since.
/// With others: all.
const FETCH: &str = "cd \"$HOME/.cache/kiln/NAME/work\" || exit 1; \
    if find ../mark -cnewer ../mark -print0 >/dev/null 2>&1 && \
    tar --null --no-recursion -T /dev/null -cf /dev/null 2>/dev/null; \
    then printf d; find . -print0; printf \"\\0\"; \
    find . -cnewer ../mark -print0 | tar --null --no-recursion -T - -cf -; \
    else printf w; tar -cf - .; fi";

/// The user's own ssh, asking nobody anything.
fn ssh(remote: &Remote, folder: &Path, is_master: &str) -> Command {
    let mut command = process::command("ssh");
    if let Some(config) = &remote.config {
        command.arg("-F").arg(config);
    }
    command.arg("-T");
    let path = folder.join("c");
    for option in [
        "BatchMode=yes",
        "ConnectTimeout=30",
        // A network that is gone is noticed within a minute.
        "ServerAliveInterval=15",
        "ServerAliveCountMax=3",
        "LogLevel=ERROR",
        "RequestTTY=no",
        "RemoteCommand=none",
        "EscapeChar=none",
        "ClearAllForwardings=yes",
        "ForwardX11=no",
        "PermitLocalCommand=no",
        "ControlPersist=no",
        &format!("ControlMaster={is_master}"),
    ] {
        command.arg("-o").arg(option);
    }
    let mut control = std::ffi::OsString::from("ControlPath=");
    control.push(path);
    command.arg("-o").arg(control).arg("--").arg(&remote.host);
    command
}

/// Only for us: who reaches the control socket in it reaches the host.
fn make_folder(attempt_dir: &Path) -> io::Result<PathBuf> {
    // Short, as names of sockets must be.
    let folder = std::env::temp_dir().join(format!("{FOLDER_PREFIX}{}", &random()?[..16]));
    let mut noted = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(attempt_dir.join(FOLDER))?;
    noted.write_all(folder.as_os_str().as_encoded_bytes())?;
    std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
    Ok(folder)
}

/// 32 hexadecimal digits.
pub(super) fn random() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// How many of the last bytes are the beginning of `mark`.
fn beginning(bytes: &[u8], mark: &[u8]) -> usize {
    let most = bytes.len().min(mark.len() - 1);
    (0..=most).rev().find(|n| bytes.ends_with(&mark[..*n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_become_a_mark_is_held_back() {
        for (bytes, n) in [("", 0), ("abc", 0), ("xm", 1), ("xma", 2), ("mm", 1), ("mark", 0)] {
            assert_eq!(beginning(bytes.as_bytes(), b"mark"), n, "{bytes}");
        }
    }
}
