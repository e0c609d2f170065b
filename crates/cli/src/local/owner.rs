//! Which process drives a local run.
//!
//! The driver holds a lock on the file `<run>.lock` for as long as it lives; the kernel takes the
//! lock away with the process, however it ends. The file holds its process id, for those who want
//! the run to be cancelled: they leave their name in `<run>.cancel` and send SIGTERM.
//!
//! Always: between a run's first row and its mark nobody can look, because making holds `.new`
//! shared and settling holds it alone.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kiln_model::RunId;
use kiln_stdx::fs::{Named, write_atomic};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::error::{Failure, Result};
use crate::place::Data;

/// The right to drive one run. Given back when dropped.
#[derive(Debug)]
pub struct Owner {
    data: Data,
    run: RunId,
    /// Holds the lock.
    _file: File,
}

impl Owner {
    /// `None`: another process drives it.
    pub fn claim(data: &Data, run: RunId) -> Result<Option<Self>> {
        let path = mark(data, run);
        loop {
            let mut file = open(&path)?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                return Ok(None);
            }
            // The holder before may have taken the file away between our opening and locking it.
            if !is_at(&file, &path) {
                continue;
            }
            let pid = rustix::process::getpid().as_raw_nonzero();
            file.set_len(0).and_then(|()| file.rewind()).named("write", &path)?;
            file.write_all(pid.to_string().as_bytes()).named("write", &path)?;
            let _ = fs::remove_file(wish(data, run));
            return Ok(Some(Self { data: data.clone(), run, _file: file }));
        }
    }

    /// Who asked another process to have the run cancelled, when somebody did.
    pub fn cancel_wish(&self) -> Option<String> {
        let by = fs::read_to_string(wish(&self.data, self.run)).ok()?;
        Some(by.trim().to_owned()).filter(|by| !by.is_empty())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // While the lock is held, so that nobody can have claimed this very file.
        let _ = fs::remove_file(wish(&self.data, self.run));
        let _ = fs::remove_file(mark(&self.data, self.run));
    }
}

/// Held while runs are made or settled.
#[derive(Debug)]
pub struct Gate(#[expect(dead_code, reason = "holds the lock")] File);

impl Gate {
    /// For making a run: several at once.
    pub fn shared(data: &Data) -> Result<Self> {
        Self::enter(data, FlockOperation::LockShared)
    }

    /// For settling dead runs: alone.
    pub fn alone(data: &Data) -> Result<Self> {
        Self::enter(data, FlockOperation::LockExclusive)
    }

    fn enter(data: &Data, how: FlockOperation) -> Result<Self> {
        let path = data.running().join(".new");
        let file = open(&path)?;
        flock(&file, how).map_err(std::io::Error::from).named("lock", &path)?;
        Ok(Self(file))
    }
}

/// Asks the process that drives a run to cancel it. False: none does.
pub fn cancel_elsewhere(data: &Data, run: RunId, by: &str) -> Result<bool> {
    let path = mark(data, run);
    let Ok(mut file) = File::open(&path) else { return Ok(false) };
    let mut text = String::new();
    file.read_to_string(&mut text).named("read", &path)?;
    let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return Ok(false) };
    let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
        return Ok(false);
    };
    // Held now, so the process that was just opened is the one that wrote its id.
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return Ok(false);
    }
    write_atomic(&wish(data, run), by.as_bytes())?;
    rustix::process::pidfd_send_signal(&process, Signal::TERM).map_err(|cause| {
        Failure::elsewhere(format!("cannot tell process {pid} to cancel the run: {cause}"))
    })?;
    Ok(true)
}

fn mark(data: &Data, run: RunId) -> PathBuf {
    data.running().join(format!("{run}.lock"))
}

fn wish(data: &Data, run: RunId) -> PathBuf {
    data.running().join(format!("{run}.cancel"))
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    Ok(options.open(path).named("open", path)?)
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> (tempfile::TempDir, Data) {
        let folder = tempfile::tempdir().unwrap();
        let data = Data { root: folder.path().to_owned() };
        data.make_local().unwrap();
        (folder, data)
    }

    #[test]
    fn a_run_has_one_owner_at_a_time() {
        let (_folder, data) = data();
        let run = RunId(7);
        let owner = Owner::claim(&data, run).unwrap().unwrap();
        assert!(Owner::claim(&data, run).unwrap().is_none());
        drop(owner);
        assert!(Owner::claim(&data, run).unwrap().is_some());
    }

    #[test]
    fn a_run_that_nobody_drives_cannot_be_told_to_stop() {
        let (_folder, data) = data();
        assert!(!cancel_elsewhere(&data, RunId(1), "me").unwrap());
        // What a process that was killed leaves behind.
        fs::write(mark(&data, RunId(1)), "1").unwrap();
        assert!(!cancel_elsewhere(&data, RunId(1), "me").unwrap());
    }

    #[test]
    fn an_old_wish_does_not_cancel_the_next_try() {
        let (_folder, data) = data();
        fs::write(wish(&data, RunId(1)), "somebody").unwrap();
        let owner = Owner::claim(&data, RunId(1)).unwrap().unwrap();
        assert_eq!(owner.cancel_wish(), None);
        fs::write(wish(&data, RunId(1)), "somebody\n").unwrap();
        assert_eq!(owner.cancel_wish().as_deref(), Some("somebody"));
    }
}
