//! Trees: their entries, and what differs between two.

use std::sync::Arc;

use crate::error::GitError;
use crate::objects::Objects;

/// Most paths that a comparison gives. Beyond, "something changed" is all that anybody wants.
const CHANGED_MAX: usize = 100_000;

/// What an entry is, from its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Executable,
    Symlink,
    Tree,
    Submodule,
}

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub name: Vec<u8>,
    pub kind: Kind,
    pub id: String,
}

/// The entries of a tree, in its order.
pub(crate) fn read(objects: &Arc<Objects>, id: &str) -> Result<Vec<Entry>, GitError> {
    let bytes = objects.read(id, "tree")?;
    parse(&bytes, id.len() / 2).ok_or_else(|| GitError::Failed {
        doing: "reading a tree",
        message: format!("the tree {id} is damaged"),
    })
}

/// `<mode> <name>\0<id>` repeated. `id_bytes` is 20, or 32 in a SHA-256 repository.
pub(crate) fn parse(mut bytes: &[u8], id_bytes: usize) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|b| *b == b' ')?;
        let nul = space + bytes[space..].iter().position(|b| *b == 0)?;
        let id = bytes.get(nul + 1..nul + 1 + id_bytes)?;
        let mode = u32::from_str_radix(std::str::from_utf8(&bytes[..space]).ok()?, 8).ok()?;
        let kind = match mode & 0o170_000 {
            0o040_000 => Kind::Tree,
            0o120_000 => Kind::Symlink,
            0o160_000 => Kind::Submodule,
            0o100_000 if mode & 0o100 != 0 => Kind::Executable,
            0o100_000 => Kind::File,
            _ => return None,
        };
        let id = id.iter().map(|b| format!("{b:02x}")).collect();
        entries.push(Entry { name: bytes[space + 1..nul].to_owned(), kind, id });
        bytes = &bytes[nul + 1 + id_bytes..];
    }
    Some(entries)
}

/// What stands at a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// Never a symlink.
    Entry(Entry),
    /// A symlink whose end is not in the tree: outside, missing, or itself.
    Astray,
}

/// The entry at a `/`-separated path. Symlinks are followed as in a checkout, but never out of the
/// tree: what lies on this machine is nothing that a commit may name.
pub(crate) fn find(objects: &Arc<Objects>, tree: &str, path: &str) -> Result<Found, GitError> {
    let mut names: Vec<Vec<u8>> = reversed(path.as_bytes());
    // The trees from the root down to where we stand.
    let mut trees = vec![tree.to_owned()];
    let mut n_links = 0;
    let nothing = |n_links| if n_links == 0 { Found::Nothing } else { Found::Astray };
    while let Some(name) = names.pop() {
        match &name[..] {
            b"" | b"." => continue,
            b".." if trees.len() > 1 => {
                trees.pop();
                continue;
            }
            b".." => return Ok(Found::Astray),
            _ => {}
        }
        let entries = read(objects, trees.last().map_or("", String::as_str))?;
        let Some(entry) = entries.into_iter().find(|entry| entry.name == name) else {
            return Ok(nothing(n_links));
        };
        match entry.kind {
            Kind::Symlink if n_links == LINKS_MAX => return Ok(Found::Astray),
            Kind::Symlink => {
                n_links += 1;
                match objects.info(&entry.id)? {
                    Some(link) if link.n_bytes <= LINK_BYTES_MAX => {}
                    _ => return Ok(Found::Astray),
                }
                let target = objects.read(&entry.id, "blob")?;
                if target.starts_with(b"/") {
                    return Ok(Found::Astray);
                }
                names.extend(reversed(&target));
            }
            Kind::Tree if names.is_empty() => return Ok(Found::Entry(entry)),
            Kind::Tree => trees.push(entry.id),
            _ if names.is_empty() => return Ok(Found::Entry(entry)),
            _ => return Ok(nothing(n_links)),
        }
    }
    // The path, or a link, ends at a folder that was walked through.
    let id = trees.pop().unwrap_or_default();
    Ok(Found::Entry(Entry { name: Vec::new(), kind: Kind::Tree, id }))
}

/// As many as the kernel follows in one path.
const LINKS_MAX: usize = 40;
/// `PATH_MAX`.
const LINK_BYTES_MAX: u64 = 4096;

fn reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect()
}

/// Paths that differ between two trees, sorted as the trees are. A renamed file is two paths, a
/// changed submodule its folder. Only what differs is read.
pub(crate) fn changed(
    objects: &Arc<Objects>,
    from: &str,
    to: &str,
) -> Result<Vec<String>, GitError> {
    let mut paths = Vec::new();
    // Pairs of trees that differ, as (path, old, new); an explicit stack, since a hostile tree may
    // be a hundred thousand levels deep.
    let mut pairs = vec![(Vec::new(), Some(from.to_owned()), Some(to.to_owned()))];
    while let Some((path, old, new)) = pairs.pop() {
        let entries = |id: Option<String>| id.map_or(Ok(Vec::new()), |id| read(objects, &id));
        let (old, new) = if old == new { (None, None) } else { (old, new) };
        for (name, old, new) in differing(entries(old)?, entries(new)?) {
            let mut path: Vec<u8> = path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            let is_tree = |e: &Entry| e.kind == Kind::Tree;
            let (old_tree, old_file) = old.map_or((None, None), |e| split(is_tree(&e), e));
            let (new_tree, new_file) = new.map_or((None, None), |e| split(is_tree(&e), e));
            if old_file.is_some() || new_file.is_some() {
                paths.push(String::from_utf8_lossy(&path).into_owned());
            }
            if old_tree.is_some() || new_tree.is_some() {
                pairs.push((path, old_tree, new_tree));
            }
            if paths.len() > CHANGED_MAX {
                let (n, max) = (paths.len() as u64, CHANGED_MAX as u64);
                let what = "the list of changed paths".to_owned();
                return Err(GitError::TooLarge { what, n_bytes: n, max });
            }
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

fn split(is_tree: bool, entry: Entry) -> (Option<String>, Option<Entry>) {
    if is_tree { (Some(entry.id), None) } else { (None, Some(entry)) }
}

/// Names whose entries differ, with what stands there in each tree.
pub(crate) fn differing(
    old: Vec<Entry>,
    new: Vec<Entry>,
) -> Vec<(Vec<u8>, Option<Entry>, Option<Entry>)> {
    let mut by_name = std::collections::BTreeMap::<Vec<u8>, (Option<Entry>, Option<Entry>)>::new();
    for entry in old {
        let name = entry.name.clone();
        by_name.entry(name).or_default().0 = Some(entry);
    }
    for entry in new {
        let name = entry.name.clone();
        by_name.entry(name).or_default().1 = Some(entry);
    }
    let changed = by_name.into_iter().filter(|(_, (old, new))| old != new);
    changed.map(|(name, (old, new))| (name, old, new)).collect()
}
