//! Whether jobs can be bounded here, and kept from changing the machine: by trying both.

use std::path::Path;

use kiln_executor::host::try_limits;
use kiln_executor::{HostExecutor, Sandbox, SessionSpec};
use kiln_model::Exit;

use super::trial::{self, PATIENCE};
use super::{Finding, State};

/// One line about `limits`.
pub fn limits(data: &Path) -> Finding {
    let tried = tempfile::tempdir_in(data).map_err(|cause| cause.to_string());
    let held = tried.and_then(|at| try_limits(at.path()).map_err(|error| error.to_string()));
    let held = match held {
        Ok(held) => held,
        Err(why) => return Finding::new("limits", State::Warning, why),
    };
    let names = |names: Vec<&str>| names.join(", ");
    let of_groups = held.iter().filter(|(_, why)| why.is_none()).map(|(name, _)| *name).collect();
    let without: Vec<&str> =
        held.iter().filter(|(_, why)| why.is_some()).map(|(name, _)| *name).collect();
    let Some(why) = held.iter().find_map(|(_, why)| why.as_ref()) else {
        let detail = format!("control groups hold {}", names(of_groups));
        return Finding::new("limits", State::Ok, detail);
    };
    let instead = "memory holds for each process by itself, cpu for whole processors";
    let detail = format!("no control group for {}: {why}; without one, {instead}", names(without));
    Finding::new("limits", State::Warning, detail).help(
        "run kiln as root, or where its groups are its own: `systemd-run --user --scope kiln …`, or in a \
         unit with `Delegate=yes`",
    )
}

/// One line about `sandbox`.
pub async fn sandbox(executor: &HostExecutor, data: &Path) -> Finding {
    let user = !rustix::process::geteuid().is_root();
    let tried = tokio::time::timeout(PATIENCE, try_sandbox(executor, data, user)).await;
    match tried.unwrap_or_else(|_| Err("one is not ready in time".to_owned())) {
        Ok(()) => {
            let detail = "jobs on the host can use its programs without changing it";
            Finding::new("sandbox", State::Ok, detail)
        }
        Err(why) => Finding::new("sandbox", State::Warning, why).help(
            "a sandbox needs Linux 5.12 and, for all but root, user namespaces; a job without one says \
             `sandbox: false`, where the server allows that",
        ),
    }
}

async fn try_sandbox(executor: &HostExecutor, data: &Path, user: bool) -> Result<(), String> {
    let folder = tempfile::tempdir_in(data).map_err(|cause| cause.to_string())?;
    let work = folder.path().join("work");
    std::fs::create_dir(&work).map_err(|cause| cause.to_string())?;
    let script =
        "test ! -e /etc/kiln-doctor && ! touch /etc/kiln-doctor 2> /dev/null && touch here";
    match trial::run(executor, spec(folder.path(), user), &["sh", "-c", script]).await? {
        Exit::SUCCESS => Ok(()),
        exit => Err(format!("a sandbox does not behave: a trial in one {}", exit.ended())),
    }
}

fn spec(folder: &Path, user: bool) -> SessionSpec {
    let home = std::env::var_os("HOME").map_or_else(|| "/root".into(), Into::into);
    SessionSpec {
        sandbox: Some(Sandbox { user, home, hidden: Vec::new(), binds: Vec::new() }),
        ..trial::spec(folder, folder.join("attempt"), folder.join("work"))
    }
}
