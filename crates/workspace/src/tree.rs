//! Trees of files: attributes, removal, temporary names, and the two marks of overlayfs.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use kiln_stdx::fs::{FsError, Named};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

pub(crate) use crate::remove::remove;
use crate::{sparse, xattr};

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
        let path = entry.named("list", folder)?.path();
        let own = maker_of(&path) == Some(std::process::id().to_string());
        // Its own number may have been that of another before: the temporary names of this process
        // are not made before this is called.
        if own || is_stale(&path) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Whether this has a temporary name, and the process that gave it is gone.
pub(crate) fn is_stale(path: &Path) -> bool {
    maker_of(path).is_some_and(|pid| !Path::new("/proc").join(pid).exists())
}

fn maker_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.strip_prefix(".tmp-")?;
    name.split('-').next().filter(|pid| !pid.is_empty()).map(str::to_owned)
}

pub(crate) fn is_absent(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Lets the owner change a folder that is a copy's, until it gets the mode that it is to have. Root
/// needs no leave.
pub(crate) fn open_up(folder: &Path) -> Result<(), FsError> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let mode = fs::symlink_metadata(folder).named("read", folder)?.permissions().mode();
    if mode & 0o700 == 0o700 {
        return Ok(());
    }
    let open = fs::Permissions::from_mode(mode & 0o7777 | 0o700);
    fs::set_permissions(folder, open).named("change the mode of", folder)
}

/// How much stack a walk gets that calls itself for each folder. Names of files end at 4096 bytes, so
/// no walk is deeper than 2048 calls.
const STACK_BYTES: usize = 64 << 20;

/// Runs a walk that calls itself, on a stack that is deep enough for whatever a job has left.
pub(crate) fn deep<T: Send>(
    walk: impl FnOnce() -> Result<T, FsError> + Send,
) -> Result<T, FsError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, walk);
        let thread = thread.named("start a thread for", Path::new("layers"))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
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
/// has them, and with its holes. Only root copies devices.
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
        sparse::copy(from, meta, to).named("copy", from)?;
        return copy_attributes(from, meta, to);
    }
    if kind.is_symlink() {
        let target = fs::read_link(from).named("read", from)?;
        std::os::unix::fs::symlink(target, to).named("create", to)?;
    } else {
        let made = rustix::fs::mknodat(
            CWD,
            to,
            FileType::from_raw_mode(meta.mode()),
            Mode::from_raw_mode(meta.mode()),
            meta.rdev(),
        );
        match made {
            // A device, which only root can have made and only root makes again.
            Err(rustix::io::Errno::PERM) if !kind.is_fifo() => return Ok(()),
            other => other.map_err(io::Error::from).named("create", to)?,
        }
    }
    set_attributes(to, meta)
}

/// Extended attributes, too, of a file or folder that was made after the image of `from`.
pub(crate) fn copy_attributes(from: &Path, meta: &Metadata, to: &Path) -> Result<(), FsError> {
    // Root's change of owner takes capabilities away; others may not mark what they cannot write.
    if rustix::process::geteuid().is_root() {
        set_attributes(to, meta)?;
        return xattr::copy(from, to);
    }
    xattr::copy(from, to)?;
    set_attributes(to, meta)
}

/// As [`entries`]; none of a folder that is not there.
pub(crate) fn entries_of(folder: &Path) -> Result<Vec<(PathBuf, Metadata)>, FsError> {
    match folder.is_dir() {
        true => entries(folder),
        false => Ok(Vec::new()),
    }
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
