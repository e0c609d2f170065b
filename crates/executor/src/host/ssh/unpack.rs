//! What has changed on the far side, brought into the workspace here.
//!
//! Every name comes from another machine: places are found part by part and no link is followed. A file
//! that came but is what is here already is left alone, so that the job's layer holds what the job has
//! changed and not what was sent.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::archive::{self, Entry, Kind, is_absent, odd};

/// Reads the whole stream: one letter for its form, the names of all files, and those that may have
/// changed. `known`: what is on the far side as far as we know; kept up to date.
///
/// `false`: a name is new and its file did not come, so it is not as new as its name. Then everything
/// must come.
pub(super) fn unpack(
    root: &OwnedFd,
    from: &mut impl BufRead,
    known: &mut BTreeSet<PathBuf>,
) -> io::Result<bool> {
    let mut form = [0];
    from.read_exact(&mut form)?;
    let mut there = BTreeSet::new();
    match form {
        [b'd'] => names(from, &mut there)?,
        [b'w'] => {}
        _ => return Err(odd("it has no beginning")),
    }
    let mut folders = Vec::new();
    let mut came = BTreeSet::new();
    while let Some(entry) = archive::next(from)? {
        came.insert(entry.path.clone());
        if entry.path.as_os_str().is_empty() {
            continue;
        }
        let named = |cause: io::Error| {
            let why = crate::contract::words(&cause);
            io::Error::new(cause.kind(), format!("`{}`: {why}", entry.path.display()))
        };
        let (parent, name) = parent_of(root, &entry.path).map_err(named)?;
        place(root, &parent, &name, &entry, from).map_err(named)?;
        if entry.kind == Kind::Folder {
            folders.push((entry.path.clone(), entry.mode));
        }
    }
    // What follows is padding.
    io::copy(from, &mut io::sink())?;
    let is_new = |path: &Path| !path.as_os_str().is_empty() && !known.contains(path);
    if form == [b'w'] {
        there = came;
    } else if there.iter().any(|path| is_new(path) && !came.contains(path)) {
        return Ok(false);
    }
    // The deepest first: what is in a folder goes before it.
    for path in known.iter().rev().filter(|path| !there.contains(*path)) {
        remove(root, path)?;
    }
    // At last: a folder that may not be written into must take its files first.
    for (path, mode) in folders.into_iter().rev() {
        let (parent, name) = parent_of(root, &path)?;
        set_mode(&parent, &name, mode)?;
    }
    *known = there;
    Ok(true)
}

/// Names with a zero after each, and an empty one at the end.
fn names(from: &mut impl BufRead, there: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    loop {
        let mut name = Vec::new();
        from.read_until(0, &mut name)?;
        match name.pop() {
            Some(0) if name.is_empty() => return Ok(()),
            Some(0) => there.insert(archive::plain(&name)?),
            _ => return Err(odd("it ends among the names")),
        };
    }
}

/// The folder that a path is in, made where it is not there, and the last name.
fn parent_of(root: &OwnedFd, path: &Path) -> io::Result<(OwnedFd, OsString)> {
    let name = path.file_name().ok_or_else(|| odd("a name is empty"))?.to_owned();
    let mut at = root.try_clone()?;
    for part in path.parent().into_iter().flat_map(Path::iter) {
        at = match open_folder(&at, part) {
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o755))?;
                open_folder(&at, part)?
            }
            other => other?,
        };
    }
    Ok((at, name))
}

fn open_folder(at: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

fn place(
    root: &OwnedFd,
    parent: &OwnedFd,
    name: &OsStr,
    entry: &Entry,
    from: &mut impl BufRead,
) -> io::Result<()> {
    let here = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Some(stat),
        Err(cause) if is_absent(cause) => None,
        Err(cause) => return Err(cause.into()),
    };
    let kind = here.map(|stat| FileType::from_raw_mode(stat.st_mode));
    match &entry.kind {
        Kind::Folder if kind == Some(FileType::Directory) => Ok(()),
        Kind::Folder => {
            clear(parent, name, kind)?;
            Ok(rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?)
        }
        Kind::Link(target) => {
            let same = kind == Some(FileType::Symlink)
                && rustix::fs::readlinkat(parent, name, Vec::new())?.as_bytes() == target;
            if same {
                return Ok(());
            }
            clear(parent, name, kind)?;
            Ok(rustix::fs::symlinkat(OsStr::from_bytes(target), parent, name)?)
        }
        Kind::Same(other) => {
            let (of, its) = parent_of(root, other)?;
            clear(parent, name, kind)?;
            Ok(rustix::fs::linkat(&of, its, parent, name, AtFlags::empty())?)
        }
        Kind::Pipe if kind == Some(FileType::Fifo) => Ok(()),
        Kind::Pipe => {
            clear(parent, name, kind)?;
            let mode = Mode::from_raw_mode(entry.mode);
            Ok(rustix::fs::mknodat(parent, name, FileType::Fifo, mode, 0)?)
        }
        Kind::File => {
            if kind == Some(FileType::Directory) {
                clear(parent, name, kind)?;
            }
            let same_size = kind == Some(FileType::RegularFile)
                && here.is_some_and(|stat| u64::try_from(stat.st_size) == Ok(entry.n_bytes));
            file(parent, name, entry, from, same_size)?;
            archive::skip_padding(from, entry.n_bytes)
        }
        Kind::Other => {
            io::copy(&mut from.take(entry.n_bytes), &mut io::sink())?;
            archive::skip_padding(from, entry.n_bytes)
        }
    }
}

