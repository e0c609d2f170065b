//! What comes from git: source layers, the files of a tree made once, and the `.git` over them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use kiln_model::layer::LayerId;
use kiln_stdx::fs::{FsError, Named};

use crate::workspaces::DOT_GIT;
use crate::{Driver, WorkspaceError, Workspaces, damage, step, tree};

/// Longest chain of sources over one another. Each costs a lookup of a name that is in none of them
/// a little; 16 are not felt. Past it the next source stands on the full one below them all, and
/// holds all that has changed since.
const CHAIN_MAX: usize = 16;

/// In a source that lies over others: its own files, which those are, git's index of the whole, and how
/// the folder of the files looked.
const FILES: &str = "files";
const BELOW: &str = "below";
const INDEX: &str = "index";
const LOOKS: &str = "looks";

/// What a source takes away from the one below it. Relative paths.
#[derive(Debug, Default)]
pub struct Removed {
    /// Files and whole folders.
    pub gone: Vec<PathBuf>,
    /// Folders that are there, but with nothing of what was in them.
    pub emptied: Vec<PathBuf>,
}

impl Workspaces {
    pub fn has_source(&self, tree: &str) -> bool {
        is_name(tree) && self.source_chain(tree).is_some()
    }

    /// As [`Workspaces::has_source`], and each of its folders looks from outside as when it was made.
    /// One that does not is set aside, to be made again. A change further down is seen by
    /// [`Workspaces::verify`] only: looking at every file takes as long as a checkout.
    pub fn has_sound_source(&self, tree: &str) -> bool {
        let Some(chain) = self.source_chain(tree).filter(|_| is_name(tree)) else { return false };
        let (full, over) = chain.split_at(1);
        let full = full.iter().map(|tree| {
            let folder = self.sources().join(tree);
            (folder.clone(), self.looks_file(tree), folder)
        });
        let over = over.iter().map(|tree| {
            let folder = self.over(tree);
            (folder.join(FILES), folder.join(LOOKS), folder)
        });
        full.chain(over).all(|(files, looks, whole)| {
            // Nothing is noted of one that an older kiln has made, or that was made a moment ago.
            let Ok(then) = fs::read_to_string(&looks) else { return true };
            let now = fs::symlink_metadata(&files).map(|meta| damage::looks(&meta));
            let same = now.is_ok_and(|now| now == then);
            if !same && self.set_aside(&whole, "its folder was changed since it was made").is_ok() {
                let _ = tree::remove(&looks);
            }
            same
        })
    }

    /// How the folder of a full source looked.
    fn looks_file(&self, tree: &str) -> PathBuf {
        self.sources().join(format!("{tree}.{LOOKS}"))
    }

    /// What is a source's own: its folder, and the files beside it.
    pub(crate) fn own_of_source(&self, tree: &str) -> Vec<PathBuf> {
        let full = self.sources().join(tree);
        if !full.is_dir() {
            return vec![self.over(tree)];
        }
        let beside = [self.sources().join(format!("{tree}.{INDEX}")), self.looks_file(tree)];
        [full].into_iter().chain(beside.into_iter().filter(|path| path.exists())).collect()
    }

    /// The sources that make up a tree, lowest first; `None` when it, or one of them, is not there.
    fn source_chain(&self, tree: &str) -> Option<Vec<String>> {
        let mut chain = Vec::new();
        if !self.sources().join(tree).is_dir() {
            let below = fs::read_to_string(self.over(tree).join(BELOW)).ok()?;
            chain.extend(below.lines().map(str::to_owned));
            let (full, over) = chain.split_first()?;
            let there = self.sources().join(full).is_dir()
                && over.iter().all(|tree| self.over(tree).join(FILES).is_dir());
            if !there {
                return None;
            }
        }
        chain.push(tree.to_owned());
        Some(chain)
    }

    /// The folders that make up a tree, lowest first.
    pub(crate) fn source_paths(&self, tree: &str) -> Option<Vec<PathBuf>> {
        let chain = self.source_chain(tree)?;
        let (full, over) = chain.split_first()?;
        let over = over.iter().map(|tree| self.over(tree).join(FILES));
        Some([self.sources().join(full)].into_iter().chain(over).collect())
    }

    /// A source that holds only what differs from those below it.
    fn over(&self, tree: &str) -> PathBuf {
        self.sources().join(format!("{tree}.over"))
    }

