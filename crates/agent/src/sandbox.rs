//! A job with the programs of its machine, and nothing else of it.
//!
//! Sees, besides the machine's system: its workspace, its caches, the history of its source, and the
//! programs that the machine's variables name, also where these are in somebody's home.

use std::path::{Path, PathBuf};

use kiln_api::agent::Assignment;
use kiln_executor::{Bind, Sandbox, SessionSpec};
use kiln_workspace::{Prepared, Workspaces};

use crate::history;
use crate::job::OUTPUT_FILE;

/// Variables that name folders of programs. Not those whose folders also hold people's keys, as
/// `CARGO_HOME` does.
const OF_PROGRAMS: &[&str] = &["RUSTUP_HOME", "GOROOT", "JAVA_HOME", "NVM_DIR", "PYENV_ROOT"];

/// Where a program is that only finds the rest of itself by its place in a home.
const BESIDE: &[(&str, &str)] = &[(".cargo/bin", ".rustup"), (".pyenv/shims", ".pyenv")];

/// Whether the job runs in one, as was granted.
pub(crate) fn is_asked(assignment: &Assignment) -> bool {
    let job = &assignment.job;
    job.sandbox == Some(true) && job.image.is_none() && job.ssh.is_none()
}

/// Puts the session into a sandbox, if its job is for one. `folder` is the session's own.
pub(crate) fn put_in(
    workspaces: &Workspaces,
    folder: &Path,
    (assignment, machine_env): (&Assignment, &[(String, String)]),
    prepared: &Prepared,
    spec: &mut SessionSpec,
) -> Result<(), String> {
    if !is_asked(assignment) {
        return Ok(());
    }
    let output = folder.join(OUTPUT_FILE);
    // Bound as a file, so it must be one. It may hold what steps before these have written.
    let made = std::fs::File::options().create(true).append(true).open(&output);
    made.map_err(|cause| format!("cannot create `{}`: {cause}", output.display()))?;
    let is_root = rustix::process::geteuid().is_root();
    let home = variable(machine_env, "HOME").unwrap_or_else(|| PathBuf::from("/root"));
    let show = |path: PathBuf, writable| Bind { from: path.clone(), to: path, writable };
    let mut binds: Vec<Bind> =
        programs(machine_env, &home).into_iter().map(|path| show(path, false)).collect();
    binds.extend(prepared.further.iter().map(|mount| show(mount.at.clone(), true)));
    binds.push(show(output, true));
    let history = history::of(workspaces, assignment, prepared);
    binds.extend(history.into_iter().map(|objects| show(objects, false)));
    let layers = workspaces.root();
    let data = layers.parent().filter(|_| layers.ends_with("layers")).unwrap_or(layers);
    spec.sandbox = Some(Sandbox {
        user: prepared.mount.as_ref().map_or(!is_root, |mount| mount.user),
        home,
        hidden: vec![data.to_owned()],
        binds,
    });
    Ok(())
}

fn variable(machine_env: &[(String, String)], name: &str) -> Option<PathBuf> {
    let value = machine_env.iter().rev().find(|(of, _)| of == name).map(|(_, value)| value)?;
    Some(PathBuf::from(value)).filter(|path| path.is_absolute())
}

/// Folders of programs in homes, which are hidden otherwise.
fn programs(machine_env: &[(String, String)], home: &Path) -> Vec<PathBuf> {
    let path = machine_env.iter().rev().find(|(of, _)| of == "PATH");
    let path = path.map(|(_, path)| path.as_str()).unwrap_or_default();
    let mut found: Vec<PathBuf> = std::env::split_paths(path).collect();
    let beside = BESIDE.iter().filter(|(of, _)| found.contains(&home.join(of)));
    let beside: Vec<PathBuf> = beside.map(|(_, beside)| home.join(beside)).collect();
    found.extend(beside);
    found.extend(OF_PROGRAMS.iter().filter_map(|name| variable(machine_env, name)));
    let homes = [home, Path::new("/home"), Path::new("/root")];
    let in_a_home = |path: &PathBuf| {
        homes.iter().any(|home| path.starts_with(home) && path != home)
            && home.parent().is_some()
            && path.is_dir()
    };
    found.retain(in_a_home);
    // What is above comes first, so that what is below is seen in it.
    found.sort();
    found.dedup();
    let mut outermost: Vec<PathBuf> = Vec::new();
    for path in found {
        if !outermost.iter().any(|above| path.starts_with(above)) {
            outermost.push(path);
        }
    }
    outermost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_programs_are_shown_of_a_home() {
        let home = tempfile::tempdir().unwrap();
        for name in [".cargo/bin", ".rustup", ".pyenv/shims", ".ssh", "go/bin"] {
            std::fs::create_dir_all(home.path().join(name)).unwrap();
        }
        let at = |name: &str| home.path().join(name);
        let path = std::env::join_paths([
            at(".pyenv/shims"),
            at(".cargo/bin"),
            "/usr/bin".into(),
            at("go/bin"),
            at("gone"),
            // Somebody's whole home is no folder of programs.
            home.path().to_owned(),
        ]);
        let env = vec![("PATH".to_owned(), path.unwrap().into_string().unwrap())];
        let expected = [at(".cargo/bin"), at(".pyenv"), at(".rustup"), at("go/bin")];
        assert_eq!(programs(&env, home.path()), expected);
        assert!(programs(&[], home.path()).is_empty());
    }
}
