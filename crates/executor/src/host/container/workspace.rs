//! The workspace of a container that stands: taken out of it, and put in again.
//!
//! A mount can only be moved by who is in the namespace of its place, and a namespace cannot be left
//! again; so each is done by a child. Nobody else runs in the container meanwhile.

#![allow(unsafe_code, reason = "fork has no safe interface")]

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, OFlags};
use rustix::mount::{self as sys, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use rustix::process::WaitOptions;
use rustix::thread::ThreadNameSpaceType;

use super::{Container, root};
use crate::host::sys::{Forked, fork, run_and_exit};

impl Container {
    /// Unmounts the workspace, which is at `from` outside. `false`: it is in use, or a step has put
    /// something else there; it is as it was.
    pub fn take_workspace(&self, from: &Path) -> bool {
        let Ok(outside) = rustix::fs::stat(from) else { return false };
        self.inside(|place| {
            let Some(found) = place.as_ref().and_then(|place| rustix::fs::fstat(place).ok()) else {
                return false;
            };
            // What is open is in use.
            drop(place);
            let is_same = (found.st_dev, found.st_ino) == (outside.st_dev, outside.st_ino);
            is_same && sys::unmount(&self.workspace, UnmountFlags::NOFOLLOW).is_ok()
        })
    }

    /// Mounts the workspace again, as it is at `from` now.
    pub fn give_workspace(&self, from: &Path) -> bool {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let Ok(tree) = sys::open_tree(CWD, from, flags) else { return false };
        self.inside(|place| {
            let both =
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
            place.is_some_and(|place| sys::move_mount(&tree, "", &place, "", both).is_ok())
        })
    }

    /// Does `work` among the mounts of the container, given the place of the workspace there.
    fn inside(&self, work: impl FnOnce(Option<OwnedFd>) -> bool) -> bool {
        // SAFETY: an init has one thread.
        match unsafe { fork() } {
            Ok(Forked::Child) => run_and_exit(|| {
                let mounts = ThreadNameSpaceType::MOUNT;
                let entered = rustix::thread::move_into_thread_name_spaces(
                    self.stage.pidfd().as_fd(),
                    mounts,
                );
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                let place = root::find(self.root.as_fd(), &self.workspace, flags).ok();
                let done = entered.is_ok() && work(place);
                i32::from(!done)
            }),
            Ok(Forked::Parent(child)) => {
                let ended = rustix::process::waitpid(Some(child), WaitOptions::empty());
                matches!(ended, Ok(Some((_, status))) if status.exit_status() == Some(0))
            }
            Err(_) => false,
        }
    }
}
