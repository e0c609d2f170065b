//! How `git` is called: no shell, no prompt, nothing of the caller's repository in the environment.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kiln_stdx::process::{self, ProcessError};

use crate::error::GitError;
use crate::location::PROTOCOLS;

/// For an answer of a few lines from a far host.
pub(crate) const ASK_WITHIN: Duration = Duration::from_secs(60);
/// For the first fetch of a large repository over a slow line. A stalled transfer ends earlier.
pub(crate) const FETCH_WITHIN: Duration = Duration::from_secs(3600);

/// What a caller's environment may say about its own repository, as when a hook calls us.
const REPOSITORY_VARIABLES: [&str; 14] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
    "GIT_CONFIG_PARAMETERS",
    "GIT_CONFIG_COUNT",
    "GIT_SHALLOW_FILE",
    "GIT_GRAFT_FILE",
    "GIT_EXTERNAL_DIFF",
];

/// git on a repository whose folder is known. Given by `GIT_DIR`, so git neither searches nor asks
/// who owns it; no configuration but the repository's own.
pub(crate) fn local(git_dir: &Path) -> Command {
    let mut git = bare_command();
    git.env("GIT_DIR", git_dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        // Attributes have files of their own, which are read without any configuration, too.
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_NO_LAZY_FETCH", "1")
        .args(["-c", "core.attributesFile=/dev/null"])
        .args(["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]);
    git
}

/// git in a person's working tree, with that person's configuration (what is ignored depends on it).
pub(crate) fn in_tree(root: &Path) -> Command {
    let mut git = bare_command();
    git.arg("-C").arg(root).args(["-c", "core.fsmonitor=false"]);
    // Reading must not write: no refreshed index.
    git.env("GIT_OPTIONAL_LOCKS", "0");
    git
}

/// git that speaks to another host, with the user's configuration (credentials, proxies, keys).
pub(crate) fn network(git_dir: &Path) -> Command {
    let mut git = bare_command();
    git.env("GIT_DIR", git_dir)
        .env("GIT_ALLOW_PROTOCOL", PROTOCOLS)
        .args(["-c", "protocol.ext.allow=never", "-c", "core.hooksPath=/dev/null"])
        .args(["-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60"]);
    if !has_own_ssh(git_dir) {
        git.args(["-c", "core.sshCommand=ssh -oBatchMode=yes -oConnectTimeout=30"]);
    }
    git
}

/// Runs with a limit; whatever goes wrong is the far side's, or the line's.
pub(crate) fn ask(mut git: Command, url: &str, within: Duration) -> Result<Vec<u8>, GitError> {
    process::output_within(&mut git, within).map_err(|error| match error {
        ProcessError::Missing { .. } => GitError::Missing,
        ProcessError::Failed { stderr, .. } if !stderr.is_empty() => {
            GitError::Unreachable { url: url.to_owned(), message: stderr }
        }
        other => GitError::Unreachable { url: url.to_owned(), message: other.to_string() },
    })
}

/// A name that no other use in this or another process has: `4711-3`.
pub(crate) fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn bare_command() -> Command {
    let mut git = process::command("git");
    for variable in REPOSITORY_VARIABLES {
        git.env_remove(variable);
    }
    git.env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ASKPASS", "true")
        .env("SSH_ASKPASS_REQUIRE", "never")
        .env("GIT_PAGER", "cat")
        // Messages are looked at, and shown beside our own.
        .env("LC_ALL", "C");
    git
}

/// The user has said how to call ssh; then it is called so. (`GIT_SSH_COMMAND` in the environment
/// wins over our setting by itself.)
fn has_own_ssh(git_dir: &Path) -> bool {
    let mut git = bare_command();
    git.env("GIT_DIR", git_dir).args(["config", "--get", "core.sshCommand"]);
    process::any_output(&mut git).is_ok_and(|done| done.status.success())
}
