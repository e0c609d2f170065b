//! Trees of files: attributes, removal, temporary names, and the two marks of overlayfs.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use kiln_stdx::fs::{FsError, Named};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

/// The extended attributes by which root's and users' overlays mark a folder that hides the ones
/// below it.
const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

/// A new name in `folder`, on the same file system, so that what is made there can be renamed.
pub(crate) fn temporary_in(folder: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    folder.join(format!(".tmp-{}-{n}", std::process::id()))
}

/// Removes what processes that are gone have left half made in `folder`.
pub(crate) fn remove_stale(folder: &Path) -> Result<(), FsError> {
    for entry in fs::read_dir(folder).named("list", folder)? {
        let entry = entry.named("list", folder)?;
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix(".tmp-")?.split('-').next());
        // Its own number may have been that of another before: the temporary names of this process
        // are not made before this is called.
        let lives = |pid: &str| {
            pid != std::process::id().to_string() && Path::new("/proc").join(pid).exists()
        };
        if maker.is_some_and(|pid| !lives(pid)) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file or a tree, also one with folders that their owner may not write. What is not there
/// is no error.
pub(crate) fn remove(path: &Path) -> Result<(), FsError> {
    let removed = remove_once(path);
    let removed = match removed {
        Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path);
            remove_once(path)
        }
        other => other,
    };
    removed.named("remove", path)
}

fn remove_once(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(cause) => Err(cause),
    };
    match removed {
        Err(cause) if is_absent(&cause) => Ok(()),
        other => other,
    }
}

fn is_absent(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Lets the owner list and change every folder of a tree that is about to be removed.
fn open_up(path: &Path) {
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

/// Whether there is nothing in a folder.
pub(crate) fn is_empty(folder: &Path) -> Result<bool, FsError> {
    Ok(fs::read_dir(folder).named("list", folder)?.next().is_none())
}

/// Is this how overlayfs says "deleted": a character device 0:0?
pub(crate) fn is_white_out(meta: &Metadata) -> bool {
    meta.file_type().is_char_device() && meta.rdev() == 0
}

/// Anybody may make this one device (Linux 5.8).
pub(crate) fn make_white_out(path: &Path) -> Result<(), FsError> {
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0)
        .map_err(io::Error::from)
        .named("make the white-out", path)
}

pub(crate) fn is_opaque(folder: &Path) -> bool {
    OPAQUE.iter().any(|name| {
        let mut value = [0; 4];
        matches!(rustix::fs::lgetxattr(folder, *name, &mut value[..]), Ok(1) if value[0] == b'y')
    })
}

pub(crate) fn make_opaque(folder: &Path, user: bool) -> Result<(), FsError> {
    rustix::fs::lsetxattr(folder, OPAQUE[usize::from(user)], b"y", XattrFlags::empty())
        .map_err(io::Error::from)
        .named("mark", folder)
}

/// Owner, mode and times of something that was made after the image of `meta`.
pub(crate) fn set_attributes(path: &Path, meta: &Metadata) -> Result<(), FsError> {
    let time = |seconds: i64, nanos: i64| Timespec { tv_sec: seconds, tv_nsec: nanos as _ };
    let times = Timestamps {
        last_access: time(meta.atime(), meta.atime_nsec()),
        last_modification: time(meta.mtime(), meta.mtime_nsec()),
    };
    let (uid, gid) = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    if rustix::process::geteuid().is_root() {
        rustix::fs::chownat(CWD, path, Some(uid), Some(gid), nofollow)
            .map_err(io::Error::from)
            .named("change the owner of", path)?;
    }
    if !meta.file_type().is_symlink() {
        fs::set_permissions(path, meta.permissions()).named("change the mode of", path)?;
    }
    rustix::fs::utimensat(CWD, path, &times, nofollow)
        .map_err(io::Error::from)
        .named("change the times of", path)
}

/// Files with several names, on their way into a copy: they stay one file there.
#[derive(Default)]
pub(crate) struct Links(HashMap<(u64, u64), PathBuf>);

/// Copies one thing that is not a folder, attributes included; with reflinks where the file system
/// has them. Sockets and devices mean nothing in a copy and are left out.
pub(crate) fn copy_leaf(
    from: &Path,
    meta: &Metadata,
    to: &Path,
    links: &mut Links,
) -> Result<(), FsError> {
    let kind = meta.file_type();
    if kind.is_file() {
        if meta.nlink() > 1 {
            if let Some(first) = links.0.get(&(meta.dev(), meta.ino())) {
                return fs::hard_link(first, to).named("link", to);
            }
            links.0.insert((meta.dev(), meta.ino()), to.to_owned());
        }
        fs::copy(from, to).named("copy", from)?;
    } else if kind.is_symlink() {
        let target = fs::read_link(from).named("read", from)?;
        std::os::unix::fs::symlink(target, to).named("create", to)?;
    } else if kind.is_fifo() {
        let mode = Mode::from_raw_mode(meta.mode());
        rustix::fs::mknodat(CWD, to, FileType::Fifo, mode, 0)
            .map_err(io::Error::from)
            .named("create", to)?;
    } else {
        return Ok(());
    }
    set_attributes(to, meta)
}

/// The entries of a folder with their own attributes (of links, not of what they lead to).
pub(crate) fn entries(folder: &Path) -> Result<Vec<(PathBuf, Metadata)>, FsError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).named("list", folder)? {
        let path = entry.named("list", folder)?.path();
        match fs::symlink_metadata(&path) {
            Ok(meta) => found.push((path, meta)),
            // A working tree may change while it is read.
            Err(cause) if is_absent(&cause) => {}
            Err(cause) => return Err(cause).named("read", &path),
        }
    }
    Ok(found)
}
