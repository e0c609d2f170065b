//! Whether containers can be made here: by making one.

use std::path::{Path, PathBuf};

use kiln_executor::{Bind, Container, HostExecutor, SessionSpec};
use kiln_model::Exit;
use kiln_stdx::overlay::Mount;
use kiln_stdx::{Clock, Subordinate, SystemClock, duration};
use kiln_workspace::Driver;

use super::trial::{self, PATIENCE};
use super::{Finding, State};

/// What of the machine the container sees, so that there is a program to run: its image is empty.
const PROGRAMS: [&str; 6] = ["/usr", "/bin", "/lib", "/lib64", "/nix/store", "/gnu/store"];

/// One line about containers of kiln's own.
pub async fn finding(executor: &HostExecutor, data: &Path, driver: Driver) -> Finding {
    let user = match driver {
        Driver::Overlay => false,
        Driver::OverlayUser => true,
        Driver::Reflink | Driver::Copy => {
            let detail = "jobs with an `image` cannot run: containers need overlays";
            return Finding::new("containers", State::Warning, detail).help(help());
        }
    };
    let began = SystemClock.monotonic();
    let tried = tokio::time::timeout(PATIENCE, try_one(executor, data, user)).await;
    let took = duration::show(SystemClock.monotonic().saturating_sub(began));
    match tried.unwrap_or_else(|_| Err(format!("one is not ready after {took}"))) {
        Ok(()) if user => {
            let detail = format!("one ran in {took}, in a user namespace");
            of_users(&detail, Subordinate::of_this_user())
        }
        Ok(()) => Finding::new("containers", State::Ok, format!("one ran in {took}, as root")),
        Err(why) => Finding::new("containers", State::Warning, why).help(help()),
    }
}

/// What a container's users are, for an ordinary user.
fn of_users(detail: &str, users: Result<&Subordinate, &'static str>) -> Finding {
    match users {
        Ok(Subordinate { uids, .. }) => {
            let (n, first, last) = (uids.n + 1, uids.first, uids.first + (uids.n - 1));
            let detail = format!("{detail} with {n} users (subordinate numbers {first} to {last})");
            Finding::new("containers", State::Ok, detail)
        }
        Err(why) => {
            let detail = format!(
                "{detail} with one user, root: a change of a file's owner succeeds and changes nothing, and \
                 images for other users run as root"
            );
            Finding::new("containers", State::Ok, detail).help(why)
        }
    }
}

/// Opens a session in a container, runs a program in it, closes it. Nothing is left.
async fn try_one(executor: &HostExecutor, data: &Path, user: bool) -> Result<(), String> {
    let folder = tempfile::tempdir_in(data).map_err(|cause| cause.to_string())?;
    let spec = spec(folder.path(), user).map_err(|cause| cause.to_string())?;
    match trial::run(executor, spec, &["true"]).await? {
        Exit::SUCCESS => Ok(()),
        exit => Err(format!("a program in one ended with {exit}")),
    }
}

fn spec(folder: &Path, user: bool) -> std::io::Result<SessionSpec> {
    let part = |name: &str| -> std::io::Result<PathBuf> {
        let path = folder.join(name);
        std::fs::create_dir(&path)?;
        Ok(path)
    };
    let stack = |name: &str| -> std::io::Result<Mount> {
        let below = part(name)?;
        let made = |part: &str| std::fs::create_dir(below.join(part)).map(|()| below.join(part));
        let lowers = vec![made("empty")?];
        Ok(Mount { lowers, upper: made("upper")?, work: made("work")?, at: made("at")?, user })
    };
    let there = PROGRAMS.into_iter().filter(|path| Path::new(path).exists());
    let binds = there.map(|path| Bind { from: path.into(), to: path.into(), writable: false });
    let workspace = stack("workspace")?;
    let bare = trial::spec(folder, part("attempt")?, workspace.at.clone());
    let users = Subordinate::of_this_user().ok().filter(|_| user).cloned();
    Ok(SessionSpec {
        users,
        mount: Some(workspace),
        container: Some(Container {
            root: stack("root")?.into(),
            workspace: "/workspace".into(),
            binds: binds.collect(),
            user: String::new(),
            hostname: "kiln".to_owned(),
            volumes: Vec::new(),
            privileged: false,
        }),
        ..bare
    })
}

/// What is in the way most likely, by what the kernel says of itself.
fn help() -> &'static str {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    if rustix::process::geteuid().is_root() {
        return "kiln runs as root without the powers of root, as in a container; give that `CAP_SYS_ADMIN`, or \
                use `executor: docker`";
    }
    let sysctls = [
        ("kernel/unprivileged_userns_clone", 0, "`sysctl -w kernel.unprivileged_userns_clone=1`"),
        ("user/max_user_namespaces", 0, "`sysctl -w user.max_user_namespaces=10000`"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            1,
            "AppArmor forbids user namespaces to this program: give it a profile with `userns,`, or \
             `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`",
        ),
    ];
    let wrong = sysctls
        .into_iter()
        .find(|(name, value, _)| number(&format!("/proc/sys/{name}")) == Some(*value));
    match wrong {
        Some((_, _, way)) => way,
        None => {
            "an ordinary user needs unprivileged user namespaces and Linux ≥ 5.11; as root, or with \
             `executor: docker`, it works without"
        }
    }
}
