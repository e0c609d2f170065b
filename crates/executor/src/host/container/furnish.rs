//! What is put into a container that a daemon has made: the workspace, files and folders of kiln's, volumes.
//!
//! The daemon knows nothing of them. Each is taken as a detached mount where kiln sees it, and put in its
//! place by a child among the container's mounts. So the workspace, which only init sees, needs no copy, and a
//! volume is followed no further than was granted (`volume`).

#![allow(
    unsafe_code,
    reason = "fork and the attributes of a tree of mounts have no safe interface"
)]

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType};
use rustix::io::Errno;
use rustix::mount::{self as sys, OpenTreeFlags, UnmountFlags};
use rustix::process::WaitOptions;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::root::{Result, file, folder, put, relative, said};
use super::{Around, Container, Wanted, volume};
use crate::host::daemon;
use crate::host::sys::{Forked, fork, run_and_exit};

/// A mount on its way.
struct Piece {
    tree: OwnedFd,
    to: PathBuf,
    is_folder: bool,
}

impl Container {
    /// Puts everything in its place.
    pub(super) fn furnish(&self, wanted: &Wanted, around: &Around<'_>) -> Result<()> {
        let mut pieces = Vec::new();
        if let Some(workspace) = around.workspace {
            pieces.push(piece(workspace, &wanted.workspace, true)?);
        }
        for one in &wanted.binds {
            pieces.push(piece(&one.from, &one.to, one.writable)?);
        }
        for one in &wanted.volumes {
            let (tree, kind) = volume::tree(one)?;
            pieces.push(Piece {
                tree,
                to: Path::new(&one.to).to_owned(),
                is_folder: kind.is_dir(),
            });
        }
        self.among_its_mounts(|| {
            let root = self.root.as_fd();
            folder(root, Path::new("tmp"), Some(0o1777))?;
            folder(root, &relative(&wanted.workspace), None)?;
            for Piece { tree, to, is_folder } in &pieces {
                let inside = relative(to);
                let place =
                    if *is_folder { folder(root, &inside, None)? } else { file(root, &inside)? };
                said(&format!("cannot show something as `{}`", to.display()), put(tree, &place))?;
            }
            // Process 1 has what it needs of it, and nobody else shall.
            let ours = Path::new(daemon::FOLDER);
            let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
            said("cannot hide the container's first program", sys::unmount(ours, flags))?;
            let _ = std::fs::remove_dir(ours);
            Ok(())
        })
    }

    /// Does `work` in a child: a namespace of mounts cannot be left again.
    fn among_its_mounts(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let pipe = std::io::pipe();
        let (mut told, mut tell) = pipe.map_err(|cause| format!("cannot make a pipe: {cause}"))?;
        // SAFETY: an init has one thread.
        let forked = unsafe { fork() }.map_err(|cause| format!("cannot fork: {cause}"))?;
        match forked {
            Forked::Child => run_and_exit(|| {
                let mounts = ThreadNameSpaceType::MOUNT;
                let entered = move_into_thread_name_spaces(self.stage.pidfd().as_fd(), mounts);
                let done = said("cannot enter the container", entered).and_then(|()| work());
                let word = done.as_ref().map_or_else(String::as_str, |()| DONE);
                i32::from(tell.write_all(word.as_bytes()).is_err())
            }),
            Forked::Parent(child) => {
                drop(tell);
                let mut word = String::new();
                let heard = told.read_to_string(&mut word);
                let _ = rustix::process::waitpid(Some(child), WaitOptions::empty());
                match (heard, word.as_str()) {
                    (Ok(_), DONE) => Ok(()),
                    (_, "") => {
                        Err("the process that puts things into the container died".to_owned())
                    }
                    (_, why) => Err(why.to_owned()),
                }
            }
        }
    }
}

/// What the child says at the end. Anything else is what went wrong.
const DONE: &str = "done";

/// A file or a folder, without the mounts below it.
fn piece(from: &Path, to: &Path, writable: bool) -> Result<Piece> {
    let what = format!("cannot show `{}` as `{}`", from.display(), to.display());
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = said(&what, sys::open_tree(CWD, from, flags))?;
    let stat = said(&what, rustix::fs::fstat(&tree))?;
    if !writable {
        let set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
        said(&what, set_attributes(&tree, set, 0))?;
    }
    let is_folder = FileType::from_raw_mode(stat.st_mode).is_dir();
    Ok(Piece { tree, to: to.to_owned(), is_folder })
}

/// Of a detached tree, before anybody sees it. `flags`: `AT_RECURSIVE` or nothing.
pub(super) fn set_attributes(tree: &OwnedFd, set: u64, flags: i32) -> rustix::io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is an empty C string and the kernel reads a structure of the size that is given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}
