//! The copy driver: a workspace is a tree of its own, and a layer the difference to what it was.
//!
//! A layer in this form is a folder of the files that are new or changed, and beside it, in
//! `<attempt>.json`, what is gone: white-outs need a kernel and a file system that allow them. The
//! other form, an overlay's upper folder, can be laid over a copy too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kiln_stdx::fs::{FsError, Named, write_atomic};
use serde::{Deserialize, Serialize};

use crate::record::{Record, Seen};
use crate::tree::{self, Links};

/// What a layer takes away.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gone {
    /// Files and whole folders.
    #[serde(with = "kiln_stdx::path::list")]
    pub deleted: Vec<PathBuf>,
    /// Folders that were made anew: nothing of what was in them is left.
    #[serde(with = "kiln_stdx::path::list")]
    pub opaque: Vec<PathBuf>,
}

impl Gone {
    /// What a layer in this form takes away; `None` for the other form.
    pub fn of(layer: &Path) -> Result<Option<Self>, FsError> {
        let file = gone_file(layer);
        let text = match fs::read(&file) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.named("read", &file)?,
        };
        serde_json::from_slice(&text).map(Some).map_err(io::Error::other).named("read", &file)
    }
}

/// Where a layer in this form says what is gone.
pub(crate) fn gone_file(layer: &Path) -> PathBuf {
    let mut path = layer.as_os_str().to_owned();
    path.push(".json");
    path.into()
}

/// Fills `to` with a copy of `from`, without the paths in `hidden`.
pub(crate) fn copy_tree(from: &Path, to: &Path, hidden: &BTreeSet<PathBuf>) -> Result<(), FsError> {
    tree::deep(|| copy_folder(from, from, to, hidden, &mut Links::default()))
}

fn copy_folder(
    root: &Path,
    from: &Path,
    to: &Path,
    hidden: &BTreeSet<PathBuf>,
    links: &mut Links,
) -> Result<(), FsError> {
    for (path, meta) in tree::entries(from)? {
        if path.strip_prefix(root).is_ok_and(|relative| hidden.contains(relative)) {
            continue;
        }
        let target = to.join(path.file_name().unwrap_or_default());
        if meta.is_dir() {
            fs::create_dir(&target).named("create", &target)?;
            copy_folder(root, &path, &target, hidden, links)?;
        } else {
            tree::copy_leaf(&path, &meta, &target, links)?;
        }
    }
    let meta = fs::symlink_metadata(from).named("read", from)?;
    tree::copy_attributes(from, &meta, to)
}

/// Lays a layer of either form over `to`.
pub(crate) fn apply(layer: &Path, to: &Path) -> Result<(), FsError> {
    if let Some(gone) = Gone::of(layer)? {
        for path in gone.deleted.iter().chain(&gone.opaque).filter(|path| is_below(to, path)) {
            let path = to.join(path);
            path.parent().map_or(Ok(()), tree::open_up)?;
            tree::remove(&path)?;
        }
    }
    tree::deep(|| apply_folder(layer, to, &mut Links::default()))
}

/// Whether `path` leads through real folders only. Another layer may have put a link in the place of
/// one, and what it leads to is not ours to remove.
fn is_below(root: &Path, path: &Path) -> bool {
    let plain = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    let mut above = path.ancestors().skip(1);
    plain
        && above
            .all(|folder| fs::symlink_metadata(root.join(folder)).is_ok_and(|meta| meta.is_dir()))
}

fn apply_folder(layer: &Path, to: &Path, links: &mut Links) -> Result<(), FsError> {
    tree::open_up(to)?;
    for (path, meta) in tree::entries(layer)? {
        let target = to.join(path.file_name().unwrap_or_default());
        let there = fs::symlink_metadata(&target).ok();
        let merges = meta.is_dir()
            && there.as_ref().is_some_and(fs::Metadata::is_dir)
            && !tree::is_opaque(&path);
        if there.is_some() && !merges {
            tree::remove(&target)?;
        }
        if tree::is_white_out(&meta) {
            continue;
        }
        if meta.is_dir() {
            if !merges {
                fs::create_dir(&target).named("create", &target)?;
            }
            apply_folder(&path, &target, links)?;
        } else {
            tree::copy_leaf(&path, &meta, &target, links)?;
        }
    }
    let meta = fs::symlink_metadata(layer).named("read", layer)?;
    tree::copy_attributes(layer, &meta, to)
}

/// Moves what differs from the record out of `tree` and into the new folder `layer`. `false` when
/// nothing does; then `layer` is empty.
pub(crate) fn take_difference(
    tree: &Path,
    before: &BTreeMap<PathBuf, Seen>,
    layer: &Path,
) -> Result<bool, FsError> {
    difference(tree, before, layer, None)
}

/// As [`take_difference`], and leaves the tree as it is.
pub(crate) fn copy_difference(
    tree: &Path,
    before: &BTreeMap<PathBuf, Seen>,
    layer: &Path,
) -> Result<bool, FsError> {
    difference(tree, before, layer, Some(Links::default()))
}

