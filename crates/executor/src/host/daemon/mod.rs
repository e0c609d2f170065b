//! Containers that a daemon makes: Docker, or whatever speaks its language.
//!
//! ```text
//! init ──HTTP over its socket──▶ daemon ──▶ container of the image; process 1: `pause`
//!   ▲                                             │
//!   └───────── one connection: its number, ───────┘
//!              and each hears of the other's end
//! ```
//!
//! The daemon is asked for three things: create, wait, start. It removes the container by itself
//! when process 1 has ended, which ends with init; so whoever is killed, nothing is left. Only between
//! create and start there is nobody to end: what the container is called is in a file of the session's
//! folder before it is created, and [`reap`] removes it, also when the daemon is still making it.
//!
//! Elsewhere: what is put into the container, and how steps get there (`container`).
//! Source: docs.docker.com/reference/api/engine/version/v1.41, which Docker 20.10 and Podman 4 speak.

mod api;
#[cfg(test)]
mod fake;
mod pause;
mod wish;

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_stdx::http::{self, Pending, Request};
use kiln_stdx::{Clock, SystemClock};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use self::api::Api;
pub(super) use self::pause::FOLDER;
use super::attach;
use super::init::timespec;
use super::wire::Opening;
use crate::contract::words;
use crate::{Container, Daemon, Reach};

/// In the session's folder: which container there is.
const LEFT: &str = "daemon.json";
/// How long a daemon may be silent. A busy one takes seconds for a start.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// Answers are short; one that is not is no answer.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// How long a container may be in the making whose maker is dead. A busy daemon takes seconds for it.
const IN_FLIGHT_FOR: Duration = Duration::from_secs(10);

/// Which container of which daemon is a session's.
#[derive(Debug, Serialize, Deserialize)]
struct Left {
    #[serde(with = "kiln_stdx::path")]
    socket: PathBuf,
    name: String,
    /// Whether the daemon has said what became of it. Until then it may come after its maker's end.
    #[serde(default)]
    answered: bool,
}

/// A container that runs.
#[derive(Debug)]
pub(super) struct Started {
    pub pid: Pid,
    /// Of its process 1.
    pub pidfd: OwnedFd,
    /// Its end is ours to process 1.
    line: UnixStream,
    /// What the daemon has not said yet. To hang up is to change its mind.
    start: Option<Pending>,
}

#[derive(Deserialize)]
struct Created {
    #[serde(rename = "Id")]
    id: String,
}

/// Whether a daemon's container can be used by us at all. Errors are words.
pub(super) fn may_ask(spec: &Opening) -> Result<(), String> {
    let is_daemons = |container: &Container| container.root.daemon().is_some();
    if !spec.container.as_ref().is_some_and(is_daemons) || rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err("only root can put a workspace into a container that a daemon has made; run kiln as root, or use \
         `executor: oci`, which runs the same image for any user and without a daemon"
        .to_owned())
}

/// Creates a container and starts it. Errors are words. Nothing is left then.
pub(super) fn start(
    daemon: &Daemon,
    wanted: &Container,
    spec: &Opening,
) -> Result<Started, String> {
    let folder = spec.attempt_dir.join("daemon");
    let listener = prepare(&folder).map_err(|cause| {
        format!("cannot make what a container of the daemon needs: {}", words(&cause))
    })?;
    let name = wish::name(spec);
    let mut left = Left { socket: daemon.socket.clone(), name, answered: false };
    write(&left, &spec.attempt_dir)?;
    let host = other_container(&spec.network.reach)?;
    let body = wish::body(daemon, wanted, spec, &folder, host.as_deref());
    let api = Api::new(&daemon.socket);
    let made = create(&api, &mut left, &body).and_then(|id| {
        write(&left, &spec.attempt_dir)?;
        begin(&api, &id, &listener)
    });
    let _ = std::fs::remove_dir_all(&folder);
    if made.is_err() {
        clear(&api, &left, &spec.attempt_dir);
    }
    made
}

/// The folder that the container sees until it runs, and the socket in it.
fn prepare(folder: &Path) -> io::Result<UnixListener> {
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir(folder)?;
    let everybody =
        |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    everybody(folder, 0o755)?;
    pause::write(folder)?;
    let path = folder.join(pause::SOCKET);
    let listener = attach::with_short_path(&path, |short| UnixListener::bind(short))?;
    everybody(&path, 0o666)?;
    Ok(listener)
}

/// The container whose network is shared.
fn other_container(reach: &Reach) -> Result<Option<String>, String> {
    let Reach::Of(folder) = reach else { return Ok(None) };
    let left = read(folder).ok_or("the job beside which it runs is in no container of a daemon")?;
    Ok(Some(left.name))
}

