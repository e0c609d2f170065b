//! Making a session: namespaces, workspace, pipe, door.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use kiln_stdx::Subordinate;
use kiln_stdx::overlay;
use kiln_stdx::subordinate::Place;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, mount_bind, mount_remount};
use rustix::pipe::PipeFlags;

use super::guest::Guests;
use super::log::Log;
use super::meter::Gauge;
use super::remount::mount_id;
use super::users::Mapper;
use super::{Announced, Inbox, Init, Opening, attach, rest, sys};
use crate::SessionNetwork;
use crate::contract::words;
use crate::host::bound::Bounds;
use crate::host::container::{Around, Container, Private};
use crate::host::daemon;
use crate::host::network::{Joined, Names, Network};
use crate::host::ssh::Far;
use crate::host::wire::Refusal;

/// Why a session could not be made. Whatever was made goes with the process.
pub(in crate::host) struct Failed(pub Refusal);

impl Failed {
    pub(super) fn because(what: &str, cause: &io::Error) -> Self {
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
    pub(super) fn open(
        mut spec: Opening,
        inbox: Inbox,
        owner: &UnixStream,
    ) -> Result<Self, Failed> {
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
        // Nobody's job fails for want of guests.
        let guests = Guests::at(listen_on(&spec, attach::GUESTS).ok());
        let mut bounds = Bounds::make(&spec).map_err(|why| Failed::words(&why))?;
        // Before any namespace: ssh mistrusts files whose owner is not known there.
        let far = spec.remote.clone().map(|remote| Far::start(remote, &output.1)).transpose();
        let mut far = far.map_err(|cause| Failed::because("cannot start a process", &cause))?;
        daemon::may_ask(&spec).map_err(|why| Failed::words(&why))?;
        let joined = Joined::find(&spec.network.reach)?;
        let view = enter_namespaces(&spec, joined.as_ref())?;
        // After that: the number of the namespace is part of what identifies the session.
        attach::write_init(&spec.attempt_dir).map_err(|cause| {
            let what = format!("cannot write into `{}`", spec.attempt_dir.display());
            Failed::because(&what, &cause)
        })?;
        // Before anything is mounted: the keeper of the network must not hold that.
        let mut network = Network::enter(&spec, joined)?;
        let names = Names::write(&spec)
            .map_err(|cause| Failed::because("cannot write the names of the network", &cause))?;
        if let Some(mount) = &spec.mount {
            overlay::mount(mount).map_err(|error| Failed(Refusal::Mount(with_cause(&error))))?;
        }
        let mut refused = mount_further(&mut spec);
        refused.extend(protect(&spec));
        let workspace = spec.mount.as_ref().map(|_| spec.directory.as_path());
        if workspace.is_some() || spec.container.is_none() {
            super::open_folder(&spec.directory).map_err(|cause| {
                Failed::because(&format!("cannot open `{}`", spec.directory.display()), &cause)
            })?;
        }
        let private = spec.sandbox.as_ref().map(|_| Private::make(&spec.attempt_dir)).transpose();
        let private = private
            .map_err(|cause| Failed::because("cannot make the folders of the sandbox", &cause))?;
        // Without mounts of its own it would change the machine.
        let names = names.as_ref().filter(|_| view == Mounts::Own);
        let container = contain(&spec, workspace, &network, names, private.as_ref())?;
        if let Some(started) = container.as_ref().and_then(Container::of_daemon) {
            let resolvers = container.as_ref().map(Container::resolvers).unwrap_or_default();
            network.enter_daemons(&spec.network.reach, &started.pidfd, &resolvers)?;
            bounds.join(started.pid).map_err(|why| Failed::words(&why))?;
        }
        network.settle();
        if let Some(far) = &mut far {
            far.open(&spec, owner).map_err(|why| Failed(Refusal::Other(why)))?;
        }
        spec.preface.extend(network.remark.take());
        spec.preface.extend(container.as_ref().and_then(Container::remark));
        // Without a mount of its own there is nothing that would be worth keeping.
        let mounts = spec.mount.as_ref().and_then(|_| open_mounts().ok());
        let mounted = spec.mount.as_ref().and_then(|mount| mount_id(&mount.at));
        // Not said before the first step: a session that nobody may use has no log.
        spec.preface.extend(refused);
        spec.preface.extend(bounds.remarks.iter().cloned());
        let log = Log::new(&spec);
        let looks = rest::looks(&spec, container.as_ref(), &network);
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
            guests,
            latest: None,
            orphan_until: None,
            deserted: None,
            mounts,
            mounted,
            container,
            looks,
            is_lost: false,
            private,
            network,
            far,
            bounds,
            gauge: Gauge::open(),
            resting: false,
        })
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

/// Makes what the steps must not change read-only for them. Gives what is to be said of what could not
/// be. Whoever has the power to mount can undo it, but hardly by mistake.
fn protect(spec: &Opening) -> Vec<String> {
    // Without a workspace that was mounted, the mounts are the machine's.
    let folders = spec.read_only.iter().filter(|_| spec.mount.is_some());
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    let refused = folders.filter_map(|folder| {
        let done = mount_bind(folder, folder).and_then(|()| mount_remount(folder, flags, c""));
        let cause = done.err()?.into();
        Some(format!("cannot protect `{}`: {}", folder.display(), words(&cause)))
    });
    refused.collect()
}

/// Reading end, writing end.
pub(super) fn make_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let output = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // Only the end that is init's own: the flag belongs to the open file, and a step that finds its
    // standard output non-blocking fails in odd ways.
    rustix::io::ioctl_fionbio(&output.0, true)?;
    Ok(output)
}

