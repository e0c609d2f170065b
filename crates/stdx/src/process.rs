//! Running other programs: argv arrays only, never a shell string.
//!
//! Nothing here uses `pre_exec`: with it the standard library must fork the whole server instead of
//! taking the `posix_spawn` path (36 ms instead of 50 µs at 2 GB of resident memory).

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::clock::Stopwatch;

/// A program that could not be run, or that ended badly.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("the program `{program}` is not installed or not in PATH")]
    Missing { program: String },
    #[error("cannot start `{program}`")]
    Start {
        program: String,
        #[source]
        cause: io::Error,
    },
    #[error("`{program}` failed ({status}): {stderr}")]
    Failed { program: String, status: String, stderr: String },
    #[error("`{program}` did not end within {}", crate::duration::show(*.after))]
    TimedOut { program: String, after: Duration },
}

/// Runs to the end with an empty standard input and gives standard output.
///
/// `args[0]` is the program. Errors carry the first 2,000 bytes of standard error.
pub fn output(command: &mut Command) -> Result<Vec<u8>, ProcessError> {
    let done = any_output(command)?;
    succeeded(command, done)
}

/// As [`output`], for a program that may hang: killed with its whole process group after `limit`.
///
/// What it leaves running in the background (an ssh master) does not keep the caller waiting.
pub fn output_within(command: &mut Command, limit: Duration) -> Result<Vec<u8>, ProcessError> {
    within(command.stdin(Stdio::null()), limit, usize::MAX)
}

/// As [`output_within`], with a short text on standard input: at most what a pipe holds, 64 KiB. Of what it
/// prints, so much is kept too.
pub fn output_fed(
    command: &mut Command,
    input: &[u8],
    limit: Duration,
) -> Result<Vec<u8>, ProcessError> {
    let failed = |command: &Command, cause: io::Error| failed_start(command, cause);
    let (reader, mut writer) = io::pipe().map_err(|cause| failed(command, cause))?;
    if input.len() > FED_BYTES_MAX {
        return Err(failed(command, io::ErrorKind::FileTooLarge.into()));
    }
    writer.write_all(input).map_err(|cause| failed(command, cause))?;
    drop(writer);
    within(command.stdin(reader), limit, FED_BYTES_MAX)
}

const FED_BYTES_MAX: usize = 64 << 10;

fn within(
    command: &mut Command,
    limit: Duration,
    n_bytes_max: usize,
) -> Result<Vec<u8>, ProcessError> {
    let started = Stopwatch::start();
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|cause| failed_start(command, cause))?;
    let stdout = read_aside(child.stdout.take(), n_bytes_max);
    let stderr = read_aside(child.stderr.take(), FED_BYTES_MAX);
    let Some(status) = wait_within(&mut child, limit.saturating_sub(started.elapsed())) else {
        let group = rustix::process::Pid::from_child(&child);
        // The group may be gone already, and the child is reaped either way.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = child.wait();
        return Err(ProcessError::TimedOut { program: name(command), after: limit });
    };
    // The pipes end with the program, unless something that it left behind still holds them.
    const LINGER: Duration = Duration::from_millis(500);
    let collect = |from: mpsc::Receiver<Vec<u8>>| -> Vec<u8> {
        let mut all = Vec::new();
        while let Ok(part) = from.recv_timeout(LINGER) {
            all.extend_from_slice(&part);
        }
        all
    };
    let done = Output { status, stdout: collect(stdout), stderr: collect(stderr) };
    succeeded(command, done)
}

fn succeeded(command: &Command, done: Output) -> Result<Vec<u8>, ProcessError> {
    if done.status.success() {
        return Ok(done.stdout);
    }
    let shown = &done.stderr[..done.stderr.len().min(2_000)];
    Err(ProcessError::Failed {
        program: name(command),
        status: done.status.to_string(),
        stderr: String::from_utf8_lossy(shown).trim().to_owned(),
    })
}

/// `None` when the time is over and the child still runs.
fn wait_within(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    // Without a pidfd (a kernel before 5.3) there is no limit rather than no answer.
    if let Ok(pidfd) = pidfd_open(Pid::from_child(child), PidfdFlags::empty()) {
        let started = Stopwatch::start();
        loop {
            let left = limit.saturating_sub(started.elapsed());
            let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
            match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
                Ok(0) => return None,
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) | Err(_) => break,
            }
        }
    }
    child.wait().ok()
}

/// Reads to the end and keeps the beginning: who is not read from does not end.
fn read_aside(
    from: Option<impl Read + Send + 'static>,
    n_bytes_max: usize,
) -> mpsc::Receiver<Vec<u8>> {
    let (to, parts) = mpsc::channel();
    let Some(mut from) = from else { return parts };
    std::thread::spawn(move || {
        let mut part = vec![0; 64 << 10];
        let mut n_left = n_bytes_max;
        while let Ok(n @ 1..) = from.read(&mut part) {
            let n = n.min(n_left);
            n_left -= n;
            if n > 0 && to.send(part[..n].to_vec()).is_err() {
                break;
            }
        }
    });
    parts
}

/// As [`output`], but an exit code other than 0 is an answer and not an error.
pub fn any_output(command: &mut Command) -> Result<Output, ProcessError> {
    command.stdin(Stdio::null()).output().map_err(|cause| failed_start(command, cause))
}

/// What a failed start of a program means.
pub fn failed_start(command: &Command, cause: io::Error) -> ProcessError {
    match cause.kind() {
        io::ErrorKind::NotFound => ProcessError::Missing { program: name(command) },
        _ => ProcessError::Start { program: name(command), cause },
    }
}

/// A command without arguments, to be filled by the caller.
#[expect(clippy::disallowed_methods, reason = "this is the one door to other programs")]
pub fn command(program: impl Into<OsString>) -> Command {
    Command::new(program.into())
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_killed_with_its_group() {
        let limit = Duration::from_millis(50);
        let hung = output_within(command("sleep").arg("600"), limit);
        assert!(matches!(hung, Err(ProcessError::TimedOut { .. })), "{hung:?}");
    }

    #[test]
    fn a_program_that_ends_in_time_gives_all_that_it_wrote() {
        let mut seq = command("seq");
        let out = output_within(seq.arg("100000"), Duration::from_secs(60)).unwrap();
        assert_eq!(out.len(), 588_895);
    }

    #[test]
    fn of_a_flood_the_beginning_is_kept() {
        let mut seq = command("seq");
        let out = output_fed(seq.arg("100000"), b"", Duration::from_secs(60)).unwrap();
        assert_eq!(out.len(), FED_BYTES_MAX);
    }

    #[test]
    fn a_missing_program_is_named() {
        let missing = output_within(&mut command("no-such-program"), Duration::from_secs(60));
        assert!(
            matches!(missing, Err(ProcessError::Missing { program }) if program == "no-such-program")
        );
    }
}
