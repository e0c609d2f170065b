//! Hiding paths of a working tree that is never written: a layer of white-outs over it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use kiln_stdx::fs::{FsError, Named};

use crate::tree;

/// The paths to hide that are there, relative to `working_tree`, without those below others.
///
/// A path that leads through a symbolic link is not one of the tree's own and stays.
pub(crate) fn relative(working_tree: &Path, hidden: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut paths = BTreeSet::new();
    for path in hidden {
        let relative = path.strip_prefix(working_tree).unwrap_or(path);
        let inside = relative.components().all(|part| matches!(part, Component::Normal(_)));
        let mut above = relative.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty());
        let own = above.all(|folder| {
            fs::symlink_metadata(working_tree.join(folder)).is_ok_and(|meta| meta.is_dir())
        });
        let there = fs::symlink_metadata(working_tree.join(relative)).is_ok();
        if inside && own && there && !relative.as_os_str().is_empty() {
            // Collected again, so that `a/` and `a` are one.
            paths.insert(relative.components().collect::<PathBuf>());
        }
    }
    let all = paths.clone();
    paths.retain(|path| !path.ancestors().skip(1).any(|above| all.contains(above)));
    paths
}

/// The folder of white-outs for `hidden` (from [`relative`]) in `masks`, made if it is not there.
/// `None` when nothing is hidden.
pub(crate) fn mask(
    masks: &Path,
    working_tree: &Path,
    hidden: &BTreeSet<PathBuf>,
) -> Result<Option<PathBuf>, FsError> {
    if hidden.is_empty() {
        return Ok(None);
    }
    // Folders above white-outs are merged with the tree's own and must look like them.
    let mut above = BTreeMap::new();
    for folder in hidden.iter().flat_map(|path| path.ancestors().skip(1)) {
        if !above.contains_key(folder) {
            let real = working_tree.join(folder);
            above.insert(folder, fs::symlink_metadata(&real).named("read", &real)?);
        }
    }
    let mut key = blake3::Hasher::new();
    for path in hidden {
        key.update(path.as_os_str().as_bytes()).update(&[0]);
    }
    for (folder, meta) in &above {
        let looks = [i64::from(meta.mode()), i64::from(meta.uid()), i64::from(meta.gid())];
        key.update(folder.as_os_str().as_bytes()).update(&[0]);
        for number in looks.into_iter().chain([meta.mtime(), meta.mtime_nsec()]) {
            key.update(&number.to_le_bytes());
        }
    }
    let finished = masks.join(key.finalize().to_hex().as_str());
    if finished.is_dir() {
        return Ok(Some(finished));
    }
    let temporary = tree::temporary_in(masks);
    fs::create_dir(&temporary).named("create", &temporary)?;
    let made = (|| {
        for folder in above.keys().filter(|folder| !folder.as_os_str().is_empty()) {
            let folder = temporary.join(folder);
            fs::create_dir(&folder).named("create", &folder)?;
        }
        for path in hidden {
            tree::make_white_out(&temporary.join(path))?;
        }
        // Deepest first: making an entry changes its folder's times, and a mode may forbid it.
        for (folder, meta) in above.iter().rev() {
            tree::set_attributes(&temporary.join(folder), meta)?;
        }
        match fs::rename(&temporary, &finished) {
            Err(_) if finished.is_dir() => tree::remove(&temporary),
            other => other.named("create", &finished),
        }
    })();
    if made.is_err() {
        let _ = tree::remove(&temporary);
    }
    made.map(|()| Some(finished))
}
