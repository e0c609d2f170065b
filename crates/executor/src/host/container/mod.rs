//! A root of its own for the steps of a session, without a daemon.
//!
//! ```text
//! init ──clone──▶ stage: process 1 of the container; makes the root, then sleeps and reaps
//!   └──vfork──▶ step: enters the stage's namespaces, gives up its powers, becomes the program
//! ```
//!
//! Init stays outside, with the log, the clock and the control socket; nothing of kiln but the sleeping
//! stage is in the container. When the stage dies, the kernel kills everything that is in there with it, so
//! that no process can be left.
//!
//! It isolates:
//! - files: the image, the workspace, and what was bound; no other file of the machine is there;
//! - processes, System V IPC, host name, and the network unless it is the machine's own;
//! - powers: a short list of capabilities for root, none for others; nothing gains new ones by exec; the
//!   system calls that reach deep into the kernel are refused (`privilege`).
//!
//! It does not isolate: the kernel itself, and, when root makes the container, user numbers: user 0 in
//! there is user 0 of the files. Who runs hostile code gives it a machine.

mod stage;
mod root;
mod furnish;
mod machine;
mod volume;
mod device;
mod workspace;
mod user;
mod privilege;
mod filter;
mod looks;

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, WaitOptions};

pub(super) use looks::Looks;
pub(super) use machine::Private;
pub(super) use privilege::Powers;
pub(super) use user::Identity;

use super::daemon::{self, Started};
use super::init::Failed;
use super::network::Names;
use super::sys::Entry;
use super::wire::{Opening, Refusal};
use crate::{Container as Wanted, Daemon, Sandbox};

/// What a container is made in.
pub(super) struct Around<'a> {
    /// Where the workspace is, if there is one.
    pub workspace: Option<&'a Path>,
    /// It is not in the machine's network.
    pub network_is_apart: bool,
    pub names: Option<&'a Names>,
}

/// A container that stands.
#[derive(Debug)]
pub(super) struct Container {
    stage: Stage,
    /// Its root, from outside.
    root: OwnedFd,
    /// Where the workspace is in that.
    workspace: PathBuf,
    /// Who the steps are.
    pub identity: Identity,
    pub powers: Powers,
}

impl Container {
    /// Makes it. The calling process is in a mount namespace and in the network of its own; its later
    /// children are born in the container.
    ///
    /// `single_user`: it is also in a user namespace that knows one user.
    pub fn make(wanted: &Wanted, around: &Around<'_>, single_user: bool) -> Result<Self, Failed> {
        let who = |root: &OwnedFd| user::find(root, &wanted.user, single_user);
        let powers = match single_user {
            true => Powers::of_one_user(wanted.privileged)?,
            false => Powers::new(wanted.privileged)?,
        };
        let Some(mount) = wanted.root.layers() else {
            return Err(Failed::words("the container is a daemon's"));
        };
        Self::around(|| root::make(mount, wanted, around), wanted.workspace.clone(), powers, who)
    }

    /// As [`Container::make`], except that a daemon makes it, with its network.
    pub fn make_by_daemon(
        (wanted, daemon): (&Wanted, &Daemon),
        around: &Around<'_>,
        spec: &Opening,
    ) -> Result<Self, Failed> {
        let powers = Powers::new(wanted.privileged)?;
        let started = daemon::start(daemon, wanted, spec).map_err(|why| Failed::words(&why))?;
        let root = root::of(started.pid)?;
        let identity = user::find(&root, &wanted.user, false)?;
        let workspace = wanted.workspace.clone();
        let made = Self { stage: Stage::Daemons(started), root, workspace, identity, powers };
        made.furnish(wanted, around).map_err(|why| unmade(&why))?;
        enter_processes(made.stage.pidfd())?;
        Ok(made)
    }

    /// A sandbox: as a container, over the machine's own files.
    pub fn make_sandbox(
        wanted: &Sandbox,
        around: &Around<'_>,
        private: &Private,
    ) -> Result<Self, Failed> {
        let who = |_: &OwnedFd| Ok(user::own(wanted));
        let workspace = around.workspace.unwrap_or(Path::new("/")).to_owned();
        let make = || machine::make(wanted, around, private);
        Self::around(make, workspace, Powers::new(false)?, who)
    }

