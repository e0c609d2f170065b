//! The root of a container: the image, and over it what every program expects.
//!
//! An image is hostile: any name in it may be a link to anywhere. So every place in it is found with
//! `openat2` and `RESOLVE_IN_ROOT`, and mounted on by descriptor, never by a path from outside.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use kiln_stdx::overlay::{self, Mount};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    self as sys, FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags,
    MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use rustix::process::Pid;

use super::{Around, Wanted, failed};
use super::{device, volume};
use crate::host::init::Failed;

/// Why there is no root, in words: they cross a process boundary.
pub(super) type Result<T> = std::result::Result<T, String>;

/// Kernel state that has no business in a container. Files are covered by an empty one, folders by an
/// empty folder; what is not there needs no cover. As runc and Docker have it.
const MASKED: &[&str] = &[
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "proc/timer_stats",
    "sys/devices/virtual/powercap",
    "sys/firmware",
];

const READ_ONLY: &[&str] = &["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];

/// The stage's root as init sees it.
pub(super) fn of(stage: Pid) -> std::result::Result<OwnedFd, Failed> {
    let path = format!("/proc/{}/root", stage.as_raw_nonzero());
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|cause| failed("cannot open the container's root")(cause.into()))
}

/// Makes the root and steps into it. In the stage, which has all its namespaces.
pub(super) fn make(mount: &Mount, wanted: &Wanted, around: &Around<'_>) -> Result<()> {
    let slave = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    said("cannot detach from the machine's mounts", sys::mount_change("/", slave))?;
    overlay::mount(mount).map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        format!("{error}: {cause}")
    })?;
    let at = &mount.at;
    if !wanted.privileged {
        // Nothing gains powers by exec anyway. Without this a program that has capabilities of its own, as
        // `ping` often does, is refused instead of run without them.
        let flags = MountFlags::BIND | MountFlags::NOSUID;
        let what = "cannot take set-user-id away from the image";
        said(what, sys::mount_remount(at, flags, ""))?;
    }
    let root = said(&format!("cannot open `{}`", at.display()), open_folder(at))?;
    let root = root.as_fd();
    proc(root)?;
    device::make(root)?;
    sysfs(root, around.network_is_apart, wanted.privileged)?;
    // An image that has something else of that name wants it so.
    let _ = folder(root, Path::new("tmp"), Some(0o1777));
    match around.workspace {
        Some(workspace) => bind(root, workspace, &wanted.workspace, true)?,
        None => drop(folder(root, &relative(&wanted.workspace), None)?),
    }
    for (from, to) in around.names.iter().flat_map(|names| names.files()) {
        bind(root, &from, to, true)?;
    }
    for one in &wanted.binds {
        bind(root, &one.from, &one.to, one.writable)?;
    }
    for one in &wanted.volumes {
        volume::show(root, one)?;
    }
    if wanted.privileged {
        device::all(root)?;
    } else {
        cover(root)?;
    }
    let name = rustix::system::sethostname(wanted.hostname.as_bytes());
    said("cannot set the host name", name)?;
    enter(root)
}

/// The new root takes the place of the old one, which is then nowhere.
pub(super) fn enter(root: BorrowedFd<'_>) -> Result<()> {
    said("cannot enter the container's root", rustix::process::fchdir(root))?;
    said("cannot change the root", rustix::process::pivot_root(".", "."))?;
    // Both are at `.` now, the old one on top.
    said("cannot leave the machine's files", sys::unmount(".", UnmountFlags::DETACH))?;
    said("cannot enter the container's root", rustix::process::chdir("/"))
}

pub(super) fn proc(root: BorrowedFd<'_>) -> Result<()> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    new(root, "proc", &[], attributes, Path::new("proc"))
}

/// Read-only. The network's part of it belongs to the network namespace: with the machine's own network it
/// is the machine's own `/sys` that is shown.
pub(super) fn sysfs(root: BorrowedFd<'_>, network_is_apart: bool, writable: bool) -> Result<()> {
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, !writable);
    // Who does not own the network may not mount it.
    if network_is_apart && new(root, "sysfs", &[], attributes, Path::new("sys")).is_ok() {
        return Ok(());
    }
    // Without it most programs live; a kernel that hides parts of its own refuses a bind.
    let _ = bind(root, Path::new("/sys"), Path::new("/sys"), writable);
    Ok(())
}

/// A new file system at a place in the root.
pub(super) fn new(
    root: BorrowedFd<'_>,
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
    at: &Path,
) -> Result<()> {
    let what = format!("cannot mount `{kind}` on `/{}`", at.display());
    let to = folder(root, at, None)?;
    let made = (|| {
        let context = sys::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in options {
            sys::fsconfig_set_string(&context, *key, *value)?;
        }
        sys::fsconfig_create(&context)?;
        let mount = sys::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        put(&mount, &to)
    })();
    said(&what, made)
}