    /// Makes a source layer from another by what differs: `fill((from, its index), folder, index)`
    /// writes the changed files into an empty folder and the index of the whole tree, and says what
    /// is gone. `from` is `near`, or the full source below it when many lie over one another already.
    ///
    /// `None` when it cannot be made so (no such source, no index, `fill` says so, or this machine
    /// copies and does not stack); then nothing is left, and the source is to be made in full.
    pub fn make_source_from(
        &self,
        near: &str,
        tree: &str,
        fill: impl FnOnce((&str, &Path), &Path, &Path) -> Result<Option<Removed>, String>,
    ) -> Result<Option<LayerId>, WorkspaceError> {
        let user = match self.driver() {
            Driver::Overlay => false,
            Driver::OverlayUser => true,
            Driver::Reflink | Driver::Copy => return Ok(None),
        };
        checked_name(tree)?;
        checked_name(near)?;
        let layer = LayerId::Source(tree.to_owned());
        if self.has_sound_source(tree) {
            return Ok(Some(layer));
        }
        let Some(mut chain) = self.source_chain(near) else { return Ok(None) };
        if chain.len() >= CHAIN_MAX {
            chain.truncate(1);
        }
        let from = chain[chain.len() - 1].as_str();
        let Some(from_index) = self.index(from) else { return Ok(None) };
        let temporary = tree::temporary_in(&self.sources());
        let files = temporary.join(FILES);
        fs::create_dir(&temporary).named("create", &temporary)?;
        let made = (|| {
            fs::create_dir(&files).named("create", &files)?;
            let filled = fill((from, &from_index), &files, &temporary.join(INDEX))
                .map_err(|message| WorkspaceError::Fill { tree: tree.to_owned(), message })?;
            let Some(removed) = filled else { return Ok(false) };
            remove_in(&files, &removed, user)?;
            let below = temporary.join(BELOW);
            fs::write(&below, chain.join("\n")).named("write", &below)?;
            write_looks(&files, &temporary.join(LOOKS))?;
            // Another maker may have been quicker.
            Ok(fs::rename(&temporary, self.over(tree)).is_ok() || self.has_source(tree))
        })();
        // The first error is the one to tell.
        let removed = tree::remove(&temporary);
        let made: Result<bool, WorkspaceError> = made;
        Ok(made.and_then(|made| removed.map(|()| made).map_err(Into::into))?.then_some(layer))
    }

    /// Makes a source layer: `fill(folder, index)` fills an empty folder, and may write git's index of
    /// it. Appears whole or not at all; two makers at once are harmless.
    pub fn make_source(
        &self,
        tree: &str,
        fill: impl FnOnce(&Path, &Path) -> Result<(), String>,
    ) -> Result<LayerId, WorkspaceError> {
        checked_name(tree)?;
        match self.has_sound_source(tree) {
            true => Ok(LayerId::Source(tree.to_owned())),
            false => self.make_full_source(tree, fill),
        }
    }

    /// How many sources lie over one another to make up a tree; 0 when it is not there.
    pub fn n_sources(&self, tree: &str) -> usize {
        self.source_chain(tree).map_or(0, |chain| chain.len())
    }

    /// As [`Workspaces::make_source`], also when the tree is there as a source that lies over others:
    /// whoever asks from then on gets the full one.
    pub fn make_full_source(
        &self,
        tree: &str,
        fill: impl FnOnce(&Path, &Path) -> Result<(), String>,
    ) -> Result<LayerId, WorkspaceError> {
        checked_name(tree)?;
        let layer = LayerId::Source(tree.to_owned());
        let finished = self.sources().join(tree);
        if finished.is_dir() {
            return Ok(layer);
        }
        let temporary = tree::temporary_in(&self.sources());
        let index = tree::temporary_in(&self.sources());
        fs::create_dir(&temporary).named("create", &temporary)?;
        let filled = fill(&temporary, &index)
            .map_err(|message| WorkspaceError::Fill { tree: tree.to_owned(), message });
        let made = filled.and_then(|()| match fs::rename(&temporary, &finished) {
            // Another maker was quicker; both filled in the same files.
            Err(_) if finished.is_dir() => Ok(()),
            other => other.named("create", &finished).map_err(WorkspaceError::from),
        });
        // Only now: an index says how the files look that won, down to their inodes.
        let won = made.is_ok() && !temporary.exists();
        if won {
            write_looks(&finished, &self.looks_file(tree))?;
        }
        if won && fs::rename(&index, self.sources().join(format!("{tree}.index"))).is_ok() {
            return Ok(layer);
        }
        // The first error is the one to tell.
        let removed = tree::remove(&temporary).and(tree::remove(&index));
        made.and(removed.map_err(Into::into)).map(|()| layer)
    }