fn difference(
    tree: &Path,
    before: &BTreeMap<PathBuf, Seen>,
    layer: &Path,
    copied: Option<Links>,
) -> Result<bool, FsError> {
    let mut difference =
        Difference { tree, layer, before, copied, there: BTreeSet::new(), gone: Gone::default() };
    let root = fs::symlink_metadata(tree).named("read", tree)?;
    let some_moved = tree::deep(|| difference.folder(Path::new(""), false))?;
    difference.note_deleted()?;
    tree::copy_attributes(tree, &root, layer)?;
    let gone = difference.gone;
    if gone != Gone::default() {
        write_atomic(&gone_file(layer), &serde_json::to_vec(&gone).unwrap_or_default())?;
    } else if some_moved {
        // It also says that the layer has this form.
        write_atomic(&gone_file(layer), b"{\"deleted\":[],\"opaque\":[]}")?;
    }
    Ok(some_moved || gone != Gone::default())
}

struct Difference<'a> {
    tree: &'a Path,
    layer: &'a Path,
    before: &'a BTreeMap<PathBuf, Seen>,
    /// Files are copied, and these were; `None`: they are moved.
    copied: Option<Links>,
    /// Recorded paths that are still there, as files or as the same folders.
    there: BTreeSet<PathBuf>,
    gone: Gone,
}

impl Difference<'_> {
    /// Goes through one folder; `new` when it was not there before. Says if the layer has it now.
    fn folder(&mut self, relative: &Path, new: bool) -> Result<bool, FsError> {
        let mut made = false;
        let real = self.tree.join(relative);
        for (path, meta) in tree::entries(&real)? {
            let below = relative.join(path.file_name().unwrap_or_default());
            let seen = if new { None } else { self.before.get(&below) };
            if seen.is_some() {
                self.there.insert(below.clone());
            }
            if meta.is_dir() {
                let same = seen.is_some_and(|seen| seen.is_same_folder(&meta));
                // Also in the place of a file: as the kernel does it.
                if !same && seen.is_some() {
                    self.gone.opaque.push(below.clone());
                }
                let still = match seen {
                    Some(seen) if same => seen.is_still(&path, &meta)?,
                    _ => false,
                };
                if !still {
                    self.make_folder(&below)?;
                    made = true;
                }
                if self.folder(&below, !same)? {
                    made = true;
                }
                if !still || self.layer.join(&below).is_dir() {
                    tree::copy_attributes(&path, &meta, &self.layer.join(&below))?;
                }
            } else {
                let still = match seen {
                    Some(seen) => seen.is_still(&path, &meta)?,
                    None => false,
                };
                if !still {
                    self.make_folder(relative)?;
                    self.take(&path, &meta, &below)?;
                    made = true;
                }
            }
        }
        Ok(made)
    }

    fn make_folder(&self, relative: &Path) -> Result<(), FsError> {
        let folder = self.layer.join(relative);
        fs::create_dir_all(&folder).named("create", &folder)
    }

    /// By a rename; by a copy where the folder does not let go of it.
    fn take(&mut self, path: &Path, meta: &fs::Metadata, relative: &Path) -> Result<(), FsError> {
        let to = self.layer.join(relative);
        if let Some(links) = &mut self.copied {
            return tree::copy_leaf(path, meta, &to, links);
        }
        match fs::rename(path, &to) {
            Ok(()) => Ok(()),
            Err(_) => tree::copy_leaf(path, meta, &to, &mut Links::default()),
        }
    }

    /// What was recorded and is not there, except below what is gone anyway. The folders that it was
    /// in are part of the layer, as they are when the kernel notes a deletion.
    fn note_deleted(&mut self) -> Result<(), FsError> {
        let mut last: Option<&Path> = None;
        // In the order of paths, a folder comes before what is in it.
        for path in self.before.keys() {
            let covered = last.is_some_and(|above| path.starts_with(above))
                || self.gone.opaque.iter().any(|above| path.starts_with(above));
            if covered || self.there.contains(path) {
                continue;
            }
            last = Some(path);
            // Below what is no folder any more, nothing is left to be deleted.
            if self.has_folders_above(path)? {
                self.gone.deleted.push(path.clone());
            }
        }
        Ok(())
    }

    /// Makes the folders above a path in the layer, too; `false` when they are not folders.
    fn has_folders_above(&self, path: &Path) -> Result<bool, FsError> {
        let mut missing = Vec::new();
        for folder in path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
            let real = self.tree.join(folder);
            match fs::symlink_metadata(&real) {
                Ok(meta) if meta.is_dir() => {}
                _ => return Ok(false),
            }
            if !self.layer.join(folder).is_dir() {
                missing.push(folder);
            } else if missing.last().is_some_and(|below| below.parent() == Some(folder)) {
                // Its attributes come once more: what is made in it changes them.
                tree::open_up(&self.layer.join(folder))?;
                missing.push(folder);
            }
        }
        for folder in missing.iter().rev() {
            self.make_folder(folder)?;
        }
        // Deepest first: what is made in a folder changes its times.
        for folder in missing {
            let real = self.tree.join(folder);
            let meta = fs::symlink_metadata(&real).named("read", &real)?;
            tree::copy_attributes(&real, &meta, &self.layer.join(folder))?;
        }
        Ok(true)
    }
}

/// Remembers what `tree` looks like now, at `record`.
pub(crate) fn remember(tree: &Path, record: &Path) -> Result<(), FsError> {
    Record::of(tree)?.write(record)
}