/// A file or a folder of the machine at a place in the root, without the mounts below it.
pub(super) fn bind(root: BorrowedFd<'_>, from: &Path, to: &Path, writable: bool) -> Result<()> {
    let what = format!("cannot show `{}` as `{}`", from.display(), to.display());
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = said(&what, sys::open_tree(CWD, from, flags))?;
    let is_folder = said(&what, rustix::fs::fstat(&tree))
        .map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())?;
    let inside = relative(to);
    let place = match is_folder {
        true => folder(root, &inside, None)?,
        false => file(root, &inside)?,
    };
    said(&what, put(&tree, &place))?;
    if writable { Ok(()) } else { said(&what, make_read_only(root, &inside)) }
}

pub(super) fn put(mount: &OwnedFd, at: &OwnedFd) -> rustix::io::Result<()> {
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    sys::move_mount(mount, "", at, "", both)
}

/// What is mounted at a place in the root, made read-only.
pub(super) fn make_read_only(root: BorrowedFd<'_>, at: &Path) -> rustix::io::Result<()> {
    let place = find(root, at, OFlags::PATH)?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    sys::mount_remount(through(&place), flags, "")
}

/// A name that leads to an open descriptor.
fn through(descriptor: &OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", descriptor.as_raw_fd()).into()
}

/// Hides kernel state, and write-protects what must be seen.
pub(super) fn cover(root: BorrowedFd<'_>) -> Result<()> {
    for name in MASKED {
        let Ok(place) = find(root, Path::new(name), OFlags::PATH) else { continue };
        let what = format!("cannot cover `/{name}`");
        let stat = said(&what, rustix::fs::fstat(&place))?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
            let options = [("size", "0"), ("mode", "0555")];
            new(root, "tmpfs", &options, MountAttrFlags::MOUNT_ATTR_RDONLY, Path::new(name))?;
        } else {
            bind(root, Path::new("/dev/null"), Path::new(name), true)?;
        }
    }
    for name in READ_ONLY {
        let Ok(place) = find(root, Path::new(name), OFlags::PATH) else { continue };
        let what = format!("cannot protect `/{name}`");
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = said(&what, sys::open_tree(&place, "", flags))?;
        said(&what, put(&tree, &place))?;
        said(&what, make_read_only(root, Path::new(name)))?;
    }
    Ok(())
}

/// A path without its leading `/`.
pub(super) fn relative(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

pub(super) fn find(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), inside)
}

/// How it begins when the image is in the way, and the machine lacks nothing.
pub(super) const OF_IMAGE: &str = "the image has ";

/// A folder in the root, made with those above it where they are not there.
pub(super) fn folder(root: BorrowedFd<'_>, path: &Path, mode: Option<u32>) -> Result<OwnedFd> {
    let what = format!("cannot make the folder `/{}` in the image", path.display());
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut at = said(&what, find(root, Path::new("."), flags))?;
    let mut walked = PathBuf::new();
    for part in path.components() {
        walked.push(part);
        at = match find(root, &walked, flags) {
            Err(Errno::NOENT) => {
                let mode = mode.filter(|_| walked == path).unwrap_or(0o755);
                let made = rustix::fs::mkdirat(&at, part.as_os_str(), Mode::from_raw_mode(mode));
                said(&what, made)?;
                let made = said(&what, find(root, &walked, flags))?;
                if walked == path && mode & 0o1000 != 0 {
                    // The umask took its share.
                    let set = rustix::fs::chmodat(
                        &at,
                        part.as_os_str(),
                        Mode::from_raw_mode(mode),
                        AtFlags::empty(),
                    );
                    said(&what, set)?;
                }
                made
            }
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let place = walked.display();
                return Err(format!(
                    "{OF_IMAGE}something else in the place of the folder `/{place}`"
                ));
            }
            other => said(&what, other)?,
        };
    }
    Ok(at)
}

pub(super) fn file(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let what = format!("cannot make the file `/{}` in the image", path.display());
    match find(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => {
            let above = folder(root, path.parent().unwrap_or(Path::new("")), None)?;
            let name = path.file_name().unwrap_or_default();
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let open = || rustix::fs::openat(&above, name, flags, Mode::from_raw_mode(0o644));
            let made = match open() {
                // A link to nothing, as `/etc/resolv.conf` often is: the file takes its place.
                Err(Errno::LOOP) => {
                    said(&what, rustix::fs::unlinkat(&above, name, AtFlags::empty()))?;
                    open()
                }
                made => made,
            };
            said(&what, made.map(drop))?;
            said(&what, find(root, path, OFlags::PATH))
        }
        // What it should be in is none.
        Err(Errno::NOTDIR) => folder(root, path.parent().unwrap_or(Path::new("")), None),
        Ok(there) if is_folder(&there) => {
            Err(format!("{OF_IMAGE}a folder in the place of the file `/{}`", path.display()))
        }
        other => said(&what, other),
    }
}

fn is_folder(there: &OwnedFd) -> bool {
    let kind = rustix::fs::fstat(there).map(|stat| FileType::from_raw_mode(stat.st_mode));
    kind.is_ok_and(|kind| kind.is_dir())
}

pub(super) fn open_folder(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Adds what was attempted to an error.
pub(super) fn said<T>(what: &(impl Display + ?Sized), done: rustix::io::Result<T>) -> Result<T> {
    done.map_err(|cause| format!("{what}: {}", crate::contract::words(&io::Error::from(cause))))
}