    /// Makes the layer `name` with a `.git`: `fill(folder, index)` writes it into an empty folder, with
    /// git's index of the tree where that is known. Made once, and then the same for everybody who
    /// asks.
    pub fn make_git(
        &self,
        name: &str,
        tree: &str,
        fill: impl FnOnce(&Path, Option<&Path>) -> Result<(), String>,
    ) -> Result<GitLayer, WorkspaceError> {
        checked_name(name)?;
        checked_name(tree)?;
        let finished = self.gits().join(name);
        let layer = GitLayer(name.to_owned());
        if finished.is_dir() {
            if is_whole_git(&finished) {
                return Ok(layer);
            }
            self.set_aside(&finished, "its `.git` is damaged, or what it borrows from is gone")?;
        }
        let index = self.index(tree);
        let temporary = tree::temporary_in(&self.gits());
        fs::create_dir(&temporary).named("create", &temporary)?;
        let filled = fill(&temporary, index.as_deref())
            .map_err(|message| WorkspaceError::Git { name: name.to_owned(), message });
        let made = filled.and_then(|()| match fs::rename(&temporary, &finished) {
            Err(_) if finished.is_dir() => tree::remove(&temporary).map_err(Into::into),
            other => other.named("create", &finished).map_err(Into::into),
        });
        if made.is_err() {
            let _ = tree::remove(&temporary);
        }
        made.map(|()| layer)
    }

    /// git's index of a source, when its maker gave one.
    pub(crate) fn index(&self, tree: &str) -> Option<PathBuf> {
        let index = match self.sources().join(tree).is_dir() {
            true => self.sources().join(format!("{tree}.index")),
            false => self.over(tree).join(INDEX),
        };
        index.is_file().then_some(index)
    }

    /// The folder that has it as `.git`.
    pub fn git_path(&self, layer: &GitLayer) -> PathBuf {
        self.gits().join(&layer.0)
    }
}

fn write_looks(files: &Path, looks: &Path) -> Result<(), FsError> {
    let meta = fs::symlink_metadata(files).named("read", files)?;
    step::write_unsynced(looks, damage::looks(&meta).as_bytes())
}

/// Hides what is gone of the layers below.
fn remove_in(files: &Path, removed: &Removed, user: bool) -> Result<(), FsError> {
    for path in &removed.gone {
        let path = files.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).named("create", folder)?;
        }
        tree::make_white_out(&path)?;
    }
    removed.emptied.iter().try_for_each(|path| tree::make_opaque(&files.join(path), user))
}

/// Whether a `.git` has a HEAD, and somebody whose objects it borrows is there.
fn is_whole_git(layer: &Path) -> bool {
    let git = layer.join(DOT_GIT);
    let has_head = fs::metadata(git.join("HEAD")).is_ok_and(|head| head.len() > 0);
    let borrowed = fs::read(git.join("objects/info/alternates")).unwrap_or_default();
    let is_there = |line: &[u8]| Path::new(OsStr::from_bytes(&unquoted(line))).is_dir();
    has_head && borrowed.split(|byte| *byte == b'\n').any(|line| !line.is_empty() && is_there(line))
}

/// A line of alternates: in double quotes where a path would end it.
fn unquoted(line: &[u8]) -> Vec<u8> {
    let inner = line.strip_prefix(b"\"").and_then(|line| line.strip_suffix(b"\""));
    let mut bytes = inner.unwrap_or(line).iter();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'n') => b'\n',
                Some(other) => *other,
                None => b'\\',
            },
            other => *other,
        });
    }
    out
}

/// A `.git` that is there, to be laid over a source. Made by [`Workspaces::make_git`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GitLayer(String);

/// One plain name: no separator, not `.` or `..`, not one of the temporary ones.
pub(crate) fn is_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let plain = matches!(parts.next(), Some(Component::Normal(part)) if part == name);
    plain && parts.next().is_none() && !name.starts_with('.') && !name.contains('\0')
}

pub(crate) fn checked_name(name: &str) -> Result<&str, WorkspaceError> {
    if is_name(name) { Ok(name) } else { Err(WorkspaceError::Name(name.to_owned())) }
}
