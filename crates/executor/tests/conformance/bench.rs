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

/// A table without the rows of a list, in which each has its reason. No name in it is stale.
pub fn without<E: Executor>(cases: Vec<Case<E>>, list: &[(&str, &str)]) -> Vec<Case<E>> {
    let is_in = |case: &Case<E>| list.iter().any(|(name, _)| *name == case.name);
    let n_known = cases.iter().filter(|case| is_in(case)).count();
    assert_eq!(n_known, list.len(), "a name is no row of the table, or is there twice: {list:?}");
    cases.into_iter().filter(|case| !is_in(case)).collect()
}

pub type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// `cases![a, b]`: a table of the functions `a` and `b`, under their own names.
#[macro_export]
macro_rules! cases {
    ($($name:ident),+ $(,)?) => {
        vec![$($crate::bench::Case { name: stringify!($name), run: |bench| Box::pin($name(bench)) }),+]
    };
}

/// An executor of the table, with what its cases must know to look at it from outside.
pub trait Subject: Executor + Clone {
    /// Before each case, on the main thread: what the executor needs and nobody has started yet.
    fn begin(&self) {}

    /// Where the steps of the only open session have the workspace `work`, as it is seen from here.
    fn seen(&self, work: PathBuf) -> PathBuf {
        work
    }

    /// What the only open session has on this machine outside the folder of its bench.
    fn places(&self, _folder: &Path) -> Vec<PathBuf> {
        Vec::new()
    }

    /// By what words another process of these tests makes the same executor: `main` reads them.
    fn words(&self) -> Vec<String>;

    /// Whether it tells what a step has used.
    fn meters(&self) -> bool {
        true
    }

    /// Whether it says in words of kiln's why a command did not start.
    fn speaks(&self) -> bool {
        true
    }
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

impl<E: Subject> Bench<E> {
    /// A file of the workspace, where the steps of the open session have it.
    pub fn seen(&self, name: &str) -> PathBuf {
        self.executor.seen(self.path("work")).join(name)
    }

    /// A word by which a process is found wherever it runs on this machine, when it is one of its
    /// arguments: `sh -c SCRIPT WORD`. In a container it has another number than here.
    pub fn mark(&self, what: &str) -> String {
        mark_in(self.folder.path(), what)
    }

    /// The log is this line, if the executor speaks at all.
    pub fn in_words(&self, log: &[u8], line: &str) {
        if self.executor.speaks() {
            assert_eq!(text(log), line);
        }
    }
}

pub fn mark_in(folder: &Path, what: &str) -> String {
    let name = folder.file_name().expect("it has a name").to_string_lossy();
    format!("{}-{what}", name.trim_start_matches('.'))
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

/// Whether any process that bears this [`Bench::mark`] lives.
pub fn runs(mark: &str) -> bool {
    !marked(mark).is_empty()
}

/// All processes that bear it. A zombie has no arguments any more.
pub fn marked(mark: &str) -> Vec<i32> {
    let bears = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == mark.as_bytes())
    };
    pids().filter(bears).collect()
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").expect("it is mounted").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The state of a process, and its parent.
fn state(pid: i32) -> Option<(char, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Every living process below this one, in whatever namespace.
pub fn below_me() -> Vec<i32> {
    descendants().into_iter().filter(|(_, state)| *state != 'Z').map(|(pid, _)| pid).collect()
}

/// How many processes below this one have ended without being heard of. Not of Docker's own, which the
/// daemon does not bury where it is process 1.
pub fn n_zombies() -> usize {
    let name = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let is_dockers =
        |pid| ["docker", "containerd", "runc"].iter().any(|word| name(pid).starts_with(word));
    let all = descendants();
    all.iter().filter(|(pid, state)| *state == 'Z' && !is_dockers(*pid)).count()
}

fn descendants() -> Vec<(i32, char)> {
    let all: Vec<_> = pids().filter_map(|pid| Some((pid, state(pid)?))).collect();
    let mut found = vec![(std::process::id() as i32, 'R')];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at].0;
        let children = all.iter().filter(|(_, (_, of))| *of == parent);
        found.extend(children.map(|(pid, (state, _))| (*pid, *state)));
        at += 1;
    }
    found.remove(0);
    found
}
