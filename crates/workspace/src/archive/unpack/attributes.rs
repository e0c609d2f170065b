//! Owner, mode, extended attributes and time, as a header says.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{self as sys, AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::archive::header::Header;
use crate::xattr;

pub(super) fn times(header: &Header) -> Timestamps {
    let time = Timespec { tv_sec: header.mtime.0, tv_nsec: header.mtime.1.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Owners are given by root only; to others all is theirs.
pub(super) fn owners(header: &Header) -> Option<(Option<Uid>, Option<Gid>)> {
    let root = rustix::process::geteuid().is_root();
    root.then(|| (Some(Uid::from_raw(header.uid)), Some(Gid::from_raw(header.gid))))
}

pub(super) fn attributes(file: BorrowedFd<'_>, header: &Header) -> Result<(), Errno> {
    // Before the mode: a change of owner takes setuid away. And before capabilities.
    if let Some((uid, gid)) = owners(header) {
        sys::fchown(file, uid, gid)?;
    }
    sys::fchmod(file, Mode::from_raw_mode(header.mode))?;
    for (name, value) in header.xattrs.iter().filter(|(name, _)| xattr::is_kept(name)) {
        match sys::fsetxattr(file, name.as_str(), value, XattrFlags::empty()) {
            // A capability is root's to give.
            Err(Errno::PERM) if name.starts_with("security.") => {}
            other => other?,
        }
    }
    sys::futimens(file, &times(header))
}

/// Of something that cannot be opened.
pub(super) fn named_attributes(
    folder: BorrowedFd<'_>,
    name: &OsStr,
    header: &Header,
) -> Result<(), Errno> {
    if let Some((uid, gid)) = owners(header) {
        sys::chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    sys::utimensat(folder, name, &times(header), AtFlags::SYMLINK_NOFOLLOW)
}
