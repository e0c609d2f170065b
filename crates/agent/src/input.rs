//! The files that a job's `inputs` match: what they are and what names their content.
//!
//! Of a commit: the entries of its tree, without a checkout. Of a working tree: what a job would see of
//! it, each file by the digest of its bytes, which is known for a file that looks as when it was last
//! read ([`crate::digests`]).
//!
//! Always: `.git` is no input. A symbolic link is what it says, not what it leads to.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use kiln_git::Mirror;
use kiln_model::inputs::{Decided, Inputs};
use kiln_model::key::InputFile;
use kiln_model::limit::INPUT_FILES_MAX;
use kiln_stdx::spread;
use rustix::fs::{self as sys, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::digests::Digests;

/// What was found.
#[derive(Debug)]
pub(crate) struct Listing {
    /// Sorted by path.
    pub files: Vec<InputFile>,
    /// How the files of a working tree looked, all together. Another look gives the same as long as
    /// nobody has touched one.
    pub looks: Option<blake3::Hash>,
    /// Patterns that match nothing.
    pub without_match: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("more than {INPUT_FILES_MAX} files match its `inputs`")]
    TooMany,
    #[error("{0}")]
    Git(#[from] kiln_git::GitError),
    #[error("cannot read `{}`: {cause}", .path.display())]
    Read { path: PathBuf, cause: io::Error },
}

/// Of many bytes the digest is made several times as fast as of as many in small pieces.
const HASHED_AT_ONCE: usize = 64 << 10;

/// What is being listed.
#[derive(Default)]
struct Found {
    files: Vec<InputFile>,
    /// In the same order.
    decided: Vec<Decided>,
}

impl Found {
    fn push(&mut self, file: InputFile, decided: Decided) -> Result<(), InputError> {
        self.decided.push(decided);
        self.files.push(file);
        if self.files.len() > INPUT_FILES_MAX { Err(InputError::TooMany) } else { Ok(()) }
    }

    fn listing(mut self, inputs: &Inputs, looks: Option<blake3::Hash>) -> Listing {
        let names = self.files.iter().map(|file| file.path.to_string_lossy());
        let decided: Vec<_> = names.zip(self.decided).collect();
        let without_match = inputs.without_match(&decided);
        drop(decided);
        self.files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Listing { files: self.files, looks, without_match }
    }
}

/// The inputs that are in a tree of git. What git is told to convert on checkout is a matter of
/// `.gitattributes`, so those of the folders on the way are inputs too.
pub(crate) fn of_tree(mirror: &Mirror, tree: &str, inputs: &Inputs) -> Result<Listing, InputError> {
    let mut found = Found::default();
    let mut failed = None;
    mirror.walk(tree, Decided::default(), |above, entry| {
        if failed.is_some() {
            return None;
        }
        let path = entry.path.to_string_lossy();
        let decided = inputs.decide(*above, &path);
        if entry.is_folder() {
            return inputs.may_include_below(decided, &path).then_some(decided);
        }
        let rules = entry.path.file_name().is_some_and(|name| name == ".gitattributes");
        if rules || inputs.includes(decided) {
            let (mode, content) = (entry.mode.to_owned(), entry.id);
            failed = found.push(InputFile { path: entry.path, mode, content }, decided).err();
        }
        None
    })?;
    match failed {
        Some(error) => Err(error),
        None => Ok(found.listing(inputs, None)),
    }
}

/// The inputs that are in a working tree, `hidden` left out. With `digests` their content is named;
/// without, only how they look is found out.
pub(crate) fn of_working_tree(
    root: &Path,
    hidden: &BTreeSet<PathBuf>,
    inputs: &Inputs,
    digests: Option<&Digests>,
) -> Result<Listing, InputError> {
    let mut tree = Tree { root, hidden: HashMap::new(), inputs };
    for path in hidden {
        if let (Some(folder), Some(name)) = (path.parent(), path.file_name()) {
            tree.hidden.entry(folder).or_default().insert(name);
        }
    }
    let mut walk = Walk {
        folders: tree.folders()?,
        root,
        reader: digests.map(|digests| digests.reader(root)),
        looks: blake3::Hasher::new(),
        unhashed: Vec::with_capacity(HASHED_AT_ONCE),
        found: Found::default(),
    };
    let done = walk.go();
    let Walk { reader, mut looks, unhashed, found, .. } = walk;
    looks.update(&unhashed);
    if let Some(reader) = reader {
        reader.keep();
    }
    done?;
    Ok(found.listing(inputs, Some(looks.finalize())))
}

/// What is looked at.
struct Tree<'a> {
    root: &'a Path,
    /// Names, by the folder that they are in.
    hidden: HashMap<&'a Path, HashSet<&'a OsStr>>,
    inputs: &'a Inputs,
}

