//! An archive into a folder, and nowhere else.
//!
//! Every folder on the way to an entry is opened from the one above it, by one plain name, never
//! through a link; files are made new and never opened. So nothing that the archive, or somebody who
//! changes the folder at the same time, puts in the way leads out of it.

mod file;
mod hidden;
mod attributes;

use std::collections::{BTreeMap, HashSet};
use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use kiln_stdx::fs::{FsError, Named};
use kiln_stdx::subordinate::Owned;
use rustix::fs::{self as sys, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use self::attributes::attributes;
use super::ahead::{ahead, plain};
use super::header::Header;
use super::read::{End, Tar, path};
use super::{Bound, OPAQUE, UnpackError, WHITE_OUT};
use crate::copy::Gone;
use crate::tree;

/// What an archive may have at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Unpacked, headers included. Holes are free.
    pub bytes: u64,
    pub entries: u64,
    /// Folders in one another.
    pub depth: usize,
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    pub n_entries: u64,
    /// What the archive takes away of the layers below.
    pub n_gone: u64,
}

/// Where an archive is unpacked for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// In a new or an empty folder.
    Nothing,
    /// Over the files of a folder: what the archive has takes their place, what it says is gone goes.
    Files,
}

/// What becomes of the marks of what is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marks {
    /// What they name is removed.
    Apply,
    /// overlayfs's own, root's or a user's.
    Overlay { user: bool },
    /// As those. Devices, which images have and containers get otherwise, are left out.
    Image { user: bool },
    /// They are only told.
    Record,
}

/// Unpacks into `into`, which is made if it is not there. `from` is a tar, perhaps compressed.
///
/// Nothing is left of an archive that is refused, but for [`Over::Files`], where what came before
/// the refusal stays.
pub fn unpack(
    from: impl Read + Send,
    into: &Path,
    over: Over,
    bounds: &Bounds,
) -> Result<Unpacked, UnpackError> {
    let there = into.try_exists().named("look for", into)?;
    if there && over == Over::Nothing && !tree::is_empty(into)? {
        return Err(UnpackError::NotEmpty(into.to_owned()));
    }
    std::fs::create_dir_all(into).named("create", into)?;
    let unpacked = unpack_as(from, into, Marks::Apply, bounds).map(|(unpacked, _)| unpacked);
    if unpacked.is_err() && over == Over::Nothing {
        // The first error is the one to tell.
        let _ = match there {
            true => empty(into),
            false => tree::remove(into),
        };
    }
    unpacked
}

fn empty(folder: &Path) -> Result<(), FsError> {
    tree::entries(folder)?.iter().try_for_each(|(path, _)| tree::remove(path))
}

/// Unpacks into a folder that is there. What is gone is told for [`Marks::Record`].
pub(crate) fn unpack_as(
    from: impl Read + Send,
    into: &Path,
    marks: Marks,
    bounds: &Bounds,
) -> Result<(Unpacked, Gone), UnpackError> {
    unpack_all(from, into, marks, bounds).map(|(unpacked, gone, _)| (unpacked, gone))
}

/// As [`unpack_as`]. Gives the owners that an ordinary user cannot give, folders after what is in them.
pub(crate) fn unpack_image(
    from: impl Read + Send,
    into: &Path,
    marks: Marks,
    bounds: &Bounds,
) -> Result<Vec<Owned>, UnpackError> {
    let (_, _, owned) = unpack_all(from, into, marks, bounds)?;
    Ok(owned.into_values().rev().collect())
}

type Owners = BTreeMap<PathBuf, Owned>;

