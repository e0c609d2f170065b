//! Runs jobs on workspaces, as an agent does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kiln_executor::{Executor, HostExecutor, Session, SessionSpec, StepCommand};
use kiln_model::layer::LayerId;
use kiln_model::{AttemptId, Exit, JobIndex, RunId};
use kiln_workspace::{Base, Driver, Workspaces};
use tokio::sync::watch;

pub struct Lab {
    pub folder: tempfile::TempDir,
    pub workspaces: Workspaces,
    executor: HostExecutor,
    next: AtomicU32,
}

impl Lab {
    pub fn new(executor: HostExecutor, driver: Driver) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let workspaces =
            Workspaces::open(&folder.path().join("layers"), Some(driver)).expect("it opens");
        Self { folder, workspaces, executor, next: AtomicU32::new(0) }
    }

    pub fn next_attempt(&self) -> AttemptId {
        let job = JobIndex(self.next.fetch_add(1, Ordering::Relaxed));
        AttemptId { run: RunId(1), job, attempt: 1 }
    }

    /// A source made by a shell script in an empty folder.
    pub fn source(&self, tree: &str, script: &str) -> Base {
        let made = self.workspaces.make_source(tree, |folder, _| shell_in(folder, script));
        Base::Source { layer: made.expect("the source is made"), git: None }
    }

    /// One job: what it prints, and the layer that it leaves.
    pub async fn job(
        &self,
        base: &Base,
        layers: &[&LayerId],
        script: &str,
    ) -> (String, Option<LayerId>) {
        let attempt = self.next_attempt();
        let layers: Vec<LayerId> = layers.iter().copied().cloned().collect();
        let printed = self.run(attempt, base, &layers, script).await;
        (printed, self.workspaces.seal(attempt).expect("it is sealed"))
    }

    /// As far as it goes without sealing.
    pub async fn run(
        &self,
        attempt: AttemptId,
        base: &Base,
        layers: &[LayerId],
        script: &str,
    ) -> String {
        let prepared =
            self.workspaces.prepare(attempt, "place", base, layers, &[]).expect("it is ready");
        let log = self.folder.path().join(format!("{attempt}.log"));
        let spec = SessionSpec {
            attempt,
            attempt_dir: self.workspaces.attempt_dir(attempt),
            mount: prepared.mount,
            directory: prepared.directory,
            env: BTreeMap::from([
                ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
                ("LC_ALL".to_owned(), "C".to_owned()),
            ]),
            masked: Vec::new(),
            log: log.clone(),
            log_bytes_max: u64::MAX,
            grace: Duration::ZERO,
            orphan_for: Duration::ZERO,
        };
        let mut session = self.executor.open(spec).await.expect("the session opens");
        let command = StepCommand {
            argv: ["sh", "-ec", script].map(str::to_owned).to_vec(),
            env: BTreeMap::new(),
            directory: None,
            timeout: None,
        };
        let (_keep, never) = watch::channel(false);
        let exit = session.step(command, never).await.expect("the step runs");
        session.close().await.expect("the session closes");
        let printed = std::fs::read_to_string(log).unwrap_or_default();
        assert_eq!(exit, Exit::SUCCESS, "{script}: {printed}");
        printed
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

pub fn shell_in(folder: &Path, script: &str) -> Result<(), String> {
    let mut command = kiln_stdx::process::command("sh");
    command.args(["-ec", script]).current_dir(folder);
    kiln_stdx::process::output(&mut command).map(drop).map_err(|error| error.to_string())
}
