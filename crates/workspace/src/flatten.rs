//! Many layers into few: the kernel stacks at most 500.
//!
//! Every [`BLOCK`] layers, counted from the lowest, are merged into one by hard links. The cut does
//! not depend on how many layers follow, so a long chain of jobs merges each block once.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kiln_stdx::fs::{FsError, Named};

use crate::copy::{self, Gone};
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
    let mut key = blake3::Hasher::new();
    for layer in block {
        key.update(layer.as_os_str().as_bytes()).update(&[0]);
    }
    made_once(sealed, &key, |temporary| {
        tree::deep(|| block.iter().try_for_each(|layer| merge(layer, temporary, user)))
    })
}

/// Lays `upper` over what is in `below` already, as overlayfs would show both.
pub(crate) fn merge(upper: &Path, below: &Path, user: bool) -> Result<(), FsError> {
    tree::open_up(below)?;
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
        tree::copy_attributes(&path, &meta, &to)?;
        // What was below the block at this path was hidden by what is replaced here.
        if !merges && (opaque || there.is_some()) {
            tree::make_opaque(&to, user)?;
        }
    }
    let meta = fs::symlink_metadata(upper).named("read", upper)?;
    tree::copy_attributes(upper, &meta, below)
}

/// A layer that a copy left, as a layer that can be stacked: what its record says is gone becomes
/// white-outs and marks. Files are linked, not copied. The layer itself stays as it is.
pub(crate) fn stacked(sealed: &Path, layer: PathBuf, user: bool) -> Result<PathBuf, FsError> {
    let Some(gone) = Gone::of(&layer)? else { return Ok(layer) };
    let record = copy::gone_file(&layer);
    let meta = fs::symlink_metadata(&record).named("read", &record)?;
    let mut key = blake3::Hasher::new();
    key.update(b"stacked").update(&[u8::from(user)]).update(layer.as_os_str().as_bytes());
    // Of an attempt that was sealed once more, another.
    for number in [meta.ino().cast_signed(), meta.ctime(), meta.ctime_nsec()] {
        key.update(&number.to_le_bytes());
    }
    made_once(sealed, &key, |temporary| {
        tree::deep(|| merge(&layer, temporary, user))?;
        let mut touched = BTreeSet::new();
        for path in &gone.deleted {
            let white_out = temporary.join(path);
            if let Some(folder) = white_out.parent() {
                fs::create_dir_all(folder).named("create", folder)?;
                touched.extend(path.parent());
                tree::open_up(folder)?;
            }
            tree::make_white_out(&white_out)?;
        }
        gone.opaque.iter().try_for_each(|path| tree::make_opaque(&temporary.join(path), user))?;
        for path in touched {
            // As before the white-outs were made in it. Without one of its own it has the looks of
            // a new folder.
            let real = layer.join(path);
            if let Ok(meta) = fs::symlink_metadata(&real) {
                tree::set_attributes(&temporary.join(path), &meta)?;
            }
        }
        Ok(())
    })
}

/// Makes a folder of merged layers by `fill`, if it is not there. Whole or not at all.
fn made_once(
    sealed: &Path,
    key: &blake3::Hasher,
    fill: impl FnOnce(&Path) -> Result<(), FsError>,
) -> Result<PathBuf, FsError> {
    let finished = sealed.join(format!("merged-{}", key.finalize().to_hex()));
    if finished.is_dir() {
        return Ok(finished);
    }
    let temporary = tree::temporary_in(sealed);
    fs::create_dir(&temporary).named("create", &temporary)?;
    let made = fill(&temporary).and_then(|()| match fs::rename(&temporary, &finished) {
        Err(_) if finished.is_dir() => tree::remove(&temporary),
        other => other.named("create", &finished),
    });
    if made.is_err() {
        let _ = tree::remove(&temporary);
    }
    made.map(|()| finished)
}
