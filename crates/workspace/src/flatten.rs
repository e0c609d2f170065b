//! Many layers into few: the kernel stacks at most 500.
//!
//! Every [`BLOCK`] layers, counted from the lowest, are merged into one by hard links. The cut does
//! not depend on how many layers follow, so a long chain of jobs merges each block once.

use std::fs;
use std::path::{Path, PathBuf};

use kiln_stdx::fs::{FsError, Named};

use crate::tree;

/// From here on blocks are merged. Mounting this many takes about 4 ms.
const STACK_MAX: usize = 400;

const BLOCK: usize = 100;

/// The same view as `layers` (lowest first), in few enough layers.
pub(crate) fn flatten(
    sealed: &Path,
    layers: Vec<PathBuf>,
    user: bool,
) -> Result<Vec<PathBuf>, FsError> {
    if layers.len() <= STACK_MAX {
        return Ok(layers);
    }
    let mut few = Vec::new();
    for block in layers.chunks(BLOCK) {
        match block.len() {
            BLOCK => few.push(merged(sealed, block, user)?),
            _ => few.extend_from_slice(block),
        }
    }
    flatten(sealed, few, user)
}

fn merged(sealed: &Path, block: &[PathBuf], user: bool) -> Result<PathBuf, FsError> {
    use std::os::unix::ffi::OsStrExt;
    let mut key = blake3::Hasher::new();
    for layer in block {
        key.update(layer.as_os_str().as_bytes()).update(&[0]);
    }
    let finished = sealed.join(format!("merged-{}", key.finalize().to_hex()));
    if finished.is_dir() {
        return Ok(finished);
    }
    let temporary = tree::temporary_in(sealed);
    fs::create_dir(&temporary).named("create", &temporary)?;
    let made = (|| {
        for layer in block {
            merge(layer, &temporary, user)?;
        }
        match fs::rename(&temporary, &finished) {
            Err(_) if finished.is_dir() => tree::remove(&temporary),
            other => other.named("create", &finished),
        }
    })();
    if made.is_err() {
        let _ = tree::remove(&temporary);
    }
    made.map(|()| finished)
}

/// Lays `upper` over what is in `below` already, as overlayfs would show both.
fn merge(upper: &Path, below: &Path, user: bool) -> Result<(), FsError> {
    for (path, meta) in tree::entries(upper)? {
        let to = below.join(path.file_name().unwrap_or_default());
        let there = fs::symlink_metadata(&to).ok();
        if !meta.is_dir() {
            if there.is_some() {
                tree::remove(&to)?;
            }
            // White-outs too: they are devices, and devices have links.
            fs::hard_link(&path, &to).named("link", &path)?;
            continue;
        }
        let opaque = tree::is_opaque(&path);
        let merges = there.as_ref().is_some_and(fs::Metadata::is_dir) && !opaque;
        if !merges {
            tree::remove(&to)?;
            fs::create_dir(&to).named("create", &to)?;
        }
        merge(&path, &to, user)?;
        tree::set_attributes(&to, &meta)?;
        // What was below the block at this path was hidden by what is replaced here.
        if !merges && (opaque || there.is_some()) {
            tree::make_opaque(&to, user)?;
        }
    }
    let meta = fs::symlink_metadata(upper).named("read", upper)?;
    tree::set_attributes(below, &meta)
}
