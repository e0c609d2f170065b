//! One step: start, deadline, cancellation, result.

use std::collections::BTreeMap;
use std::ffi::{CString, NulError};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Component, Path};
use std::process::ExitStatus;
use std::time::Duration;

use kiln_model::{Exit, Usage};
use rustix::process::Pid;

use super::meter::Meter;
use super::{Init, Running, StepDone, Tell, collect, now};
use crate::contract::words;
use crate::host::container::Container;
use crate::host::sys::{self, Candidate, Launch, StepStreams};
use crate::{StepCommand, StepError};

/// Where a program is looked for when the step's environment has no `PATH`, as the C library does.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why nothing is running now.
pub(super) enum NotStarted {
    /// The step's own fault: a program that is not there. It ends like any other step.
    Exit(u8, String),
    Trouble(StepError),
}

impl Init {
    /// Starts a step; its result is told when it ends.
    pub(super) fn begin(&mut self, command: StepCommand) {
        if self.running.is_some() {
            let error = StepError::Command("another step is running".to_owned());
            return self.tell(&Tell::StepOver(Err(error)));
        }
        for line in std::mem::take(&mut self.spec.preface) {
            self.log.say(&line);
        }
        if let Some(trouble) = self.log.trouble() {
            return self.tell(&Tell::StepOver(Err(trouble.clone())));
        }
        if self.far.is_some() {
            return self.begin_far(&command);
        }
        if self.is_lost {
            return self.host_gone();
        }
        let streams = StepStreams {
            stdin: self.null.as_raw_fd(),
            stdout: self.output.1.as_raw_fd(),
            stderr: self.output.1.as_raw_fd(),
            terminal: false,
        };
        let meter = Meter::begin(&self.gauge, self.bounds.begin_step());
        match self.start(&command, streams) {
            Ok(child) => {
                self.running = Some(Running {
                    counter: self.done.len() as u32,
                    child,
                    timeout: command.timeout,
                    deadline: command.timeout.and_then(|timeout| now().checked_add(timeout)),
                    ended: None,
                    meter,
                });
                self.latest = Some(command);
            }
            Err(NotStarted::Exit(code, line)) => {
                self.drain();
                self.log.say(&line);
                self.step_over(Exit::Code { code }, None);
            }
            Err(NotStarted::Trouble(error)) => self.tell(&Tell::StepOver(Err(error))),
        }
    }

    pub(super) fn start(
        &self,
        command: &StepCommand,
        streams: StepStreams,
    ) -> Result<Pid, NotStarted> {
        let directory = self.directory(command)?;
        let mut env: BTreeMap<&str, &str> = BTreeMap::new();
        if let Some(container) = &self.container {
            env.insert("HOME", &container.identity.home);
        }
        let given = self.spec.env.iter().chain(&command.env);
        env.extend(given.map(|(key, value)| (key.as_str(), value.as_str())));
        let path = env.get("PATH").copied().unwrap_or(DEFAULT_PATH);
        let Some(program) = command.argv.first().filter(|program| !program.is_empty()) else {
            return Err(NotStarted::Trouble(StepError::Command("the command is empty".to_owned())));
        };
        let zero = |_: NulError| {
            let text = format!("the command of `{program}` or its environment has a zero byte");
            NotStarted::Trouble(StepError::Command(text))
        };
        let files = candidates(program, path);
        let files =
            files.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>().map_err(zero)?;
        let arguments = command.argv.iter().map(|word| CString::new(word.as_str()));
        let argv = arguments.collect::<Result<Vec<_>, _>>().map_err(zero)?;
        let pairs = env.iter().map(|(key, value)| CString::new(format!("{key}={value}")));
        let envp = pairs.collect::<Result<Vec<_>, _>>().map_err(zero)?;

        let argv = pointers(argv.iter());
        let envp = pointers(envp.iter());
        let as_script = |file: &CString| {
            let shell = [c"/bin/sh".as_ptr(), file.as_ptr()];
            shell.into_iter().chain(argv[1..].iter().copied()).collect()
        };
        let candidates: Vec<Candidate> = files
            .iter()
            .map(|file| Candidate { path: file.as_ptr(), as_script: as_script(file) })
            .collect();
        let launched = sys::launch(&Launch {
            candidates: &candidates,
            argv: &argv,
            envp: &envp,
            directory: directory.as_raw_fd(),
            bounds: &self.bounds.taken(),
            entry: self.container.as_ref().map(Container::entry),
            streams,
        });
        launched.map_err(|failure| match failure.candidate {
            _ if let Some(why) = self.bounds.too_little(failure.errno) => {
                NotStarted::Exit(126, format!("cannot run `{program}`: {why}"))
            }
            Some(at) => self.explain(program, &files[at], failure.errno, &directory),
            None => {
                let cause = io::Error::from_raw_os_error(failure.errno);
                NotStarted::Trouble(StepError::Spawn(words(&cause)))
            }
        })
    }