    fn around(
        make: impl Fn() -> root::Result<()>,
        workspace: PathBuf,
        powers: Powers,
        who: impl FnOnce(&OwnedFd) -> Result<Identity, Failed>,
    ) -> Result<Self, Failed> {
        let (stage, pidfd) = stage::start(make)?;
        let made = (|| {
            let root = root::of(stage)?;
            let identity = who(&root)?;
            enter_processes(&pidfd)?;
            Ok((root, identity))
        })();
        match made {
            Ok((root, identity)) => {
                let stage = Stage::Ours { pid: stage, pidfd };
                Ok(Self { stage, root, workspace, identity, powers })
            }
            Err(failed) => {
                kill(stage);
                Err(failed)
            }
        }
    }

    /// What who reads the log should know.
    pub fn remark(&self) -> Option<String> {
        let user = self.identity.instead_of.as_ref()?;
        Some(format!(
            "the image wants the user `{user}`; who runs kiln has one user for containers, so root it is \
             (`kiln doctor` says how to have more)"
        ))
    }

    /// Not one of the job's own.
    pub fn is_stage(&self, pid: i32) -> bool {
        self.stage.pid().as_raw_nonzero().get() == pid
    }

    /// What a step does to get in.
    pub fn entry(&self) -> Entry<'_> {
        let (stage, identity) = (self.stage.pidfd().as_raw_fd(), &self.identity);
        Entry { stage, identity, powers: &self.powers }
    }

    /// The workspace as the steps find it.
    pub fn workspace(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        Ok(root::find(self.root.as_fd(), &self.workspace, flags)?)
    }

    /// Whether there is a file of that name in there; `directory` is where a relative name begins.
    pub fn has(&self, file: &CStr, directory: &OwnedFd) -> bool {
        let name = Path::new(OsStr::from_bytes(file.to_bytes()));
        let from = if name.is_absolute() { self.root.as_fd() } else { directory.as_fd() };
        root::find(from, name, OFlags::PATH).is_ok()
    }

    /// Ends it with all that is in it.
    pub fn end(&mut self) {
        match &mut self.stage {
            Stage::Ours { pid, .. } => kill(*pid),
            Stage::Daemons(started) => started.end(),
        }
    }

    /// Who is asked for names in there.
    pub fn resolvers(&self) -> Vec<std::net::IpAddr> {
        let text = user::read(self.root.as_fd(), "etc/resolv.conf");
        let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver "));
        servers.filter_map(|server| server.trim().parse().ok()).collect()
    }

    /// Process 1 of a container that others can end, too.
    pub fn of_daemon(&self) -> Option<&Started> {
        match &self.stage {
            Stage::Ours { .. } => None,
            Stage::Daemons(started) => Some(started),
        }
    }
}

/// Process 1 of a container.
#[derive(Debug)]
enum Stage {
    /// A child of ours.
    Ours { pid: Pid, pidfd: OwnedFd },
    /// A child of who knows whom.
    Daemons(Started),
}

impl Stage {
    fn pid(&self) -> Pid {
        match self {
            Self::Ours { pid, .. } => *pid,
            Self::Daemons(started) => started.pid,
        }
    }

    /// For its namespaces.
    fn pidfd(&self) -> &OwnedFd {
        match self {
            Self::Ours { pidfd, .. } => pidfd,
            Self::Daemons(started) => &started.pidfd,
        }
    }
}

/// From now on init's children are processes of the container.
fn enter_processes(pidfd: &OwnedFd) -> Result<(), Failed> {
    let processes = rustix::thread::ThreadNameSpaceType::PROCESS_ID;
    rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), processes)
        .map_err(|cause| Failed::isolation("cannot enter the container", &cause.into()))
}

fn kill(stage: Pid) {
    let _ = rustix::process::kill_process(stage, Signal::KILL);
    // The kernel lets it be waited for only when everything in it is gone.
    while let Err(rustix::io::Errno::INTR) =
        rustix::process::waitpid(Some(stage), WaitOptions::empty())
    {}
}

/// Why the place of the steps could not be made: the machine's fault, or the image's.
fn unmade(why: &str) -> Failed {
    let text = format!("cannot make the container: {why}");
    match why.starts_with(root::OF_IMAGE) {
        true => Failed(Refusal::Other(text)),
        false => Failed::words(&text),
    }
}

/// An I/O error of a step in the making of a container.
fn failed(what: &str) -> impl FnOnce(io::Error) -> Failed + '_ {
    move |cause| Failed::isolation(what, &cause)
}
