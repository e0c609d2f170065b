//! Copying borrowed objects into a mirror, so that they outlive their source.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use kiln_stdx::fs::Named;
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
    feed(&mut git, &revisions, "copying objects").map(drop)
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
    // Of a mirror that borrows, git's own `repack` leaves out what the lender has too, and removes our copy.
    if mirror.join("objects/info/alternates").exists() {
        return join_own_packs(mirror);
    }
    let mut git = command::local(mirror);
    // Geometrically: old large packs are not written again for new small ones.
    git.args(["repack", "--quiet", "-d", "-l", "--geometric=2", "--no-write-bitmap-index"]);
    process::output(&mut git).map(drop).map_err(|error| GitError::process(JOINING, error))
}

const JOINING: &str = "joining packs";

/// All objects of the mirror's small packs into one, whoever else has them.
fn join_own_packs(mirror: &Path) -> Result<(), GitError> {
    let folder = mirror.join("objects/pack");
    let small = small_packs(&folder)?;
    if small.len() < 2 {
        return Ok(());
    }
    let lines: String = small.iter().map(|name| format!("{name}.pack\n")).collect();
    let mut git = command::local(mirror);
    git.args(["pack-objects", "--quiet", "--stdin-packs", "--delta-base-offset", "--threads=1"]);
    git.arg("--").arg(folder.join("pack"));
    let made = feed(&mut git, &lines, JOINING)?;
    let made = format!("pack-{}", String::from_utf8_lossy(&made).trim());
    // Named after its content, it may be one that was there: all that the others have, too.
    for name in small.into_iter().filter(|name| *name != made) {
        // By the index a pack is found, so that goes first.
        for end in ["idx", "rev", "bitmap", "pack"] {
            let path = folder.join(format!("{name}.{end}"));
            match fs::remove_file(&path) {
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                other => other.named("remove", &path)?,
            }
        }
    }
    Ok(())
}

/// Those that are not larger than twice all smaller ones: old large packs are not written again for new
/// small ones.
fn small_packs(folder: &Path) -> Result<Vec<String>, GitError> {
    let mut packs = Vec::new();
    for entry in fs::read_dir(folder).named("list", folder)? {
        let entry = entry.named("list", folder)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // One that is kept is somebody else's.
        if let Some(name) = name.strip_suffix(".pack")
            && !folder.join(format!("{name}.keep")).exists()
        {
            let size = entry.metadata().named("read", &entry.path())?.len();
            packs.push((size, name.to_owned()));
        }
    }
    packs.sort_unstable();
    let mut sum = 0;
    let mut n_small = 0;
    for (at, (size, _)) in packs.iter().enumerate() {
        if *size <= 2 * sum || at == 0 {
            n_small = at + 1;
        }
        sum += size;
    }
    packs.truncate(n_small);
    Ok(packs.into_iter().map(|(_, name)| name).collect())
}

/// Runs git with lines on its standard input; gives what it answers, which must be short.
fn feed(git: &mut Command, lines: &str, doing: &'static str) -> Result<Vec<u8>, GitError> {
    git.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        git.spawn().map_err(|cause| GitError::process(doing, process::failed_start(git, cause)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A git that ends early says why on standard error.
        let _ = stdin.write_all(lines.as_bytes());
    }
    let failed = |message: String| GitError::Failed { doing, message };
    let done = child.wait_with_output().map_err(|cause| failed(cause.to_string()))?;
    match done.status.success() {
        true => Ok(done.stdout),
        false => Err(failed(String::from_utf8_lossy(&done.stderr).trim().to_owned())),
    }
}
