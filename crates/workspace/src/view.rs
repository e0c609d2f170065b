//! Several folders as the one tree that a job saw of them, walked without mounting anything.
//!
//! Digest, packing and copies between drivers read layers through this: whatever form a layer has
//! (an upper folder of root's or a user's overlay, or a copy's difference with its record of what is
//! gone), the same changes are the same entries, in the same order: by the bytes of their names, a
//! folder before what is in it.
//!
//! Always: no link is followed, and no folder is left for another.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use kiln_stdx::fs::{FsError, Named};

use crate::copy::Gone;
use crate::tree;

/// One folder of a layer.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    pub folder: PathBuf,
    /// By the folder that they were in.
    deleted: HashMap<PathBuf, Vec<OsString>>,
    opaque: HashSet<PathBuf>,
    /// Paths that are not part of it.
    hidden: BTreeSet<PathBuf>,
}

impl Piece {
    /// A layer's folder, in whichever form it is.
    pub fn of(folder: PathBuf) -> Result<Self, FsError> {
        let gone = Gone::of(&folder)?.unwrap_or_default();
        let mut deleted = HashMap::<_, Vec<_>>::new();
        for path in gone.deleted {
            let (above, name) = (path.parent(), path.file_name());
            if let (Some(above), Some(name)) = (above, name) {
                deleted.entry(above.to_owned()).or_default().push(name.to_owned());
            }
        }
        let opaque = gone.opaque.into_iter().collect();
        Ok(Self { folder, deleted, opaque, hidden: BTreeSet::new() })
    }

    /// A folder that is no layer, without some of its paths.
    pub fn plain(folder: PathBuf, hidden: BTreeSet<PathBuf>) -> Self {
        Self { folder, hidden, ..Self::default() }
    }

    fn is_opaque(&self, path: &Path) -> bool {
        self.opaque.contains(path) || tree::is_opaque(&self.folder.join(path))
    }
}

/// Folders over one another.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// Lowest first.
    pub pieces: Vec<Piece>,
    /// Nothing lies below the lowest: what it takes away means nothing.
    pub complete: bool,
}

/// One path of a view.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Relative; empty for the root.
    pub path: PathBuf,
    pub what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    /// What is below at this path is gone.
    WhiteOut,
    /// `opaque`: without what is below at this path.
    Folder {
        real: PathBuf,
        meta: Metadata,
        opaque: bool,
    },
    Leaf {
        real: PathBuf,
        meta: Metadata,
    },
}

/// An entry, and in which pieces a folder goes on, highest first.
pub(crate) struct Found {
    pub entry: Entry,
    pub pieces: Vec<usize>,
}

impl View {
    /// The layers' folders, lowest first.
    pub fn of(folders: Vec<PathBuf>) -> Result<Self, FsError> {
        let pieces = folders.into_iter().map(Piece::of).collect::<Result<_, _>>()?;
        Ok(Self { pieces, complete: false })
    }

    /// Visits the root and everything below.
    pub fn walk<E: From<FsError>>(
        &self,
        mut visit: impl FnMut(Entry) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(top) = self.pieces.last() else { return Ok(()) };
        let meta = fs::symlink_metadata(&top.folder).named("read", &top.folder)?;
        let what = What::Folder { real: top.folder.clone(), meta, opaque: false };
        visit(Entry { path: PathBuf::new(), what })?;
        let all: Vec<usize> = (0..self.pieces.len()).rev().collect();
        // A stack of our own: a job may leave a tree deeper than a thread's.
        let mut todo = vec![self.list(Path::new(""), &all)?.into_iter()];
        while let Some(level) = todo.last_mut() {
            let Some(found) = level.next() else {
                todo.pop();
                continue;
            };
            let below = match &found.entry.what {
                What::Folder { .. } => Some(found.entry.path.clone()),
                What::Leaf { .. } | What::WhiteOut => None,
            };
            visit(found.entry)?;
            if let Some(path) = below {
                todo.push(self.list(&path, &found.pieces)?.into_iter());
            }
        }
        Ok(())
    }

    /// What is in a folder that is in `pieces` (highest first).
    pub fn list(&self, folder: &Path, pieces: &[usize]) -> Result<Vec<Found>, FsError> {
        let mut names = BTreeMap::<OsString, Vec<(usize, Option<Metadata>)>>::new();
        for &at in pieces {
            let piece = &self.pieces[at];
            for name in piece.deleted.get(folder).into_iter().flatten() {
                names.entry(name.clone()).or_default().push((at, None));
            }
            for (path, meta) in tree::entries(&piece.folder.join(folder))? {
                let name = path.file_name().unwrap_or_default();
                if piece.hidden.is_empty() || !piece.hidden.contains(&folder.join(name)) {
                    let meta = (!tree::is_white_out(&meta)).then_some(meta);
                    names.entry(name.to_owned()).or_default().push((at, meta));
                }
            }
        }
        let found = names.into_iter().map(|(name, seen)| self.resolve(folder.join(name), seen));
        Ok(found.filter(|found| !self.is_nothing(&found.entry.what)).collect())
    }

    fn is_nothing(&self, what: &What) -> bool {
        self.complete && matches!(what, What::WhiteOut)
    }

    /// What the pieces (highest first) make of one path.
    fn resolve(&self, path: PathBuf, seen: Vec<(usize, Option<Metadata>)>) -> Found {
        let real = |at: usize| self.pieces[at].folder.join(&path);
        let mut seen = seen.into_iter();
        let (what, pieces) = match seen.next() {
            None | Some((_, None)) => (What::WhiteOut, Vec::new()),
            Some((at, Some(meta))) if !meta.is_dir() => {
                (What::Leaf { real: real(at), meta }, Vec::new())
            }
            Some((top, Some(meta))) => {
                let mut pieces = vec![top];
                let mut opaque = self.pieces[top].is_opaque(&path);
                while !opaque {
                    match seen.next() {
                        Some((at, Some(meta))) if meta.is_dir() => {
                            pieces.push(at);
                            opaque = self.pieces[at].is_opaque(&path);
                        }
                        Some(_) => opaque = true,
                        None => break,
                    }
                }
                let opaque = opaque && !self.complete;
                (What::Folder { real: real(top), meta, opaque }, pieces)
            }
        };
        Found { entry: Entry { path, what }, pieces }
    }
}
