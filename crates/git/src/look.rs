//! How a working tree differs from an index: one question to git answers everything.
//!
//! With an index that was kept from before, the same question tells what has changed since.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use kiln_stdx::fs::Named;
use kiln_stdx::process;

use crate::command;
use crate::error::GitError;
use crate::glance;
use crate::lend::quoted;
use crate::working_tree::WorkingTree;

/// So many names of up to 4 KB fit into the arguments of one program.
const FOLDERS_AT_ONCE: usize = 100;

/// What a look found. Paths are relative to the root; folders end in `/` and stand for all that is in
/// them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Files of the index that look otherwise, in whatever way, and are there.
    pub changed: Vec<PathBuf>,
    /// Files of the index that are not there.
    pub deleted: Vec<PathBuf>,
    /// What is not in the index and not ignored.
    pub untracked: Vec<PathBuf>,
    pub ignored: Vec<PathBuf>,
}

impl WorkingTree {
    /// Compares the tree with the index that is open, as `git status` does. `None`: with an empty one.
    pub fn look_now(&self, index: Option<&File>) -> Result<Look, GitError> {
        match index {
            // A name for what may have none any more.
            Some(open) => {
                let pid = std::process::id();
                self.look(&PathBuf::from(format!("/proc/{pid}/fd/{}", open.as_raw_fd())))
            }
            None => self.look(&self.git_dir.join("no-index")),
        }
    }

    /// As [`WorkingTree::look_now`], with the index at a path. Both are only read.
    pub fn look(&self, index: &Path) -> Result<Look, GitError> {
        match glance::strangers(&self.root, index) {
            Some(strangers) if strangers.is_empty() => return Ok(Look::default()),
            // Only git knows what is ignored.
            Some(strangers) if strangers.len() <= FOLDERS_AT_ONCE => {
                return self.ask(index, "--untracked-files=normal", &strangers);
            }
            _ => {}
        }
        let mut look = self.ask(index, "--untracked-files=normal", &[])?;
        let is_folder = |path: &&PathBuf| {
            fs::symlink_metadata(self.root.join(path)).is_ok_and(|meta| meta.is_dir())
        };
        let folders: Vec<PathBuf> = look.deleted.iter().filter(is_folder).cloned().collect();
        // What is in a folder that has taken the place of a file, git tells only who asks for it.
        for some in folders.chunks(FOLDERS_AT_ONCE) {
            let found = self.ask(index, "--untracked-files=all", some)?;
            look.untracked.extend(found.untracked);
            look.ignored.extend(found.ignored);
        }
        Ok(look)
    }

    fn ask(&self, index: &Path, untracked: &str, only: &[PathBuf]) -> Result<Look, GitError> {
        let mut git = command::in_tree(&self.root);
        git.env("GIT_INDEX_FILE", index)
            .env("GIT_LITERAL_PATHSPECS", "1")
            .args(["status", "--porcelain=v2", "-z", untracked, "--ignored=traditional"])
            .args(["--no-renames", "--no-ahead-behind", "--ignore-submodules=all", "--"])
            .args(only);
        let listed =
            process::output(&mut git).map_err(|e| GitError::process("reading the status", e))?;
        Ok(parse(&listed))
    }

    /// Writes files of an index into a folder, converted as git would for this tree, with the times
    /// that the index knows of them. Objects are looked for in the repository and in `pinned`.
    pub fn write_files(
        &self,
        index: &Path,
        paths: &[PathBuf],
        pinned: &Path,
        into: &Path,
    ) -> Result<(), GitError> {
        let doing = "writing files of the index";
        let mut prefix = into.as_os_str().to_owned();
        prefix.push("/");
        let mut option = OsString::from("--prefix=");
        option.push(&prefix);
        let mut git = command::in_tree(&self.root);
        git.env("GIT_INDEX_FILE", index)
            .env(
                "GIT_ALTERNATE_OBJECT_DIRECTORIES",
                OsStr::from_bytes(&quoted(pinned.as_os_str().as_bytes())),
            )
            .args(["checkout-index", "-z", "--stdin", "--quiet", "--force"])
            .arg(&option)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = git
            .spawn()
            .map_err(|cause| GitError::process(doing, process::failed_start(&git, cause)))?;
        let failed = |message: String| GitError::Failed { doing, message };
        let stdin = child.stdin.take();
        let done = std::thread::scope(|scope| {
            scope.spawn(move || {
                let names: Vec<u8> = paths
                    .iter()
                    .flat_map(|path| [path.as_os_str().as_bytes(), &[0]].concat())
                    .collect();
                // A git that ends early says why on standard error.
                let _ = stdin.map(|mut stdin| stdin.write_all(&names));
            });
            child.wait_with_output()
        });
        let done = done.map_err(|cause| failed(cause.to_string()))?;
        if !done.status.success() {
            return Err(failed(String::from_utf8_lossy(&done.stderr).trim().to_owned()));
        }
        set_times(index, paths, into)
    }
}

/// As the index remembers them: a build that compares times must not take old files for new ones.
fn set_times(index: &Path, paths: &[PathBuf], into: &Path) -> Result<(), GitError> {
    let bytes = fs::read(index).named("read", index)?;
    // Of other versions the times stay those of the writing.
    let Some(index) = crate::index::Index::parse(&bytes, 20) else { return Ok(()) };
    for path in paths {
        let Some((seconds, nanos)) = index.modified(path) else { continue };
        let at = into.join(path);
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(seconds.into(), nanos);
        if fs::symlink_metadata(&at).is_ok_and(|meta| meta.is_file()) {
            let file = fs::File::options().append(true).open(&at).named("open", &at)?;
            file.set_modified(time).named("change the times of", &at)?;
        }
    }
    Ok(())
}

/// `1 XY sub mH mI mW hH hI path`, `u XY sub m1 m2 m3 mW h1 h2 h3 path`, `? path`, `! path`; each ends
/// in NUL. `Y` says how the file differs from the index.
fn parse(listed: &[u8]) -> Look {
    let mut look = Look::default();
    for line in listed.split(|byte| *byte == 0) {
        let path = |n_words: usize| {
            let path = line.splitn(n_words + 1, |byte| *byte == b' ').nth(n_words);
            path.map(|path| PathBuf::from(OsStr::from_bytes(path)))
        };
        match line {
            [b'?', b' ', name @ ..] => look.untracked.push(OsString::from_vec(name.into()).into()),
            [b'!', b' ', name @ ..] => look.ignored.push(OsString::from_vec(name.into()).into()),
            [b'1', b' ', _, b'.', ..] => {}
            [b'1', b' ', _, b'D', ..] => look.deleted.extend(path(8)),
            [b'1', b' ', ..] => look.changed.extend(path(8)),
            [b'u', b' ', ..] => look.changed.extend(path(10)),
            _ => {}
        }
    }
    look
}

#[cfg(test)]
mod tests {
    use super::{Look, parse};

    #[test]
    fn a_status_is_read_with_whatever_is_in_its_names() {
        let listed = b"1 M. N... 100644 100644 100644 a b staged\x001 .M N... 1 1 1 a b with  two\n\0\
            1 .T N... 1 1 1 a b link\x001 AD N... 1 1 1 a b gone\0u UU N... 1 1 1 1 a b c both sides\0\
            ? new \xc3\xb6/\0! target/\0";
        let look = Look {
            changed: ["with  two\n", "link", "both sides"].map(Into::into).into(),
            deleted: vec!["gone".into()],
            untracked: vec!["new ö/".into()],
            ignored: vec!["target/".into()],
        };
        assert_eq!(parse(listed), look);
    }
}
