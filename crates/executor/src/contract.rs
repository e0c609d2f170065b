//! What every executor promises. The suite in `tests/conformance` holds each to it.

use std::collections::BTreeMap;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_model::artifact::Artifact;
use kiln_model::plan::ArtifactRule;
use kiln_model::{AttemptId, Exit};
use kiln_stdx::Secret;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

pub trait Executor: Send + Sync + 'static {
    type Session: Session;

    /// Leaves nothing behind when it fails.
    fn open(
        &self,
        spec: SessionSpec,
    ) -> impl Future<Output = Result<Self::Session, OpenError>> + Send;

    /// Becomes the owner of a session whose own has died. `None` when there is none any more: it was
    /// closed, it gave up waiting, or it was killed.
    fn attach(
        &self,
        attempt_dir: &Path,
    ) -> impl Future<Output = Result<Option<Attached<Self::Session>>, OpenError>> + Send;

    /// Kills what a lost session has left running. Blocking.
    fn reap(&self, attempt: AttemptId, attempt_dir: &Path);
}

/// A session found again.
#[derive(Debug)]
pub struct Attached<S> {
    pub session: S,
    /// Every step that has ended, in order.
    pub steps_done: Vec<StepDone>,
    /// The step that runs; wait for it with [`Session::resume`].
    pub running: Option<u32>,
    /// How its workspace is mounted now.
    pub mount: Option<kiln_stdx::overlay::Mount>,
}

/// A step that came to an end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepDone {
    /// Steps of a session are counted from 0 in the order in which they were asked for.
    pub counter: u32,
    pub exit: Exit,
    /// Length of the log when the step's command had ended and its output was written.
    pub log_to: u64,
}

pub trait Session: Send + 'static {
    /// Runs one command to its end. When `cancel` turns true: TERM, grace, KILL, `Exit::Cancelled`.
    ///
    /// A step is over when its command is over. What it left running in the background lives on
    /// until the session is closed, so that one step can start a server that a later one uses; what
    /// such processes still print goes into the log. A timeout or a cancellation ends them all.
    fn step(
        &mut self,
        command: StepCommand,
        cancel: watch::Receiver<bool>,
    ) -> impl Future<Output = Result<Exit, StepError>> + Send;

    /// Waits for the step that runs since before this owner came; `None` when there is none. As
    /// [`Session::step`] otherwise.
    fn resume(
        &mut self,
        cancel: watch::Receiver<bool>,
    ) -> impl Future<Output = Result<Option<StepDone>, StepError>> + Send;

    /// How far the log has come. The first bytes of a silence are announced at once.
    fn log(&self) -> watch::Receiver<LogPosition>;

    /// Runs one command for a person, on their own streams, and tells how it ended. It sees what a
    /// step sees; the log, the masks and the steps' results know nothing of it.
    ///
    /// Each number that `signals` gives is sent to the command's process group as a signal. A command
    /// that was left half-way is killed by whatever is asked next.
    fn visit(
        &mut self,
        command: StepCommand,
        streams: Streams,
        signals: &mut mpsc::UnboundedReceiver<i32>,
    ) -> impl Future<Output = Result<Exit, StepError>> + Send;

    /// Copies the files that match into `objects` (named by SHA-256: `ab/cdef…`), reading them as
    /// the job's steps see them. Never outside the workspace.
    fn collect(
        &mut self,
        rules: Vec<ArtifactRule>,
        objects: PathBuf,
    ) -> impl Future<Output = Result<Vec<Artifact>, StepError>> + Send;

    /// Between two steps: the workspace in another form at the same place, such as an empty top over
    /// what was its top until now. `false`, and nothing has changed: a step has left something running
    /// or mounted. `None` only asks for that.
    ///
    /// After an error the session is good for nothing but to be closed.
    fn remount(
        &mut self,
        mount: Option<kiln_stdx::overlay::Mount>,
    ) -> impl Future<Output = Result<bool, StepError>> + Send;

    /// Kills what is left, unmounts, ends. The log is flushed to disk (fdatasync). Idempotent.
    fn close(&mut self) -> impl Future<Output = Result<(), StepError>> + Send;

    /// As [`Session::close`], except that the empty place stays for another job: no process and no
    /// word of this one is left in it, and its mounts are as they were at the start. Whether the
    /// workspace is too, only the caller can tell. `false`: it is closed.
    fn rest(&mut self) -> impl Future<Output = Result<bool, StepError>> + Send;

    /// Begins anew after [`Session::rest`], for another attempt. Its folder is the old one's, renamed;
    /// the layers below the workspace are the same. After an error the session is closed.
    fn renew(&mut self, spec: SessionSpec) -> impl Future<Output = Result<(), OpenError>> + Send;
}

