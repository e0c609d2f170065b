//! Making a session: namespaces, workspace, pipe, door.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use kiln_stdx::overlay::{self, Mount};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountPropagationFlags;
use rustix::pipe::PipeFlags;

use super::log::Log;
use super::remount::mount_id;
use super::{Announced, Flow, Inbox, Init, Opening, Tell, attach, sys};
use crate::contract::words;
use crate::host::container::Container;
use crate::host::wire::Refusal;

/// Why a session could not be made. Whatever was made goes with the process.
pub(in crate::host) struct Failed(pub Refusal);

impl Failed {
    fn because(what: &str, cause: &io::Error) -> Self {
        Self(Refusal::Other(format!("{what}: {}", words(cause))))
    }

    pub(in crate::host) fn isolation(what: &str, cause: &io::Error) -> Self {
        Self::words(&format!("{what}: {}", words(cause)))
    }

    pub(in crate::host) fn words(why: &str) -> Self {
        Self(Refusal::Isolation(why.to_owned()))
    }
}

impl Init {
    /// Everything up to the first step.
    pub(super) fn open(mut spec: Opening, inbox: Inbox) -> Result<Self, Failed> {
        let name = format!("kiln-init {}", spec.attempt);
        sys::set_process_name(c"kiln-init", &name);
        let _ = rustix::process::setsid();
        let me = Some(rustix::process::getpid());
        rustix::process::set_child_subreaper(me)
            .map_err(|cause| Failed::because("cannot adopt processes", &cause.into()))?;
        let signals = sys::signals_as_descriptor()
            .map_err(|cause| Failed::because("cannot receive signals", &cause))?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|cause| Failed::because("cannot open `/dev/null`", &cause.into()))?;
        let output = make_pipe().map_err(|cause| Failed::because("cannot make a pipe", &cause))?;
        if !spec.attempt_dir.is_dir() {
            kiln_stdx::fs::create_private_dir(&spec.attempt_dir)
                .map_err(|error| Failed(Refusal::Other(with_cause(&error))))?;
        }
        let door = make_door(&spec)?;
        if let Some(mount) = &spec.mount {
            let inside = match (mount.user, &spec.container) {
                (false, _) => Users::All,
                (true, None) => Users::Same,
                (true, Some(_)) => Users::Root,
            };
            enter_namespace(inside)?;
        }
        // After that: the number of the namespace is part of what identifies the session.
        attach::write_init(&spec.attempt_dir).map_err(|cause| {
            let what = format!("cannot write into `{}`", spec.attempt_dir.display());
            Failed::because(&what, &cause)
        })?;
        if let Some(mount) = &spec.mount {
            overlay::mount(mount).map_err(|error| Failed(Refusal::Mount(with_cause(&error))))?;
        }
        let refused = mount_further(&mut spec);
        super::open_folder(&spec.directory).map_err(|cause| {
            Failed::because(&format!("cannot open `{}`", spec.directory.display()), &cause)
        })?;
        let container = match (&spec.container, &spec.mount) {
            (Some(wanted), Some(mount)) => {
                Some(Container::make(wanted, &spec.directory, mount.user)?)
            }
            (Some(_), None) => return Err(Failed::words("a container needs a mounted workspace")),
            (None, _) => None,
        };
        spec.preface.extend(container.as_ref().and_then(Container::remark));
        // Without a mount of its own there is nothing that would be worth keeping.
        let mounts = spec.mount.as_ref().and_then(|_| open_mounts().ok());
        let mounted = spec.mount.as_ref().and_then(|mount| mount_id(&mount.at));
        // Not said before the first step: a session that nobody may use has no log.
        spec.preface.extend(refused);
        let log = Log::new(&spec);
        Ok(Self {
            spec,
            control: None,
            inbox,
            door,
            signals,
            null,
            output,
            log,
            announced: Announced::default(),
            running: None,
            done: Vec::new(),
            visit: None,
            orphan_until: None,
            mounts,
            mounted,
            container,
            resting: false,
        })
    }

    /// Another job in the place of one that left it as it had found it.
    pub(super) fn renew(&mut self, spec: Opening) -> Flow {
        let place = |mount: &Mount| (mount.lowers.clone(), mount.at.clone(), mount.user);
        if !spec.further.is_empty() || !self.spec.further.is_empty() {
            return self.lose_owner();
        }
        if spec.mount.as_ref().map(place) != self.spec.mount.as_ref().map(place) {
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
        self.log.renew(&spec);
        self.announced = Announced::default();
        self.spec = spec;
        self.resting = false;
        self.tell(&Tell::Opened);
        Flow::GoOn
    }
}

