//! The workspace anew, between two steps: what was its top becomes a layer below an empty one.
//!
//! Nothing is copied: it is unmounted and mounted again. That is possible only while nobody uses it,
//! so a process that a step has left running, or a mount that it made, stands against it.
//!
//! Always: after an answer, whatever it is, the workspace is mounted; else the session cannot go on,
//! and says so.

use std::io;
use std::path::Path;
use std::time::Duration;

use kiln_stdx::overlay::{self, Mount};
use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::descendants::Patience;
use super::setup::{open_mounts, with_cause};
use super::{Init, now, rest, users};
use crate::StepError;
use crate::contract::words;

/// How long what a step has left may take to end by itself: a shell does not wait for all that it
/// starts, and most of that is gone when anybody looks.
const GOING_FOR: Duration = Duration::from_millis(5);

impl Init {
    /// Whether nothing uses the workspace; then, given a mount, that one is its new form.
    pub(super) fn remount(&mut self, mount: Option<Mount>) -> Result<bool, StepError> {
        let busy = self.running.is_some()
            || self.visit.is_some()
            || !self.guests.is_empty()
            || self.far.is_some();
        if busy || (self.reap() && !self.wait_for_all(now() + GOING_FOR, Patience::ToTheEnd)) {
            return Ok(false);
        }
        let Some(new) = mount else { return Ok(true) };
        let Some(old) = self.spec.mount.clone().filter(|old| old.at == new.at) else {
            return Ok(false);
        };
        if mount_id(&old.at) != self.mounted {
            // A step has mounted over it, or taken it away.
            return Ok(false);
        }
        // What is mounted in it must go first, and come back after.
        let inside: Vec<_> = self
            .spec
            .further
            .iter()
            .filter(|mount| mount.at.starts_with(&old.at))
            .cloned()
            .collect();
        // In a container the workspace is in a second place, and further ones are in places of their own.
        if let Some(container) = &self.container
            && (!inside.is_empty() || !container.take_workspace(&old.at))
        {
            return Ok(false);
        }
        // The same top once more: what lies below is looked at again, and nothing else changes.
        let is_same = new.upper == old.upper;
        let was_as_made = self.mounts.as_ref().is_some_and(rest::is_unchanged);
        let mut aside = Vec::new();
        let mut free = true;
        for mount in inside.iter().rev().chain([&old]) {
            free = take_away(mount)?;
            if !free {
                break;
            }
            aside.push(mount);
        }
        if self.spec.users.is_some() {
            users::hand_on(&old, &new);
        }
        let mounted = |new: &Mount| match is_same {
            true => mount_again(new).is_ok(),
            false => overlay::mount(new).is_ok(),
        };
        let changed = free && mounted(&new);
        if changed {
            self.mounted = mount_id(&new.at);
            self.spec.mount = Some(new);
            aside.pop();
        } else if free {
            // A work folder that was in use is refused a second time.
            let back = Mount { work: new.work, ..old.clone() };
            mount_again(&back)?;
            self.mounted = mount_id(&back.at);
            self.spec.mount = Some(back);
            aside.pop();
        }
        aside.into_iter().rev().try_for_each(mount_again)?;
        if let Some(container) = &self.container
            && !container.give_workspace(&old.at)
        {
            return Err(trouble(&old.at, "it cannot be put into the container again"));
        }
        let is_as_made = was_as_made && is_same && changed;
        self.mounts = is_as_made.then(|| open_mounts().ok()).flatten();
        Ok(changed)
    }
}

/// `false`: it is in use.
fn take_away(mount: &Mount) -> Result<bool, StepError> {
    match rustix::mount::unmount(&mount.at, UnmountFlags::NOFOLLOW) {
        Err(Errno::BUSY) => Ok(false),
        other => other.map(|()| true).map_err(|cause| trouble(&mount.at, &words(&cause.into()))),
    }
}

/// Mounts what was taken away, with an empty folder for the kernel: one that was in use without
/// `sync` is refused.
fn mount_again(mount: &Mount) -> Result<(), StepError> {
    let work = || {
        std::fs::remove_dir_all(&mount.work)?;
        std::fs::create_dir(&mount.work)
    };
    work().map_err(|cause: io::Error| trouble(&mount.work, &words(&cause)))?;
    overlay::mount(mount).map_err(|error| trouble(&mount.at, &with_cause(&error)))
}

fn trouble(at: &Path, why: &str) -> StepError {
    StepError::Other(format!("cannot mount `{}` anew: {why}", at.display()))
}

/// Which mount one finds at a path; `None` where the kernel does not tell (before Linux 5.8).
pub(super) fn mount_id(at: &Path) -> Option<u64> {
    let found = rustix::fs::statx(CWD, at, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
    (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
}
