//! One place for several jobs: what a job left as it had found it is as good as new.
//!
//! Making a place, a container above all, costs more than many a job. Here it is told whether one is
//! untouched, as far as init can tell: its mounts, and what a container holds beside the workspace. Of the
//! workspace its owner knows.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use kiln_stdx::overlay::Mount;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::setup::{Failed, make_pipe};
use super::{Announced, Flow, Init, Opening, Tell, sys};
use crate::host::container::{Container, Looks};
use crate::host::network::Network;
use crate::{Bind, Reach, SessionNetwork};

/// What a container looks like before its first step, when others may follow its job.
pub(super) fn looks(
    spec: &Opening,
    container: Option<&Container>,
    network: &Network,
) -> Option<Looks> {
    let may_rest = spec.mount.is_some() && spec.limits.is_none() && spec.network.names.is_empty();
    let wanted = spec.container.as_ref().filter(|_| may_rest && serves_many(spec, network))?;
    container?.looks(wanted)
}

/// Whether jobs can follow one another in its network.
fn serves_many(spec: &Opening, network: &Network) -> bool {
    match &spec.network.reach {
        Reach::Host | Reach::None => true,
        Reach::Internet { .. } => network.has_keeper(),
        Reach::Of(_) | Reach::Bridge => false,
    }
}

impl Init {
    /// As [`Init::close`], or, when its place is as it was at the start, waits for another job.
    pub(super) fn rest(&mut self) -> Flow {
        let ended = self.end_job();
        if ended.is_ok() && self.far.is_none() && self.is_as_made() {
            self.done.clear();
            self.resting = true;
            self.tell(&Tell::Resting);
            return Flow::GoOn;
        }
        let left = self.leave();
        self.tell(&Tell::Closed(ended.and(left)));
        Flow::End
    }

    /// Whether the job has left nothing in its place, outside of the workspace.
    fn is_as_made(&self) -> bool {
        let limited = !self.spec.limits.is_none();
        if limited || !self.mounts.as_ref().is_some_and(is_unchanged) {
            return false;
        }
        let (Some(container), Some(wanted)) = (&self.container, &self.spec.container) else {
            return self.container.is_none() && self.spec.network == SessionNetwork::default();
        };
        self.looks.is_some()
            && serves_many(&self.spec, &self.network)
            && container.looks(wanted) == self.looks
            && container.is_without_objects()
            && (!self.network.is_apart || Network::is_without_connections())
    }

    /// Another job in the place of one that left it as it had found it.
    pub(super) fn renew(&mut self, mut spec: Opening) -> Flow {
        if !self.fits(&spec) {
            return self.lose_owner();
        }
        // A pipe of its own: the old one's flags and size were the old job's to change.
        let output = match make_pipe() {
            Ok(output) => output,
            Err(cause) => {
                let Failed(refusal) = Failed::because("cannot make a pipe", &cause);
                self.tell(&Tell::Refused(refusal));
                return self.lose_owner();
            }
        };
        sys::set_process_name(c"kiln-init", &format!("kiln-init {}", spec.attempt));
        self.output = output;
        spec.preface.extend(self.container.as_ref().and_then(Container::remark));
        self.log.renew(&spec);
        self.announced = Announced::default();
        self.spec = spec;
        self.resting = false;
        self.tell(&Tell::Opened);
        Flow::GoOn
    }

    /// Whether that is what this place was made for.
    fn fits(&self, spec: &Opening) -> bool {
        let ours = &self.spec;
        let mount = |mount: &Mount| (mount.lowers.clone(), mount.at.clone(), mount.user);
        spec.read_only == ours.read_only
            && spec.limits.is_none()
            && spec.sandbox.is_none()
            && spec.remote.is_none()
            && spec.further.is_empty()
            && ours.further.is_empty()
            && spec.network == ours.network
            && spec.users == ours.users
            && spec.mount.as_ref().map(mount) == ours.mount.as_ref().map(mount)
            && inside(spec) == inside(ours)
            // Its way out may have ended while it rested.
            && serves_many(ours, &self.network)
    }
}

/// What makes one container the same as another, with its attempt's folder out of the question.
#[derive(PartialEq, Eq)]
struct Inside {
    lowers: Vec<PathBuf>,
    workspace: PathBuf,
    binds: Vec<Bind>,
    user: String,
    hostname: String,
}

fn inside(spec: &Opening) -> Option<Inside> {
    let container = spec.container.as_ref()?;
    let relative = |path: &Path| match path.strip_prefix(&spec.attempt_dir) {
        Ok(below) => below.to_owned(),
        Err(_) => path.to_owned(),
    };
    let bind = |bind: &Bind| Bind { from: relative(&bind.from), ..bind.clone() };
    Some(Inside {
        lowers: container.root.layers().map(|root| root.lowers.clone()).unwrap_or_default(),
        workspace: container.workspace.clone(),
        binds: container.binds.iter().map(bind).collect(),
        user: container.user.clone(),
        hostname: container.hostname.clone(),
    })
}

/// Whether the mount table is what it was when it was opened. The kernel says so to whoever polls it.
pub(super) fn is_unchanged(mounts: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(mounts, PollFlags::PRI)];
    rustix::event::poll(&mut fds, Some(&Timespec::default())).is_ok_and(|n_changed| n_changed == 0)
}
