//! Whether jobs can be bounded here, and kept from changing the machine: by trying both.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use kiln_executor::host::try_limits;
use kiln_executor::{
    Executor, HostExecutor, Sandbox, Session, SessionNetwork, SessionSpec, StepCommand,
};
use kiln_model::plan::Limits;
use kiln_model::{AttemptId, Exit, JobIndex, RunId};
use tokio::sync::watch;

use super::{Finding, State};

const PATIENCE: Duration = Duration::from_secs(20);

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
         unit with `Delegate=yes` and `DelegateSubgroup=kiln`",
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
    let mut session = executor.open(spec(folder.path(), user)).await.map_err(|e| e.to_string())?;
    let script =
        "test ! -e /etc/kiln-doctor && ! touch /etc/kiln-doctor 2> /dev/null && touch here";
    let command = StepCommand {
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: BTreeMap::new(),
        directory: None,
        timeout: Some(PATIENCE),
    };
    let (_never, cancel) = watch::channel(false);
    let ran = session.step(command, cancel).await;
    let closed = session.close().await;
    match ran.map_err(|error| error.to_string())? {
        exit if exit == Exit::SUCCESS => closed.map_err(|error| error.to_string()),
        exit => Err(format!("a sandbox does not behave: a trial in one {}", exit.ended())),
    }
}

fn spec(folder: &Path, user: bool) -> SessionSpec {
    let home = std::env::var_os("HOME").map_or_else(|| "/root".into(), Into::into);
    SessionSpec {
        attempt: AttemptId { run: RunId(0), job: JobIndex(0), attempt: 0 },
        attempt_dir: folder.join("attempt"),
        directory: folder.join("work"),
        mount: None,
        further: Vec::new(),
        read_only: Vec::new(),
        preface: Vec::new(),
        container: None,
        network: SessionNetwork::default(),
        env: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
        masked: Vec::new(),
        log: folder.join("log"),
        log_bytes_max: 1 << 20,
        grace: Duration::from_secs(1),
        orphan_for: Duration::ZERO,
        limits: Limits::default(),
        sandbox: Some(Sandbox { user, home, hidden: Vec::new(), binds: Vec::new() }),
        remote: None,
    }
}
