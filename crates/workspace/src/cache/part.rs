//! The part of a layer's folder that lies at one path, as a folder of its own.
//!
//! It is made of hard links: its cost is the number of files that the layer has there, whatever their
//! size. The same part of the same folder has the same name, so it is made once.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kiln_stdx::fs::{FsError, Named};

use crate::copy::Gone;
use crate::tree::{self, Links};
use crate::{Driver, Workspaces, xattr};

/// What a folder has at a path.
#[derive(Debug)]
pub(super) enum At {
    Nothing,
    /// What lies below the folder at this path is gone.
    Gone,
    There {
        meta: Metadata,
        /// Without what lies below the folder.
        opaque: bool,
    },
}

/// Looks through real folders only: a link in the place of one leads elsewhere.
pub(super) fn at(folder: &Path, path: &Path) -> Result<At, FsError> {
    let (mut place, mut opaque) = (folder.to_owned(), false);
    let mut parts = path.components().peekable();
    while let Some(part) = parts.next() {
        place.push(part);
        let meta = match fs::symlink_metadata(&place) {
            Err(cause) if tree::is_absent(&cause) => {
                return Ok(if opaque { At::Gone } else { At::Nothing });
            }
            other => other.named("read", &place)?,
        };
        if tree::is_white_out(&meta) {
            return Ok(At::Gone);
        }
        let is_last = parts.peek().is_none();
        if !meta.is_dir() {
            // A file where the path wants a folder hides what was below it.
            return Ok(if is_last { At::There { meta, opaque: true } } else { At::Gone });
        }
        opaque |= tree::is_opaque(&place);
        if is_last {
            return Ok(At::There { meta, opaque });
        }
    }
    Ok(At::Nothing)
}

/// The beginning of the names of all pieces of a path.
pub(super) fn prefix(path: &str) -> String {
    format!("{}-", &blake3::hash(path.as_bytes()).to_hex()[..16])
}

/// The name of a new piece of a path, made of what it is made from.
pub(super) fn piece_name(path: &str, from: &[&[u8]]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in from {
        hasher.update(&part.len().to_le_bytes()).update(part);
    }
    format!("{}{}", prefix(path), &hasher.finalize().to_hex()[..16])
}

/// A piece that is there.
#[derive(Debug)]
pub(super) struct Part {
    pub name: String,
    /// `None`: it was there before, and nobody has looked.
    pub n_bytes: Option<u64>,
}

impl Workspaces {
    /// The part of `folder` at `path` as a piece. It has something there: [`At::There`] was seen.
    pub(super) fn part(&self, folder: &Path, path: &str, opaque: bool) -> Result<Part, FsError> {
        let meta = fs::symlink_metadata(folder).named("read", folder)?;
        let relative = folder.strip_prefix(self.root()).unwrap_or(folder);
        // With its number: a second try of an attempt may have put another folder in its place.
        let from = [relative.as_os_str().as_bytes(), &meta.ino().to_le_bytes()];
        let name = piece_name(path, &from);
        let make = |into: &Path| {
            let made = above(folder, Path::new(path), into)?;
            let n_bytes = link(&folder.join(path), &made, self.is_user(), &mut Links::default())?;
            if opaque && made.is_dir() {
                tree::make_opaque(&made, self.is_user())?;
            }
            take_away(folder, path, into);
            look_like_above(folder, Path::new(path), into)?;
            Ok(n_bytes)
        };
        self.make_piece(name, make)
    }

    /// A piece is there whole or not at all. `make` fills a folder and gives its size.
    pub(super) fn make_piece(
        &self,
        name: String,
        make: impl FnOnce(&Path) -> Result<u64, FsError>,
    ) -> Result<Part, FsError> {
        let finished = self.piece_dir(&name);
        if finished.is_dir() {
            return Ok(Part { name, n_bytes: None });
        }
        let temporary = tree::temporary_in(&self.cached_dir());
        fs::create_dir(&temporary).named("create", &temporary)?;
        let made = make(&temporary).and_then(|n_bytes| {
            match fs::rename(&temporary, &finished) {
                Err(_) if finished.is_dir() => tree::remove(&temporary),
                other => other.named("create", &finished),
            }?;
            Ok(n_bytes)
        });
        if made.is_err() {
            let _ = tree::remove(&temporary);
        }
        made.map(|n_bytes| Part { name, n_bytes: Some(n_bytes) })
    }

