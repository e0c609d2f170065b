//! What comes from git: source layers, the files of a tree made once, and the `.git` over them.

use std::fs;
use std::path::{Component, Path, PathBuf};

use kiln_model::layer::LayerId;
use kiln_stdx::fs::{FsError, Named};

use crate::{Driver, WorkspaceError, Workspaces, tree};

/// Longest chain of sources over one another. Each costs a lookup of a name that is in none of them
/// a little; 16 are not felt. Past it the next source stands on the full one below them all, and
/// holds all that has changed since.
const CHAIN_MAX: usize = 16;

/// In a source that lies over others: its own files, which those are, and git's index of the whole.
const FILES: &str = "files";
const BELOW: &str = "below";
const INDEX: &str = "index";

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
        if self.has_source(tree) {
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
        match self.has_source(tree) {
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
            return Ok(layer);
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
    fn index(&self, tree: &str) -> Option<PathBuf> {
        let index = match self.sources().join(tree).is_dir() {
            true => self.sources().join(format!("{tree}.index")),
            false => self.over(tree).join(INDEX),
        };
        index.is_file().then_some(index)
    }

    pub(crate) fn git_path(&self, layer: &GitLayer) -> PathBuf {
        self.gits().join(&layer.0)
    }
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
