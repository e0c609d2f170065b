//! After a crash of the owner: finding a session again, or what it left.
//!
//! A session keeps some files in its attempt's folder: `init.json` says which process it is, `visit.sock`
//! is where people come in (`guest`),
//! `control.sock` is where a new owner comes in, and `results.json`, written only while there is no
//! owner, is what remains when the session has given up waiting.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kiln_model::AttemptId;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use crate::StepDone;

pub(super) const INIT: &str = "init.json";
pub(super) const SOCKET: &str = "control.sock";
/// Where people come in.
pub(super) const GUESTS: &str = "visit.sock";
pub(super) const RESULTS: &str = "results.json";
/// Where the folders of the sessions beside an attempt's own are: its services.
pub const BESIDE: &str = "services";

/// Which process an init is, so that another with its number is not taken for it.
#[derive(Serialize, Deserialize)]
pub(super) struct InitFile {
    pid: i32,
    /// In the kernel's ticks since boot.
    started_at: u64,
    /// Inode of its mount namespace.
    mount_namespace: u64,
}

/// Written by the init itself.
pub(super) fn write_init(attempt_dir: &Path) -> io::Result<()> {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let file = InitFile {
        pid,
        started_at: started_at(pid).unwrap_or_default(),
        mount_namespace: mount_namespace("self").unwrap_or_default(),
    };
    let text = serde_json::to_vec(&file).map_err(io::Error::other)?;
    std::fs::write(attempt_dir.join(INIT), text)
}

/// The init that the attempt's folder speaks of, if it still lives.
pub(super) fn living_init(attempt_dir: &Path) -> Option<InitFile> {
    let file = read_init(attempt_dir)?;
    (started_at(file.pid) == Some(file.started_at)).then_some(file)
}

/// The number of the init that the attempt's folder speaks of, if it still lives.
pub(super) fn living_pid(attempt_dir: &Path) -> Option<i32> {
    living_init(attempt_dir).map(|init| init.pid)
}

fn read_init(attempt_dir: &Path) -> Option<InitFile> {
    let text = std::fs::read(attempt_dir.join(INIT)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The results that a session wrote down before it gave up waiting for a new owner.
pub fn results_left(attempt_dir: &Path) -> Vec<StepDone> {
    let text = std::fs::read(attempt_dir.join(RESULTS)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Kills what a lost session has left running. Gives the number of processes killed.
///
/// A process is the attempt's when it lives in the mount namespace of the attempt's init, or when
/// its environment names the attempt (`KILN_ATTEMPT=7-0-1`) and it also bears the mark of this
/// attempt's folder, in its environment or as its working directory: another server on the machine
/// may count the same numbers.
pub fn reap(attempt: AttemptId, attempt_dir: &Path) -> usize {
    let beside = std::fs::read_dir(attempt_dir.join(BESIDE)).into_iter().flatten().flatten();
    let n_beside: usize = beside.map(|service| reap(attempt, &service.path())).sum();
    let init = read_init(attempt_dir);
    let ours = mount_namespace("self");
    let mark = Mark {
        attempt: format!("KILN_ATTEMPT={attempt}").into_bytes(),
        folder: attempt_dir.as_os_str().as_bytes().to_vec(),
        namespace: init.as_ref().map(|init| init.mount_namespace).filter(|ns| Some(*ns) != ours),
    };
    let living = living_pid(attempt_dir);
    let mut n_killed = 0;
    // Twice: what was forked while the first round went by is found by the second.
    for _ in 0..2 {
        let found = pids().filter(|pid| living == Some(*pid) || mark.is_on(*pid));
        n_killed += found.filter(|pid| kill(*pid)).count();
    }
    n_killed += super::cgroup::reap(attempt_dir);
    super::daemon::reap(attempt_dir);
    remove_traces(attempt_dir);
    n_killed + n_beside
}

/// Nobody will be found at this attempt any more.
pub(super) fn remove_traces(attempt_dir: &Path) {
    super::daemon::remove_traces(attempt_dir);
    super::ssh::remove_traces(attempt_dir);
    for name in [SOCKET, GUESTS, INIT] {
        let _ = std::fs::remove_file(attempt_dir.join(name));
    }
}

struct Mark {
    attempt: Vec<u8>,
    folder: Vec<u8>,
    namespace: Option<u64>,
}

impl Mark {
    fn is_on(&self, pid: i32) -> bool {
        let Ok(environ) = std::fs::read(format!("/proc/{pid}/environ")) else { return false };
        if !environ.split(|byte| *byte == 0).any(|pair| pair == self.attempt) {
            return false;
        }
        let in_namespace =
            self.namespace.is_some() && mount_namespace(&pid.to_string()) == self.namespace;
        let works_there = || {
            std::fs::read_link(format!("/proc/{pid}/cwd"))
                .is_ok_and(|cwd| cwd.starts_with(OsStr::from_bytes(&self.folder)))
        };
        in_namespace || memchr::memmem::find(&environ, &self.folder).is_some() || works_there()
    }
}

fn pids() -> impl Iterator<Item = i32> {
    let me = rustix::process::getpid().as_raw_nonzero().get();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(move |pid| *pid != me)
}

fn kill(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| rustix::process::kill_process(pid, Signal::KILL).is_ok())
}

fn started_at(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    // A zombie has ended.
    let state = fields.next()?;
    (state != "Z" && state != "X").then(|| fields.nth(18)?.parse().ok())?
}

fn mount_namespace(pid: &str) -> Option<u64> {
    // The link's target, `mnt:[4026531841]`, is the inode that following it gives.
    std::fs::metadata(format!("/proc/{pid}/ns/mnt")).ok().map(|meta| meta.ino())
}

/// Calls `with` with a name for `path` that fits into a socket address (108 bytes), whatever the
/// length of `path`.
pub(super) fn with_short_path<T>(
    path: &Path,
    with: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    const ADDRESS_BYTES_MAX: usize = 100;
    if path.as_os_str().len() <= ADDRESS_BYTES_MAX {
        return with(path);
    }
    let folder = std::fs::File::open(path.parent().unwrap_or(Path::new(".")))?;
    let name = path.file_name().unwrap_or_default();
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    with(&short)
}
