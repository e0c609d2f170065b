//! Runs jobs on workspaces, as an agent does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use kiln_executor::{Executor, HostExecutor, Session, SessionSpec, StepCommand};
use kiln_model::layer::LayerId;
use kiln_model::{AttemptId, Exit, JobIndex, RunId};
use kiln_workspace::{Base, Driver, Prepared, Workspaces};
use tokio::sync::watch;

pub struct Lab {
    pub folder: tempfile::TempDir,
    pub workspaces: Workspaces,
    pub executor: HostExecutor,
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
        self.run_on(attempt, base, (layers, &[]), script).await
    }

    /// On layers, and on others that are the attempt's own.
    pub async fn run_on(
        &self,
        attempt: AttemptId,
        base: &Base,
        (layers, own): (&[LayerId], &[LayerId]),
        script: &str,
    ) -> String {
        let prepared = self.workspaces.prepare(attempt, "place", base, layers, own);
        self.run_in(attempt, prepared.expect("it is ready"), script).await
    }

    /// A session in a workspace that is made.
    pub fn spec(&self, attempt: AttemptId, prepared: Prepared) -> SessionSpec {
        let attempt_dir = self.workspaces.attempt_dir(attempt);
        let log = self.path(&format!("{attempt}.log"));
        SessionSpec {
            mount: prepared.mount,
            further: prepared.further,
            env: BTreeMap::from([
                ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
                ("LC_ALL".to_owned(), "C".to_owned()),
            ]),
            ..SessionSpec::bare(attempt, attempt_dir, prepared.directory, log)
        }
    }

    /// In a workspace that is made.
    pub async fn run_in(&self, attempt: AttemptId, prepared: Prepared, script: &str) -> String {
        let spec = self.spec(attempt, prepared);
        let log = spec.log.clone();
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

    /// Whether the file system of the layers does not take an extended attribute.
    pub fn attribute_is_refused(&self, name: &str) -> bool {
        let file = self.path("attributes");
        std::fs::write(&file, "").expect("the folder can be written to");
        rustix::fs::setxattr(&file, name, b"x", rustix::fs::XattrFlags::empty()).is_err()
    }

    /// Gives a file that an attempt has written an extended attribute, before it is sealed.
    pub fn set_attribute(&self, attempt: AttemptId, file: &str, name: &str, value: &str) {
        let file = self.written(attempt, file);
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&file, name, value.as_bytes(), flags)
            .expect("the file system has them");
    }

    /// An extended attribute of a file that an attempt has written, before it is sealed.
    pub fn attribute(&self, attempt: AttemptId, file: &str, name: &str) -> String {
        let mut value = vec![0; 100];
        let n = rustix::fs::getxattr(self.written(attempt, file), name, &mut value[..]);
        value.truncate(n.expect("it has the attribute"));
        String::from_utf8(value).expect("it is text")
    }

    fn written(&self, attempt: AttemptId, file: &str) -> PathBuf {
        let dir = self.workspaces.attempt_dir(attempt);
        let files = ["upper", "tree"].map(|top| dir.join(top).join(file));
        files.into_iter().find(|file| file.exists()).expect("the attempt has the file")
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
