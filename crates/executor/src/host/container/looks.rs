//! What a container looks like from init: compared before and after a job, it tells whether that has left
//! anything but processes.
//!
//! A job can leave files in the image's top, in `/dev` and the file systems below it, and in what is bound
//! from its own folder; objects of System V IPC; and sockets that the kernel keeps for a minute. Mounts, the
//! host name and the network's settings are beyond its powers.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::root::{find, relative};
use super::{Container, Stage, Wanted};

/// A container with more than this is not worth looking at.
const ENTRIES_MAX: usize = 256;
/// What is bound of kiln's is short.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Folders in which a job's root may make something, though they are not the image's.
const FOLDERS: [&str; 3] = ["dev", "dev/shm", "dev/mqueue"];
/// Files of kiln's that are bound.
const FILES: [&str; 3] = ["etc/hosts", "etc/resolv.conf", "etc/hostname"];

/// How a container looked at some time.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::host) struct Looks(BTreeMap<PathBuf, Entry>);

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    n_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// Also by looking: clocks of older kernels do not tell two changes within one tick apart.
    content: Vec<u8>,
}

impl Entry {
    fn of(meta: &fs::Metadata, content: Vec<u8>) -> Self {
        Self {
            inode: meta.ino(),
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            n_bytes: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            content,
        }
    }
}

impl Container {
    /// As it is now; `None` where that cannot be told.
    pub fn looks(&self, wanted: &Wanted) -> Option<Looks> {
        let Stage::Ours { .. } = self.stage else { return None };
        if wanted.privileged || !wanted.volumes.is_empty() {
            return None;
        }
        let top = &wanted.root.layers()?.upper;
        let mut seen = BTreeMap::new();
        walk(top, Path::new("top"), &mut seen).ok()?;
        let root = self.root.as_fd();
        for folder in FOLDERS {
            seen.insert(folder.into(), list(root, Path::new(folder)).ok()?);
        }
        let bound = wanted.binds.iter().filter(|bind| bind.writable).map(|bind| relative(&bind.to));
        for file in FILES.iter().map(PathBuf::from).chain(bound) {
            let entry = read(root, &file).ok()?;
            seen.insert(file, entry);
        }
        Some(Looks(seen))
    }

    /// Whether no object of System V IPC is left. Init, which uses none, is in the namespace afterwards.
    pub fn is_without_objects(&self) -> bool {
        let of_ipc = ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION;
        let none = |kind: &str| {
            // A head line; a kernel without it has no file.
            fs::read_to_string(format!("/proc/sysvipc/{kind}")).map_or_else(
                |cause| cause.kind() == io::ErrorKind::NotFound,
                |text| text.lines().count() <= 1,
            )
        };
        move_into_thread_name_spaces(self.stage.pidfd().as_fd(), of_ipc).is_ok()
            && ["shm", "sem", "msg"].into_iter().all(none)
    }
}

/// A folder of the machine with everything in it. `name` is what it is seen as: the folder itself has another
/// name when it is another attempt's.
fn walk(folder: &Path, name: &Path, seen: &mut BTreeMap<PathBuf, Entry>) -> io::Result<()> {
    let meta = fs::symlink_metadata(folder)?;
    if seen.len() >= ENTRIES_MAX {
        return Err(io::ErrorKind::QuotaExceeded.into());
    }
    if meta.is_dir() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            walk(&entry.path(), &name.join(entry.file_name()), seen)?;
        }
    }
    seen.insert(name.to_owned(), Entry::of(&meta, Vec::new()));
    Ok(())
}

/// A folder of the container, with the names in it. Devices in it are the machine's.
fn list(root: BorrowedFd<'_>, at: &Path) -> io::Result<Entry> {
    let opened = find(root, at, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&opened)? {
        let name = entry?.file_name().to_owned();
        let target = rustix::fs::readlinkat(&opened, &name, Vec::new()).unwrap_or_default();
        names.push([name.as_bytes(), target.as_bytes()].join(&b'>'));
    }
    names.sort_unstable();
    let meta = fs::File::from(opened).metadata()?;
    Ok(Entry::of(&meta, names.join(&b'\n')))
}

/// A file of the container with what is in it.
fn read(root: BorrowedFd<'_>, at: &Path) -> io::Result<Entry> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inside = rustix::fs::ResolveFlags::IN_ROOT | rustix::fs::ResolveFlags::NO_MAGICLINKS;
    let file = fs::File::from(rustix::fs::openat2(root, at, flags, Mode::empty(), inside)?);
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > FILE_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut content)?;
    Ok(Entry::of(&meta, content))
}
