//! The repositories of a working tree's submodules, for a copy of the tree.
//!
//! They lie in the `modules` of its git folder, and a file `.git` in each submodule leads there. A copy
//! has a git folder of its own, so it needs small ones of theirs too: without, git fails in the whole
//! tree, `git status` included. Their objects are borrowed.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kiln_stdx::fs::{FsError, Named};
use kiln_stdx::process;

use crate::command;
use crate::error::GitError;
use crate::keep::{copy, copy_small};
use crate::lend::{alternates, quoted};
use crate::working_tree::{WorkingTree, is_git_folder};

const MODULES: &str = "modules";

/// Copies the repositories below the folder `from` into `to`, without their objects.
fn copy_modules(from: &Path, to: &Path) -> Result<(), FsError> {
    let all = &mut usize::MAX.clone();
    for (module, name) in below(from)? {
        let own = to.join(name);
        copy_small(&module, &own, all)?;
        copy(&module.join("index"), &own.join("index"), all)?;
        let at = own.join("objects/info/alternates");
        fs::write(&at, alternates(&module.join("objects"))).named("write", &at)?;
    }
    Ok(())
}

/// The repositories below the folder `from`, those of submodules' submodules included, and their
/// places in it.
fn below(from: &Path) -> Result<Vec<(PathBuf, PathBuf)>, FsError> {
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(name) = todo.pop() {
        let folder = from.join(&name);
        let is_module = is_git_folder(&folder);
        // A submodule's name may have slashes.
        let within = if is_module { name.join(MODULES) } else { name.clone() };
        if is_module {
            found.push((folder, name));
        }
        let listed = match fs::read_dir(from.join(&within)) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
            listed => listed.named("list", &from.join(&within))?,
        };
        let folders = listed.flatten().filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()));
        todo.extend(folders.map(|entry| within.join(entry.file_name())));
    }
    Ok(found)
}

impl WorkingTree {
    /// Gives the `.git` in the folder `into`, which is for a copy of this tree, repositories of the
    /// submodules. Of a linked tree, files `.git` that lead to them come to lie beside it.
    pub(crate) fn lend_modules(&self, into: &Path) -> Result<(), GitError> {
        let from = self.git_dir.join(MODULES);
        copy_modules(&from, &into.join(".git").join(MODULES))?;
        // Else the files that are there lead to the copies, too: both are inside the tree.
        if self.is_linked() {
            for (module, name) in below(&from)? {
                // To one that is not checked out nothing leads.
                if let Some(tree) = self.tree_of(&module)? {
                    join(into, &Path::new(".git").join(MODULES).join(name), &tree)?;
                }
            }
        }
        Ok(())
    }

    /// Where in this tree the files of a submodule are, relative to its root.
    fn tree_of(&self, module: &Path) -> Result<Option<PathBuf>, GitError> {
        let mut git = command::in_tree(&self.root);
        git.args(["config", "--file"]).arg(module.join("config"));
        git.args(["--null", "--get", "core.worktree"]);
        let done = process::any_output(&mut git)
            .map_err(|error| GitError::process("reading the settings of a submodule", error))?;
        let told = OsStr::from_bytes(done.stdout.strip_suffix(b"\0").unwrap_or_default());
        let tree = module.join(told).canonicalize().ok();
        let relative = tree.and_then(|tree| tree.strip_prefix(&self.root).ok().map(Path::to_owned));
        Ok(relative.filter(|tree| !told.is_empty() && self.root.join(tree).join(".git").is_file()))
    }
}

/// Makes the repository `own` and the files `tree` know of one another. Both are relative to `into`.
fn join(into: &Path, own: &Path, tree: &Path) -> Result<(), FsError> {
    let up = |path: &Path| "../".repeat(path.components().count());
    let config = into.join(own).join("config");
    let mut text = fs::read(&config).named("read", &config)?;
    // The last one counts.
    text.extend(b"[core]\n\tworktree = ");
    text.extend(quoted(Path::new(&up(own)).join(tree).as_os_str().as_bytes()));
    text.push(b'\n');
    fs::write(&config, text).named("write", &config)?;
    let folder = into.join(tree);
    fs::create_dir_all(&folder).named("create", &folder)?;
    let line = [b"gitdir: ", up(tree).as_bytes(), own.as_os_str().as_bytes(), b"\n"].concat();
    let at = folder.join(".git");
    fs::write(&at, line).named("write", &at)
}