/// Mounts what the job can do without. Leaves only those in `spec` that stand, and gives what is to be
/// said of the others.
fn mount_further(spec: &mut Opening) -> Vec<String> {
    let mut refused = Vec::new();
    spec.further.retain(|mount| match overlay::mount(mount) {
        Ok(()) => true,
        Err(error) => {
            refused.push(with_cause(&error));
            false
        }
    });
    refused
}

/// Reading end, writing end.
fn make_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let output = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // Only the end that is init's own: the flag belongs to the open file, and a step that finds its
    // standard output non-blocking fails in odd ways.
    rustix::io::ioctl_fionbio(&output.0, true)?;
    Ok(output)
}

fn open_mounts() -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/proc/self/mounts", flags, Mode::empty())?)
}

/// Where a new owner will come in. There from the beginning, so that one that comes at once after
/// the old one's death finds it.
fn make_door(spec: &Opening) -> Result<Option<UnixListener>, Failed> {
    if spec.orphan_for.is_zero() {
        return Ok(None);
    }
    let path = spec.attempt_dir.join(attach::SOCKET);
    let made = attach::with_short_path(&path, |short| {
        match std::fs::remove_file(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
            _ => {}
        }
        UnixListener::bind(short)
    });
    made.map(Some)
        .map_err(|cause| Failed::because(&format!("cannot listen on `{}`", path.display()), &cause))
}

/// Which users a namespace knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::host) enum Users {
    /// Those of the machine: only its root may do this.
    All,
    /// Our own user, under its own number: the steps see themselves, and may do what they may outside.
    Same,
    /// Our own user, as root.
    Root,
}

/// A private view of the mounts: what is mounted in it ends with the session. What the machine
/// mounts or unmounts meanwhile is still followed, so that no job keeps a disk busy.
pub(in crate::host) fn enter_namespace(users: Users) -> Result<(), Failed> {
    let user = users != Users::All;
    let failed = |what: &str, cause: &io::Error| {
        Failed(Refusal::Isolation(format!("{what}: {}", words(cause))))
    };
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    sys::unshare_mounts(user).map_err(|cause| match user {
        true => failed("cannot make a user namespace", &cause),
        false => failed("cannot make a mount namespace", &cause),
    })?;
    if user {
        let inside = |own: u32| if users == Users::Root { 0 } else { own };
        for (file, text) in [
            ("/proc/self/setgroups", "deny".to_owned()),
            ("/proc/self/uid_map", format!("{} {} 1", inside(uid.as_raw()), uid.as_raw())),
            ("/proc/self/gid_map", format!("{} {} 1", inside(gid.as_raw()), gid.as_raw())),
        ] {
            std::fs::write(Path::new(file), text)
                .map_err(|cause| failed(&format!("cannot write `{file}`"), &cause))?;
        }
    }
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", slave)
        .map_err(|cause| failed("cannot detach from the machine's mounts", &cause.into()))
}

/// An error and its causes in one line.
pub(super) fn with_cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = match next.downcast_ref::<io::Error>() {
            Some(io) => format!("{text}: {}", words(io)),
            None => format!("{text}: {next}"),
        };
        cause = next.source();
    }
    text
}
