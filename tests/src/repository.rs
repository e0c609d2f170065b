//! Real repositories: a bare one that people push to, and clones that they work in.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::{Ran, World, ran};

/// A bare repository, as it lies on a git server.
pub struct Bare {
    pub path: PathBuf,
}

/// A working tree, with the bare repository as `origin` where there is one.
pub struct WorkTree {
    world: World,
    pub path: PathBuf,
}

impl World {
    pub fn bare(&self, name: &str) -> Bare {
        let path = self.at(name);
        let mut init = self.command("git");
        init.args(["init", "--quiet", "--bare", "--initial-branch=main"]).arg(&path);
        ran(&mut init).success();
        Bare { path }
    }

    /// A new repository without a commit and without a remote.
    pub fn repository(&self, name: &str) -> WorkTree {
        let path = self.at(name);
        let mut init = self.command("git");
        init.args(["init", "--quiet", "--initial-branch=main"]).arg(&path);
        ran(&mut init).success();
        WorkTree { world: self.clone(), path }
    }

    /// A working tree whose `origin` is `bare`.
    pub fn clone_of(&self, bare: &Bare, name: &str) -> WorkTree {
        let clone = self.repository(name);
        clone.git(["remote", "add", "origin", &bare.path.to_string_lossy()]).success();
        clone
    }

    /// A repository with one commit that holds these files.
    pub fn repository_with(&self, name: &str, files: &[(&str, &str)]) -> WorkTree {
        let clone = self.repository(name);
        for (path, text) in files {
            clone.write(path, text);
        }
        clone.commit("first");
        clone
    }
}

impl WorkTree {
    pub fn git<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        ran(self.world.command("git").args(args).current_dir(&self.path))
    }

    /// `kiln` with these arguments, to be run here.
    pub fn kiln_command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.world.kiln_command(args);
        command.current_dir(&self.path);
        command
    }

    /// Runs `kiln` here.
    pub fn kiln<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.world.kiln(&self.path, args)
    }

    /// Writes a file, with the folders above it.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path.join(path);
        let folder: &Path = path.parent().expect("a file lies in a folder");
        std::fs::create_dir_all(folder).expect("the folder");
        std::fs::write(path, text).expect("the file");
    }

    /// Makes a file executable.
    pub fn chmod_x(&self, path: &str) {
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(self.path.join(path), mode).expect("the file is there");
    }

    /// Commits everything, also when nothing changed; gives the commit's id.
    pub fn commit(&self, title: &str) -> String {
        self.git(["add", "--all"]).success();
        self.git(["commit", "--quiet", "--allow-empty", "-m", title]).success();
        self.head()
    }

    pub fn head(&self) -> String {
        self.git(["rev-parse", "HEAD"]).success().stdout.trim().to_owned()
    }

    /// `git push origin ARGS…`, which must be accepted; gives what git and the hook said.
    pub fn push<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        ran(self
            .world
            .command("git")
            .args(["push", "--quiet", "origin"])
            .args(args)
            .current_dir(&self.path))
        .success()
    }
}
