//! Extended attributes that belong to a file's content: those of users, capabilities and access
//! lists. Never those by which overlayfs or a security module keeps its books.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use kiln_stdx::fs::{FsError, Named};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

const KEPT: [&str; 4] =
    ["user.", "security.capability", "system.posix_acl_access", "system.posix_acl_default"];
const OVERLAY: &str = "user.overlay.";

/// Whether an attribute is part of what a file is. One of users that is not UTF-8 is not.
pub(crate) fn is_kept(name: &str) -> bool {
    !name.starts_with(OVERLAY)
        && KEPT.iter().any(|kept| match kept.ends_with('.') {
            true => name.starts_with(kept) && name.len() > kept.len(),
            false => name == *kept,
        })
}

/// By name. Not for links, which have none that are kept.
pub(crate) fn of(path: &Path) -> Result<BTreeMap<String, Vec<u8>>, FsError> {
    let mut found = BTreeMap::new();
    let names = match grown(|buffer| rustix::fs::llistxattr(path, buffer)) {
        Err(Errno::NOTSUP) => return Ok(found),
        other => other.map_err(io::Error::from).named("list the attributes of", path)?,
    };
    for name in names.split(|byte| *byte == 0).filter_map(|name| str::from_utf8(name).ok()) {
        if is_kept(name) {
            let value = grown(|buffer| rustix::fs::lgetxattr(path, name, buffer));
            let value = value.map_err(io::Error::from).named("read an attribute of", path)?;
            found.insert(name.to_owned(), value);
        }
    }
    Ok(found)
}

/// Calls with an ever larger buffer; most files have nothing at all.
fn grown(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match call(&mut buffer) {
            Ok(n) => {
                buffer.truncate(n);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 16, 0),
            Err(error) => return Err(error),
        }
    }
}

/// Gives `to` the attributes of `from`.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), FsError> {
    of(from)?.iter().try_for_each(|(name, value)| set(to, name, value))
}

pub(crate) fn set(path: &Path, name: &str, value: &[u8]) -> Result<(), FsError> {
    match rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()) {
        // A capability is root's to give. Without it the program asks for its rights, or fails.
        Err(Errno::PERM) if name.starts_with("security.") => Ok(()),
        other => other.map_err(io::Error::from).named("set an attribute of", path),
    }
}
