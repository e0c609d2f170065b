//! What can go wrong with git, told apart by what a caller might do about it.

use std::path::PathBuf;

use kiln_stdx::bytes;
use kiln_stdx::fs::FsError;
use kiln_stdx::process::ProcessError;

#[derive(Debug, thiserror::Error)]
pub enum GitError {
    #[error("git is not installed or not in PATH; install it (`apt install git`) and try again")]
    Missing,
    #[error("`{}` is not a git repository", .0.display())]
    NotARepository(PathBuf),
    #[error(
        "no git repository in `{}` or any folder above it; run `git init` there, or name one with `-C`",
        .0.display()
    )]
    NoRepositoryAround(PathBuf),
    #[error("`{}` is a bare repository, without files to work on; use a clone of it", .0.display())]
    Bare(PathBuf),
    #[error("`{}` is git's own folder; go to the files beside it", .0.display())]
    InGitFolder(PathBuf),
    /// A name that git or the file system could mistake for something else.
    #[error("{what} `{}` is refused: {why}", .text.escape_debug())]
    Refused { what: &'static str, text: String, why: &'static str },
    /// A tree that would write outside its folder or not as its author sees it.
    #[error("the tree {tree} cannot be checked out: `{}` {why}", .path.escape_debug())]
    HostileTree { tree: String, path: String, why: &'static str },
    #[error("there is no {kind} `{}` in the repository", .name.escape_debug())]
    NotFound { kind: &'static str, name: String },
    #[error("`{}` is {is}, not a file", .path.escape_debug())]
    NotAFile { path: String, is: &'static str },
    #[error("{what} is too large: {}, and at most {} are read", bytes::show(*.n_bytes), bytes::show(*.max))]
    TooLarge { what: String, n_bytes: u64, max: u64 },
    /// The other side did not answer, or not as it should: worth another try.
    #[error("cannot reach `{url}`: {message}")]
    Unreachable { url: String, message: String },
    #[error("{doing} failed: {message}")]
    Failed { doing: &'static str, message: String },
    /// Objects of a mirror are missing or unreadable, and could not be had again.
    #[error("the mirror `{}` is damaged: {message}; {way_out}", .mirror.display())]
    Damaged { mirror: PathBuf, message: String, way_out: String },
    #[error(transparent)]
    File(#[from] FsError),
}

impl GitError {
    /// The trouble is not of our side's making and may pass: the network, the far host.
    pub fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    pub(crate) fn process(doing: &'static str, error: ProcessError) -> Self {
        match error {
            ProcessError::Missing { .. } => Self::Missing,
            ProcessError::Failed { stderr, .. } if !stderr.is_empty() => {
                Self::Failed { doing, message: stderr }
            }
            ProcessError::Start { program, cause } => {
                Self::Failed { doing, message: format!("cannot start `{program}`: {cause}") }
            }
            other => Self::Failed { doing, message: other.to_string() },
        }
    }
}