    /// Why a program did not start, in the exit codes that shells use.
    fn explain(
        &self,
        program: &str,
        file: &CString,
        errno: i32,
        directory: &OwnedFd,
    ) -> NotStarted {
        let exists = || match &self.container {
            Some(container) => container.has(file, directory),
            None => {
                rustix::fs::statat(directory, file.as_c_str(), rustix::fs::AtFlags::empty()).is_ok()
            }
        };
        let (code, why) = match errno {
            libc::ENOENT if program.contains('/') && exists() => {
                (126, "the interpreter that it names is missing".to_owned())
            }
            libc::ENOENT | libc::ENOTDIR => (127, "command not found".to_owned()),
            // The machine's trouble, not the command's.
            libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EIO => {
                let cause = words(&io::Error::from_raw_os_error(errno));
                return NotStarted::Trouble(StepError::Spawn(format!("`{program}`: {cause}")));
            }
            errno => (126, words(&io::Error::from_raw_os_error(errno))),
        };
        NotStarted::Exit(code, format!("cannot run `{program}`: {why}"))
    }

    /// The folder that the step runs in, which is in the workspace.
    fn directory(&self, command: &StepCommand) -> Result<OwnedFd, NotStarted> {
        let trouble = |directory: &str, cause: String| {
            let directory = directory.to_owned();
            NotStarted::Trouble(StepError::Directory { directory, cause })
        };
        let workspace = self.spec.directory.display().to_string();
        let root = match &self.container {
            Some(container) => container.workspace(),
            None => super::open_folder(&self.spec.directory),
        };
        let root = root.map_err(|cause| trouble(&workspace, words(&cause)))?;
        let Some(relative) = command.directory.as_deref() else { return Ok(root) };
        let path = Path::new(relative);
        let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if relative.is_empty() || !path.components().all(plain) {
            let cause = "it must be a path inside the workspace, without `..`".to_owned();
            return Err(trouble(relative, cause));
        }
        collect::open_beneath(&root, path, rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY)
            .map_err(|cause| {
                let cause = match cause.kind() {
                    io::ErrorKind::CrossesDevices => "it leads out of the workspace".to_owned(),
                    io::ErrorKind::NotFound => "there is no such directory".to_owned(),
                    _ => words(&cause),
                };
                trouble(relative, cause)
            })
    }

    /// The running step's command has ended: everything that it wrote goes into the log first.
    pub(super) fn finish_step(&mut self) {
        let Some(running) = self.running.take() else { return };
        let status = running.ended.expect("asked only when it has ended");
        self.drain();
        if status.signal() == Some(libc::SIGKILL) && self.went_with_container() {
            self.is_lost = true;
            return self.host_gone();
        }
        self.step_ended(exit_of(status), &running.meter);
    }

    pub(super) fn time_out(&mut self) {
        let timeout = self.running.as_ref().and_then(|running| running.timeout);
        let after_ms = u64::try_from(timeout.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        self.stop(Exit::TimedOut { after_ms });
    }

    /// Stops the running step. A word that comes after its end is late, and means nothing.
    pub(super) fn cancel(&mut self) {
        if self.running.as_ref().is_some_and(|running| running.ended.is_none()) {
            self.stop(Exit::Cancelled);
        }
    }

    fn stop(&mut self, exit: Exit) {
        self.dismiss_guests();
        let quelled = self.quell(self.spec.grace);
        let running = self.running.take();
        self.drain();
        match (quelled, running) {
            (Ok(()), Some(running)) => self.step_ended(exit, &running.meter),
            (Ok(()), None) => self.step_over(exit, None),
            (Err(error), _) => self.tell(&Tell::StepOver(Err(error))),
        }
    }

    /// With what its group has to say of it.
    fn step_ended(&mut self, exit: Exit, meter: &Meter) {
        let group = self.bounds.read();
        let usage = meter.end(&self.gauge, &group);
        let (exit, lines) = self.bounds.judge(exit, &meter.group, &group);
        for line in lines {
            self.log.say(&line);
        }
        self.step_over(exit, Some(usage));
    }

    pub(super) fn step_over(&mut self, exit: Exit, usage: Option<Usage>) {
        self.running = None;
        if let Some(trouble) = self.log.trouble().cloned() {
            // A job whose log is lost is not worth going on with.
            let _ = self.quell(Duration::ZERO);
            return self.tell(&Tell::StepOver(Err(trouble)));
        }
        let log_to = self.log.n_bytes();
        let done = StepDone { counter: self.done.len() as u32, exit, log_to, usage };
        self.done.push(done.clone());
        if self.control.is_none() {
            self.write_results();
            self.orphan_until = Some(now() + self.spec.orphan_for);
        }
        self.announced.n_bytes = log_to;
        self.tell(&Tell::StepOver(Ok(done)));
    }

    /// Ends the running step at once when its log cannot be kept.
    pub(super) fn heed_log_trouble(&mut self) {
        if self.running.is_some() && self.log.trouble().is_some() {
            self.stop(Exit::Cancelled);
        }
    }
}

/// What a command's end was.
pub(super) fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code { code: code as u8 },
        (None, signal) => Exit::Killed { signal: signal.unwrap_or_default() },
    }
}

/// The files that `program` may mean, in order.
fn candidates(program: &str, path: &str) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let folders = path.split(':').map(|folder| if folder.is_empty() { "." } else { folder });
    folders.map(|folder| format!("{folder}/{program}")).collect()
}

fn pointers<'a>(words: impl Iterator<Item = &'a CString>) -> Vec<*const libc::c_char> {
    words.map(|word| word.as_ptr()).chain([std::ptr::null()]).collect()
}
