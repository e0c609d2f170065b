//! Figures of the host executor: `cargo run --release -p kiln-executor --example bench [FOLDER]`.
//!
//! A session with overlay around `true`, one at a time and two at once; 200 MB of output, compared
//! with the same command into `cat > file`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_executor::{
    Executor, HostExecutor, OverlayKind, Session, SessionSpec, Spawner, StepCommand,
};
use kiln_model::{AttemptId, Exit, JobIndex, RunId};
use kiln_stdx::clock::Stopwatch;
use kiln_stdx::overlay::Mount;
use kiln_stdx::{Secret, process};
use tokio::sync::watch;

const N_SESSIONS: u32 = 300;
const OUTPUT: &str = "exec seq 1 25000000";

fn main() {
    let spawner = Spawner::start().expect("the spawner starts");
    let runtime = tokio::runtime::Runtime::new().expect("the runtime starts");
    let folder = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = folder.join(format!("kiln-bench-{}", std::process::id()));
    runtime.block_on(run(HostExecutor::new(spawner), &folder));
    let _ = std::fs::remove_dir_all(&folder);
}

async fn run(executor: HostExecutor, folder: &Path) {
    std::fs::create_dir_all(folder.join("lower")).expect("the folder can be made");
    std::fs::create_dir_all(folder.join("at")).expect("the folder can be made");
    let kind = executor.probe_overlay(folder).await.expect("the probe runs");
    println!("overlay: {kind:?}");
    for (name, kind) in [("without mount", None), ("with overlay", kind)] {
        let watch = Stopwatch::start();
        for at in 0..N_SESSIONS {
            one(&executor, folder, at, kind).await;
        }
        report(&format!("session, {name}, one at a time"), watch.elapsed());
        let watch = Stopwatch::start();
        let half = |from| {
            let (executor, folder) = (executor.clone(), folder.to_owned());
            tokio::spawn(async move {
                for at in from..from + N_SESSIONS / 2 {
                    one(&executor, &folder, at, kind).await;
                }
            })
        };
        let (left, right) = (half(N_SESSIONS), half(2 * N_SESSIONS));
        left.await.expect("no panic");
        right.await.expect("no panic");
        report(&format!("session, {name}, two at once"), watch.elapsed());
    }
    let watch = Stopwatch::start();
    for at in 0..N_SESSIONS {
        let at = 3 * N_SESSIONS + at;
        run_in(&executor, spec(folder, at, kind), "echo a line").await;
    }
    report("session, with overlay and a line of output", watch.elapsed());
    steps(&executor, folder).await;
    for _ in 0..3 {
        output(&executor, folder, vec![]).await;
    }
    output(&executor, folder, vec![Secret::new("correct horse battery".to_owned())]).await;
}

fn report(what: &str, took: Duration) {
    println!("{what}: {:.2} ms", took.as_secs_f64() * 1e3 / f64::from(N_SESSIONS));
}

fn spec(folder: &Path, at: u32, kind: Option<OverlayKind>) -> SessionSpec {
    let attempt_dir = folder.join(format!("attempt-{at}"));
    let mount = kind.map(|kind| {
        for name in ["upper", "work"] {
            std::fs::create_dir_all(attempt_dir.join(name)).expect("the folder can be made");
        }
        Mount {
            lowers: vec![folder.join("lower")],
            upper: attempt_dir.join("upper"),
            work: attempt_dir.join("work"),
            at: folder.join("at"),
            user: kind == OverlayKind::User,
        }
    });
    let attempt = AttemptId { run: RunId(1), job: JobIndex(at), attempt: 1 };
    let log = folder.join(format!("{at}.log"));
    SessionSpec {
        mount,
        env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
        grace: Duration::from_secs(1),
        ..SessionSpec::bare(attempt, attempt_dir, folder.join("at"), log)
    }
}

fn shell(script: &str) -> StepCommand {
    StepCommand {
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: BTreeMap::new(),
        directory: None,
        timeout: None,
    }
}

async fn one(executor: &HostExecutor, folder: &Path, at: u32, kind: Option<OverlayKind>) {
    run_in(executor, spec(folder, at, kind), "true").await;
}

async fn run_in(executor: &HostExecutor, spec: SessionSpec, script: &str) {
    let mut session = executor.open(spec).await.expect("it opens");
    let (_keep, cancel) = watch::channel(false);
    assert_eq!(session.step(shell(script), cancel).await, Ok(Exit::SUCCESS));
    assert_eq!(session.close().await, Ok(()));
}

async fn steps(executor: &HostExecutor, folder: &Path) {
    let mut session = executor.open(spec(folder, 900_000, None)).await.expect("it opens");
    let (_keep, cancel) = watch::channel(false);
    let watch = Stopwatch::start();
    for _ in 0..N_SESSIONS {
        assert_eq!(session.step(shell("true"), cancel.clone()).await, Ok(Exit::SUCCESS));
    }
    report("step `sh -c true` in one session", watch.elapsed());
    assert_eq!(session.close().await, Ok(()));
}

async fn output(executor: &HostExecutor, folder: &Path, masked: Vec<Secret<String>>) {
    let cat = folder.join("cat.out");
    let script = format!("{OUTPUT} | cat > '{}'", cat.display());
    let watch = Stopwatch::start();
    process::output(process::command("sh").args(["-c", &script])).expect("it runs");
    let floor = watch.elapsed();
    let _ = std::fs::remove_file(&cat);

    let masks = masked.len();
    let spec = SessionSpec { masked, ..spec(folder, 900_001, None) };
    let log = spec.log.clone();
    let mut session = executor.open(spec).await.expect("it opens");
    let (_keep, cancel) = watch::channel(false);
    let watch = Stopwatch::start();
    assert_eq!(session.step(shell(OUTPUT), cancel).await, Ok(Exit::SUCCESS));
    let step = watch.elapsed();
    assert_eq!(session.close().await, Ok(()));
    let closed = watch.elapsed();
    let _ = std::fs::remove_file(log);
    println!(
        "200 MB, {masks} secrets: cat {} ms, step {} ms ({:.2}x), with close {} ms",
        floor.as_millis(),
        step.as_millis(),
        step.as_secs_f64() / floor.as_secs_f64(),
        closed.as_millis(),
    );
}
