//! Objects of one repository, read through one long-lived `git cat-file --batch-command`.
//!
//!   resting ──first read──▶ running ──idle for REST_AFTER, or rest()──▶ resting
//!                              └──────────died, or answered nonsense────▶ resting
//!
//! Everybody in this process who reads the same repository shares one process. A read is one lock,
//! two pipe operations and no start of a program. While it rests there is no process, no thread and
//! no timer.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use kiln_stdx::clock::Stopwatch;
use kiln_stdx::process;

use crate::command;
use crate::error::GitError;
use crate::recent::Recent;
use crate::repair;

/// How long the process stays after its last use. A push is often followed by another, or by jobs
/// of the same repository; a minute later it costs 2 ms to start it again.
const REST_AFTER: Duration = Duration::from_secs(60);

/// How many objects are asked for at a time. git collects requests until `flush` and only then
/// answers, so neither side waits for the other with a full pipe, and a batch costs two switches
/// between processes instead of two for each object. Others who read wait for one batch at most.
const REQUESTS_MAX: usize = 256;

/// Commits and trees larger than this are not written by people.
const OBJECT_BYTES_MAX: u64 = 64 << 20;

/// What an answer says before the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub id: String,
    pub kind: String,
    pub n_bytes: u64,
}

/// Who is given the objects: position, header, content.
type Take<'a> = dyn FnMut(usize, &Header, &mut dyn Read) -> Result<(), GitError> + 'a;

/// Who is given the answers; a header that is absent means that there is no such object.
type Answer<'a, T> =
    dyn FnMut(usize, Option<Header>, &mut dyn Read) -> Result<Option<T>, GitError> + 'a;

/// The objects of one repository.
#[derive(Debug)]
pub(crate) struct Objects {
    git_dir: PathBuf,
    state: Mutex<State>,
    used: Condvar,
}

#[derive(Debug, Default)]
struct State {
    process: Option<Process>,
    last_use: Option<Stopwatch>,
    has_watcher: bool,
}

#[derive(Debug)]
struct Process {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// What it has answered.
    recent: Recent,
}

impl Objects {
    /// The one reader of the repository at `git_dir` in this process.
    pub fn of(git_dir: &Path) -> Arc<Self> {
        static OPEN: Mutex<BTreeMap<PathBuf, Weak<Objects>>> = Mutex::new(BTreeMap::new());
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(objects) = open.get(git_dir).and_then(Weak::upgrade) {
            return objects;
        }
        open.retain(|_, objects| objects.strong_count() > 0);
        let objects = Arc::new(Self {
            git_dir: git_dir.to_owned(),
            state: Mutex::default(),
            used: Condvar::new(),
        });
        open.insert(git_dir.to_owned(), Arc::downgrade(&objects));
        objects
    }

    /// What an object is. `name` is an id or a checked revision; `None`: there is none.
    pub fn info(self: &Arc<Self>, name: &str) -> Result<Option<Header>, GitError> {
        if let Some(known) = self.known(|recent| recent.header(name)) {
            return Ok(Some(known));
        }
        self.ask("info", &[name.to_owned()], &mut |_, header, _| Ok(header))
    }

    /// Reads small objects together, so that each is there when it is asked for by itself. What is missing or
    /// cannot be read is told then. `names` are checked revisions, or paths in such.
    pub fn read_ahead(self: &Arc<Self>, names: &[String]) {
        let mut wanted: Vec<Header> = Vec::new();
        let listed = self.ask("info", names, &mut |_, header, _| {
            let new = header.filter(|new| !wanted.iter().any(|old| old.id == new.id));
            wanted.extend(new.filter(Recent::may_keep));
            Ok(Some(()))
        });
        if listed.is_err() || wanted.is_empty() {
            return;
        }
        let ids: Vec<String> = wanted.into_iter().map(|header| header.id).collect();
        let mut read = Vec::new();
        let all = self.each(&ids, &mut |_, header, content| {
            let mut bytes = Vec::with_capacity(usize::try_from(header.n_bytes).unwrap_or(0));
            content.read_to_end(&mut bytes).map_err(broken)?;
            read.push((header.clone(), bytes.into()));
            Ok(())
        });
        if all.is_ok() {
            self.keep(&read);
        }
    }

