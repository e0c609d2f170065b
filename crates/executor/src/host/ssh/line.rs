//! One connection: the user's own `ssh`, what it says, and why it ended.
//!
//! Two streams come from the far side. The first has the steps' bytes, with a mark before the first of them
//! and behind those of each step; the second has reports, which the mark begins, and whatever else a shell
//! or ssh has to say. What comes before the first mark is a login shell's greeting, and nobody's output.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Stdio};
use std::time::Duration;

use kiln_stdx::{Clock, SystemClock, process};
use rustix::event::{PollFd, PollFlags, poll};

use super::call::{self, make_folder, random, ssh};
use super::relay::{Over, Report};
use super::words::{self, Heard};
use crate::Remote;
use crate::contract::words as in_words;
use crate::host::init::timespec;

/// What goes through a channel of its own.
#[derive(Clone, Copy)]
pub(super) enum Transfer {
    Send,
    Fetch { whole: bool },
}

/// A connection.
pub(super) struct Line {
    pub remote: Remote,
    name: String,
    pub ssh: Child,
    pub words: Option<ChildStdin>,
    /// What begins every report of the far side, and stands behind a step's bytes.
    mark: String,
    /// The end of the steps' bytes so far that may be the beginning of a mark.
    held: Vec<u8>,
    /// The first mark has come.
    greeted: bool,
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
    pub connected: bool,
    /// Both its streams have ended.
    pub ended: (bool, bool),
}

impl Line {
    pub fn connect(remote: Remote, name: String, attempt_dir: PathBuf) -> Result<Self, String> {
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
            greeted: false,
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
    pub fn take_bytes(&mut self, output: &mut File) -> io::Result<()> {
        let mut chunk = vec![0; 64 << 10];
        let n = match self.ssh.stdout.as_mut().map(|stdout| stdout.read(&mut chunk)) {
            Some(Ok(n)) => n,
            _ => 0,
        };
        self.held.extend_from_slice(&chunk[..n]);
        let mark = format!("{}\n", self.mark);
        let mut from = 0;
        while let Some(at) = memchr::memmem::find(&self.held[from..], mark.as_bytes()) {
            if self.greeted {
                // There may be some of the steps before it: nothing is between.
                output.write_all(&self.held[from..from + at])?;
                self.n_marks += 1;
            }
            self.greeted = true;
            from += at + mark.len();
        }
        let rest = &self.held[from..];
        let n_held = if n == 0 { 0 } else { beginning(rest, mark.as_bytes()) };
        if self.greeted {
            output.write_all(&rest[..rest.len() - n_held])?;
        }
        self.held.drain(..self.held.len() - n_held);
        self.ended.0 = n == 0;
        Ok(())
    }

    pub fn take_reports(&mut self, reports: &mut Vec<Report>) {
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
    pub fn over_now(&mut self) -> Option<Report> {
        if self.n_marks == 0 || self.over.is_none() {
            return None;
        }
        self.n_marks -= 1;
        self.over.take().map(Report::Over)
    }

    /// Moves files in a channel of their own of the same connection.
    pub fn transfer(&self, what: Transfer, end: OwnedFd) -> Result<(), String> {
        let mut command = ssh(&self.remote, &self.folder, "no");
        // The name is ours and holds nothing that a shell would mistake.
        let script = match what {
            Transfer::Send => SEND.to_owned(),
            Transfer::Fetch { whole } => FETCH.replace("WHOLE", if whole { "yes" } else { "no" }),
        };
        // In one line: for csh, quotes end with it.
        let script = script.replace("NAME", &self.name).replace('\n', " ");
        command.arg(format!("exec sh -c '{script}'"));
        match what {
            Transfer::Send => command.stdin(end).stdout(Stdio::null()),
            Transfer::Fetch { .. } => command.stdin(Stdio::null()).stdout(end),
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
    pub fn explain(&self) -> String {
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
    pub fn hang_up(mut self) {
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
        let _ = std::fs::remove_file(self.attempt_dir.join(call::FOLDER));
    }
}

/// Unpacks, and waits until the file system's clock has moved on: what is changed later is newer than the
/// mark, whatever dates it is given.
const SEND: &str = "cd \"$HOME/.cache/kiln/NAME/work\" && tar -xpof - && cd .. && : > mark || exit 1; \
    find mark -cnewer mark >/dev/null 2>&1 || rm -f mark; \
    (cd work && find . -type d -exec ls -di {} +) > folders 2>/dev/null; \
    i=0; until [ ! -e mark ] || { : > probe; [ -n \"$(find probe -cnewer mark 2>/dev/null)\" ]; }; do i=$((i+1)); \
    [ $i -lt 600 ] || { rm -f mark; break; }; done; rm -f probe";

/// Behind a line with the name of the folder, as a login shell may greet: with a find and a tar that can,
/// the names of all, and those files whose inode has changed since; with others, all. All as well when a
/// folder that was sent has moved, because what is in it has not changed by that.
const FETCH: &str = r#"cd "$HOME/.cache/kiln/NAME/work" || exit 1; echo NAME;
    if [ WHOLE = no ] && find ../mark -cnewer ../mark -print0 >/dev/null 2>&1 &&
    tar --null --no-recursion -T /dev/null -cf /dev/null 2>/dev/null &&
    find . -type d -exec ls -di {} + > ../now 2>/dev/null &&
    awk "NR == FNR { line[\$0]; inode[\$1]; next }
    { if ((\$0 in line) == 0 && (\$1 in inode)) exit 1 }" ../folders ../now;
    then printf d; find . -print0; printf "\0";
    find . -cnewer ../mark -print0 | tar --null --no-recursion -T - -cf -;
    else printf w; tar -cf - .; fi"#;

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