fn unpack_all(
    from: impl Read + Send,
    into: &Path,
    marks: Marks,
    bounds: &Bounds,
) -> Result<(Unpacked, Gone, Owners), UnpackError> {
    let end = if matches!(marks, Marks::Image { .. }) { End::Any } else { End::Marked };
    let root = sys::open(into, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = root.map_err(io::Error::from).named("open", into)?;
    let from = plain(from).map_err(|cause| UnpackError::read(None, cause))?;
    ahead(from, |from| {
        let mut unpack = Unpack {
            tar: Tar::new(from, bounds.bytes, end),
            root,
            into,
            marks,
            bounds: *bounds,
            way: Vec::new(),
            folders: BTreeMap::new(),
            made: HashSet::new(),
            gone: Gone::default(),
            owned: Owners::new(),
            n_names: 0,
            unpacked: Unpacked::default(),
            buffer: vec![0; CHUNK],
        };
        while let Some(header) = unpack.tar.next()? {
            unpack.entry(&header)?;
        }
        unpack.finish_folders()?;
        Ok((unpack.unpacked, unpack.gone, unpack.owned))
    })
}

const CHUNK: usize = 256 << 10;

/// So many folders on the way to an entry are held open for the next one.
const WAY_MAX: usize = 64;

/// Names of folders, their attributes and what is gone stay in memory until all else is there.
const NAMES_BYTES_MAX: u64 = 256 << 20;

/// What a file's capabilities are kept in.
const CAPABILITIES: &str = "security.capability";

/// Of a folder that only the paths of others name.
const IMPLIED_MODE: u32 = 0o755;

struct Unpack<'a, R> {
    tar: Tar<R>,
    root: OwnedFd,
    into: &'a Path,
    marks: Marks,
    bounds: Bounds,
    /// The folders to the last entry.
    way: Vec<(OsString, OwnedFd)>,
    /// Their attributes come last: what is made in a folder changes its times, and a mode may
    /// forbid it. `None`: only named by others so far.
    folders: BTreeMap<PathBuf, Option<Header>>,
    /// Hashes of the paths that are there by this archive.
    made: HashSet<[u8; 16]>,
    gone: Gone,
    /// What is to be another's, in an image that an ordinary user unpacks.
    owned: Owners,
    /// Bytes of names and attributes in `folders`, `gone` and `owned`.
    n_names: u64,
    unpacked: Unpacked,
    buffer: Vec<u8>,
}

