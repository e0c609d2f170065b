//! What hides ignored paths of a working tree: a layer of white-outs over it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kiln_stdx::fs::{FsError, Named, create_private_dir};

use crate::tree;

/// The mask layer of these hidden paths, made if it is not there; `None` when nothing is hidden.
///
/// It is named by its content and shared by all jobs that hide the same paths of the same tree.
pub(crate) fn make(
    masks: &Path,
    root: &Path,
    hidden: &[PathBuf],
) -> Result<Option<PathBuf>, FsError> {
    if hidden.is_empty() {
        return Ok(None);
    }
    let mut hash = blake3::Hasher::new();
    hash.update(root.as_os_str().as_bytes());
    for path in hidden {
        hash.update(&[0]);
        hash.update(path.as_os_str().as_bytes());
        // A folder on the way lends the mask its mode and times.
        if let Ok(above) = fs::symlink_metadata(root.join(path.parent().unwrap_or(Path::new("")))) {
            use std::os::unix::fs::MetadataExt;
            hash.update(&above.mode().to_le_bytes());
        }
    }
    let name = hash.finalize().to_hex();
    let mask = masks.join(name.as_str());
    if mask.is_dir() {
        return Ok(Some(mask));
    }
    let temporary = masks.join(format!(".new-{}-{name}", std::process::id()));
    tree::remove(&temporary)?;
    create_private_dir(&temporary)?;
    tree::set_mode(&temporary, 0o755)?;
    fill(&temporary, root, hidden)?;
    match fs::rename(&temporary, &mask) {
        Err(_) if mask.is_dir() => tree::remove(&temporary)?,
        renamed => renamed.named("rename", &temporary)?,
    }
    Ok(Some(mask))
}

fn fill(mask: &Path, root: &Path, hidden: &[PathBuf]) -> Result<(), FsError> {
    let hidden: BTreeSet<&Path> = hidden.iter().map(PathBuf::as_path).collect();
    for path in &hidden {
        // A path under one that is hidden already needs nothing more.
        if path.ancestors().skip(1).any(|above| hidden.contains(above)) {
            continue;
        }
        let mut way: Vec<&Path> = path.ancestors().skip(1).collect();
        way.reverse();
        for folder in way.into_iter().filter(|folder| !folder.as_os_str().is_empty()) {
            let at = mask.join(folder);
            if !at.is_dir() {
                tree::create_like(&root.join(folder), &at)?;
            }
        }
        tree::white_out(&mask.join(path))?;
    }
    Ok(())
}
