//! A working tree on this machine, for `kiln run`.
//!
//! Only read: no file of it changes, the index included. Finding it starts no program; what git must
//! be asked is one program per question, and the questions may be asked at the same time.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use kiln_stdx::fs::Named;
use kiln_stdx::process;

use crate::command;
use crate::commit::CommitInfo;
use crate::error::GitError;

/// A folder with files and the repository that they belong to.
#[derive(Clone, Debug)]
pub struct WorkingTree {
    pub root: PathBuf,
    pub git_dir: PathBuf,
}

impl WorkingTree {
    /// The repository around `from`, or why there is none.
    pub fn discover(from: &Path) -> Result<Self, GitError> {
        let from = from.canonicalize().named("find", from)?;
        for folder in from.ancestors() {
            if let Some(git_dir) = dot_git(folder) {
                return Ok(Self { root: folder.to_owned(), git_dir });
            }
            if is_git_folder(folder) {
                return Err(match folder.file_name() {
                    Some(name) if name == ".git" => GitError::InGitFolder(folder.to_owned()),
                    _ => GitError::Bare(folder.to_owned()),
                });
            }
        }
        Err(GitError::NoRepositoryAround(from))
    }

    /// HEAD's commit (`None`: no commit yet) and branch (`None`: detached).
    pub fn head(&self) -> Result<(Option<CommitInfo>, Option<String>), GitError> {
        let file = self.git_dir.join("HEAD");
        let head = fs::read_to_string(&file).named("read", &file)?;
        let branch = match head.trim_end().strip_prefix("ref:").map(str::trim) {
            // Not kept in files (reftable): this name stands there so that old gits stop.
            Some("refs/heads/.invalid") => self.symbolic_head()?,
            other => other.map(str::to_owned),
        };
        let branch = branch.map(|name| match name.strip_prefix("refs/heads/") {
            Some(short) => short.to_owned(),
            None => name,
        });
        Ok((self.head_commit()?, branch))
    }

    /// The branch that the remote `origin` calls its default, as it was when it was cloned or last
    /// asked. `None`: there is no such remote, or nobody has asked.
    pub fn default_branch(&self) -> Option<String> {
        let common = match fs::read_to_string(self.git_dir.join("commondir")) {
            Ok(common) => self.git_dir.join(common.trim_end()),
            Err(_) => self.git_dir.clone(),
        };
        let head = fs::read_to_string(common.join("refs/remotes/origin/HEAD")).ok()?;
        let name = head.trim_end().strip_prefix("ref:")?.trim();
        name.strip_prefix("refs/remotes/origin/").map(str::to_owned)
    }

    fn symbolic_head(&self) -> Result<Option<String>, GitError> {
        let mut git = command::in_tree(&self.root);
        git.args(["symbolic-ref", "--quiet", "HEAD"]);
        let done =
            process::any_output(&mut git).map_err(|e| GitError::process("reading HEAD", e))?;
        let name = String::from_utf8_lossy(&done.stdout).trim_end().to_owned();
        Ok((!name.is_empty()).then_some(name))
    }

    fn head_commit(&self) -> Result<Option<CommitInfo>, GitError> {
        let doing = "reading HEAD";
        let mut git = command::in_tree(&self.root);
        git.args(["cat-file", "--batch"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let failed = |message: String| GitError::Failed { doing, message };
        let mut child = git
            .spawn()
            .map_err(|cause| GitError::process(doing, process::failed_start(&git, cause)))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A git that refuses the repository says why on standard error.
            let _ = stdin.write_all(b"HEAD^{commit}\n");
        }
        let done = child.wait_with_output().map_err(|cause| failed(cause.to_string()))?;
        if !done.status.success() {
            return Err(failed(String::from_utf8_lossy(&done.stderr).trim().to_owned()));
        }
        let line = done.stdout.split(|b| *b == b'\n').next().unwrap_or_default();
        let text = String::from_utf8_lossy(line).into_owned();
        match text.split(' ').collect::<Vec<_>>()[..] {
            [id, "commit", _] => CommitInfo::parse(id, &done.stdout[line.len() + 1..]).map(Some),
            _ => Ok(None),
        }
    }

    /// Paths that git ignores, folders collapsed (with a trailing `/`), relative to the root.
    pub fn ignored(&self) -> Result<Vec<PathBuf>, GitError> {
        let mut git = command::in_tree(&self.root);
        git.args(["ls-files", "--others", "--ignored", "--exclude-standard", "--directory", "-z"]);
        let listed =
            process::output(&mut git).map_err(|e| GitError::process("listing ignored files", e))?;
        let paths = listed.split(|b| *b == 0).filter(|path| !path.is_empty());
        Ok(paths.map(|path| PathBuf::from(OsString::from_vec(path.to_vec()))).collect())
    }

    /// Paths that differ from HEAD, untracked ones included.
    pub fn dirty(&self) -> Result<Vec<String>, GitError> {
        let mut git = command::in_tree(&self.root);
        git.args(["status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-ahead-behind"]);
        let listed =
            process::output(&mut git).map_err(|e| GitError::process("reading the status", e))?;
        Ok(dirty_paths(&listed))
    }
}

/// `XY path\0`, and for a rename or a copy the path that it came from: `R  new\0old\0`.
fn dirty_paths(listed: &[u8]) -> Vec<String> {
    let mut paths = Vec::new();
    let mut parts = listed.split(|b| *b == 0).filter(|part| !part.is_empty());
    while let Some(part) = parts.next() {
        let (Some(state), Some(path)) = (part.get(..2), part.get(3..)) else { continue };
        let mut push = |path: &[u8]| paths.push(String::from_utf8_lossy(path).into_owned());
        push(path);
        if state.contains(&b'R') {
            parts.next().into_iter().for_each(push);
        } else if state.contains(&b'C') {
            parts.next();
        }
    }
    paths.sort_unstable();
    paths.dedup();
    paths
}

/// The git folder of a repository at `path` (bare or not) and the one that its objects are in.
pub(crate) fn git_folders(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let git_dir = dot_git(path).or_else(|| is_git_folder(path).then(|| path.to_owned()))?;
    let common = match fs::read_to_string(git_dir.join("commondir")) {
        Ok(text) => git_dir.join(text.trim_end_matches('\n')),
        Err(_) => git_dir.clone(),
    };
    Some((git_dir, common.canonicalize().ok()?))
}

/// What `.git` in `folder` leads to: itself, or, for a linked working tree or a submodule, the
/// folder that it names.
fn dot_git(folder: &Path) -> Option<PathBuf> {
    let dot_git = folder.join(".git");
    if dot_git.join("HEAD").is_file() {
        return Some(dot_git);
    }
    let mut text = String::new();
    fs::File::open(&dot_git).ok()?.take(64 << 10).read_to_string(&mut text).ok()?;
    let named = folder.join(text.strip_prefix("gitdir:")?.trim());
    named.join("HEAD").is_file().then_some(named)
}

pub(crate) fn is_git_folder(folder: &Path) -> bool {
    folder.join("HEAD").is_file() && folder.join("objects").is_dir() && folder.join("refs").is_dir()
}
