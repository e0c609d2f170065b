//! The objects that the `.git` of a workspace borrows: folders that a job must see, besides its files, for
//! git to answer. They may borrow in turn: a mirror from the repository that it mirrors.
//!
//! Always: only lists are believed that kiln or the owner of the machine's repositories has written. In the
//! workspace itself jobs have written, who would be shown whatever they name.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kiln_api::agent::Assignment;
use kiln_model::layer::Source;
use kiln_workspace::{Prepared, Workspaces};

/// In a folder of objects: those that it borrows, a line each.
const LIST: &str = "info/alternates";

/// Nobody borrows from more, and a list may lead in a circle.
const FOLDERS_MAX: usize = 20;

/// Absolute paths of folders that are there.
pub(crate) fn of(
    workspaces: &Workspaces,
    assignment: &Assignment,
    prepared: &Prepared,
) -> Vec<PathBuf> {
    let mirror = assignment.mirror.as_ref().and_then(|mirror| std::path::absolute(mirror).ok());
    let mut found: Vec<PathBuf> = mirror.map(|mirror| mirror.join("objects")).into_iter().collect();
    found.retain(|objects| objects.is_dir());
    let lowers = prepared.mount.as_ref().map_or(&[][..], |mount| &mount.lowers);
    let ours = lowers.iter().filter(|lower| lower.starts_with(workspaces.root().join("gits")));
    let tree = match assignment.source {
        Source::WorkingTree { .. } => lowers.last(),
        Source::Git { .. } => None,
    };
    ours.chain(tree).for_each(|folder| borrowed(&folder.join(".git/objects"), &mut found));
    let mut at = 0;
    while let Some(objects) = found.get(at).cloned() {
        borrowed(&objects, &mut found);
        at += 1;
    }
    found
}

/// Adds what a folder of objects borrows, and is not found yet.
fn borrowed(objects: &Path, found: &mut Vec<PathBuf>) {
    let list = std::fs::read(objects.join(LIST)).unwrap_or_default();
    for line in list.split(|byte| *byte == b'\n') {
        let named = match line {
            [] => continue,
            // As it stands there: it is looked for by that name.
            [b'/', ..] => PathBuf::from(OsStr::from_bytes(line)),
            _ => objects.join(OsStr::from_bytes(line)).canonicalize().unwrap_or_default(),
        };
        if named.is_dir() && !found.contains(&named) && found.len() < FOLDERS_MAX {
            found.push(named);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::borrowed;

    #[test]
    fn a_list_may_be_missing_hold_nonsense_or_lead_in_a_circle() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        let [a, b] = ["a", "b"].map(|name| root.join(name));
        for folder in [&a, &b] {
            std::fs::create_dir_all(folder.join("info")).unwrap();
        }
        let lines = format!("\n{0}\n/nowhere\n# no path\n{0}\n{1}\n", b.display(), a.display());
        std::fs::write(a.join("info/alternates"), lines).unwrap();
        let mut found = Vec::new();
        borrowed(&a, &mut found);
        borrowed(&b, &mut found);
        assert_eq!(found, [b, a]);
    }
}