fn create(api: &Api<'_>, left: &mut Left, body: &[u8]) -> Result<String, String> {
    let path = format!("/containers/create?name={}", left.name);
    let request = Request { method: "POST", path: &path, body, ..Request::default() };
    let what = "cannot create the container";
    let answer = match api.ask(&request)? {
        // Of this very attempt, by an init that is dead.
        (409, _) => {
            remove(api, left)?;
            api.ask(&request)?
        }
        answer => answer,
    };
    left.answered = true;
    match answer {
        (200..300, text) => serde_json::from_slice::<Created>(&text)
            .map(|created| created.id)
            .map_err(|_| format!("{what}: the daemon does not say which it is")),
        (status, text) => Err(api::refused(what, status, &text)),
    }
}

/// Starts it, and waits until its process 1 calls.
fn begin(api: &Api<'_>, id: &str, listener: &UnixListener) -> Result<Started, String> {
    let trouble = |cause: io::Error| api.away(&cause);
    let post = |what: &str| {
        let path = format!("/containers/{}/{what}", http::escaped(id));
        api.begin(&Request { method: "POST", path: &path, ..Request::default() })
    };
    let mut ended = post("wait?condition=next-exit")?;
    let mut start = Some(post("start")?);
    loop {
        let mut fds = vec![
            PollFd::new(listener, PollFlags::IN),
            PollFd::from_borrowed_fd(ended.as_fd(), PollFlags::IN),
        ];
        fds.extend(
            start.as_ref().map(|start| PollFd::from_borrowed_fd(start.as_fd(), PollFlags::IN)),
        );
        let n_ready = poll(&mut fds, Some(&timespec(SILENCE_MAX)));
        let [calls, ends, answers] =
            [0, 1, 2].map(|at| fds.get(at).is_some_and(|fd| !fd.revents().is_empty()));
        if calls {
            return accept(listener, start).map_err(trouble);
        }
        if answers && let Some(pending) = start.take() {
            let answer = pending.answer().map_err(trouble)?;
            let status = answer.status;
            let text = answer.whole(ANSWER_BYTES_MAX).unwrap_or_default();
            if !(200..300).contains(&status) {
                return Err(api::refused("cannot start the container", status, &text));
            }
        } else if ends && has_ended(&mut ended) {
            // It may have called first.
            let _ = listener.set_nonblocking(true);
            return Err("the container ended before it could call: the daemon runs its containers where \
                        this machine's sockets are not seen, as in a virtual machine, or not on this \
                        machine; kiln and the daemon must share one kernel"
                .to_owned());
        }
        if !n_ready.is_ok_and(|n| n > 0) {
            return Err(api.away(&io::ErrorKind::TimedOut.into()));
        }
    }
}

/// Whether the answer to the question for a container's end has come, and not only its head.
fn has_ended(ended: &mut Pending) -> bool {
    ended.heard(|so_far| so_far.windows(12).any(|word| word == b"\"StatusCode\""))
}

fn accept(listener: &UnixListener, start: Option<Pending>) -> io::Result<Started> {
    let (line, _) = listener.accept()?;
    let pid = pause::peer(&line)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    // The number is still its own: it cannot have ended without hanging up.
    line.set_nonblocking(true)?;
    match (&line).read(&mut [0]) {
        Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
        _ => return Err(io::ErrorKind::ConnectionAborted.into()),
    }
    Ok(Started { pid, pidfd, line, start })
}

impl Started {
    /// Whether it has ended, or is about to: the kernel kills what is in there before it says so, and whoever
    /// kills its whole tree kills it first.
    pub fn is_ending(&self) -> bool {
        /// `PF_EXITING` of the kernel.
        const EXITING: u64 = 4;
        const KILLED: u64 = 1 << 8;
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        if poll(&mut fds, Some(&timespec(Duration::ZERO))).is_ok_and(|n| n > 0) {
            return true;
        }
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid.as_raw_nonzero()));
        let stat = stat.unwrap_or_default();
        // proc_pid_stat(5): from the command's closing bracket, 6 is the flags and 28 the signals to come.
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_ascii_whitespace().collect())
            .unwrap_or_default();
        let has = |at: usize, bit: u64| {
            let field = fields.get(at).and_then(|field| field.parse::<u64>().ok());
            field.is_none_or(|field| field & bit != 0)
        };
        has(6, EXITING) || has(28, KILLED)
    }

    /// Ends it with all that is in it, and waits for that. The daemon removes what is left, in its own time.
    pub fn end(&mut self) {
        /// The answer to a start that has long succeeded, of a daemon that is not there any more perhaps.
        const LATE_FOR: Duration = Duration::from_secs(10);
        if let Some(start) = self.start.take() {
            let mut fds = [
                PollFd::from_borrowed_fd(start.as_fd(), PollFlags::IN),
                PollFd::new(&self.pidfd, PollFlags::IN),
            ];
            let _ = poll(&mut fds, Some(&timespec(LATE_FOR)));
        }
        let kill = rustix::process::Signal::KILL;
        let killed = rustix::process::pidfd_send_signal(&self.pidfd, kill);
        if killed.is_err() {
            // It belongs to somebody else: it ends when it is hung up on.
            let _ = self.line.shutdown(std::net::Shutdown::Both);
        }
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let _ = poll(&mut fds, Some(&timespec(LATE_FOR)));
    }
}

