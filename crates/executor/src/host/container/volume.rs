//! What a container sees of the machine.
//!
//! Which paths those may be was granted by a policy, by their names. A job that may write in such a folder can
//! put a link there, which a later job names: so a path is followed only inside what was granted.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use kiln_model::plan::Volume;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{self as sys, OpenTreeFlags};

use super::furnish::set_attributes;
use super::root::{Result, file, folder, put, relative, said};

/// Shows it with all that is mounted in it.
pub(super) fn show(root: BorrowedFd<'_>, volume: &Volume) -> Result<()> {
    let (tree, kind) = tree(volume)?;
    let inside = relative(Path::new(&volume.to));
    let place = match kind.is_dir() {
        true => folder(root, &inside, None)?,
        false => file(root, &inside)?,
    };
    said(
        &format!("cannot show the volume `{}` as `{}`", volume.from, volume.to),
        put(&tree, &place),
    )
}

/// It with all that is mounted in it, as a mount that is nowhere yet.
pub(super) fn tree(volume: &Volume) -> Result<(OwnedFd, FileType)> {
    let Volume { from, to, read_only, within } = volume;
    let what = format!("cannot show the volume `{from}` as `{to}`");
    let source = said(&what, found(from, within.as_deref())).map_err(|why| explained(why, from))?;
    let kind = said(&what, rustix::fs::fstat(&source))?;
    let kind = FileType::from_raw_mode(kind.st_mode);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = said(&what, sys::open_tree(&source, "", flags))?;
    let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    said(&what, restrict(&tree, *read_only, is_device))?;
    Ok((tree, kind))
}

/// Opens the path. Nothing outside of `within` is ever reached.
fn found(from: &str, within: Option<&str>) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let Some(within) = within else {
        return Err(Errno::PERM);
    };
    // Links above what was granted are the machine's own, as `/var/run` often is.
    let granted = rustix::fs::open(within, flags, Mode::empty())?;
    let below = Path::new(from).strip_prefix(within).map_err(|_| Errno::PERM)?;
    if below.as_os_str().is_empty() {
        return Ok(granted);
    }
    let inside = match within {
        // Everything was: an absolute link begins where it would anyway.
        "/" => ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        _ => ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    };
    rustix::fs::openat2(granted, below, flags, Mode::empty(), inside)
}

fn explained(why: String, from: &str) -> String {
    let there = Path::new(from).symlink_metadata().is_ok();
    match there {
        true => {
            format!("{why}; a link in it may lead out of what this machine's policy has opened")
        }
        false => format!("{why}; make it on the machine, or remove it from `volumes`"),
    }
}

/// Before anybody sees it: no set-user-id programs, no devices unless it is one.
fn restrict(tree: &OwnedFd, read_only: bool, is_device: bool) -> rustix::io::Result<()> {
    let mut set = libc::MOUNT_ATTR_NOSUID;
    if !is_device {
        set |= libc::MOUNT_ATTR_NODEV;
    }
    if read_only {
        set |= libc::MOUNT_ATTR_RDONLY;
    }
    set_attributes(tree, set, libc::AT_RECURSIVE)
}
