//! A group of version 2 for kiln itself, below the one that it was put into.
//!
//! A group with processes in it cannot bound groups below it. Where a service manager has given us the group
//! that we are in (`Delegate=yes`), and none above it is ours, we move into a child of it before anything else
//! is started: then it is free for the groups of jobs.
//!
//! Never when somebody else is in there, or when the group was not given to us.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::find::Own;
use super::{Kind, has, may_write, parent_of_two};

/// The child's name, which no job's group has.
const NAME: &str = "kiln";

/// By these a service manager says that a group is the service's own.
const GIVEN: [&str; 2] = ["trusted.delegate", "user.delegate"];

/// Moves this process, which must be the only one of kiln by now. What cannot be done is found out again,
/// and told, when a job has limits.
pub(in crate::host) fn settle() {
    let Ok(Own { two: Some((root, group)), .. }) = Own::find() else { return };
    if is_given(&group) {
        let _ = settle_in(&root, &group, std::process::id());
    }
}

/// Whether the group is ours to arrange.
fn is_given(group: &Path) -> bool {
    let marked = GIVEN.iter().any(|name| {
        let mut value = [0; 4];
        matches!(rustix::fs::getxattr(group, *name, &mut value[..]), Ok(1) if value[0] == b'1')
    });
    // An ordinary user owns none that was not given to it; root owns all.
    let me = rustix::process::geteuid();
    marked || !me.is_root() && std::fs::metadata(group).is_ok_and(|meta| meta.uid() == me.as_raw())
}

/// Whether it has moved.
fn settle_in(root: &Path, group: &Path, pid: u32) -> io::Result<bool> {
    let there = std::fs::read_to_string(group.join("cgroup.controllers"))?;
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| has(&there, *kind)).collect();
    let inside = std::fs::read_to_string(group.join("cgroup.procs"))?;
    let alone = inside.split_ascii_whitespace().eq([pid.to_string()]);
    if kinds.is_empty() || group == root || !alone || may_write(group).is_err() {
        return Ok(false);
    }
    // There may be a group above that does it without our moving.
    let above = group.parent().unwrap_or(root);
    if parent_of_two(root, above, &kinds).is_ok() {
        return Ok(false);
    }
    let leaf = group.join(NAME);
    match std::fs::create_dir(&leaf) {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => return Err(cause),
        _ => {}
    }
    std::fs::write(leaf.join("cgroup.procs"), pid.to_string())?;
    // One by one: a controller that is refused does not keep the others.
    for kind in kinds {
        let _ = std::fs::write(group.join("cgroup.subtree_control"), format!("+{}", kind.as_str()));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A group by its files, in a tree whose root is not ours.
    fn group(processes: &str, controllers: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("kiln.service");
        std::fs::create_dir(&group).unwrap();
        std::fs::write(group.join("cgroup.procs"), processes).unwrap();
        std::fs::write(group.join("cgroup.controllers"), controllers).unwrap();
        (root, group)
    }

    #[test]
    fn who_is_alone_in_a_group_moves_below_it() {
        let (root, group) = group("7\n", "cpu io memory pids\n");
        assert!(settle_in(root.path(), &group, 7).unwrap());
        let read = |file: &str| std::fs::read_to_string(group.join(file)).unwrap();
        assert_eq!(read("kiln/cgroup.procs"), "7");
        assert_eq!(read("cgroup.subtree_control"), "+pids");
        // A second start in the same service finds what the first has made.
        assert!(settle_in(root.path(), &group, 7).unwrap());
    }

    #[test]
    fn nobody_moves_where_it_is_of_no_use_or_others_are() {
        for (processes, controllers) in [("7\n8\n", "pids"), ("8\n", "pids"), ("7\n", "hugetlb")] {
            let (root, group) = group(processes, controllers);
            assert!(!settle_in(root.path(), &group, 7).unwrap());
            assert!(!group.join(NAME).exists());
        }
        let (root, group) = group("7\n", "pids");
        assert!(!settle_in(&group, &group, 7).unwrap());
        // The one above gives bounds already.
        for (file, text) in [
            ("cgroup.controllers", "pids"),
            ("cgroup.subtree_control", "pids"),
            ("cgroup.procs", ""),
        ] {
            std::fs::write(root.path().join(file), text).unwrap();
        }
        assert!(!settle_in(root.path(), &group, 7).unwrap());
    }
}