    pub fn is_known(&self, id: &str) -> bool {
        self.known(|recent| recent.header(id)).is_some()
    }

    /// From what is in memory.
    fn known<T>(&self, find: impl FnOnce(&Recent) -> Option<T>) -> Option<T> {
        find(&self.lock().process.as_ref()?.recent)
    }

    fn keep(&self, read: &[(Header, Arc<[u8]>)]) {
        if let Some(process) = &mut self.lock().process {
            read.iter().for_each(|(header, bytes)| process.recent.keep(header, bytes));
        }
    }

    /// An object of the wanted kind, whole.
    pub fn read(self: &Arc<Self>, name: &str, kind: &'static str) -> Result<Arc<[u8]>, GitError> {
        if let Some(known) = self.known(|recent| recent.bytes(name, kind)) {
            return Ok(known);
        }
        let missing = || GitError::NotFound { kind, name: name.to_owned() };
        let header = self.info(name)?.filter(|h| h.kind == kind).ok_or_else(missing)?;
        if header.n_bytes > OBJECT_BYTES_MAX {
            let (what, n_bytes) = (format!("the {kind} {}", header.id), header.n_bytes);
            return Err(GitError::TooLarge { what, n_bytes, max: OBJECT_BYTES_MAX });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(header.n_bytes).unwrap_or(0));
        self.each(std::slice::from_ref(&header.id), &mut |_, _, content| {
            content.read_to_end(&mut bytes).map(drop).map_err(broken)
        })?;
        let bytes: Arc<[u8]> = bytes.into();
        self.keep(&[(header, bytes.clone())]);
        Ok(bytes)
    }

    /// The contents of many objects in order: `take(position, header, content)`.
    ///
    /// Fails at the first that is missing. What `take` leaves unread is skipped.
    pub fn each(self: &Arc<Self>, ids: &[String], take: &mut Take<'_>) -> Result<(), GitError> {
        for (batch, ids) in ids.chunks(REQUESTS_MAX).enumerate() {
            self.ask("contents", ids, &mut |at, header, content| {
                let missing = || GitError::NotFound { kind: "object", name: ids[at].clone() };
                take(batch * REQUESTS_MAX + at, &header.ok_or_else(missing)?, content)?;
                Ok(Some(()))
            })?;
        }
        Ok(())
    }

    /// Ends the process; the next read starts another.
    pub fn rest(&self) {
        self.lock().process = None;
        self.used.notify_all();
    }

    /// Sends requests and hands out the answers. The value of the last is returned.
    fn ask<T>(
        self: &Arc<Self>,
        command: &str,
        names: &[String],
        take: &mut Answer<'_, T>,
    ) -> Result<Option<T>, GitError> {
        let mut state = self.lock();
        let mut answered = 0;
        // A process that died while it rested is noticed at its first use, and replaced once. Once
        // an answer has been handed out there is no second try: `take` has seen it.
        let result = match self.exchange(&mut state, command, names, &mut answered, take) {
            Err(Trouble::Pipe(_)) if answered == 0 => {
                self.exchange(&mut state, command, names, &mut answered, take)
            }
            other => other,
        };
        state.last_use = Some(Stopwatch::start());
        if state.process.is_some() && !state.has_watcher {
            state.has_watcher = true;
            self.watch();
        }
        result.map_err(|trouble| match trouble {
            // It ends at an object that it cannot read, and does not say so on its output.
            Trouble::Pipe(cause) => self.damaged(names, answered).unwrap_or_else(|| broken(cause)),
            Trouble::Git(error) => error,
        })
    }

    /// What is wrong with the object at which git ended: the last answered one, or the one after it.
    fn damaged(&self, names: &[String], answered: usize) -> Option<GitError> {
        let culprits = names.get(answered.saturating_sub(1)..)?.iter().take(2);
        let mut told = culprits.filter_map(|id| Some((id, repair::diagnose(&self.git_dir, id)?)));
        let (id, message) = told.next()?;
        let message = format!("object {id} cannot be read: {message}");
        Some(GitError::Failed { doing: "reading objects", message })
    }