impl<R: Read> Unpack<'_, R> {
    fn entry(&mut self, header: &Header) -> Result<(), UnpackError> {
        self.unpacked.n_entries += 1;
        let entry = self.checked(&header.path)?;
        if self.unpacked.n_entries > self.bounds.entries {
            let bound = Bound::Entries(self.bounds.entries);
            return Err(UnpackError::TooMuch { entry, bound });
        }
        let Some(name) = entry.file_name() else {
            // The root: its attributes.
            self.owner(Path::new("."), header)?;
            let known = self.folders.insert(PathBuf::new(), Some(header.clone()));
            return match (header.kind, known.flatten()) {
                (b'5', None) => Ok(()),
                (b'5', Some(_)) if self.is_image() => Ok(()),
                _ => Err(UnpackError::refused(Path::new("."), "it is there twice, or no folder")),
            };
        };
        let marked = !header.plain && name.as_bytes().starts_with(WHITE_OUT);
        if marked && name.as_bytes() == OPAQUE {
            return self.opaque(entry.parent().unwrap_or(Path::new("")));
        }
        if marked {
            let name = OsStr::from_bytes(&name.as_bytes()[WHITE_OUT.len()..]);
            if name.is_empty() || name == "." || name == ".." {
                return Err(UnpackError::refused(&entry, "it marks nothing as gone"));
            }
            return self.white_out(entry.with_file_name(name));
        }
        self.note(&entry, header.kind == b'5')?;
        self.owner(&entry, header)?;
        match header.kind {
            b'0' | b'\0' | b'7' if header.path.ends_with(b"/") => self.folder(entry, header),
            b'0' | b'\0' | b'7' => self.file(&entry, header),
            b'1' => self.hard_link(&entry, header),
            b'2' => self.link(&entry, header),
            b'5' => self.folder(entry, header),
            b'6' => self.fifo(&entry, header),
            b'3' | b'4' if matches!(self.marks, Marks::Image { .. }) => Ok(()),
            b'3' | b'4' => Err(UnpackError::refused(&entry, "it is a device")),
            other => {
                let kind = char::from(other).escape_default();
                // GNU tar's own format for files with holes has kind `S`.
                let why = format!(
                    "its kind `{kind}` is not known; `tar --format=posix` writes none but known ones"
                );
                Err(UnpackError::refused(&entry, why))
            }
        }
    }

    /// A path that is relative and goes only downwards.
    fn checked(&self, bytes: &[u8]) -> Result<PathBuf, UnpackError> {
        let whole = path(bytes);
        if bytes.contains(&0) {
            return Err(UnpackError::refused(&whole, "a zero is in its name"));
        }
        let mut checked = PathBuf::new();
        let mut depth = 0;
        for part in whole.components() {
            match part {
                Component::Normal(name) => {
                    checked.push(name);
                    depth += 1;
                }
                Component::CurDir => {}
                // Some builders write it, and mean the root of the image.
                Component::RootDir if self.is_image() => {}
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                    return Err(UnpackError::refused(&whole, "it leads out of the folder"));
                }
            }
        }
        if depth > self.bounds.depth {
            let bound = Bound::Depth(self.bounds.depth);
            return Err(UnpackError::TooMuch { entry: checked, bound });
        }
        if bytes.is_empty() {
            return Err(UnpackError::refused(&whole, "it has no name"));
        }
        Ok(checked)
    }

    /// What is held in memory until the end has a bound.
    fn hold(&mut self, entry: &Path, header: Option<&Header>) -> Result<(), UnpackError> {
        let xattrs = header.into_iter().flat_map(|header| &header.xattrs);
        let attributes: usize = xattrs.map(|(name, value)| name.len() + value.len()).sum();
        // Twice: the header has its own copy.
        self.n_names += (2 * entry.as_os_str().len() + attributes) as u64;
        match self.n_names > NAMES_BYTES_MAX {
            true => {
                let bound = Bound::Names(NAMES_BYTES_MAX);
                Err(UnpackError::TooMuch { entry: entry.to_owned(), bound })
            }
            false => Ok(()),
        }
    }

    /// Remembers whose it is, if it must be given to another once it is there.
    fn owner(&mut self, entry: &Path, header: &Header) -> Result<(), UnpackError> {
        // Another name of a file has the file's owner; what is left out has none.
        let is_kept = matches!(header.kind, b'0' | b'\0' | b'7' | b'2' | b'5' | b'6');
        let user = matches!(self.marks, Marks::Image { user: true });
        if !user || !is_kept {
            return Ok(());
        }
        let capabilities = header.xattrs.iter().find(|(name, _)| name.as_str() == CAPABILITIES);
        let capabilities = capabilities.map(|(_, value)| value.clone());
        if (header.uid, header.gid) == (0, 0) && capabilities.is_none() {
            self.owned.remove(entry);
            return Ok(());
        }
        let Ok(path) = CString::new(entry.as_os_str().as_bytes()) else { return Ok(()) };
        self.hold(entry, None)?;
        let mode = (header.kind != b'2' && header.mode & 0o6000 != 0).then_some(header.mode);
        let owned = Owned { path, uid: header.uid, gid: header.gid, mode, capabilities };
        self.owned.insert(entry.to_owned(), owned);
        Ok(())
    }

    /// Every path comes once.
    fn note(&mut self, entry: &Path, folder: bool) -> Result<(), UnpackError> {
        let implied = folder && self.folders.get(entry).is_some_and(Option::is_none);
        let is_named = !folder && self.folders.contains_key(entry);
        match self.made.insert(hash(entry)) || implied {
            true if self.is_image() && is_named => self.replace(entry, folder),
            true => Ok(()),
            false if self.is_image() => self.replace(entry, folder),
            false => Err(UnpackError::refused(entry, "it is there twice")),
        }
    }

    fn is_image(&self) -> bool {
        matches!(self.marks, Marks::Image { .. })
    }

    /// Builders of images write a path twice, by mistake or to change it: the later one holds, and a folder
    /// keeps what is in it.
    fn replace(&mut self, entry: &Path, by_folder: bool) -> Result<(), UnpackError> {
        if by_folder && self.folders.contains_key(entry) {
            return Ok(());
        }
        self.way.clear();
        // Paths are in order of their parts: those below come right after it.
        let below = self.folders.range(entry.to_owned()..);
        let below = below.take_while(|(path, _)| path.starts_with(entry));
        let below: Vec<PathBuf> = below.map(|(path, _)| path.clone()).collect();
        below.iter().for_each(|path| drop(self.folders.remove(path)));
        let owned = self.owned.range(entry.to_owned()..).map(|(path, _)| path.clone());
        let owned: Vec<_> = owned.take_while(|path| path.starts_with(entry)).collect();
        owned.iter().for_each(|path| drop(self.owned.remove(path)));
        let name = entry.file_name().unwrap_or_default();
        let folder = self.folder_of(entry.parent().unwrap_or(Path::new("")))?;
        let was_gone = sys::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|meta| FileType::from_raw_mode(meta.st_mode) == FileType::CharacterDevice);
        tree::remove(&held(folder, name))?;
        if was_gone && by_folder {
            // What was below stays gone.
            self.make_folder(entry)?;
            self.folders.insert(entry.to_owned(), None);
            self.opaque(entry)?;
        }
        Ok(())
    }

    fn folder(&mut self, entry: PathBuf, header: &Header) -> Result<(), UnpackError> {
        self.hold(&entry, Some(header))?;
        if !self.folders.contains_key(&entry) {
            self.make_folder(&entry)?;
        }
        self.folders.insert(entry, Some(header.clone()));
        Ok(())
    }

    /// A new folder; one that is there already stays where the archive is laid over files.
    fn make_folder(&mut self, entry: &Path) -> Result<(), UnpackError> {
        let (above, name) = (entry.parent().unwrap_or(Path::new("")), entry.file_name());
        let name = name.unwrap_or_default();
        let applies = self.marks == Marks::Apply;
        let folder = self.folder_of(above)?;
        let is_folder = || {
            sys::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|meta| FileType::from_raw_mode(meta.st_mode) == FileType::Directory)
        };
        if !(applies && is_folder()) {
            self.make(entry, |folder, name| sys::mkdirat(folder, name, Mode::RWXU))?;
        }
        Ok(())
    }

    /// Makes the last name of a path by `act`, in its folder. In the place of another file where the
    /// archive is laid over files.
    fn make<T>(
        &mut self,
        entry: &Path,
        act: impl Fn(BorrowedFd<'_>, &OsStr) -> Result<T, Errno>,
    ) -> Result<T, UnpackError> {
        let applies = self.marks == Marks::Apply;
        let real = self.into.join(entry);
        let name = entry.file_name().unwrap_or_default();
        let folder = self.folder_of(entry.parent().unwrap_or(Path::new("")))?;
        let made = match act(folder, name) {
            Err(Errno::EXIST) if applies => {
                tree::remove(&held(folder, name))?;
                act(folder, name)
            }
            other => other,
        };
        match made {
            Err(Errno::EXIST) => Err(UnpackError::refused(entry, "it is there twice")),
            other => Ok(other.map_err(io::Error::from).named("create", &real)?),
        }
    }

    /// A folder of the archive, opened; made where it is not there.
    fn folder_of(&mut self, folder: &Path) -> Result<BorrowedFd<'_>, UnpackError> {
        let parts: Vec<&OsStr> = folder.iter().collect();
        let known = self.way.iter().zip(&parts).take_while(|(way, part)| way.0 == **part).count();
        self.way.truncate(known);
        for (at, part) in parts.iter().enumerate().skip(known) {
            let below = self.way.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd());
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let open = || sys::openat(below, *part, flags, Mode::empty());
            let opened = match open() {
                Err(Errno::NOENT) => {
                    let path: PathBuf = parts[..=at].iter().collect();
                    sys::mkdirat(below, *part, Mode::RWXU)
                        .map_err(io::Error::from)
                        .named("create", &self.into.join(&path))?;
                    // As `hold` does, whose borrow this is not the place for.
                    self.n_names += path.as_os_str().len() as u64;
                    if self.n_names > NAMES_BYTES_MAX {
                        let bound = Bound::Names(NAMES_BYTES_MAX);
                        return Err(UnpackError::TooMuch { entry: path, bound });
                    }
                    self.folders.entry(path).or_insert(None);
                    open()
                }
                other => other,
            };
            match opened {
                Ok(opened) if at >= WAY_MAX => {
                    // Deep down, only the last one is held.
                    self.way.truncate(WAY_MAX);
                    self.way.push((OsString::new(), opened));
                }
                Ok(opened) => self.way.push(((*part).to_owned(), opened)),
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let through: PathBuf = parts[..=at].iter().collect();
                    let through = through.display();
                    let why = format!("it leads through `{through}`, which is no folder");
                    return Err(UnpackError::refused(folder, why));
                }
                Err(error) => {
                    let path: PathBuf = parts[..=at].iter().collect();
                    return Err(Err::<(), _>(io::Error::from(error))
                        .named("open", &self.into.join(path))
                        .unwrap_err()
                        .into());
                }
            }
        }
        Ok(self.way.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd()))
    }

    /// Deepest first.
    fn finish_folders(&mut self) -> Result<(), UnpackError> {
        let folders = std::mem::take(&mut self.folders);
        for (path, header) in folders.into_iter().rev() {
            let real = self.into.join(&path);
            let folder = self.folder_of(&path)?;
            // Opened once more: what is held is only a place.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let done =
                sys::openat(folder, ".", flags, Mode::empty()).and_then(|folder| match header {
                    Some(header) => attributes(folder.as_fd(), &header),
                    None => sys::fchmod(&folder, Mode::from_raw_mode(IMPLIED_MODE)),
                });
            done.map_err(io::Error::from).named("set the attributes of", &real)?;
        }
        Ok(())
    }
}

fn hash(path: &Path) -> [u8; 16] {
    let hash = blake3::hash(path.as_os_str().as_bytes());
    hash.as_bytes()[..16].try_into().unwrap_or_default()
}

/// A name in an open folder, for calls that take paths. Never ends in a link that is followed: all of
/// them remove or mark what has the name itself.
fn held(folder: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name)
}