/// Goes through what was seen.
struct Walk<'a> {
    root: &'a Path,
    /// What is in each folder, in the order of names.
    folders: HashMap<PathBuf, Vec<Item>>,
    reader: Option<crate::digests::Reader<'a>>,
    looks: blake3::Hasher,
    /// How the last files look, one after the other.
    unhashed: Vec<u8>,
    found: Found,
}

/// What a folder has that matters.
struct Item {
    path: PathBuf,
    decided: Decided,
    /// As it looks, when it is an input itself.
    looks: Option<Looks>,
    go_below: bool,
}

impl Tree<'_> {
    /// Looks at everything.
    fn folders(&self) -> Result<HashMap<PathBuf, Vec<Item>>, InputError> {
        let folders = Mutex::new(HashMap::new());
        let n_files = AtomicUsize::new(0);
        let all = vec![(PathBuf::new(), Decided::default())];
        spread::work_off(all, |(path, above), more| {
            let items = self.items(&path, above)?;
            let below = items.iter().filter(|item| item.go_below);
            more.extend(below.map(|item| (item.path.clone(), item.decided)));
            let n_here = items.iter().filter(|item| item.looks.is_some()).count();
            if n_files.fetch_add(n_here, Ordering::Relaxed) + n_here > INPUT_FILES_MAX {
                return Err(InputError::TooMany);
            }
            folders.lock().unwrap_or_else(PoisonError::into_inner).insert(path, items);
            Ok(())
        })?;
        Ok(folders.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
    /// Looked at through the open folder: the kernel then need not walk to each file.
    fn items(&self, folder: &Path, above: Decided) -> Result<Vec<Item>, InputError> {
        let at = self.root.join(folder);
        let failed = |cause: Errno| InputError::Read { path: at.clone(), cause: cause.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // The root may be named through a link; below it none is followed.
        let flags = if folder.as_os_str().is_empty() { flags } else { flags | OFlags::NOFOLLOW };
        let open = match sys::open(&at, flags, Mode::empty()) {
            // Gone since it was seen, or turned into something else.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !folder.as_os_str().is_empty() => {
                return Ok(Vec::new());
            }
            open => open.map_err(failed)?,
        };
        let hidden = self.hidden.get(folder);
        let mut items = Vec::new();
        for entry in Dir::read_from(&open).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            let is_hidden = || hidden.is_some_and(|names| names.contains(name));
            if name == "." || name == ".." || name == ".git" || is_hidden() {
                continue;
            }
            items.extend(self.item(&open, folder.join(name), name, entry.file_type(), above)?);
        }
        items.sort_unstable_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
        Ok(items)
    }

    /// `None`: it is no input and has none.
    fn item(
        &self,
        folder: &OwnedFd,
        path: PathBuf,
        name: &OsStr,
        kind: FileType,
        above: Decided,
    ) -> Result<Option<Item>, InputError> {
        let text = path.to_string_lossy();
        let decided = self.inputs.decide(above, &text);
        let is_input = self.inputs.includes(decided);
        let may_go_below = || self.inputs.may_include_below(decided, &text);
        let looked = match is_input || kind == FileType::Unknown {
            true => match sys::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => return Ok(None),
                looked => Some(looked.map_err(|cause| InputError::Read {
                    path: self.root.join(&path),
                    cause: cause.into(),
                })?),
            },
            false => None,
        };
        let kind = looked.map_or(kind, |looked| FileType::from_raw_mode(looked.st_mode));
        let go_below = kind == FileType::Directory && may_go_below();
        let looks = looked.filter(|_| is_input).map(|looked| looks_of(&looked));
        Ok((go_below || is_input).then_some(Item { path, decided, looks, go_below }))
    }
}