/// What a session needs.
#[derive(Clone, Debug)]
pub struct SessionSpec {
    pub attempt: AttemptId,
    /// The attempt's own folder on disk: control socket, state of the init process.
    pub attempt_dir: PathBuf,
    pub mount: Option<kiln_stdx::overlay::Mount>,
    /// Further mounts, which the job sees beside its workspace and can do without: one that the
    /// kernel refuses is told in the log. Only with `mount`, which gives the namespace for them.
    pub further: Vec<kiln_stdx::overlay::Mount>,
    /// Lines of kiln's own that the log begins with, without their `kiln: `.
    pub preface: Vec<String>,
    /// The workspace: where steps run.
    pub directory: PathBuf,
    /// The steps run in there, on `directory` at the place that it says. Needs a `mount`.
    pub container: Option<Container>,
    /// The whole environment of the steps; nothing is inherited.
    pub env: BTreeMap<String, String>,
    /// Values to be replaced by `***` in the log (each also base64, URL- and JSON-escaped, line by
    /// line). Values shorter than four bytes stay: to hide them is to riddle the log and to give
    /// them away by the holes.
    pub masked: Vec<Secret<String>>,
    /// The log: created when the first byte comes; `<log>.idx` beside it (`kiln_model::log`).
    pub log: PathBuf,
    /// Past this the log ends with a line that says so, and the step goes on unrecorded.
    pub log_bytes_max: u64,
    /// Between TERM and KILL.
    pub grace: Duration,
    /// How long the session may wait for a new owner when its owner is gone, before it kills
    /// everything. A step that runs is let finish first. Zero: everything is killed at once.
    pub orphan_for: Duration,
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepCommand {
    /// The program, searched for in the step's own `PATH`, and its arguments.
    pub argv: Vec<String>,
    /// Added to the session's environment; wins over it.
    pub env: BTreeMap<String, String>,
    /// Relative to the workspace.
    pub directory: Option<String>,
    pub timeout: Option<Duration>,
}

/// A root of its own for the steps, made of an image.
///
/// What it isolates and what not: `crate::host::container`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The image's layers under an empty top; `at` is an empty folder, in which nothing is seen from
    /// outside.
    pub root: kiln_stdx::overlay::Mount,
    /// Where the workspace is in there. Absolute.
    #[serde(with = "kiln_stdx::path")]
    pub workspace: PathBuf,
    /// Further files and folders that are seen in there.
    pub binds: Vec<Bind>,
    /// As in an image: `1000`, `node`, `0:0`, `user:group`; empty: root.
    pub user: String,
    pub hostname: String,
    pub network: Network,
}

/// Something of the machine that a container sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    #[serde(with = "kiln_stdx::path")]
    pub from: PathBuf,
    /// Absolute. Made when it is not there.
    #[serde(with = "kiln_stdx::path")]
    pub to: PathBuf,
    pub writable: bool,
}

/// What a container reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Its own loopback only.
    None,
    /// The machine's own network, with everything that it reaches.
    Host,
}

/// Where a person's command reads and writes.
#[derive(Debug)]
pub enum Streams {
    /// The inner end of a pseudo-terminal, which becomes the controlling terminal of the command. Its
    /// size and its line discipline are the business of whoever holds the outer end.
    Terminal(OwnedFd),
    /// Standard input, output and error, passed on as they are.
    Plain([OwnedFd; 3]),
}

impl Streams {
    /// The same again.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        Ok(match self {
            Self::Terminal(end) => Self::Terminal(end.try_clone()?),
            Self::Plain([stdin, stdout, stderr]) => {
                Self::Plain([stdin.try_clone()?, stdout.try_clone()?, stderr.try_clone()?])
            }
        })
    }
}

/// How far the log has come: bytes that are in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPosition {
    pub n_bytes: u64,
}

/// Why there is no session. Causes crossed a process boundary and are text.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The process that starts sessions is not there any more. The program must be restarted.
    #[error("the process that starts sessions is gone ({0}); restart kiln")]
    SpawnerGone(String),
    #[error("cannot isolate the session: {0}")]
    Isolation(String),
    #[error("cannot mount the workspace: {0}")]
    Mount(String),
    /// The session's process ended before it could say why.
    #[error("the session's process ended while it was being opened")]
    Gone,
    #[error("{0}")]
    Other(String),
}

/// Trouble of kiln or of the machine, never the step's own. Causes crossed a process boundary and
/// are text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum StepError {
    #[error("the log `{path}` cannot be written: {cause}")]
    Log { path: String, cause: String },
    #[error("cannot run in the directory `{directory}`: {cause}")]
    Directory { directory: String, cause: String },
    #[error("cannot start a process: {0}")]
    Spawn(String),
    /// The request itself makes no sense: an empty command, a zero byte in an argument.
    #[error("{0}")]
    Command(String),
    #[error("artifact `{what}`: {cause}")]
    Artifact { what: String, cause: String },
    #[error("cannot close the session: {0}")]
    Close(String),
    /// Killed, most likely: by a person or for want of memory.
    #[error("the session's process ended before its time")]
    Gone,
    #[error("the session is closed")]
    Closed,
    #[error("{0}")]
    Other(String),
}

/// The cause of an I/O error in a few words: `no space left on device`.
pub(crate) fn words(cause: &std::io::Error) -> String {
    let text = cause.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_lowercase().collect::<String>() + letters.as_str()
    })
}
