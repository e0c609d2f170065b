//! From the files of one tree to those of another: what changed is written, what is gone is told.
//!
//! Only trees that differ are read, so it costs what changed and not what the repository weighs; the
//! one thing as long as the tree is its index, of which all but the changed entries are copied
//! unseen. Left to a full checkout: trees whose attributes ask git to convert files (a rule may
//! change a file that has not changed), and those of which most has changed.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_stdx::fs::Named;

use crate::checkout::{self, Item};
use crate::error::GitError;
use crate::index::Index;
use crate::objects::Objects;
use crate::tree::{self, Kind};

/// Fewer files are written anew in the time that a comparison takes.
const FILES_MIN: usize = 50;

/// What a new tree does not have, and the old one had. Paths are relative.
#[derive(Debug, Default)]
pub struct Update {
    /// Files and whole folders.
    pub gone: Vec<PathBuf>,
    /// Folders that are there, but with nothing of what was in them.
    pub emptied: Vec<PathBuf>,
}

/// What differs between two trees.
#[derive(Default)]
struct Difference {
    put: Vec<Item>,
    update: Update,
    /// Old files and folders whose entries leave the index; some have new ones.
    replaced: Vec<PathBuf>,
}

/// Writes what `tree` has and `from` has not into the folder `into`, and the whole index of `tree`.
/// `None`: a full checkout is better, or the only way; then nothing is kept of `into`.
pub(crate) fn update(
    objects: &Arc<Objects>,
    (from, from_index): (&str, &Path),
    tree: &str,
    into: &Path,
    index: &Path,
) -> Result<Option<Update>, GitError> {
    let bytes = fs::read(from_index).named("read", from_index)?;
    let Some(old) = Index::parse(&bytes, tree.len() / 2).filter(|old| old.len() >= FILES_MIN)
    else {
        return Ok(None);
    };
    let Some(difference) = differ(objects, from, tree, old.len() / 2)? else { return Ok(None) };
    let mut rules = old.ids_of(".gitattributes");
    rules.extend(checkout::attributes(&difference.put));
    if checkout::converts(objects, &rules)? {
        return Ok(None);
    }
    let lines = checkout::by_pipe(objects, &difference.put, into)?;
    old.write_changed(index, &difference.replaced, lines)?;
    Ok(Some(difference.update))
}

/// `None` when there are more than `put_max` files to write.
fn differ(
    objects: &Arc<Objects>,
    from: &str,
    tree: &str,
    put_max: usize,
) -> Result<Option<Difference>, GitError> {
    let mut found = Difference::default();
    let mut pairs = vec![(PathBuf::new(), Some(from.to_owned()), Some(tree.to_owned()), 0)];
    while let Some((folder, old, new, depth)) = pairs.pop() {
        let entries = |id: Option<String>| id.map_or(Ok(Vec::new()), |id| tree::read(objects, &id));
        let (old, new) = (entries(old)?, entries(new)?);
        checkout::check(tree, &folder, &new, depth)?;
        for (name, old, new) in tree::differing(old, new) {
            let path = folder.join(std::ffi::OsString::from_vec(name));
            let (was, is) = (old.as_ref().map(|e| e.kind), new.as_ref().map(|e| e.kind));
            match (was, is) {
                (Some(Kind::Tree), Some(Kind::Tree)) => {}
                (Some(_), _) => found.replaced.push(path.clone()),
                (None, _) => {}
            }
            match new {
                None => found.update.gone.push(path),
                Some(new) if new.kind == Kind::Tree => {
                    let old = old.filter(|old| old.kind == Kind::Tree).map(|old| old.id);
                    pairs.push((path, old, Some(new.id), depth + 1));
                }
                Some(new) => {
                    if was == Some(Kind::Tree) && new.kind == Kind::Submodule {
                        found.update.emptied.push(path.clone());
                    }
                    found.put.push(Item { path, kind: new.kind, id: new.id });
                }
            }
        }
        if found.put.len() > put_max {
            return Ok(None);
        }
    }
    Ok(Some(found))
}
