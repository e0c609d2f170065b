//! A session without an owner: how long it waits for another, and what ends the waiting.
//!
//! A new owner comes in by the door, a socket in the attempt's folder. When that is removed, with the whole
//! data folder perhaps, nobody can come any more: the kernel says so, and everything ends.

use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use kiln_model::limit;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::{Flow, Inbox, Init, UNBEGUN_FOR, now};
use crate::host::attach;

impl Init {
    pub(super) fn lose_owner(&mut self) -> Flow {
        self.control = None;
        self.inbox = Inbox::default();
        self.announced.unheard = false;
        // Without instances left it waits as long as it would for anybody.
        self.deserted = self.door.as_ref().and_then(|_| watch(&self.spec.attempt_dir).ok());
        if self.door.is_none() || self.resting || self.is_deserted() {
            self.spec.grace = Duration::ZERO;
            let _ = self.close();
            return Flow::End;
        }
        self.write_results();
        let patience = match self.running {
            // A step without a timeout of its own must still end some day.
            Some(_) => limit::JOB_TIMEOUT,
            None if self.done.is_empty() => self.spec.orphan_for.min(UNBEGUN_FOR),
            None => self.spec.orphan_for,
        };
        self.orphan_until = Some(now() + patience);
        Flow::GoOn
    }

    /// A new owner takes the place of the old one, which cannot be alive: it held the data folder.
    pub(super) fn let_in(&mut self) {
        if let Some(Ok((stream, _))) = self.door.as_ref().map(UnixListener::accept) {
            self.control = Some(stream);
            self.inbox = Inbox::default();
            self.announced.unheard = false;
            self.orphan_until = None;
            self.deserted = None;
        }
    }

    /// Whether no owner can come any more. Takes what was said of removals.
    pub(super) fn is_deserted(&self) -> bool {
        if let Some(deserted) = &self.deserted {
            let mut space = [MaybeUninit::uninit(); 4 << 10];
            let mut said = inotify::Reader::new(deserted, &mut space);
            while said.next().is_ok() {}
        }
        let door = self.spec.attempt_dir.join(attach::SOCKET);
        // Whatever else goes wrong with a look at it is no proof.
        matches!(door.symlink_metadata(), Err(cause) if cause.kind() == io::ErrorKind::NotFound)
    }
}

/// Hears of removals in a folder.
fn watch(folder: &Path) -> io::Result<OwnedFd> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let folder: &OsStr = folder.as_os_str();
    inotify::add_watch(&watch, folder, WatchFlags::DELETE | WatchFlags::MOVED_FROM)?;
    Ok(watch)
}