pub(super) fn open_mounts() -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/proc/self/mounts", flags, Mode::empty())?)
}

/// Where a new owner will come in. There from the beginning, so that one that comes at once after
/// the old one's death finds it.
fn make_door(spec: &Opening) -> Result<Option<UnixListener>, Failed> {
    if spec.orphan_for.is_zero() {
        return Ok(None);
    }
    listen_on(spec, attach::SOCKET).map(Some)
}

/// A socket in the session's folder: only for who may enter that.
fn listen_on(spec: &Opening, name: &str) -> Result<UnixListener, Failed> {
    let path = spec.attempt_dir.join(name);
    let made = attach::with_short_path(&path, |short| {
        match std::fs::remove_file(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
            _ => {}
        }
        UnixListener::bind(short)
    });
    made.map_err(|cause| Failed::because(&format!("cannot listen on `{}`", path.display()), &cause))
}

/// A view of the mounts of its own, where there is something to mount; and the users that this takes, or
/// those who own the network that is shared.
fn enter_namespaces(spec: &Opening, joined: Option<&Joined>) -> Result<Mounts, Failed> {
    let of_image = spec.container.as_ref().and_then(|container| container.root.layers());
    let mount = of_image.or(spec.mount.as_ref());
    let user = match (&spec.sandbox, mount) {
        (Some(sandbox), _) => sandbox.user,
        (None, Some(mount)) => mount.user,
        // Nothing to mount but the names of a network.
        (None, None) if spec.network != SessionNetwork::default() => {
            !rustix::process::geteuid().is_root()
        }
        (None, None) => return Ok(Mounts::OfMachine),
    };
    let has_root = joined.map_or(Ok(false), |joined| joined.enter(user))?;
    // A session that shares our network may be a container, with users that are ours then.
    let is_below = user && !has_root && joined.is_some_and(Joined::is_apart);
    let is_by_number = is_below || spec.container.is_none();
    let many = spec.users.as_ref().filter(|users| !is_by_number || users.can_stay_same());
    let users = match (user, &spec.container) {
        // Or those of the network that it shares, when root is one of them.
        (false, _) => Users::All,
        (true, _) if has_root => Users::All,
        (true, None) => Users::Same,
        (true, Some(_)) => Users::Root,
    };
    match many.filter(|_| users != Users::All) {
        Some(many) => {
            let place = if users == Users::Root { Place::Root } else { Place::Same };
            enter_with_many(many, place, is_below)?;
        }
        None => enter_namespace(users)?,
    }
    Ok(Mounts::Own)
}

/// Whose view of the mounts a session has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mounts {
    OfMachine,
    Own,
}

/// The container that the steps run in; without one, the names of the network take the place of the
/// machine's.
fn contain(
    spec: &Opening,
    workspace: Option<&Path>,
    network: &Network,
    names: Option<&Names>,
    private: Option<&Private>,
) -> Result<Option<Container>, Failed> {
    if let Some(wanted) = &spec.container {
        let around = Around { workspace, network_is_apart: network.is_apart, names };
        if let Some(daemon) = wanted.root.daemon() {
            return Container::make_by_daemon((wanted, daemon), &around, spec).map(Some);
        }
        let one_user = wanted.root.layers().is_some_and(|root| root.user);
        let single_user = one_user && spec.users.is_none();
        return Container::make(wanted, &around, single_user).map(Some);
    }
    if let (Some(wanted), Some(private)) = (&spec.sandbox, private) {
        let workspace = Some(spec.directory.as_path());
        let around = Around { workspace, network_is_apart: network.is_apart, names };
        return Container::make_sandbox(wanted, &around, private).map(Some);
    }
    let shown = names.map_or(Ok(()), Names::show_on_host);
    shown.map_err(|cause| Failed::isolation("cannot show the names of the network", &cause))?;
    Ok(None)
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
    detach()
}

/// What the machine mounts or unmounts is followed, and not the other way round.
fn detach() -> Result<(), Failed> {
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", slave).map_err(|cause| {
        Failed::isolation("cannot detach from the machine's mounts", &cause.into())
    })
}

/// As [`enter_namespace`], with subordinate users besides our own. `is_below`: in a namespace of another
/// session, which has them too.
fn enter_with_many(users: &Subordinate, place: Place, is_below: bool) -> Result<(), Failed> {
    let what = "cannot make a user namespace";
    // It writes the maps from outside, and must be outside before there is an inside.
    let mapper =
        Mapper::start(users, place, is_below).map_err(|cause| Failed::isolation(what, &cause))?;
    sys::unshare_mounts(true).map_err(|cause| Failed::isolation(what, &cause))?;
    mapper
        .map()
        .map_err(|why| Failed::words(&format!("{what} with its subordinate users: {why}")))?;
    detach()
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
