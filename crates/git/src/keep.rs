//! What must be kept of a repository to come back to its working tree later.
//!
//! Files of the index can be written again as long as their objects are there. A person who amends,
//! rebases and collects loses old ones, so the files that hold objects get a second name in a folder
//! of ours: no byte is copied and nothing changes in the repository. Of `.git` itself everything but
//! the objects is small, and is copied.

use std::fs::{self, File};
use std::io::{self, Seek};
use std::path::{Path, PathBuf};

use kiln_stdx::fs::{FsError, Named, create_private_dir};

use crate::error::GitError;
use crate::lend::alternates;
use crate::working_tree::{WorkingTree, git_folders};

/// Of `.git`: objects are borrowed, submodules have repositories of their own, and the rest is of no use
/// to a copy or as large as its history.
const NOT_KEPT: &[&str] = &["objects", "logs", "lfs", "modules", "worktrees", "annex", "index"];

/// A `.git` of more files has its refs in more files than git itself finds quick.
const FILES_MAX: usize = 5_000;

impl WorkingTree {
    /// The folder with the repository's objects.
    pub fn objects(&self) -> Option<PathBuf> {
        git_folders(&self.root).map(|(_, common)| common.join("objects"))
    }

    /// git's index, held open: git replaces the file and never changes it, so this stays the index of
    /// this moment. `None`: nothing was ever added.
    pub fn open_index(&self) -> Result<Option<File>, GitError> {
        let at = self.git_dir.join("index");
        match File::open(&at) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            other => Ok(Some(other.named("read", &at)?)),
        }
    }

    /// Writes the `.git` that a copy of the tree as it is now would have: into the folder `into`, its
    /// objects borrowed from the repository and from `pinned`.
    pub fn keep_git(
        &self,
        index: Option<&File>,
        pinned: &Path,
        into: &Path,
    ) -> Result<(), GitError> {
        let small = !self.is_linked() && self.git_dir == self.root.join(".git");
        if !small || !self.copy_git(into)? {
            self.lend(into)?;
        }
        self.lend_modules(into)?;
        let git = into.join(".git");
        if let Some(mut index) = index {
            let own = git.join("index");
            let copied = (|| {
                let mut file = File::create(&own)?;
                index.rewind()?;
                io::copy(&mut index, &mut file)?;
                // By its time git knows which files may have changed unseen.
                file.set_modified(index.metadata()?.modified()?)
            })();
            copied.named("write", &own)?;
        }
        let mut lines = match self.objects() {
            Some(objects) => alternates(&objects),
            None => Vec::new(),
        };
        lines.extend(alternates(pinned));
        let at = git.join("objects/info/alternates");
        Ok(fs::write(&at, lines).named("write", &at)?)
    }

    /// `false`: there is too much to copy; what was copied is gone again.
    fn copy_git(&self, into: &Path) -> Result<bool, GitError> {
        let git = into.join(".git");
        let mut n_left = FILES_MAX;
        if !copy_small(&self.git_dir, &git, &mut n_left)? {
            fs::remove_dir_all(&git).named("remove", &git)?;
            return Ok(false);
        }
        // What was stashed is named only there.
        let stash = Path::new("logs/refs/stash");
        if self.git_dir.join(stash).is_file() {
            let logs = git.join("logs/refs");
            fs::create_dir_all(&logs).named("create", &logs)?;
            copy(&self.git_dir.join(stash), &git.join(stash), &mut n_left)?;
        }
        Ok(true)
    }

    /// Gives the files with the repository's objects second names below `pinned`, where they have none
    /// yet. `false`: this file system cannot (it is another one), so they are only borrowed.
    pub fn pin_objects(&self, pinned: &Path) -> Result<bool, GitError> {
        let Some(objects) = self.objects() else { return Ok(false) };
        create_private_dir(pinned)?;
        for folder in fs::read_dir(&objects).named("list", &objects)?.flatten() {
            let name = folder.file_name();
            let loose = name.len() == 2
                && name.to_str().is_some_and(|n| n.bytes().all(|b| b.is_ascii_hexdigit()));
            if (loose || name == "pack") && !link_all(&folder.path(), &pinned.join(&name))? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Copies what is small of a repository. `false`: more files than are left.
pub(crate) fn copy_small(from: &Path, to: &Path, n_left: &mut usize) -> Result<bool, FsError> {
    for folder in ["objects/info", "objects/pack", "refs"] {
        let folder = to.join(folder);
        fs::create_dir_all(&folder).named("create", &folder)?;
    }
    for entry in fs::read_dir(from).named("list", from)?.flatten() {
        let name = entry.file_name();
        let kept = name.to_str().is_none_or(|name| {
            !NOT_KEPT.contains(&name) && !name.ends_with(".lock") && !name.ends_with("--ipc")
        });
        if kept && !copy(&entry.path(), &to.join(&name), n_left)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Copies a file, or a folder with all that is in it; what is neither is left out. `false`: more
/// files than are left.
pub(crate) fn copy(from: &Path, to: &Path, n_left: &mut usize) -> Result<bool, FsError> {
    let meta = match fs::symlink_metadata(from) {
        // It changes under our eyes: locks come and go.
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(true),
        other => other.named("read", from)?,
    };
    if meta.is_dir() {
        fs::create_dir_all(to).named("create", to)?;
        for entry in fs::read_dir(from).named("list", from)?.flatten() {
            let name = entry.file_name();
            let sample =
                name.to_str().is_some_and(|n| n.ends_with(".sample") || n.ends_with(".lock"));
            if !sample && !copy(&entry.path(), &to.join(&name), n_left)? {
                return Ok(false);
            }
        }
    } else if meta.is_file() {
        let Some(left) = n_left.checked_sub(1) else { return Ok(false) };
        *n_left = left;
        match fs::copy(from, to) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            other => other.map(drop).named("copy", from)?,
        }
    }
    Ok(true)
}

/// Links every file of `from` into `to` that is not there. Packs before their indexes: what is half
/// linked is then not seen by git.
fn link_all(from: &Path, to: &Path) -> Result<bool, FsError> {
    let names = |folder: &Path| -> io::Result<Vec<_>> {
        Ok(fs::read_dir(folder)?.flatten().map(|entry| entry.file_name()).collect())
    };
    let mut wanted = match names(from) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(true),
        other => other.named("list", from)?,
    };
    let there: std::collections::HashSet<_> = names(to).unwrap_or_default().into_iter().collect();
    wanted.retain(|name| {
        let temporary =
            name.to_str().is_none_or(|name| name.starts_with("tmp_") || name.ends_with(".lock"));
        !temporary && !there.contains(name)
    });
    if wanted.is_empty() {
        return Ok(true);
    }
    create_private_dir(to)?;
    wanted.sort_by_key(|name| name.to_str().is_some_and(|name| name.ends_with(".idx")));
    for name in wanted {
        match fs::hard_link(from.join(&name), to.join(&name)) {
            Ok(()) => {}
            Err(cause) => match cause.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists => {}
                io::ErrorKind::CrossesDevices
                | io::ErrorKind::PermissionDenied
                | io::ErrorKind::TooManyLinks
                | io::ErrorKind::Unsupported => return Ok(false),
                _ => return Err(cause).named("link", &from.join(&name)),
            },
        }
    }
    Ok(true)
}
