//! Owners that die, and what becomes of their sessions.
//!
//! An owner is a process of its own here, which is killed. The steps of its session are found from outside
//! by their marks, because their numbers are others in a container.

use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Stdio};
use std::time::Duration;

use kiln_executor::host::results_left;
use kiln_executor::{Executor, Session, StepDone};
use kiln_model::Exit;
use kiln_stdx::process;
use tokio::sync::watch;

use crate::bench::{
    Bench, Case, Subject, code, command, mark_in, read_when_there, runs, sh, spec_in, step, text,
    until,
};
use crate::cases;
use crate::host::myself;

pub fn cases<E: Subject>() -> Vec<Case<E>> {
    cases![
        a_lost_owner_takes_everything_along,
        an_orphan_finishes_its_step_and_is_found_again,
        an_orphan_that_nobody_wants_writes_down_what_it_knows,
        another_process_closes_what_a_crash_left,
        another_process_reaps_what_a_crash_left,
        an_orphan_whose_folder_is_removed_ends,
    ]
}

/// A second process: opens a session, runs a step, begins another, and waits to be killed.
#[derive(Debug)]
pub struct Owner {
    folder: PathBuf,
    orphan_for: Duration,
}

impl Owner {
    /// Reads `--owner FOLDER MS EXECUTOR…`. Gives the words of the executor too.
    pub fn from_args(args: &[String]) -> Option<(Self, Vec<&str>)> {
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        match words[..] {
            ["--owner", folder, ms, ref executor @ ..] => {
                let orphan_for = Duration::from_millis(ms.parse().expect("a number"));
                Some((Self { folder: folder.into(), orphan_for }, executor.to_vec()))
            }
            _ => None,
        }
    }

    pub async fn play(self, executor: impl Executor) -> ExitCode {
        let mut spec = spec_in(&self.folder);
        spec.orphan_for = self.orphan_for;
        spec.grace = Duration::from_millis(100);
        // By these a lost process is known: whose it is, and in which folder.
        spec.env.insert("KILN_ATTEMPT".to_owned(), spec.attempt.to_string());
        spec.env.insert(
            "KILN_OUTPUT".to_owned(),
            spec.attempt_dir.join("output").display().to_string(),
        );
        let mut session = executor.open(spec).await.expect("the session opens");
        step(&mut session, sh("echo one")).await.expect("it runs");
        let background = mark_in(&self.folder, "background");
        let script = format!(
            "trap '' TERM; setsid sh -c 'echo > background; while :; do sleep 1; done' {background} & \
             echo > step; echo two; while [ ! -e go ]; do sleep 0.01; done; echo three; exit 7"
        );
        let mark = mark_in(&self.folder, "step");
        let exit = step(&mut session, command(["sh", "-c", &script, &mark])).await;
        eprintln!("the owner was not killed: {exit:?}");
        ExitCode::FAILURE
    }
}

fn start<E: Subject>(bench: &Bench<E>, orphan_ms: u32) -> Child {
    process::command(myself())
        .arg("--owner")
        .arg(bench.folder.path())
        .arg(orphan_ms.to_string())
        .args(bench.executor.words())
        .stdin(Stdio::null())
        .spawn()
        .expect("the test can be started again")
}

/// Kills it, when both its processes run. Gives what its session has outside the bench's folder.
async fn crash<E: Subject>(bench: &Bench<E>, owner: &mut Child) -> Vec<PathBuf> {
    let (step, background) = marks(bench);
    until("the step runs", || runs(&step)).await;
    for name in ["step", "background"] {
        read_when_there(&bench.seen(name)).await;
    }
    assert!(runs(&background));
    let places = bench.executor.places(bench.folder.path());
    owner.kill().unwrap();
    owner.wait().unwrap();
    places
}

fn marks<E: Subject>(bench: &Bench<E>) -> (String, String) {
    (bench.mark("step"), bench.mark("background"))
}

fn has_init(attempt_dir: &Path) -> bool {
    attempt_dir.join("init.json").exists()
}

async fn a_lost_owner_takes_everything_along<E: Subject>(bench: Bench<E>) {
    let mut owner = start(&bench, 0);
    let (step, background) = marks(&bench);
    let places = crash(&bench, &mut owner).await;
    until("the step is gone", || !runs(&step) && !runs(&background)).await;
    until("init is gone", || !has_init(&bench.path("attempt"))).await;
    until("nothing is left", || !places.iter().any(|place| place.exists())).await;
    assert!(bench.executor.attach(&bench.path("attempt")).await.unwrap().is_none());
}

