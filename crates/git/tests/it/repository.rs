//! A repository in a temporary folder.

use std::path::{Path, PathBuf};

use kiln_stdx::process;

pub struct Repository {
    pub folder: tempfile::TempDir,
}

impl Repository {
    pub fn new() -> Self {
        Self::with(&["init", "--quiet", "--initial-branch=main"])
    }

    pub fn bare() -> Self {
        Self::with(&["init", "--quiet", "--bare", "--initial-branch=main"])
    }

    pub fn with(init: &[&str]) -> Self {
        let new = Self { folder: tempfile::tempdir().unwrap() };
        new.git(init);
        new
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn git(&self, args: &[&str]) -> String {
        git_in(self.path(), args)
    }

    pub fn write(&self, path: &str, text: &str) {
        let path: PathBuf = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Commits everything; gives the commit's id.
    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// The id of a tree object with these raw bytes, whatever they say.
    pub fn raw_tree(&self, bytes: &[u8]) -> String {
        let file = self.path().join(".git/raw");
        std::fs::write(&file, bytes).unwrap();
        self.git(&["hash-object", "-t", "tree", "-w", "--literally", file.to_str().unwrap()])
    }
}

pub fn git_in(folder: &Path, args: &[&str]) -> String {
    let mut git = process::command("git");
    git.current_dir(folder)
        .args(["-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"])
        .args(["-c", "core.autocrlf=false", "-c", "protocol.file.allow=always"])
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1");
    let out = process::output(&mut git).unwrap_or_else(|error| panic!("git {args:?}: {error}"));
    String::from_utf8_lossy(&out).trim().to_owned()
}
