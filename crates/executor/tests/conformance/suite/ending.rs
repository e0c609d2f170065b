//! What ends a step or a session, and what outlives the one and never the other.

use std::time::Duration;

use kiln_executor::{Session, StepError};
use kiln_model::Exit;
use tokio::sync::watch;

use crate::bench::{
    Bench, Case, Subject, code, command, marked, n_zombies, read_when_there, runs, sh, step, text,
    until,
};
use crate::cases;

pub fn cases<E: Subject>() -> Vec<Case<E>> {
    cases![
        a_step_that_takes_too_long_is_timed_out,
        who_ignores_term_is_killed,
        a_cancelled_step_may_clean_up,
        who_ends_without_a_parent_is_not_waited_for_longer,
        a_step_cancelled_before_it_starts_does_not_start,
        a_step_whose_caller_left_is_cancelled_by_the_next,
        background_processes_outlive_the_step_and_are_heard,
        a_busy_background_process_does_not_hold_the_step,
        daemons_are_killed_at_the_end,
        a_swarm_that_forks_is_killed,
        who_lost_its_parent_is_buried,
        sessions_do_not_disturb_one_another,
        closing_twice_is_harmless,
        a_closed_session_runs_nothing,
    ]
}

async fn a_step_that_takes_too_long_is_timed_out<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let mut slow = sh("echo started; sleep 1000; echo never");
    slow.timeout = Some(Duration::from_secs(1));
    assert_eq!(step(&mut session, slow).await, Ok(Exit::TimedOut { after_ms: 1000 }));
    let mut quick = sh("exit 4");
    quick.timeout = Some(Duration::MAX);
    assert_eq!(step(&mut session, quick).await, Ok(code(4)));
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), "started\n");
}

async fn who_ignores_term_is_killed<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open_with(|spec| spec.grace = Duration::from_millis(100)).await;
    let inner = bench.mark("inner");
    let stubborn = sh(&format!(
        "trap '' TERM; sh -c 'echo > inner; while :; do sleep 1; done' {inner} & \
         while :; do sleep 1; done"
    ));
    let (cancel, asked) = watch::channel(false);
    let (exit, ()) = tokio::join!(session.step(stubborn.clone(), asked), async {
        read_when_there(&bench.seen("inner")).await;
        assert!(runs(&inner));
        cancel.send_replace(true);
    });
    assert_eq!(exit, Ok(Exit::Cancelled));
    assert!(!runs(&inner));
    let slow = kiln_executor::StepCommand { timeout: Some(Duration::from_secs(1)), ..stubborn };
    assert_eq!(step(&mut session, slow).await, Ok(Exit::TimedOut { after_ms: 1000 }));
    assert!(!runs(&inner));
    session.close().await.unwrap();
}

async fn a_cancelled_step_may_clean_up<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let (cancel, asked) = watch::channel(false);
    let script = "trap 'sleep 0.05; echo bye; exit 3' TERM; echo ready > ready; \
                  while :; do sleep 0.01; done";
    let running = session.step(sh(script), asked);
    let asking = async {
        read_when_there(&bench.seen("ready")).await;
        cancel.send(true).unwrap();
    };
    let (exit, ()) = tokio::join!(running, asking);
    assert_eq!(exit, Ok(Exit::Cancelled));
    // Before it, perhaps, the shell's own word about its `sleep`, which heard TERM too.
    assert!(text(&bench.log()).ends_with("bye\n"));
    // A job may still clean up after itself.
    assert_eq!(step(&mut session, sh("exit 5")).await, Ok(code(5)));
    session.close().await.unwrap();
}

async fn who_ends_without_a_parent_is_not_waited_for_longer<E: Subject>(bench: Bench<E>) {
    // Longer than a case may take.
    let mut session = bench.open_with(|spec| spec.grace = Duration::from_secs(1000)).await;
    let script = "sh -c 'trap \"sleep 0.2; exit\" TERM; echo > inner; while :; do sleep 0.05; done' & \
                  sleep 1000";
    let (cancel, asked) = watch::channel(false);
    let (exit, ()) = tokio::join!(session.step(sh(script), asked), async {
        read_when_there(&bench.seen("inner")).await;
        cancel.send_replace(true);
    });
    assert_eq!(exit, Ok(Exit::Cancelled));
    session.close().await.unwrap();
}

async fn a_step_cancelled_before_it_starts_does_not_start<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let (_keep, asked) = watch::channel(true);
    assert_eq!(session.step(sh("touch ran"), asked).await, Ok(Exit::Cancelled));
    session.close().await.unwrap();
    assert!(!bench.path("work/ran").exists());
}

async fn a_step_whose_caller_left_is_cancelled_by_the_next<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let (first, mark) = (bench.seen("first"), bench.mark("first"));
    let script = "echo > first; while :; do sleep 1; done";
    tokio::select! {
        ended = step(&mut session, command(["sh", "-c", script, &mark])) => panic!("{ended:?}"),
        _ = read_when_there(&first) => {}
    }
    assert!(runs(&mark));
    assert_eq!(step(&mut session, sh("exit 6")).await, Ok(code(6)));
    assert!(!runs(&mark));
    session.close().await.unwrap();
}

