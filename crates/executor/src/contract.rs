//! What every executor promises. The suite in `tests/conformance` holds each to it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kiln_model::artifact::Artifact;
use kiln_model::plan::{ArtifactRule, Limits, Volume};
use kiln_model::{AttemptId, Exit, Usage};
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
    /// Absent when the step did not start, or its executor cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
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

    /// Begins a command that goes on beside all that is asked later, until [`Session::resume`] hears of
    /// its end or the session is closed: a service. `None`: the one that runs since before this owner
    /// came is such a command.
    fn begin(
        &mut self,
        _command: Option<StepCommand>,
    ) -> impl Future<Output = Result<(), StepError>> + Send {
        let none = "this executor has no services".to_owned();
        std::future::ready(Err(StepError::Other(none)))
    }

    /// The TCP ports on which anything in the session's network listens.
    fn listening(&mut self) -> impl Future<Output = Result<BTreeSet<u16>, StepError>> + Send {
        std::future::ready(Ok(BTreeSet::new()))
    }

    /// Says lines of kiln's own in the log, also while a step runs.
    fn voice(&self) -> Voice {
        Voice::default()
    }

    /// What the last step that ended has used; `None` where that is not known.
    fn usage(&self) -> Option<Usage> {
        None
    }

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

/// Says lines in the log of a session, as long as that lives. Cheap to clone.
#[derive(Clone, Default)]
pub struct Voice(Option<Arc<dyn Fn(String) + Send + Sync>>);

impl Voice {
    pub fn new(say: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(say)))
    }

    /// Without its `kiln: `.
    pub fn say(&self, line: impl Into<String>) {
        if let Some(say) = &self.0 {
            say(line.into());
        }
    }
}

impl std::fmt::Debug for Voice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Voice")
    }
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
    /// Folders of the machine that the steps see and must not change. Only with `mount`. One that cannot
    /// be protected is told in the log.
    pub read_only: Vec<PathBuf>,
    /// Lines of kiln's own that the log begins with, without their `kiln: `.
    pub preface: Vec<String>,
    /// The workspace: where steps run.
    pub directory: PathBuf,
    /// The steps run in there, on `directory` at the place that it says; without a `mount`, on nothing.
    pub container: Option<Container>,
    /// What the steps reach.
    pub network: SessionNetwork,
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
    /// The number of a signal that asks the program of the step to end, in the place of a TERM to all
    /// processes; when that program has ended, the others get KILL. As images of services want it.
    pub stop_signal: Option<i32>,
    /// How long the session may wait for a new owner when its owner is gone, before it kills
    /// everything. A step that runs is let finish first. Zero: everything is killed at once.
    pub orphan_for: Duration,
    /// Of all processes of the session together. An executor that cannot hold one says so in the log.
    pub limits: Limits,
    /// The steps use the machine's own files and programs, and cannot change them. Not with `container`.
    pub sandbox: Option<Sandbox>,
    /// The steps run there and not here: the workspace goes there, and what they change comes back.
    pub remote: Option<Remote>,
    /// Where kiln is an ordinary user: the users that its containers have besides root. What they leave in
    /// the session's folder is ours when it is closed.
    pub users: Option<kiln_stdx::Subordinate>,
}

impl SessionSpec {
    /// A session with a folder and a log and nothing else: no mount, no variable, no secret, no bound. It
    /// ends with its owner, and without grace.
    pub fn bare(
        attempt: AttemptId,
        attempt_dir: PathBuf,
        directory: PathBuf,
        log: PathBuf,
    ) -> Self {
        Self {
            attempt,
            attempt_dir,
            mount: None,
            further: Vec::new(),
            read_only: Vec::new(),
            preface: Vec::new(),
            directory,
            container: None,
            network: SessionNetwork::default(),
            env: BTreeMap::new(),
            masked: Vec::new(),
            log,
            log_bytes_max: u64::MAX,
            grace: Duration::ZERO,
            stop_signal: None,
            orphan_for: Duration::ZERO,
            limits: Limits::default(),
            sandbox: None,
            remote: None,
            users: None,
        }
    }
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
    pub root: Root,
    /// Where the workspace is in there, and where steps run. Absolute.
    #[serde(with = "kiln_stdx::path")]
    pub workspace: PathBuf,
    /// Further files and folders that are seen in there.
    pub binds: Vec<Bind>,
    /// As in an image: `1000`, `node`, `0:0`, `user:group`; empty: root.
    pub user: String,
    pub hostname: String,
    /// What of the machine is seen in there, as a policy has granted it.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// With all powers of who makes it, the machine's devices, and no filter of system calls.
    #[serde(default)]
    pub privileged: bool,
}

