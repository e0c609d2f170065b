//! The `.git` of a workspace: a repository of its own that borrows every object from the mirror.
//!
//! It is written by hand, a dozen small files, so that no program is started while a push waits. Its
//! refs are those that a clone would have now, its index the one of the checkout. Objects are read
//! through `objects/info/alternates`, which git never writes to: what a job commits, packs or
//! collects stays in its own workspace.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kiln_stdx::fs::Named;
use kiln_stdx::process;

use crate::command;
use crate::error::GitError;
use crate::location::Location;
use crate::refs;

/// What a workspace is a checkout of.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    pub commit: &'a str,
    /// HEAD is this branch; `None`: the commit itself.
    pub branch: Option<&'a str>,
}

/// Writes `.git` into the folder `into`.
///
/// `known`: refs of the other side, `refs/heads/…` and `refs/tags/…` with their ids. Without an
/// index git is asked to make one, which then knows the files' names but not their looks.
pub(crate) fn lend(
    mirror: &Path,
    of: &Location,
    head: Head<'_>,
    known: &BTreeMap<String, String>,
    index: Option<&Path>,
    into: &Path,
) -> Result<(), GitError> {
    refs::check_revision(head.commit)?;
    let branch = head.branch.filter(|name| refs::check_ref(&format!("refs/heads/{name}")).is_ok());
    let mirror = std::path::absolute(mirror).named("find", mirror)?;
    let git = into.join(".git");
    for folder in ["objects/info", "objects/pack", "refs/heads", "refs/tags"] {
        let folder = git.join(folder);
        fs::create_dir_all(&folder).named("create", &folder)?;
    }
    let write = |name: &str, bytes: &[u8]| {
        let at = git.join(name);
        fs::write(&at, bytes).named("write", &at)
    };
    write("objects/info/alternates", &alternates(&mirror.join("objects")))?;
    write("config", &config(of, branch, head.commit.len() == 64))?;
    write("packed-refs", packed(head.commit, branch, known).as_bytes())?;
    match branch {
        Some(branch) => write("HEAD", format!("ref: refs/heads/{branch}\n").as_bytes())?,
        None => write("HEAD", format!("{}\n", head.commit).as_bytes())?,
    }
    // Where a shallow mirror's history ends, the workspace's ends.
    if let Ok(shallow) = fs::read(mirror.join("shallow")) {
        write("shallow", &shallow)?;
    }
    let own = git.join("index");
    match index {
        // Layers never change, so one file may have many names; a file system without or with too
        // many of them gets a copy.
        Some(index) if fs::hard_link(index, &own).is_ok() => Ok(()),
        Some(index) => Ok(fs::copy(index, &own).map(drop).named("copy", index)?),
        None => list(&mirror, head.commit, &own),
    }
}

/// One line; quoted as C does where a path would end it.
pub(crate) fn alternates(objects: &Path) -> Vec<u8> {
    let path = objects.as_os_str().as_bytes();
    let mut line = if path.contains(&b'\n') { quoted(path) } else { path.to_owned() };
    line.push(b'\n');
    line
}

fn config(of: &Location, branch: Option<&str>, sha256: bool) -> Vec<u8> {
    let mut text =
        b"[core]\n\tbare = false\n\tfilemode = true\n\tlogallrefupdates = true\n".to_vec();
    // A person's own settings for these would make every file look changed, or leave a process.
    text.extend(b"\tautocrlf = false\n\tfsmonitor = false\n");
    match sha256 {
        true => {
            text.extend(b"\trepositoryformatversion = 1\n[extensions]\n\tobjectformat = sha256\n")
        }
        false => text.extend(b"\trepositoryformatversion = 0\n"),
    }
    text.extend(b"[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n[remote \"origin\"]\n\turl = ");
    text.extend(quoted(&of.without_credentials()));
    text.extend(b"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n");
    if let Some(branch) = branch {
        text.extend(b"[branch ");
        text.extend(quoted(branch.as_bytes()));
        text.extend(b"]\n\tremote = origin\n\tmerge = ");
        text.extend(quoted(format!("refs/heads/{branch}").as_bytes()));
        text.push(b'\n');
    }
    text
}

/// In double quotes, which config and alternates files read alike.
pub(crate) fn quoted(text: &[u8]) -> Vec<u8> {
    let mut out = b"\"".to_vec();
    for byte in text {
        match byte {
            b'\n' => out.extend(b"\\n"),
            b'"' | b'\\' => out.extend([b'\\', *byte]),
            other => out.push(*other),
        }
    }
    out.push(b'"');
    out
}

/// The branch at the commit, tags, and the other side's branches as a clone names them.
fn packed(commit: &str, branch: Option<&str>, known: &BTreeMap<String, String>) -> String {
    let mut all = BTreeMap::new();
    for (name, id) in known {
        match name.strip_prefix("refs/heads/") {
            Some(short) => all.insert(format!("refs/remotes/origin/{short}"), id.as_str()),
            None => all.insert(name.clone(), id.as_str()),
        };
    }
    if let Some(branch) = branch {
        all.insert(format!("refs/heads/{branch}"), commit);
    }
    let mut text = "# pack-refs with: sorted \n".to_owned();
    all.iter().for_each(|(name, id)| text += &format!("{id} {name}\n"));
    text
}

fn list(mirror: &Path, commit: &str, index: &Path) -> Result<(), GitError> {
    let mut git = command::local(mirror);
    git.env("GIT_INDEX_FILE", index).args(["read-tree", commit]);
    process::output(&mut git).map(drop).map_err(|error| GitError::process("listing files", error))
}