/// Removes what a session has left with a daemon, if it has.
pub(super) fn reap(attempt_dir: &Path) {
    let Some(left) = read(attempt_dir) else { return };
    clear(&Api::new(&left.socket), &left, attempt_dir);
}

fn clear(api: &Api<'_>, left: &Left, attempt_dir: &Path) {
    let removed = match remove(api, left) {
        // Its maker has died while the daemon was at it.
        Ok(Removed::Unknown) if !left.answered => {
            appears(api, left).and_then(|()| remove(api, left))
        }
        removed => removed,
    };
    if removed.is_ok() {
        remove_traces(attempt_dir);
    }
}

pub(super) fn remove_traces(attempt_dir: &Path) {
    let _ = std::fs::remove_file(attempt_dir.join(LEFT));
}

fn write(left: &Left, attempt_dir: &Path) -> Result<(), String> {
    let to = attempt_dir.join(LEFT);
    let next = attempt_dir.join(format!("{LEFT}.next"));
    let text = serde_json::to_vec(left).map_err(io::Error::other);
    let written = text.and_then(|text| std::fs::write(&next, text));
    let written = written.and_then(|()| std::fs::rename(&next, to));
    written.map_err(|cause| {
        format!("cannot write into `{}`: {}", attempt_dir.display(), words(&cause))
    })
}

fn read(attempt_dir: &Path) -> Option<Left> {
    let text = std::fs::read(attempt_dir.join(LEFT)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// What became of a container that was to be removed.
#[derive(PartialEq, Eq)]
enum Removed {
    Gone,
    /// The daemon has none of that name.
    Unknown,
}

fn remove(api: &Api<'_>, left: &Left) -> Result<Removed, String> {
    let path = format!("/containers/{}?force=true&v=true", http::escaped(&left.name));
    match api.ask(&Request { method: "DELETE", path: &path, ..Request::default() })? {
        (404, _) => Ok(Removed::Unknown),
        // 409: it is being removed.
        (200..300 | 409, _) => Ok(Removed::Gone),
        (status, text) => Err(api::refused("cannot remove the container", status, &text)),
    }
}

/// Waits until the daemon says that it has made it, or has had the time to. What it made a moment ago it says
/// too.
fn appears(api: &Api<'_>, left: &Left) -> Result<(), String> {
    let now = SystemClock.now().as_millis() / 1000;
    let for_s = IN_FLIGHT_FOR.as_secs().cast_signed();
    let filters = serde_json::json!({ "container": [left.name], "event": ["create"] }).to_string();
    let path = format!(
        "/events?since={}&until={}&filters={}",
        now - for_s,
        now + for_s,
        http::escaped(&filters)
    );
    let request = Request { method: "GET", path: &path, ..Request::default() };
    let mut answer = api.begin(&request)?.answer().map_err(|cause| api.away(&cause))?;
    // One event, or the end.
    let _ = answer.read(&mut [0; 64]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::fake::Fake;
    use super::*;

    /// What a daemon is asked for by [`reap`], which first has no such container, and then has.
    fn asked_by_reap(answered: bool) -> Vec<String> {
        let mut is_there = false;
        let fake = Fake::new(move |path| match path.contains("/events?") {
            true => {
                is_there = true;
                (200, r#"{"Action": "create"}"#.to_owned())
            }
            false if is_there => (204, String::new()),
            false => (404, r#"{"message": "No such container"}"#.to_owned()),
        });
        let folder = tempfile::tempdir().unwrap();
        let left = Left { socket: fake.socket(), name: "kiln-7-0-1".to_owned(), answered };
        write(&left, folder.path()).unwrap();
        reap(folder.path());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let asked = fake.asked().into_iter();
        asked.map(|path| path.split('?').next().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn a_container_that_is_made_after_its_makers_end_is_removed() {
        let container = "/v1.41/containers/kiln-7-0-1";
        assert_eq!(asked_by_reap(false), [container, "/v1.41/events", container]);
        // It was there, so it has ended by itself.
        assert_eq!(asked_by_reap(true), [container]);
    }
}