/// Whose business a container's root is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// Ours: the image's layers under an empty top; `at` is an empty folder, in which nothing is seen from
    /// outside.
    Layers(kiln_stdx::overlay::Mount),
    /// A daemon's, with the network and the limits. Takes root, and the daemon on this machine.
    Daemon(Daemon),
}

impl Root {
    pub fn layers(&self) -> Option<&kiln_stdx::overlay::Mount> {
        match self {
            Self::Layers(mount) => Some(mount),
            Self::Daemon(_) => None,
        }
    }

    pub fn daemon(&self) -> Option<&Daemon> {
        match self {
            Self::Layers(_) => None,
            Self::Daemon(daemon) => Some(daemon),
        }
    }
}

impl From<kiln_stdx::overlay::Mount> for Root {
    fn from(mount: kiln_stdx::overlay::Mount) -> Self {
        Self::Layers(mount)
    }
}

/// One that speaks Docker's language.
///
/// How it is asked, and what is left to it: `crate::host::daemon`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Where it listens.
    #[serde(with = "kiln_stdx::path")]
    pub socket: PathBuf,
    /// By its content, as the daemon has it: `sha256:…`.
    pub image: String,
}

/// The machine's own root for the steps, read-only: with a `/tmp`, a home and devices of their own, and
/// without homes, sockets and keys.
///
/// What it isolates and what not: `crate::host::container`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// It is made in a user namespace that knows our own user; needed by all but root.
    pub user: bool,
    /// An empty folder takes its place.
    #[serde(with = "kiln_stdx::path")]
    pub home: PathBuf,
    /// Further files and folders that are shown empty, besides those that always are. Absolute.
    pub hidden: Vec<PathBuf>,
    /// What is seen all the same.
    pub binds: Vec<Bind>,
}

/// A machine that is reached over ssh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    /// As `ssh` takes it: `user@host`, `ssh://user@host:2222`, a name of its configuration.
    pub host: String,
    /// In place of the configuration of the user that kiln runs as.
    pub config: Option<PathBuf>,
    /// Variables that steps get from the far machine where the session's own do not say otherwise.
    pub machine_env: Vec<String>,
    /// Variables that say where the workspace is there.
    pub workspace_env: Vec<String>,
    /// Variables that say where the file of the outputs is there. After each step it is copied to
    /// `output_file` in the attempt's folder.
    pub output_env: Vec<String>,
    pub output_file: String,
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

/// What the steps of a session reach, and by which names.
///
/// How it is made, and what is refused: `crate::host::network`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionNetwork {
    pub reach: Reach,
    /// Names of addresses, besides `localhost` and the container's own.
    pub names: Vec<(String, Ipv4Addr)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// A loopback of their own only.
    None,
    /// A network of their own with a way out, through this program: `pasta` or `slirp4netns`. When it
    /// does not start there is no way out, and the log begins with why.
    Internet {
        #[serde(with = "kiln_stdx::path")]
        through: PathBuf,
    },
    /// A network of their own with a way out, which the daemon gives that makes their container. Only with
    /// such a one.
    Bridge,
    /// The machine's own network, with everything that it reaches.
    #[default]
    Host,
    /// That of the session with this folder, which lives. This one is killed when that one ends.
    Of(#[serde(with = "kiln_stdx::path")] PathBuf),
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