async fn an_orphan_finishes_its_step_and_is_found_again<E: Subject>(bench: Bench<E>) {
    let mut owner = start(&bench, 60_000);
    let (mark, background) = marks(&bench);
    crash(&bench, &mut owner).await;
    let go = bench.seen("go");

    let found = bench.executor.attach(&bench.path("attempt")).await.unwrap();
    let mut found = found.expect("the session waits");
    let told = |done: &StepDone| (done.counter, done.exit.clone(), done.log_to);
    let before: Vec<_> = found.steps_done.iter().map(told).collect();
    assert_eq!((before, found.running), (vec![(0, Exit::SUCCESS, 4)], Some(1)));
    assert_eq!(found.steps_done[0].usage.is_some(), bench.executor.meters());
    assert!(runs(&mark));
    // Its new owner goes as well, and the step ends while there is none.
    drop(found.session);
    std::fs::write(go, "").unwrap();
    until("the step has ended", || !runs(&mark)).await;
    found = bench.executor.attach(&bench.path("attempt")).await.unwrap().expect("it still waits");
    let (_keep, never) = watch::channel(false);
    let two = match found.running {
        Some(_) => found.session.resume(never).await.unwrap().expect("it ran"),
        None => found.steps_done.pop().expect("it ended"),
    };
    assert_eq!(told(&two), (1, code(7), 14));
    assert_eq!(two.usage.is_some(), bench.executor.meters());
    assert_eq!(step(&mut found.session, sh("echo four")).await, Ok(Exit::SUCCESS));
    found.session.close().await.unwrap();
    assert_eq!(text(&bench.log()), "one\ntwo\nthree\nfour\n");
    assert!(!runs(&background));
    assert!(bench.executor.attach(&bench.path("attempt")).await.unwrap().is_none());
}

async fn an_orphan_that_nobody_wants_writes_down_what_it_knows<E: Subject>(bench: Bench<E>) {
    let mut owner = start(&bench, 100);
    let (_, background) = marks(&bench);
    crash(&bench, &mut owner).await;
    let go = bench.seen("go");
    until("the loss is noticed", || bench.path("attempt/results.json").exists()).await;
    std::fs::write(go, "").unwrap();
    until("it gives up", || !has_init(&bench.path("attempt"))).await;
    assert!(!runs(&background));
    let left = results_left(&bench.path("attempt"));
    let exits: Vec<_> = left.into_iter().map(|done| done.exit).collect();
    assert_eq!(exits, [Exit::SUCCESS, code(7)]);
    assert_eq!(text(&bench.log()), "one\ntwo\nthree\n");
}

async fn another_process_closes_what_a_crash_left<E: Subject>(bench: Bench<E>) {
    let mut owner = start(&bench, 60_000);
    let (step, background) = marks(&bench);
    crash(&bench, &mut owner).await;
    let found = bench.executor.attach(&bench.path("attempt")).await.unwrap();
    let mut found = found.expect("the session waits");
    assert_eq!(found.session.close().await, Ok(()));
    assert!(!runs(&step) && !runs(&background));
    assert!(bench.executor.attach(&bench.path("attempt")).await.unwrap().is_none());
    // What was written before it was closed is not lost.
    assert_eq!(text(&bench.log()), "one\ntwo\n");
    assert!(bench.path("work/step").exists());
}

async fn another_process_reaps_what_a_crash_left<E: Subject>(bench: Bench<E>) {
    let mut owner = start(&bench, 60_000);
    let (step, background) = marks(&bench);
    let places = crash(&bench, &mut owner).await;
    for _ in 0..2 {
        bench.executor.reap(bench.spec().attempt, &bench.path("attempt"));
    }
    until("its processes are gone", || !runs(&step) && !runs(&background)).await;
    until("nothing is left", || !places.iter().any(|place| place.exists())).await;
    assert!(bench.executor.attach(&bench.path("attempt")).await.unwrap().is_none());
}

/// Somebody removes the data folder of a server that is dead.
async fn an_orphan_whose_folder_is_removed_ends<E: Subject>(bench: Bench<E>) {
    let mut owner = start(&bench, 60_000);
    let (step, background) = marks(&bench);
    let places = crash(&bench, &mut owner).await;
    until("the loss is noticed", || bench.path("attempt/results.json").exists()).await;
    assert!(runs(&step));
    std::fs::remove_dir_all(bench.path("attempt")).unwrap();
    until("its processes are gone", || !runs(&step) && !runs(&background)).await;
    until("nothing is left", || !places.iter().any(|place| place.exists())).await;
}