impl Walk<'_> {
    /// In the order of names, a folder before what is in it: looks are compared, and a listing in order
    /// need not be put in order.
    fn go(&mut self) -> Result<(), InputError> {
        // A stack of our own: trees may be deeper than a thread's.
        let mut todo = vec![self.below(Path::new(""))];
        while let Some(level) = todo.last_mut() {
            let Some(Item { path, decided, looks, go_below }) = level.next() else {
                todo.pop();
                continue;
            };
            let below = go_below.then(|| self.below(&path));
            if let Some(looks) = looks {
                self.take(path, looks, decided)?;
            }
            todo.extend(below);
        }
        Ok(())
    }

    fn below(&mut self, folder: &Path) -> std::vec::IntoIter<Item> {
        self.folders.remove(folder).unwrap_or_default().into_iter()
    }

    fn take(&mut self, path: PathBuf, looks: Looks, decided: Decided) -> Result<(), InputError> {
        self.unhashed.extend_from_slice(path.as_os_str().as_bytes());
        self.unhashed.push(0);
        looks.iter().for_each(|number| self.unhashed.extend_from_slice(&number.to_le_bytes()));
        if self.unhashed.len() >= HASHED_AT_ONCE {
            self.looks.update(&self.unhashed);
            self.unhashed.clear();
        }
        let Some(reader) = &mut self.reader else { return Ok(()) };
        // As the file system gives it, in 32 bits.
        let mode = u32::try_from(looks[2]).unwrap_or(0);
        let content = match FileType::from_raw_mode(mode) {
            FileType::RegularFile => reader.digest(&path, looks),
            FileType::Symlink => fs::read_link(self.root.join(&path))
                .map(|target| blake3::hash(target.as_os_str().as_bytes()).to_hex().to_string()),
            _ => Ok(String::new()),
        };
        let content = match content {
            Err(cause) if is_gone(&cause) => return Ok(()),
            content => {
                content.map_err(|cause| InputError::Read { path: self.root.join(&path), cause })?
            }
        };
        self.found.push(InputFile { path, mode: format!("{mode:o}"), content }, decided)
    }
}

/// What changes when a file does. Not the time of the last look at it; of folders not their own times
/// either, since what is in them is looked at by itself. In order: device, inode, mode, size, and the two
/// times, each in seconds and nanoseconds.
pub(crate) type Looks = [u64; 8];

pub(crate) fn looks(meta: &Metadata) -> Looks {
    let unless_folder = |number: i64| if meta.is_dir() { 0 } else { number.cast_unsigned() };
    [
        meta.dev(),
        meta.ino(),
        u64::from(meta.mode()),
        if meta.is_dir() { 0 } else { meta.size() },
        unless_folder(meta.mtime()),
        unless_folder(meta.mtime_nsec()),
        unless_folder(meta.ctime()),
        unless_folder(meta.ctime_nsec()),
    ]
}

/// The same of another form of the kernel's answer.
fn looks_of(stat: &Stat) -> Looks {
    let [mode, size] = [u64::from(stat.st_mode), stat.st_size.cast_unsigned()];
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return [stat.st_dev, stat.st_ino, mode, 0, 0, 0, 0, 0];
    }
    let (modified, changed) = (stat.st_mtime.cast_unsigned(), stat.st_ctime.cast_unsigned());
    let (m_nanos, c_nanos) = (stat.st_mtime_nsec, stat.st_ctime_nsec);
    [stat.st_dev, stat.st_ino, mode, size, modified, m_nanos, changed, c_nanos]
}

fn is_gone(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