    fn exchange<T>(
        &self,
        state: &mut State,
        command: &str,
        names: &[String],
        answered: &mut usize,
        take: &mut Answer<'_, T>,
    ) -> Result<Option<T>, Trouble> {
        // Taken out: whatever returns early leaves the pipe in the middle of an answer, and then
        // the process must go.
        let mut process = match state.process.take() {
            Some(process) => process,
            None => Process::start(&self.git_dir)?,
        };
        let mut requests: String = names.iter().map(|name| format!("{command} {name}\n")).collect();
        requests.push_str("flush\n");
        process.requests.write_all(requests.as_bytes())?;
        let mut last = None;
        for at in 0..names.len() {
            let header = process.header()?;
            *answered += 1;
            let n_bytes = match &header {
                Some(header) if command == "contents" => header.n_bytes,
                _ => {
                    last = take(at, header, &mut io::empty())?;
                    continue;
                }
            };
            let mut content = (&mut process.answers).take(n_bytes);
            last = take(at, header, &mut content)?;
            io::copy(&mut content, &mut io::sink())?;
            if content.limit() > 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            process.newline()?;
        }
        state.process = Some(process);
        Ok(last)
    }

    /// A thread that lives as long as the process and ends it when it has been idle.
    fn watch(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        std::thread::spawn(move || {
            let Some(objects) = weak.upgrade() else { return };
            let mut state = objects.lock();
            while state.process.is_some() {
                let idle_for = state.last_use.map_or(REST_AFTER, |used| used.elapsed());
                match REST_AFTER.checked_sub(idle_for) {
                    None | Some(Duration::ZERO) => state.process = None,
                    Some(left) => {
                        let waited = objects.used.wait_timeout(state, left);
                        state = waited.unwrap_or_else(PoisonError::into_inner).0;
                    }
                }
            }
            state.has_watcher = false;
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in `take` leaves no process behind, and that is a state like any other.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    fn start(git_dir: &Path) -> Result<Self, GitError> {
        let mut git = command::local(git_dir);
        git.args(["cat-file", "--batch-command", "--buffer"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Ctrl-C in the terminal is for the server, which then ends this.
            .process_group(0);
        let doing = "reading objects";
        let mut child = git
            .spawn()
            .map_err(|cause| GitError::process(doing, process::failed_start(&git, cause)))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(requests), Some(answers)) => {
                let answers = BufReader::with_capacity(64 << 10, answers);
                Ok(Self { child, requests, answers, recent: Recent::default() })
            }
            _ => Err(GitError::Failed { doing, message: "git has no pipes".to_owned() }),
        }
    }

    /// `<id> <kind> <size>`, or `<name> missing`.
    fn header(&mut self) -> Result<Option<Header>, Trouble> {
        const LINE_MAX: u64 = 8 << 10;
        let mut line = Vec::new();
        (&mut self.answers).take(LINE_MAX).read_until(b'\n', &mut line)?;
        let Some(line) = line.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok())
        else {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        };
        let mut words = line.rsplitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("missing" | "ambiguous" | "submodule"), Some(_), _) => Ok(None),
            (Some(n_bytes), Some(kind), Some(id)) => match n_bytes.parse() {
                Ok(n_bytes) => {
                    Ok(Some(Header { id: id.to_owned(), kind: kind.to_owned(), n_bytes }))
                }
                Err(_) => Err(io::Error::from(io::ErrorKind::InvalidData).into()),
            },
            _ => Err(io::Error::from(io::ErrorKind::InvalidData).into()),
        }
    }

    fn newline(&mut self) -> Result<(), Trouble> {
        let mut byte = [0];
        self.answers.read_exact(&mut byte)?;
        match byte {
            [b'\n'] => Ok(()),
            _ => Err(io::Error::from(io::ErrorKind::InvalidData).into()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be in the middle of a long answer that nobody will read.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

enum Trouble {
    /// The process is gone or talks nonsense.
    Pipe(io::Error),
    Git(GitError),
}

impl From<io::Error> for Trouble {
    fn from(cause: io::Error) -> Self {
        Self::Pipe(cause)
    }
}

impl From<GitError> for Trouble {
    fn from(error: GitError) -> Self {
        Self::Git(error)
    }
}

fn broken(cause: io::Error) -> GitError {
    GitError::Failed { doing: "reading objects", message: format!("git ended early ({cause})") }
}
