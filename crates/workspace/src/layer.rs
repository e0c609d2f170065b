//! A layer laid over a tree by copying: what a mount would show, as files.

use std::fs;
use std::path::{Path, PathBuf};

use kiln_stdx::fs::{FsError, Named};

use crate::tree;

/// What becomes of a white-out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WhiteOuts {
    /// It has done its work when the path is gone: the tree is all there is.
    Drop,
    /// There are layers below, so it must go on hiding.
    Keep,
}

/// Lays one layer over a whole tree.
pub(crate) fn apply(layer: &Path, tree: &Path) -> Result<(), FsError> {
    lay(layer, tree, WhiteOuts::Drop)
}

/// Makes one layer of several, lowest first.
pub(crate) fn flatten(layers: &[PathBuf], into: &Path) -> Result<(), FsError> {
    let lowest = layers.first().map_or(Path::new("/"), PathBuf::as_path);
    tree::create_like(lowest, into)?;
    layers.iter().try_for_each(|layer| lay(layer, into, WhiteOuts::Keep))
}

fn lay(layer: &Path, onto: &Path, white_outs: WhiteOuts) -> Result<(), FsError> {
    for entry in fs::read_dir(layer).named("list", layer)? {
        let entry = entry.named("list", layer)?;
        let (from, to) = (entry.path(), onto.join(entry.file_name()));
        let meta = fs::symlink_metadata(&from).named("read", &from)?;
        if tree::is_white_out(&meta) {
            tree::remove(&to)?;
            if white_outs == WhiteOuts::Keep {
                tree::white_out(&to)?;
            }
        } else if meta.is_dir() {
            lay_folder(&from, &to, white_outs)?;
        } else {
            tree::remove(&to)?;
            tree::copy_entry(&from, &to, &meta)?;
        }
    }
    Ok(())
}

fn lay_folder(from: &Path, to: &Path, white_outs: WhiteOuts) -> Result<(), FsError> {
    let meta = fs::symlink_metadata(from).named("read", from)?;
    let there = fs::symlink_metadata(to).ok();
    let opaque = tree::is_opaque(from);
    if !there.as_ref().is_some_and(fs::Metadata::is_dir) || opaque {
        // Under a white-out or a file of a lower layer there may be a folder in a still lower one;
        // the new folder must not show it.
        let hides = opaque || there.is_some();
        tree::remove(to)?;
        fs::create_dir(to).named("create", to)?;
        if hides && white_outs == WhiteOuts::Keep {
            tree::set_opaque(to)?;
        }
    }
    lay(from, to, white_outs)?;
    tree::copy_attributes(to, &meta)
}
