//! What a job changed in a copied tree, as a layer.
//!
//! Before the job, every path is recorded with what a change would move: kind, mode, size, times,
//! inode. `ctime` cannot be set back, so a file whose content changed is always seen. After it, the
//! new and changed paths are moved into an upper folder and the missing ones become white-outs.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kiln_stdx::fs::{FsError, Named};

use crate::tree;
use crate::workspaces::io_error;

/// What is compared. A folder's times and inode say nothing about itself.
type Mark = [u64; 6];

fn mark(meta: &Metadata) -> Mark {
    if meta.is_dir() {
        return [u64::from(meta.mode()), 0, 0, 0, u64::from(meta.uid()), u64::from(meta.gid())];
    }
    let nanoseconds = |s: i64, ns: i64| (s as u64).wrapping_mul(1_000_000_000).wrapping_add(ns as u64);
    [
        u64::from(meta.mode()),
        meta.size(),
        nanoseconds(meta.mtime(), meta.mtime_nsec()),
        nanoseconds(meta.ctime(), meta.ctime_nsec()),
        meta.ino(),
        u64::from(meta.uid()) << 32 | u64::from(meta.gid()),
    ]
}

/// Writes down a tree as it is: for each path its length, its bytes and its mark.
pub(crate) fn record(tree: &Path, into: &Path) -> Result<(), FsError> {
    let file = fs::File::create(into).named("create", into)?;
    let mut out = std::io::BufWriter::new(file);
    walk(tree, Path::new(""), &mut |path, meta| {
        let bytes = path.as_os_str().as_bytes();
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        out.write_all(&length.to_le_bytes()).named("write", into)?;
        out.write_all(bytes).named("write", into)?;
        mark(meta).iter().try_for_each(|word| out.write_all(&word.to_le_bytes()).named("write", into))
    })?;
    out.flush().named("write", into)
}

fn recorded(from: &Path) -> Result<HashMap<PathBuf, Mark>, FsError> {
    let bytes = fs::read(from).named("read", from)?;
    let torn = || io_error("read", from, std::io::Error::other("the record is torn"));
    let mut rest = bytes.as_slice();
    let mut paths = HashMap::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(torn)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (path, after) = after.split_at_checked(length).ok_or_else(torn)?;
        let (words, after) = after.split_at_checked(48).ok_or_else(torn)?;
        let mut mark = Mark::default();
        for (word, bytes) in mark.iter_mut().zip(words.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().map_err(|_| torn())?);
        }
        paths.insert(PathBuf::from(std::ffi::OsString::from_vec(path.to_vec())), mark);
        rest = after;
    }
    Ok(paths)
}

/// Moves what differs from the record into `upper`, in the form of an overlay's upper folder.
pub(crate) fn into_upper(tree: &Path, before: &Path, upper: &Path) -> Result<(), FsError> {
    let mut before = recorded(before)?;
    let mut changed = Vec::new();
    walk(tree, Path::new(""), &mut |path, meta| {
        let was = before.remove(path);
        if was != Some(mark(meta)) {
            // The kind changed: what was below is hidden by what is here now.
            changed.push(path.to_owned());
        }
        Ok(())
    })?;
    let mut gone: Vec<PathBuf> = before.into_keys().collect();
    gone.sort_unstable();
    if changed.is_empty() && gone.is_empty() {
        return fs::create_dir(upper).named("create", upper);
    }
    tree::create_like(tree, upper)?;
    for path in &gone {
        let lost = tree.join(path.parent().unwrap_or(Path::new("")));
        // Below a folder that is gone or is no folder now, one mark at the top is enough.
        if fs::symlink_metadata(&lost).is_ok_and(|meta| meta.is_dir()) {
            parents(tree, upper, path)?;
            tree::white_out(&upper.join(path))?;
        }
    }
    for path in &changed {
        let (from, to) = (tree.join(path), upper.join(path));
        parents(tree, upper, path)?;
        let meta = fs::symlink_metadata(&from).named("read", &from)?;
        if meta.is_dir() {
            if !to.is_dir() {
                tree::create_like(&from, &to)?;
            }
        } else {
            tree::copy_entry(&from, &to, &meta)?;
        }
    }
    Ok(())
}

/// Folders on the way to `path`, as they are in the tree.
fn parents(tree: &Path, upper: &Path, path: &Path) -> Result<(), FsError> {
    let mut way: Vec<&Path> = path.ancestors().skip(1).collect();
    way.reverse();
    for folder in way.into_iter().filter(|folder| !folder.as_os_str().is_empty()) {
        if !upper.join(folder).is_dir() {
            tree::create_like(&tree.join(folder), &upper.join(folder))?;
        }
    }
    Ok(())
}

/// Every path below `root`, folders before what is in them.
fn walk(
    root: &Path,
    below: &Path,
    visit: &mut impl FnMut(&Path, &Metadata) -> Result<(), FsError>,
) -> Result<(), FsError> {
    let folder = root.join(below);
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).named("list", &folder)? {
        names.push(entry.named("list", &folder)?.file_name());
    }
    names.sort_unstable();
    for name in names {
        let path = below.join(&name);
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).named("read", &full)?;
        visit(&path, &meta)?;
        if meta.is_dir() {
            walk(root, &path, visit)?;
        }
    }
    Ok(())
}
