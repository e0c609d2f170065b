//! A place of its own for one story: folders, an environment without the machine's settings, and
//! the commands that run there.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use kiln_stdx::process;
use serde_json::Value;
use tempfile::TempDir;

use crate::binary;

/// Folders and environment; gone when the last clone is dropped.
#[derive(Clone)]
pub struct World {
    folder: Arc<TempDir>,
}

/// What a command that has ended said.
#[derive(Debug)]
pub struct Ran {
    /// `None`: ended by a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("kiln-it-").tempdir().expect("a temp folder");
        std::fs::create_dir(folder.path().join("home")).expect("a home");
        Self { folder: Arc::new(folder) }
    }

    /// The world's own folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A path in it.
    pub fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Where local runs and the server keep their data.
    pub fn data(&self) -> PathBuf {
        self.at("data")
    }

    /// A program with this world's environment and nothing of the machine's but `PATH`.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = process::command(program.as_ref());
        command.env_clear().current_dir(self.path());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.at("home")).env("KILN_DATA", self.data());
        command.env("LANG", "C.UTF-8").env("GIT_CONFIG_GLOBAL", "/dev/null");
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0");
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "Ada");
            command.env(format!("GIT_{who}_EMAIL"), "ada@example.org");
        }
        command
    }

    /// `kiln` with these arguments, not started yet.
    pub fn kiln_command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.command(binary::kiln());
        command.args(args);
        command
    }

    /// Runs `kiln` in `folder` to its end.
    pub fn kiln<S: AsRef<OsStr>>(&self, folder: &Path, args: impl IntoIterator<Item = S>) -> Ran {
        ran(self.kiln_command(args).current_dir(folder))
    }

    /// Runs `kiln` in `folder`, which must succeed, and reads its answer.
    pub fn kiln_json<S: AsRef<OsStr>>(
        &self,
        folder: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Value {
        let done = self.kiln(folder, args).success();
        serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}"))
    }

    /// Starts `kiln` with piped output; the caller ends it.
    pub fn spawn_kiln<S: AsRef<OsStr>>(
        &self,
        folder: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Child {
        let mut command = self.kiln_command(args);
        command.current_dir(folder).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("kiln starts")
    }
}

/// Runs to the end; any exit code is an answer.
pub fn ran(command: &mut Command) -> Ran {
    let done = process::any_output(command).expect("the program starts");
    Ran {
        code: done.status.code(),
        stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
    }
}

impl Ran {
    /// This, when the code was 0; a panic that shows everything otherwise.
    #[track_caller]
    pub fn success(self) -> Self {
        self.exits(0)
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "\n--- stdout\n{}\n--- stderr\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// Both streams, for a look at what a person sees.
    pub fn said(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Panics unless every one of `parts` was said.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Self {
        let said = self.said();
        for part in parts {
            assert!(said.contains(part), "`{part}` was not said:\n{said}");
        }
        self
    }
}
