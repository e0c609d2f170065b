//! The sample repository: a small static site with a pipeline.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kiln_stdx::fs::Named;
use kiln_stdx::process;

use crate::error::{Blame, Help, Result};

/// Path, content, executable.
const FILES: &[(&str, &str, bool)] = &[
    (".kiln.yml", include_str!("sample/kiln.yml"), false),
    ("README.md", include_str!("sample/README.md"), false),
    ("pages/index.txt", include_str!("sample/pages/index.txt"), false),
    ("pages/history.txt", include_str!("sample/pages/history.txt"), false),
    ("pages/visit.txt", include_str!("sample/pages/visit.txt"), false),
    ("tools/build.sh", include_str!("sample/tools/build.sh"), true),
    ("tools/check.sh", include_str!("sample/tools/check.sh"), true),
];

/// Makes the bare repository and a clone with a commit that is not pushed yet. What an earlier demo
/// left is used again.
pub fn make(work: &Path, bare: &Path) -> Result<()> {
    if !bare.join("HEAD").exists() {
        fs::create_dir_all(bare).named("create", bare)?;
        git(bare, &["init", "--quiet", "--bare", "--initial-branch=main"])?;
    }
    let first = !work.join(".git").exists();
    if first {
        fs::create_dir_all(work).named("create", work)?;
        git(work, &["init", "--quiet", "--initial-branch=main"])?;
        git(work, &["config", "user.name", "Kiln Demo"])?;
        git(work, &["config", "user.email", "demo@kiln.invalid"])?;
        // Relative, so that the folder may be moved; the bare repository lies beside the clone.
        let name = bare.file_name().unwrap_or_default().to_string_lossy();
        git(work, &["remote", "add", "origin", &format!("../{name}")])?;
        for (path, content, executable) in FILES {
            write(&work.join(path), content, *executable)?;
        }
    }
    git(work, &["add", "--all"])?;
    let title = if first { "Build, test and publish the site" } else { "Try the demo again" };
    git(work, &["commit", "--quiet", "--allow-empty", "--message", title])
}

pub fn push(work: &Path) -> Result<()> {
    git(work, &["push", "--quiet", "origin", "HEAD:main"])
}

fn write(path: &Path, content: &str, executable: bool) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).named("create", folder)?;
    fs::write(path, content).named("write", path)?;
    let mode = if executable { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).named("change", path)?;
    Ok(())
}

/// git as on a fresh machine: the person's own settings (signing, templates, hooks) stay out of it.
fn git(folder: &Path, args: &[&str]) -> Result<()> {
    let mut git = process::command("git");
    git.current_dir(folder).args(args);
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR"] {
        git.env_remove(name);
    }
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    git.env("GIT_TERMINAL_PROMPT", "0");
    process::output(&mut git)
        .elsewhere(format!("cannot make the sample repository in `{}`", folder.display()))
        .help("`kiln doctor` says whether git is there")?;
    Ok(())
}
