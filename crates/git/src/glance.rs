//! A look at a working tree in which nothing has changed, without git.
//!
//! Most trees are as their index says, but for what git ignores. That much can be told from the index and
//! one look at each file; whoever doubts asks git: about everything when a file looks otherwise or a word of
//! the index is not plain, about single names when they are not in the index.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use kiln_stdx::spread;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use crate::index::{Index, Stamp};

/// Of an index in version 2, with ids of 20 bytes. Others are git's to read.
const ID_BYTES: usize = 20;

/// A file that changed so shortly before the index was written may have changed again in the same tick
/// of the clock.
const RACY_NANOS: i128 = 20_000_000;

/// It takes git to tell how the tree looks.
struct Doubt;

/// A folder, by what of the index lies in it.
struct Folder {
    path: PathBuf,
    entries: Range<usize>,
}

/// What the index says of a name in a folder.
enum Known {
    File(usize),
    Folder(Range<usize>),
}

struct Glance<'a> {
    root: &'a Path,
    index: &'a Index<'a>,
    /// When the index was written.
    written_nanos: i128,
    n_seen: AtomicUsize,
    strangers: Mutex<Vec<PathBuf>>,
}

/// What is not in the index of a tree whose every file is as its index says. `None`: perhaps one is not.
pub(crate) fn strangers(root: &Path, index: &Path) -> Option<Vec<PathBuf>> {
    let written = fs::metadata(index).ok()?;
    let bytes = fs::read(index).ok()?;
    let index = Index::parse(&bytes, ID_BYTES).filter(Index::is_plain)?;
    let written_nanos = nanos(written.mtime(), written.mtime_nsec());
    let glance = Glance {
        root,
        index: &index,
        written_nanos,
        n_seen: AtomicUsize::new(0),
        strangers: Mutex::default(),
    };
    let all = Folder { path: PathBuf::new(), entries: 0..index.len() };
    spread::work_off(vec![all], |folder, more| glance.folder(&folder, more)).ok()?;
    let strangers = glance.strangers.into_inner().unwrap_or_else(PoisonError::into_inner);
    (glance.n_seen.into_inner() == index.len()).then_some(strangers)
}

impl Glance<'_> {
    fn folder(&self, folder: &Folder, more: &mut Vec<Folder>) -> Result<(), Doubt> {
        let at = self.root.join(&folder.path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let open = rustix::fs::open(&at, flags, Mode::empty()).map_err(|_| Doubt)?;
        let known = self.known(folder);
        let (mut n_seen, mut strangers) = (0, Vec::new());
        for entry in Dir::read_from(&open).map_err(|_| Doubt)? {
            let entry = entry.map_err(|_| Doubt)?;
            let name = entry.file_name().to_bytes();
            match known.get(name) {
                _ if matches!(name, b"." | b".." | b".git") => {}
                Some(Known::File(entry)) => {
                    self.file(&open, *entry, OsStr::from_bytes(name))?;
                    n_seen += 1;
                }
                // Anything else in its place is found out on opening it.
                Some(Known::Folder(entries)) => more.push(Folder {
                    path: folder.path.join(OsStr::from_bytes(name)),
                    entries: entries.clone(),
                }),
                None => strangers.push(folder.path.join(OsStr::from_bytes(name))),
            }
        }
        self.n_seen.fetch_add(n_seen, Ordering::Relaxed);
        if !strangers.is_empty() {
            let mut all = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
            all.append(&mut strangers);
        }
        Ok(())
    }

    fn known(&self, folder: &Folder) -> HashMap<&[u8], Known> {
        let n_above = match folder.path.as_os_str().len() {
            0 => 0,
            n_bytes => n_bytes + 1,
        };
        let mut known = HashMap::new();
        let mut at = folder.entries.start;
        while at < folder.entries.end {
            let below = &self.index.path(at)[n_above..];
            let Some(end) = below.iter().position(|byte| *byte == b'/') else {
                known.insert(below, Known::File(at));
                at += 1;
                continue;
            };
            let name = &below[..=end];
            let from = at;
            while at < folder.entries.end && self.index.path(at)[n_above..].starts_with(name) {
                at += 1;
            }
            known.insert(&below[..end], Known::Folder(from..at));
        }
        known
    }

    fn file(&self, folder: &OwnedFd, entry: usize, name: &OsStr) -> Result<(), Doubt> {
        let meta =
            rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| Doubt)?;
        let now = Stamp::of(&meta);
        let modified = nanos(meta.st_mtime, i64::try_from(meta.st_mtime_nsec).unwrap_or(0));
        let is_same = match FileType::from_raw_mode(meta.st_mode) {
            // One that is not looked into.
            FileType::Directory => self.index.is_submodule(entry),
            _ => self.index.is_just(entry, &now) && self.written_nanos - modified > RACY_NANOS,
        };
        if is_same { Ok(()) } else { Err(Doubt) }
    }
}

fn nanos(seconds: i64, nanos: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}
