//! Removing what jobs have left: trees of any depth, also with folders that nobody may write.
//!
//! One folder is open at a time, and none calls for the next: a job can nest folders deeper than a
//! stack, a path or a table of open files is long.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use kiln_stdx::Subordinate;
use kiln_stdx::fs::{FsError, Named};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Removes a file or a tree, also one with folders that their owner may not write. What is not there
/// is no error. Links are removed, not followed.
pub(crate) fn remove(path: &Path) -> Result<(), FsError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => match remove_tree(path) {
            // Of another user of a container: it is made ours, where it can be.
            Err(Errno::ACCESS | Errno::PERM) if take_back(path) => remove_tree(path),
            other => other,
        }
        .map_err(io::Error::from),
        Ok(_) => fs::remove_file(path),
        Err(cause) => Err(cause),
    };
    match removed {
        Err(cause)
            if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(())
        }
        other => other.named("remove", path),
    }
}

fn take_back(path: &Path) -> bool {
    Subordinate::of_this_user().is_ok_and(|users| users.take_back(path).is_ok())
}

/// A folder above the open one.
struct Above {
    /// Of the folder that was opened in it.
    name: CString,
    /// Which one it is, to be sure of the way back.
    device: u64,
    inode: u64,
}

fn remove_tree(path: &Path) -> Result<(), Errno> {
    let mut open = open(&CWD, path)?;
    let mut above = Vec::new();
    loop {
        if let Some(name) = empty(&open)? {
            let meta = rustix::fs::fstat(&open)?;
            let below = self::open(&open, name.as_c_str())?;
            above.push(Above { name, device: meta.st_dev, inode: meta.st_ino });
            open = below;
            continue;
        }
        let Some(last) = above.pop() else { break };
        let folder = rustix::fs::openat(&open, "..", FLAGS, Mode::empty())?;
        let meta = rustix::fs::fstat(&folder)?;
        if (meta.st_dev, meta.st_ino) != (last.device, last.inode) {
            // Somebody has moved it while it was emptied. What is above it now is none of ours.
            return Err(Errno::STALE);
        }
        rustix::fs::unlinkat(&folder, &last.name, AtFlags::REMOVEDIR)?;
        open = folder;
    }
    rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR)
}

const FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a folder, if need be after giving its owner leave.
fn open<P: rustix::path::Arg + Copy>(
    folder: &impl std::os::fd::AsFd,
    name: P,
) -> Result<OwnedFd, Errno> {
    match rustix::fs::openat(folder, name, FLAGS, Mode::empty()) {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(folder, name, Mode::RWXU, AtFlags::empty())?;
            rustix::fs::openat(folder, name, FLAGS, Mode::empty())
        }
        other => other,
    }
}

/// Removes all files of a folder up to the first folder in it, whose name it gives.
fn empty(folder: &OwnedFd) -> Result<Option<CString>, Errno> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            // One that is empty need not be opened.
            match unlink(folder, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(Some(name.to_owned())),
                Err(error) => return Err(error),
            }
        }
        match unlink(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            // A file system that does not say what an entry is.
            Err(Errno::ISDIR) => return Ok(Some(name.to_owned())),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn unlink(folder: &OwnedFd, name: &std::ffi::CStr, flags: AtFlags) -> Result<(), Errno> {
    match rustix::fs::unlinkat(folder, name, flags) {
        Err(Errno::ACCESS) => {
            rustix::fs::fchmod(folder, Mode::RWXU)?;
            rustix::fs::unlinkat(folder, name, flags)
        }
        other => other,
    }
}
