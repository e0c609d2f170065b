//! A container of a daemon that is ended by others: by a person, with the daemon, with the machine.
//!
//! With its process 1 the kernel kills every step, so the end of a step by KILL may be the end of the
//! container, and comes first: the kernel waits until we have taken note of it.

use std::os::fd::OwnedFd;

use kiln_model::Exit;

use super::Init;
use crate::host::container::Container;

/// What the user reads.
const WHY: &str =
    "its container was ended from outside: removed, stopped, or ended with its daemon";

impl Init {
    /// Readable when the container is gone. Nothing, when that is known.
    pub(super) fn containers_end(&self) -> Option<&OwnedFd> {
        let started = self.container.as_ref().and_then(Container::of_daemon);
        started.filter(|_| !self.is_lost).map(|started| &started.pidfd)
    }

    /// Whether a step that was killed was killed with its container.
    pub(super) fn went_with_container(&self) -> bool {
        self.is_lost
            || self
                .container
                .as_ref()
                .and_then(Container::of_daemon)
                .is_some_and(|it| it.is_ending())
    }

    /// The step that runs ends, and none will begin.
    pub(super) fn lose_container(&mut self) {
        self.is_lost = true;
        if self.running.is_some() {
            self.drain();
            self.host_gone();
        }
    }

    /// A step's end that is none of its own.
    pub(super) fn host_gone(&mut self) {
        self.step_over(Exit::HostGone { detail: WHY.to_owned() }, None);
    }
}
