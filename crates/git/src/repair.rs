//! A mirror with objects that are missing or damaged, and getting them again from where they came.
//!
//! git reads an object from whichever copy is whole, so a second copy is all that is needed. Of a
//! repository on this machine the mirror reads the source's own copies already; from a URL everything
//! is fetched once more.

use std::fs;
use std::path::Path;

use kiln_stdx::fs::Named;
use kiln_stdx::process;

use crate::command::{self, FETCH_WITHIN};
use crate::error::GitError;
use crate::location::Location;

/// How git says that an object is not as it should be.
const SIGNS: &[&str] = &[
    "unable to read",
    "cannot read object",
    "cannot be read",
    "missing",
    "corrupt",
    "inflate",
    "bad object",
    "bad tree",
    "could not read",
    "invalid object",
    "does not exist",
    "unable to unpack",
    "delta",
    "hash mismatch",
    "does not match index",
    "not a tree object",
];

/// Whether the objects may be the trouble, and not the disk or the tree.
pub(crate) fn is_of_objects(error: &GitError) -> bool {
    match error {
        GitError::NotFound { .. } | GitError::Damaged { .. } => true,
        GitError::Failed { message, .. } => {
            let message = message.to_lowercase();
            SIGNS.iter().any(|sign| message.contains(sign)) && !message.contains("no space left")
        }
        _ => false,
    }
}

/// What git says of an object that could not be read; `None`: nothing is wrong with it.
pub(crate) fn diagnose(git_dir: &Path, id: &str) -> Option<String> {
    let mut git = command::local(git_dir);
    git.args(["cat-file", "-t", id]);
    let kind = process::output(&mut git);
    let read = kind.and_then(|kind| {
        let mut git = command::local(git_dir);
        git.args(["cat-file", String::from_utf8_lossy(&kind).trim(), id]);
        process::output(&mut git)
    });
    read.err().map(|error| match error {
        process::ProcessError::Failed { stderr, .. } if !stderr.is_empty() => stderr,
        other => other.to_string(),
    })
}

/// Fetches every object once more.
pub(crate) fn refetch(mirror: &Path, of: &Location) -> Result<(), GitError> {
    let Location::Url(url) = of else { return Ok(()) };
    let mut git = command::network(mirror);
    git.args(["fetch", "--quiet", "--refetch", "--force", "--no-tags", "--no-write-fetch-head"])
        .args(["--no-auto-maintenance", "--no-recurse-submodules", "--", url])
        .args(["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]);
    command::ask(git, &of.shown(), FETCH_WITHIN).map(drop)
}

/// Removes what a failed checkout has left in a folder that was empty.
pub(crate) fn empty(folder: &Path, index: &Path) -> Result<(), GitError> {
    for entry in fs::read_dir(folder).named("list", folder)?.flatten() {
        let path = entry.path();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.named("remove", &path)?;
    }
    // There may be none yet.
    let _ = fs::remove_file(index);
    Ok(())
}

/// Says what is damaged, and the way out.
pub(crate) fn told(mirror: &Path, of: &Location, error: &GitError) -> GitError {
    let way_out = match of {
        Location::Path(path) => format!(
            "`{}` has it neither: repair it (`git fsck` there says what is missing), or push the \
             commit again",
            path.display()
        ),
        Location::Url(_) => format!(
            "fetching everything anew from {} did not bring it: the commit may be gone from there; \
             push it again",
            of.shown()
        ),
    };
    GitError::Damaged { mirror: mirror.to_owned(), message: error.to_string(), way_out }
}
