//! What the cases share: an executor, a folder, and short words for long calls.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use kiln_executor::{Executor, Session, SessionSpec, StepCommand, StepError};
use kiln_model::{AttemptId, Exit, JobIndex, RunId};
use kiln_stdx::Secret;
use kiln_stdx::clock::Stopwatch;
use tokio::sync::watch;

/// One row of the table.
pub struct Case<E: Executor> {
    pub name: &'static str,
    pub run: fn(Bench<E>) -> Running,
}

pub type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// `cases![a, b]`: a table of the functions `a` and `b`, under their own names.
#[macro_export]
macro_rules! cases {
    ($($name:ident),+ $(,)?) => {
        vec![$($crate::bench::Case { name: stringify!($name), run: |bench| Box::pin($name(bench)) }),+]
    };
}

pub struct Bench<E> {
    pub executor: E,
    pub folder: tempfile::TempDir,
}

impl<E: Executor> Bench<E> {
    pub fn new(executor: E) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        std::fs::create_dir(folder.path().join("work")).expect("it is empty");
        Self { executor, folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A session in the folder `work`, with a path and nothing else.
    pub fn spec(&self) -> SessionSpec {
        spec_in(self.folder.path())
    }

    pub async fn open(&self) -> E::Session {
        self.open_with(|_| {}).await
    }

    pub async fn open_with(&self, change: impl FnOnce(&mut SessionSpec)) -> E::Session {
        let mut spec = self.spec();
        change(&mut spec);
        self.executor.open(spec).await.expect("the session opens")
    }

    /// Opens, runs one step, closes. Gives the exit and the log.
    pub async fn run(&self, command: StepCommand) -> (Exit, Vec<u8>) {
        let mut session = self.open().await;
        let exit = step(&mut session, command).await.expect("the step runs");
        session.close().await.expect("the session closes");
        let log = self.log();
        let _ = std::fs::remove_file(self.path("log"));
        (exit, log)
    }

    pub fn log(&self) -> Vec<u8> {
        std::fs::read(self.path("log")).unwrap_or_default()
    }
}

pub fn spec_in(folder: &Path) -> SessionSpec {
    let attempt = AttemptId { run: RunId(7), job: JobIndex(0), attempt: 1 };
    let [attempt_dir, directory, log] = ["attempt", "work", "log"].map(|name| folder.join(name));
    SessionSpec {
        env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
        grace: Duration::from_secs(10),
        ..SessionSpec::bare(attempt, attempt_dir, directory, log)
    }
}

pub fn command<const N: usize>(argv: [&str; N]) -> StepCommand {
    StepCommand {
        argv: argv.map(str::to_owned).to_vec(),
        env: BTreeMap::new(),
        directory: None,
        timeout: None,
    }
}

pub fn sh(script: &str) -> StepCommand {
    command(["sh", "-c", script])
}

pub fn secrets<const N: usize>(values: [&str; N]) -> Vec<Secret<String>> {
    values.into_iter().map(|value| Secret::new(value.to_owned())).collect()
}

/// A step that nobody cancels.
pub async fn step(session: &mut impl Session, command: StepCommand) -> Result<Exit, StepError> {
    let (_keep, never) = watch::channel(false);
    session.step(command, never).await
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn code(code: u8) -> Exit {
    Exit::Code { code }
}

/// Waits until `fact` holds.
pub async fn until(what: &str, mut fact: impl FnMut() -> bool) {
    let watch = Stopwatch::start();
    while !fact() {
        assert!(watch.elapsed() < Duration::from_secs(60), "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub async fn read_when_there(path: &Path) -> String {
    until(&format!("`{}` is written", path.display()), || {
        std::fs::read_to_string(path).is_ok_and(|text| text.ends_with('\n'))
    })
    .await;
    std::fs::read_to_string(path).expect("it was there").trim().to_owned()
}

/// Running: neither gone nor a zombie.
pub fn lives(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(stat.rsplit_once(") ")?.1.starts_with('Z')))
        == Some(false)
}