    pub(super) fn is_user(&self) -> bool {
        self.driver() == Driver::OverlayUser
    }
}

/// Says with white-outs what a layer in the form of a copy says beside itself. Where these cannot be
/// made, a file that a job has removed may be found again.
fn take_away(folder: &Path, path: &str, into: &Path) {
    let gone = Gone::of(folder).ok().flatten().unwrap_or_default();
    for deleted in gone.deleted.iter().filter(|deleted| deleted.starts_with(path)) {
        let place = into.join(deleted);
        if fs::symlink_metadata(&place).is_err() {
            let _ = tree::make_white_out(&place);
        }
    }
}

/// Makes the folders above `path` in `into`. Gives the place for what is at the path.
fn above(folder: &Path, path: &Path, into: &Path) -> Result<PathBuf, FsError> {
    let (mut from, mut to) = (folder.to_owned(), into.to_owned());
    for part in path.parent().into_iter().flat_map(Path::components) {
        from.push(part);
        to.push(part);
        fs::create_dir(&to).named("create", &to)?;
    }
    Ok(into.join(path))
}

/// The folders above `path` are merged with the workspace's own and look like them.
fn look_like_above(folder: &Path, path: &Path, into: &Path) -> Result<(), FsError> {
    for above in path.ancestors().skip(1) {
        let from = folder.join(above);
        let meta = fs::symlink_metadata(&from).named("read", &from)?;
        xattr::copy(&from, &into.join(above))?;
        tree::set_attributes(&into.join(above), &meta)?;
    }
    Ok(())
}

/// Gives everything at `from` a second name at `to`. The size of all files.
fn link(from: &Path, to: &Path, user: bool, links: &mut Links) -> Result<u64, FsError> {
    let meta = fs::symlink_metadata(from).named("read", from)?;
    if !meta.is_dir() {
        link_leaf(from, &meta, to, links)?;
        return Ok(if meta.is_file() { meta.len() } else { 0 });
    }
    fs::create_dir(to).named("create", to)?;
    let mut n_bytes = 0;
    for (path, _) in tree::entries(from)? {
        n_bytes += link(&path, &to.join(path.file_name().unwrap_or_default()), user, links)?;
    }
    if tree::is_opaque(from) {
        tree::make_opaque(to, user)?;
    }
    xattr::copy(from, to)?;
    tree::set_attributes(to, &meta)?;
    Ok(n_bytes)
}

/// White-outs too: they are devices, and devices have links.
fn link_leaf(from: &Path, meta: &Metadata, to: &Path, links: &mut Links) -> Result<(), FsError> {
    match fs::hard_link(from, to) {
        // A file can have so many names and no more; some kernels refuse to link others' files.
        Err(cause)
            if matches!(
                cause.kind(),
                io::ErrorKind::TooManyLinks
                    | io::ErrorKind::CrossesDevices
                    | io::ErrorKind::PermissionDenied
            ) =>
        {
            match tree::is_white_out(meta) {
                true => tree::make_white_out(to),
                false => tree::copy_leaf(from, meta, to, links),
            }
        }
        other => other.named("link", from),
    }
}

/// The size of all files below a folder.
pub(super) fn size(folder: &Path) -> Result<u64, FsError> {
    let mut n_bytes = 0;
    let mut todo = vec![folder.to_owned()];
    while let Some(folder) = todo.pop() {
        for (path, meta) in tree::entries(&folder)? {
            if meta.is_dir() {
                todo.push(path);
            } else if meta.is_file() {
                n_bytes += meta.len();
            }
        }
    }
    Ok(n_bytes)
}
