//! A layer of several folders: what an attempt began from and wrote itself, in order.
//!
//! Most attempts write one folder. One that began from a step of an earlier attempt, or on files of a
//! cache, has those below its own, and whoever needs it sees all of them. A list names such folders
//! relative to the root of all layers, lowest first, so that a data folder can be moved.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kiln_stdx::fs::{FsError, Named};

use crate::{step, tree};

/// In an attempt's folder: the folders that are its own from the start.
pub(crate) const OWN: &str = "own.json";

/// The list of a sealed attempt.
fn list_of(sealed: &Path) -> PathBuf {
    let mut path = sealed.as_os_str().to_owned();
    path.push(".own.json");
    path.into()
}

/// Whether this is the list of a sealed attempt.
pub(crate) fn is_list(path: &Path) -> bool {
    path.to_string_lossy().ends_with(".own.json")
}

/// The folders of the sealed attempt at `sealed`, lowest first; `None` when it, or one of them, is
/// not there.
pub(crate) fn of(root: &Path, sealed: &Path) -> Option<Vec<PathBuf>> {
    let mut folders = read(root, &list_of(sealed)).ok()?;
    if sealed.is_dir() {
        folders.push(sealed.to_owned());
    }
    (!folders.is_empty() && folders.iter().all(|folder| folder.is_dir())).then_some(folders)
}

/// The folders of a list; none when there is no list.
pub(crate) fn read(root: &Path, list: &Path) -> Result<Vec<PathBuf>, FsError> {
    let text = match fs::read(list) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.named("read", list)?,
    };
    let names: Vec<String> = serde_json::from_slice(&text)
        .map_err(|cause| io::Error::new(io::ErrorKind::InvalidData, cause))
        .named("read", list)?;
    Ok(names.into_iter().map(|name| root.join(name)).collect())
}

/// Writes a list; none for no folders.
pub(crate) fn write(root: &Path, list: &Path, folders: &[PathBuf]) -> Result<(), FsError> {
    if folders.is_empty() {
        return tree::remove(list);
    }
    // All names below the root are kiln's own, and plain text.
    let names: Vec<_> = folders
        .iter()
        .map(|folder| folder.strip_prefix(root).unwrap_or(folder).to_string_lossy())
        .collect();
    // Not synced, as the renames of the folders are not: seals must be quick.
    step::write_unsynced(list, &serde_json::to_vec(&names).unwrap_or_default())
}

/// Writes the list of a layer; none for no folders.
pub(crate) fn write_of(root: &Path, sealed: &Path, folders: &[PathBuf]) -> Result<(), FsError> {
    write(root, &list_of(sealed), folders)
}

/// A sealed attempt has no folders below its own any more.
pub(crate) fn forget(sealed: &Path) -> Result<(), FsError> {
    tree::remove(&list_of(sealed))
}
