//! The root of a sandbox: the machine's own, read-only, without what is nobody's business.
//!
//! What is hidden is hidden whole, also from root: homes, sockets of daemons, keys, and what kiln itself
//! keeps. A job that is given something of it is given just that, as a bind.

#![allow(unsafe_code, reason = "attributes of a tree of mounts have no safe interface")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, OFlags};
use rustix::mount::{
    self as sys, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use super::root::{
    Result, bind, cover, enter, find, folder, make_read_only, new, open_folder, proc, relative,
    said, sysfs,
};
use super::{Around, device};
use crate::Sandbox;

/// Shown empty. Homes; daemons' own files, through which one gets at theirs; keys.
const HIDDEN: &[&str] = &[
    "/boot",
    "/etc/docker",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/krb5.keytab",
    "/etc/kubernetes",
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/ssl/private",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/wireguard",
    "/home",
    "/root",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/docker",
    "/var/lib/kubelet",
    "/var/spool/cron",
];

/// Links in `/run` that lead to programs on some systems.
const RUN_LINKS: &[&str] = &["current-system", "booted-system", "opengl-driver"];

/// Of a session's folder: what its sandbox writes, on disk, so that it counts as files and not as memory.
#[derive(Debug)]
pub(in crate::host) struct Private(PathBuf);

impl Private {
    pub fn make(attempt_dir: &Path) -> io::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let private = Self(attempt_dir.join("sandbox"));
        for (name, mode) in [("root", 0o700), ("home", 0o700), ("tmp", 0o1777), ("var-tmp", 0o1777)]
        {
            let folder = private.0.join(name);
            std::fs::create_dir_all(&folder)?;
            std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode))?;
        }
        Ok(private)
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// When nobody is left in there.
    pub fn remove(&self) {
        // What cannot be removed goes with the session's folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes the root and steps into it. In the stage, which has all its namespaces.
pub(super) fn make(wanted: &Sandbox, around: &Around<'_>, private: &Private) -> Result<()> {
    let apart = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    said("cannot detach from the machine's mounts", sys::mount_change("/", apart))?;
    let root = machine(&private.folder("root"))?;
    let root = root.as_fd();
    if let Some(workspace) = around.workspace {
        // It is shown once, in its place, so that it can be taken out again.
        let twin = private.folder("root").join(relative(workspace));
        let _ = sys::unmount(&twin, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    }
    let resolver = std::fs::canonicalize("/etc/resolv.conf").ok();
    let keys = keys();
    let always = HIDDEN.iter().map(PathBuf::from).chain(keys);
    let mut closed = hide(root, always)?;
    proc(root)?;
    device::make(root)?;
    sysfs(root, around.network_is_apart, false)?;
    run(root)?;
    for (name, to) in [("tmp", "/tmp"), ("var-tmp", "/var/tmp")] {
        if Path::new(to).is_dir() {
            bind(root, &private.folder(name), Path::new(to), true)?;
        }
    }
    if wanted.home.is_dir() && wanted.home.parent().is_some() {
        bind(root, &private.folder("home"), &wanted.home, true)?;
    }
    // Only now: what lies in one of these places is not there any more.
    closed.extend(hide(root, wanted.hidden.iter().cloned())?);
    if let Some(workspace) = around.workspace {
        bind(root, workspace, workspace, true)?;
    }
    // Often in a folder that has just been hidden.
    if let Some(resolver) = resolver.filter(|path| !path.starts_with("/etc")) {
        bind(root, &resolver, &resolver, false)?;
    }
    for (from, to) in around.names.iter().flat_map(|names| names.files()) {
        bind(root, &from, to, true)?;
    }
    for one in &wanted.binds {
        bind(root, &one.from, &one.to, one.writable)?;
    }
    cover(root)?;
    // Now that what is to be seen in there has its place.
    closed.retain(|path| *path != wanted.home);
    for path in closed {
        let what = format!("cannot protect `{}`", path.display());
        said(&what, make_read_only(root, &relative(&path)))?;
    }
    enter(root)
}

/// All that is mounted here, again and read-only, at a folder of its own.
fn machine(at: &Path) -> Result<OwnedFd> {
    let what = "cannot show the machine's files read-only";
    let all = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = said(what, sys::open_tree(CWD, "/", all))?;
    protect(&tree).map_err(|cause| {
        let need = match cause.raw_os_error() {
            Some(libc::ENOSYS) => " (this needs Linux 5.12)",
            _ => "",
        };
        format!("{what}: {}{need}", crate::contract::words(&cause))
    })?;
    said(what, sys::move_mount(&tree, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH))?;
    said(what, open_folder(at))
}

/// Read-only, without devices and set-uid programs, with all that is mounted below.
fn protect(tree: &OwnedFd) -> io::Result<()> {
    let added = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID;
    // linux/mount.h: what is added, what is taken, propagation, user namespace.
    let attributes = [u64::from(added.bits()), 0, 0, 0];
    // SAFETY: the kernel reads as many bytes as it is told, and keeps nothing.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The machine's own keys.
fn keys() -> Vec<PathBuf> {
    let all = std::fs::read_dir("/etc/ssh").into_iter().flatten().flatten();
    let is_key = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("ssh_host_") && name.ends_with("_key")
    };
    all.map(|entry| entry.path()).filter(is_key).collect()
}

/// Covers what is there of these. Gives the folders that must be closed when all is in its place.
fn hide(root: BorrowedFd<'_>, hidden: impl Iterator<Item = PathBuf>) -> Result<Vec<PathBuf>> {
    let mut closed: Vec<PathBuf> = Vec::new();
    for path in hidden {
        let inside = relative(&path);
        let Ok(place) = find(root, &inside, OFlags::PATH) else { continue };
        let what = format!("cannot hide `{}`", path.display());
        let stat = said(&what, rustix::fs::fstat(&place))?;
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            if closed.iter().any(|above| path.starts_with(above)) {
                continue;
            }
            empty(root, &inside)?;
            closed.push(path);
        } else {
            bind(root, Path::new("/dev/null"), &path, true)?;
        }
    }
    Ok(closed)
}

fn empty(root: BorrowedFd<'_>, at: &Path) -> Result<()> {
    let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    new(root, "tmpfs", &[("mode", "0755"), ("size", "1m")], quiet, at)
}

/// Sockets of daemons, of agents of keys, of sessions: none of them is a job's.
fn run(root: BorrowedFd<'_>) -> Result<()> {
    if !Path::new("/run").is_dir() {
        return Ok(());
    }
    empty(root, Path::new("run"))?;
    let run = folder(root, Path::new("run"), None)?;
    for name in RUN_LINKS {
        if let Ok(target) = std::fs::read_link(Path::new("/run").join(name)) {
            let made = rustix::fs::symlinkat(&target, run.as_fd(), *name);
            said(&format!("cannot make the link `/run/{name}`"), made)?;
        }
    }
    Ok(())
}
