//! A tree, walked without a checkout: names, modes and ids, no content.
//!
//! Folder by folder from the top; all folders of one depth are asked for together, which costs two
//! switches between processes for some hundred of them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::GitError;
use crate::objects::Objects;
use crate::tree::{self, Kind};

/// Largest tree that is read: a folder of a million files.
const TREE_BYTES_MAX: u64 = 64 << 20;
/// Deepest folder. The path of a deeper one is longer than any file system takes.
const DEPTH_MAX: usize = 2_048;

/// One entry of a tree, with where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeEntry {
    /// Relative to the tree that was walked.
    pub path: PathBuf,
    /// `100644`, `100755`, `120000`, `160000`; `40000` is a folder.
    pub mode: &'static str,
    /// Of a blob or a tree; of a submodule its commit.
    pub id: String,
}

impl TreeEntry {
    pub fn is_folder(&self) -> bool {
        self.mode == "40000"
    }
}

/// Visits what is in a tree. `visit` is given what it gave for the folder (`root` for the tree
/// itself), and for a folder gives what is to be known in it; `None`: that folder is not entered.
pub(crate) fn walk<S>(
    objects: &Arc<Objects>,
    tree: &str,
    root: S,
    visit: &mut dyn FnMut(&S, TreeEntry) -> Option<S>,
) -> Result<(), GitError> {
    let mut level = vec![(PathBuf::new(), tree.to_owned(), root)];
    let mut depth = 0;
    while !level.is_empty() {
        if depth == DEPTH_MAX {
            let path = level[0].0.to_string_lossy().into_owned();
            let why = "is nested too deep";
            return Err(GitError::HostileTree { tree: tree.to_owned(), path, why });
        }
        let ids: Vec<String> = level.iter().map(|(_, id, _)| id.clone()).collect();
        let mut next = Vec::new();
        objects.each(&ids, &mut |at, header, content| {
            if header.kind != "tree" || header.n_bytes > TREE_BYTES_MAX {
                return Err(damaged(&ids[at]));
            }
            let mut bytes = Vec::with_capacity(usize::try_from(header.n_bytes).unwrap_or(0));
            content.read_to_end(&mut bytes).map_err(|_| damaged(&ids[at]))?;
            let (folder, _, known) = &level[at];
            let entries =
                tree::parse(&bytes, ids[at].len() / 2).ok_or_else(|| damaged(&ids[at]))?;
            for entry in entries {
                let path = folder.join(Path::new(&OsString::from_vec(entry.name)));
                let (mode, id) = (mode(entry.kind), entry.id);
                let below = (mode == "40000").then(|| (path.clone(), id.clone()));
                let entered = visit(known, TreeEntry { path, mode, id });
                if let (Some((path, id)), Some(known)) = (below, entered) {
                    next.push((path, id, known));
                }
            }
            Ok(())
        })?;
        level = next;
        depth += 1;
    }
    Ok(())
}

fn mode(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "100644",
        Kind::Executable => "100755",
        Kind::Symlink => "120000",
        Kind::Submodule => "160000",
        Kind::Tree => "40000",
    }
}

fn damaged(id: &str) -> GitError {
    GitError::Failed { doing: "reading a tree", message: format!("the tree {id} is damaged") }
}
