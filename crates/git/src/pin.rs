//! Copying borrowed objects into a mirror, so that they outlive their source.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use kiln_stdx::process;

use crate::command;
use crate::error::GitError;

/// Packs are joined when there are more: each is one more place to look for an object.
const PACKS_MAX: usize = 50;

/// Objects that lie singly, in one folder of 256; as many as git itself lets be.
const SINGLE_IN_FOLDER_MAX: usize = 27;

/// Copies what the refs reach and the mirror does not have itself, then moves the mirror's refs.
pub(crate) fn copy(mirror: &Path, refs: &[(String, String)]) -> Result<(), GitError> {
    let pinned = pinned(mirror)?;
    let has = |name: &str, id: &str| pinned.iter().any(|(n, i)| n == name && i == id);
    let new: Vec<_> = refs.iter().filter(|(name, id)| !has(name, id)).collect();
    let gone: Vec<_> = pinned.iter().filter(|(n, _)| refs.iter().all(|(m, _)| m != n)).collect();
    if !new.is_empty() {
        pack(mirror, &new, &pinned)?;
        join_packs(mirror)?;
    }
    if !new.is_empty() || !gone.is_empty() {
        let mut lines = String::new();
        // Deletions first: `a` may go and `a/b` come.
        gone.iter().for_each(|(name, _)| lines += &format!("delete {name}\n"));
        feed(command::local(mirror).args(["update-ref", "--stdin"]), &lines, "moving refs")?;
        let moves: String = new.iter().map(|(name, id)| format!("update {name} {id}\n")).collect();
        feed(command::local(mirror).args(["update-ref", "--stdin"]), &moves, "moving refs")?;
    }
    Ok(())
}

fn pinned(mirror: &Path) -> Result<Vec<(String, String)>, GitError> {
    let mut git = command::local(mirror);
    git.args(["for-each-ref", "--format=%(objectname) %(refname)"]);
    let listed =
        process::output(&mut git).map_err(|error| GitError::process("listing refs", error))?;
    let listed = crate::refs::utf8_lines(&listed);
    let pair = |line: &str| line.split_once(' ').map(|(id, name)| (name.to_owned(), id.to_owned()));
    Ok(listed.lines().filter_map(pair).collect())
}

fn pack(
    mirror: &Path,
    new: &[&(String, String)],
    pinned: &[(String, String)],
) -> Result<(), GitError> {
    let mut revisions: String = new.iter().map(|(_, id)| format!("{id}\n")).collect();
    revisions += "--not\n";
    pinned.iter().for_each(|(_, id)| revisions += &format!("{id}\n"));
    let mut git = command::local(mirror);
    git.args(["pack-objects", "--quiet", "--revs", "--non-empty", "--delta-base-offset"])
        .args(["--threads=1", "--"])
        .arg(mirror.join("objects/pack/pack"));
    feed(&mut git, &revisions, "copying objects")
}

/// Joins packs and single objects when there are many of either.
pub(crate) fn join_packs(mirror: &Path) -> Result<(), GitError> {
    let names = |folder: &str| {
        let entries = std::fs::read_dir(mirror.join(folder)).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
    };
    let n_packs = names("objects/pack").filter(|name| name.ends_with(".pack")).count();
    // Names are digests: one folder of 256 tells of all.
    if n_packs <= PACKS_MAX && names("objects/17").count() <= SINGLE_IN_FOLDER_MAX {
        return Ok(());
    }
    let mut git = command::local(mirror);
    // Only what is here, geometrically: old large packs are not written again for new small ones.
    git.args(["repack", "--quiet", "-d", "-l", "--geometric=2", "--no-write-bitmap-index"]);
    process::output(&mut git).map(drop).map_err(|error| GitError::process("joining packs", error))
}

/// Runs git with lines on its standard input.
fn feed(git: &mut Command, lines: &str, doing: &'static str) -> Result<(), GitError> {
    git.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child =
        git.spawn().map_err(|cause| GitError::process(doing, process::failed_start(git, cause)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A git that ends early says why on standard error.
        let _ = stdin.write_all(lines.as_bytes());
    }
    let failed = |message: String| GitError::Failed { doing, message };
    let done = child.wait_with_output().map_err(|cause| failed(cause.to_string()))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(failed(String::from_utf8_lossy(&done.stderr).trim().to_owned())),
    }
}
