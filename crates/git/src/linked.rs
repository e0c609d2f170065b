//! A `.git` for a copy of a linked working tree, a submodule, or a tree whose repository is elsewhere.
//!
//! There, `.git` is a file (or a link) that leads out of the tree: a job that commits, tags or
//! stashes in a copy of the tree would do it in the repository of the person. So the copy gets a
//! repository of its own, with the same HEAD, index, refs and settings, which borrows every object.
//! Refs and settings are asked of git, because only git knows every way in which it keeps them.

use std::fs;
use std::io;
use std::path::Path;

use kiln_stdx::fs::Named;
use kiln_stdx::process;

use crate::command;
use crate::error::GitError;
use crate::lend::{alternates, quoted};
use crate::working_tree::{WorkingTree, git_folders};

/// Sections and keys that say where things are or how they are kept; here they are elsewhere.
const NOT_TAKEN: &[&str] = &[
    "core.bare",
    "core.worktree",
    "core.fsmonitor",
    "extensions.refstorage",
    "extensions.worktreeconfig",
    "include.",
    "includeif.",
    "gc.",
    "maintenance.",
];

impl WorkingTree {
    /// Whether the repository is outside of the tree, so that a copy of the tree would share it.
    pub fn is_linked(&self) -> bool {
        fs::symlink_metadata(self.root.join(".git")).is_ok_and(|known| !known.is_dir())
    }

    /// Writes a `.git` of its own for a copy of the tree into the folder `into`.
    pub fn lend(&self, into: &Path) -> Result<(), GitError> {
        let (git_dir, common) =
            git_folders(&self.root).ok_or_else(|| GitError::NotARepository(self.root.clone()))?;
        let git = into.join(".git");
        for folder in ["objects/info", "objects/pack", "refs/heads", "refs/tags", "info"] {
            let folder = git.join(folder);
            fs::create_dir_all(&folder).named("create", &folder)?;
        }
        let write = |name: &str, bytes: &[u8]| {
            let at = git.join(name);
            fs::write(&at, bytes).named("write", &at)
        };
        write("objects/info/alternates", &alternates(&common.join("objects")))?;
        write("config", &self.settings()?)?;
        write("packed-refs", &self.refs()?)?;
        write("HEAD", self.head_line()?.as_bytes())?;
        for (folder, name) in [
            (&git_dir, "index"),
            (&git_dir, "info/sparse-checkout"),
            (&common, "shallow"),
            (&common, "info/exclude"),
            (&common, "info/attributes"),
        ] {
            copy_if_there(&folder.join(name), &git.join(name))?;
        }
        Ok(())
    }

    fn settings(&self) -> Result<Vec<u8>, GitError> {
        let mut git = command::in_tree(&self.root);
        git.args(["config", "--local", "--includes", "--null", "--list"]);
        let listed = ask(git, "reading the settings")?;
        let mut text = Vec::new();
        for entry in listed.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()) {
            let at = entry.iter().position(|byte| *byte == b'\n');
            let (key, value) = (&entry[..at.unwrap_or(entry.len())], at.map(|at| &entry[at + 1..]));
            add_setting(key, value, &mut text);
        }
        text.extend(b"[core]\n\tbare = false\n[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n");
        Ok(text)
    }

    fn refs(&self) -> Result<Vec<u8>, GitError> {
        let mut git = command::in_tree(&self.root);
        git.args(["for-each-ref", "--format=%(objectname) %(refname)"]);
        let mut text = b"# pack-refs with: sorted \n".to_vec();
        text.extend(ask(git, "reading the refs")?);
        Ok(text)
    }

    /// What the file `HEAD` would say.
    fn head_line(&self) -> Result<String, GitError> {
        let (commit, branch) = self.head()?;
        Ok(match (branch, commit) {
            (Some(branch), _) => format!("ref: refs/heads/{branch}\n"),
            (None, Some(commit)) => format!("{}\n", commit.commit),
            (None, None) => "ref: refs/heads/main\n".to_owned(),
        })
    }
}

fn ask(mut git: std::process::Command, doing: &'static str) -> Result<Vec<u8>, GitError> {
    process::output(&mut git).map_err(|error| GitError::process(doing, error))
}

/// `section.key` or `section.any.thing.key`, as `git config --list` names it.
fn add_setting(key: &[u8], value: Option<&[u8]>, text: &mut Vec<u8>) {
    let name = String::from_utf8_lossy(key);
    let is = |not: &&'static str| match not.strip_suffix('.') {
        Some(section) => name.split('.').next() == Some(section),
        None => name.as_ref() == *not,
    };
    let dots = || key.iter().enumerate().filter(|(_, byte)| **byte == b'.').map(|(at, _)| at);
    let (Some(first), Some(last)) = (dots().next(), dots().next_back()) else { return };
    if NOT_TAKEN.iter().any(is) {
        return;
    }
    text.push(b'[');
    text.extend(&key[..first]);
    if first < last {
        text.push(b' ');
        text.extend(quoted(&key[first + 1..last]));
    }
    text.extend(b"]\n\t");
    text.extend(&key[last + 1..]);
    // A key alone means `true`.
    if let Some(value) = value {
        text.extend(b" = ");
        text.extend(quoted(value));
    }
    text.push(b'\n');
}

fn copy_if_there(from: &Path, to: &Path) -> Result<(), GitError> {
    match fs::copy(from, to) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        other => Ok(other.map(drop).named("copy", from)?),
    }
}

#[cfg(test)]
mod tests {
    use super::add_setting;

    #[test]
    fn settings_are_written_as_git_reads_them() {
        let written = |key: &str, value: Option<&str>| {
            let mut text = Vec::new();
            add_setting(key.as_bytes(), value.map(str::as_bytes), &mut text);
            String::from_utf8(text).unwrap()
        };
        assert_eq!(
            written("user.name", Some("A \"B\"\nC")),
            "[user]\n\tname = \"A \\\"B\\\"\\nC\"\n"
        );
        assert_eq!(
            written("branch.a.b.remote", Some("origin")),
            "[branch \"a.b\"]\n\tremote = \"origin\"\n"
        );
        assert_eq!(written("core.ignorecase", None), "[core]\n\tignorecase\n");
        for key in ["core.worktree", "include.path", "includeif.gitdir:/x.path", "gc.auto"] {
            assert_eq!(written(key, Some("x")), "", "{key}");
        }
    }
}