async fn background_processes_outlive_the_step_and_are_heard<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let server = "(while [ ! -e go ]; do sleep 0.01; done; echo late; touch done) & echo early";
    assert_eq!(step(&mut session, sh(server)).await, Ok(Exit::SUCCESS));
    assert_eq!(text(&bench.log()), "early\n");
    let client = "touch go; while [ ! -e done ]; do sleep 0.01; done";
    assert_eq!(step(&mut session, sh(client)).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), "early\nlate\n");
}

async fn a_busy_background_process_does_not_hold_the_step<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open_with(|spec| spec.log_bytes_max = 1 << 20).await;
    assert_eq!(step(&mut session, sh("yes & exit 9")).await, Ok(code(9)));
    assert_eq!(step(&mut session, sh("exit 8")).await, Ok(code(8)));
    session.close().await.unwrap();
}

async fn daemons_are_killed_at_the_end<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open_with(|spec| spec.grace = Duration::from_millis(50)).await;
    let daemon = bench.mark("daemon");
    // A double fork into a session of its own, with every descriptor closed, deaf to TERM.
    let script = format!(
        "setsid sh -c 'setsid sh -c \"trap \\\"\\\" TERM HUP; echo > daemon; \
         while :; do sleep 1; done\" {daemon} >/dev/null 2>&1 <&- & exit' >/dev/null 2>&1 &"
    );
    assert_eq!(step(&mut session, sh(&script)).await, Ok(Exit::SUCCESS));
    read_when_there(&bench.seen("daemon")).await;
    assert!(runs(&daemon));
    session.close().await.unwrap();
    assert!(!runs(&daemon));
}

async fn a_swarm_that_forks_is_killed<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open_with(|spec| spec.grace = Duration::ZERO).await;
    let bee = bench.mark("bee");
    // Each makes another and ends: whoever looks at a number comes too late. They never become more, so
    // that a killer that is too slow is told from a machine that is brought down.
    let script = format!(
        "echo 'trap \"\" TERM; sleep 0.01; sh ./again {bee} & exit' > again; \
         i=0; while [ $i -lt 40 ]; do sh ./again {bee} & i=$((i+1)); done"
    );
    assert_eq!(step(&mut session, sh(&script)).await, Ok(Exit::SUCCESS));
    until("the swarm is there", || marked(&bee).len() > 5).await;
    session.close().await.unwrap();
    assert!(!runs(&bee));
}

async fn who_lost_its_parent_is_buried<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    // Nobody waits for the first; the parent of the second never does.
    let script = "i=0; while [ $i -lt 50 ]; do (sh -c 'exit 3' &); i=$((i+1)); done; \
                  setsid sh -c 'true & exec sleep 1000' > /dev/null 2>&1 &";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    until("one at most is a zombie", || n_zombies() <= 1).await;
    session.close().await.unwrap();
    until("none is a zombie", || n_zombies() == 0).await;
}

async fn sessions_do_not_disturb_one_another<E: Subject>(bench: Bench<E>) {
    let mut sessions = Vec::new();
    for n in 0..8 {
        let log = bench.path(&format!("log{n}"));
        let attempt_dir = bench.path(&format!("attempt{n}"));
        let spec = |spec: &mut kiln_executor::SessionSpec| {
            (spec.log, spec.attempt_dir) = (log, attempt_dir);
        };
        sessions.push(bench.open_with(spec).await);
    }
    let tasks: Vec<_> = sessions
        .into_iter()
        .enumerate()
        .map(|(n, mut session)| {
            tokio::spawn(async move {
                let exit = step(&mut session, sh(&format!("seq {n}00 {n}99; exit {n}"))).await;
                session.close().await.unwrap();
                exit
            })
        })
        .collect();
    for (n, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), Ok(code(n as u8)));
        let first: u32 = if n == 0 { 0 } else { n as u32 * 100 };
        let expected: String =
            (first..=n as u32 * 100 + 99).map(|line| format!("{line}\n")).collect();
        assert_eq!(std::fs::read_to_string(bench.path(&format!("log{n}"))).unwrap(), expected);
    }
}

async fn closing_twice_is_harmless<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    step(&mut session, sh("sleep 1000 &")).await.unwrap();
    assert_eq!(session.close().await, Ok(()));
    assert_eq!(session.close().await, Ok(()));
}

async fn a_closed_session_runs_nothing<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    session.close().await.unwrap();
    assert_eq!(step(&mut session, sh("touch ran")).await, Err(StepError::Closed));
    let collected = session.collect(Vec::new(), bench.path("objects")).await;
    assert_eq!(collected, Err(StepError::Closed));
    assert!(!bench.path("work/ran").exists());
}