/// Writes a file anew, unless its bytes are here already.
fn file(
    parent: &OwnedFd,
    name: &OsStr,
    entry: &Entry,
    from: &mut impl BufRead,
    compare: bool,
) -> io::Result<()> {
    let mut rest = from.take(entry.n_bytes);
    let mut n_same = 0;
    if compare {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut here = File::from(rustix::fs::openat(parent, name, flags, Mode::empty())?);
        n_same = same_bytes(&mut here, &mut rest)?;
        if n_same == entry.n_bytes {
            return set_mode(parent, name, entry.mode);
        }
    }
    let temporary = OsStr::new(".kiln-fetched");
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(parent, temporary, flags, Mode::from_raw_mode(0o600))?;
    let mut made = File::from(made);
    let written = (|| {
        if n_same > 0 {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let here = File::from(rustix::fs::openat(parent, name, flags, Mode::empty())?);
            io::copy(&mut here.take(n_same), &mut made)?;
        }
        let n_left = entry.n_bytes - n_same;
        if io::copy(&mut rest, &mut made)? != n_left {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        made.flush()?;
        rustix::fs::fchmod(made.as_fd(), Mode::from_raw_mode(entry.mode))?;
        let at = Timespec { tv_sec: entry.seconds, tv_nsec: 0 };
        let dates = Timestamps { last_access: at, last_modification: at };
        rustix::fs::futimens(made.as_fd(), &dates)?;
        Ok(rustix::fs::renameat(parent, temporary, parent, name)?)
    })();
    if written.is_err() {
        let _ = rustix::fs::unlinkat(parent, temporary, AtFlags::empty());
    }
    written
}

/// How many bytes are the same. Of `from`, no more than these are read.
fn same_bytes(here: &mut File, from: &mut impl BufRead) -> io::Result<u64> {
    let mut n_same = 0;
    let mut ours = vec![0; 64 << 10];
    loop {
        let theirs = from.fill_buf()?;
        let n = theirs.len().min(ours.len());
        if n == 0 {
            return Ok(n_same);
        }
        here.read_exact(&mut ours[..n])?;
        let same = ours[..n].iter().zip(theirs).take_while(|(ours, theirs)| ours == theirs).count();
        from.consume(same);
        n_same += same as u64;
        if same < n {
            return Ok(n_same);
        }
    }
}

fn set_mode(parent: &OwnedFd, name: &OsStr, mode: u32) -> io::Result<()> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if stat.st_mode & 0o7777 != mode {
        rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
    }
    Ok(())
}

/// Makes room for something of another kind.
fn clear(parent: &OwnedFd, name: &OsStr, kind: Option<FileType>) -> io::Result<()> {
    match kind {
        None => Ok(()),
        Some(FileType::Directory) => {
            let folder = open_folder(parent, name)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let readable = rustix::fs::openat(&folder, ".", flags, Mode::empty())?;
            for entry in rustix::fs::Dir::new(readable)? {
                let entry = entry?;
                let inner = OsString::from_vec(entry.file_name().to_bytes().to_vec());
                if inner != "." && inner != ".." {
                    let stat = rustix::fs::statat(&folder, &inner, AtFlags::SYMLINK_NOFOLLOW)?;
                    clear(&folder, &inner, Some(FileType::from_raw_mode(stat.st_mode)))?;
                }
            }
            Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
        }
        Some(_) => Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?),
    }
}

/// Removes what is no longer on the far side.
fn remove(root: &OwnedFd, path: &Path) -> io::Result<()> {
    let Some(name) = path.file_name() else { return Ok(()) };
    let mut at = root.try_clone()?;
    for part in path.parent().into_iter().flat_map(Path::iter) {
        at = match open_folder(&at, part) {
            Ok(folder) => folder,
            // Its folder went before it, or is a file now.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(cause) => return Err(cause.into()),
        };
    }
    let gone = match rustix::fs::unlinkat(&at, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => rustix::fs::unlinkat(&at, name, AtFlags::REMOVEDIR),
        other => other,
    };
    match gone {
        // Something was never sent and so is not for the far side to remove.
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => Ok(()),
        Err(cause) => Err(cause.into()),
    }
}
