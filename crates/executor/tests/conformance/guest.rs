//! People in a session that somebody else owns.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::OwnedFd;

use kiln_executor::host::Guest;
use kiln_executor::{
    Executor, HostExecutor, HostSession, Session, SessionSpec, StepError, Streams,
};
use kiln_model::Exit;
use rustix::process::Signal;
use tokio::sync::{mpsc, watch};

use crate::bench::{Bench, Case, code, lives, read_when_there, sh, step, text};
use crate::cases;
use crate::host::is_root;
use crate::within::{Kind, Within};

pub fn cases() -> Vec<Case<HostExecutor>> {
    cases![
        a_guest_stands_where_the_running_step_stands,
        guests_are_in_containers_and_sandboxes_too,
        a_guest_is_signalled_and_his_end_is_his_own,
        a_job_waits_for_no_guest,
        a_guest_who_goes_away_leaves_nothing_on_his_terminal,
        what_a_guest_uses_is_no_steps_account,
        nobody_comes_into_what_is_not_there,
    ]
}

type Said = (Result<Exit, StepError>, String);

/// Runs one command as a guest, with what it says.
async fn as_guest(bench_attempt: std::path::PathBuf, argv: &[&str], signal: Option<i32>) -> Said {
    let guest = Guest::enter(&bench_attempt).unwrap().expect("it can be entered");
    let (mut out, write) = std::io::pipe().unwrap();
    let (stdin, _) = std::io::pipe().unwrap();
    let both: OwnedFd = write.into();
    let streams = Streams::Plain([stdin.into(), both.try_clone().unwrap(), both]);
    let (sender, mut signals) = mpsc::unbounded_channel();
    let reader = tokio::task::spawn_blocking(move || {
        let (mut all, mut bytes) = (Vec::new(), [0; 4096]);
        let mut sender = signal.map(|signal| (sender, signal));
        while let Ok(n @ 1..) = out.read(&mut bytes) {
            all.extend_from_slice(&bytes[..n]);
            if let Some((sender, signal)) = sender.take() {
                sender.send(signal).unwrap();
            }
        }
        all
    });
    let argv = argv.iter().map(|word| (*word).to_owned()).collect();
    let env = BTreeMap::from([("GUEST".to_owned(), "yes".to_owned())]);
    let exit = guest.run(argv, env, "here".to_owned(), streams, &mut signals).await;
    (exit, text(&reader.await.unwrap()))
}

/// A session with a step that runs until `go` is there, at which it is now.
async fn busy(
    session: HostSession,
    bench: &Bench<impl Executor>,
) -> tokio::task::JoinHandle<(HostSession, Result<Exit, StepError>)> {
    let mut session = session;
    std::fs::create_dir_all(bench.path("work/sub")).unwrap();
    let mut command =
        sh("echo begun > ../begun; while [ ! -e ../go ]; do sleep 0.01; done; exit 3");
    command.directory = Some("sub".to_owned());
    command.env.insert("OF_STEP".to_owned(), "x y".to_owned());
    let running = tokio::spawn(async move {
        let (_keep, never) = watch::channel(false);
        let exit = session.step(command, never).await;
        (session, exit)
    });
    read_when_there(&bench.path("work/begun")).await;
    running
}

async fn a_guest_stands_where_the_running_step_stands(bench: Bench<HostExecutor>) {
    let running = busy(bench.open().await, &bench).await;
    let script = "pwd; echo $OF_STEP $GUEST; cat ../begun; echo seen > ../by-guest; exit 9";
    let (exit, said) = as_guest(bench.path("attempt"), &["sh", "-c", script], None).await;
    let place = bench.path("work/sub").canonicalize().unwrap();
    assert_eq!(said, format!("{}\nx y yes\nbegun\n", place.display()));
    assert_eq!(exit, Ok(code(9)));
    // Two at a time, and a shell when nothing is named.
    let (one, two) = tokio::join!(
        as_guest(bench.path("attempt"), &["echo", "one"], None),
        as_guest(bench.path("attempt"), &[], None),
    );
    assert_eq!((one.1.as_str(), one.0, two.0), ("one\n", Ok(code(0)), Ok(code(0))));
    let (exit, said) = as_guest(bench.path("attempt"), &["no-such-program"], None).await;
    assert_eq!(exit, Ok(code(127)));
    assert!(said.contains("cannot run `no-such-program`: command not found"), "{said}");
    std::fs::write(bench.path("work/go"), "").unwrap();
    let (mut session, exit) = running.await.unwrap();
    assert_eq!(exit, Ok(code(3)));
    // Between two steps there is a place, too.
    let (_, said) =
        as_guest(bench.path("attempt"), &["sh", "-c", "pwd; echo $OF_STEP."], None).await;
    let place = bench.path("work").canonicalize().unwrap();
    assert_eq!(said, format!("{}\n.\n", place.display()));
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), "");
}

async fn guests_are_in_containers_and_sandboxes_too(bench: Bench<HostExecutor>) {
    let user = !is_root();
    for kind in [Kind::Container { user }, Kind::Sandbox { user }] {
        let bench = Bench::new(Within { inner: bench.executor.clone(), kind });
        let running = busy(bench.open().await, &bench).await;
        let script = "test -e ../begun; touch /etc/x 2> /dev/null && echo wrote; \
                      n=0; for pid in /proc/[0-9]*; do n=$((n+1)); done; test $n -lt 9; echo $?; \
                      grep NoNewPrivs /proc/self/status";
        let (exit, said) = as_guest(bench.path("attempt"), &["sh", "-c", script], None).await;
        assert_eq!(exit, Ok(code(0)), "{kind:?}: {said}");
        let wrote = matches!(kind, Kind::Container { .. });
        assert_eq!(said.starts_with("wrote\n"), wrote, "{kind:?}: {said}");
        assert!(said.ends_with("0\nNoNewPrivs:\t1\n"), "{kind:?}: {said}");
        std::fs::write(bench.path("work/go"), "").unwrap();
        let (mut session, exit) = running.await.unwrap();
        assert_eq!(exit, Ok(code(3)));
        session.close().await.unwrap();
    }
}

async fn a_guest_is_signalled_and_his_end_is_his_own(bench: Bench<HostExecutor>) {
    let running = busy(bench.open().await, &bench).await;
    let int = Some(Signal::INT.as_raw());
    let script = ["sh", "-c", "echo ready; exec sleep 1000"];
    let (exit, _) = as_guest(bench.path("attempt"), &script, int).await;
    // The shell may not have become `sleep` yet; it then ends by the same signal.
    assert!(matches!(exit, Ok(Exit::Killed { signal: 2 } | Exit::Code { code: 130 })), "{exit:?}");
    std::fs::write(bench.path("work/go"), "").unwrap();
    let (mut session, exit) = running.await.unwrap();
    assert_eq!(exit, Ok(code(3)));
    session.close().await.unwrap();
}

async fn a_job_waits_for_no_guest(bench: Bench<HostExecutor>) {
    // Longer than anything here waits: who heeds nothing would be seen.
    let grace = |spec: &mut SessionSpec| spec.grace = std::time::Duration::from_secs(3_600);
    let mut session = bench.open_with(grace).await;
    let attempt = bench.path("attempt");
    let guest = tokio::spawn(async move {
        let script = "trap '' TERM HUP INT; echo $$ > guest; while :; do sleep 0.1; done";
        as_guest(attempt, &["sh", "-c", script], None).await
    });
    let pid = read_when_there(&bench.path("work/guest")).await;
    session.close().await.unwrap();
    assert!(!lives(&pid));
    assert_eq!(guest.await.unwrap().0, Err(StepError::Closed));
}

async fn a_guest_who_goes_away_leaves_nothing_on_his_terminal(bench: Bench<HostExecutor>) {
    let mut session = bench.open().await;
    let attempt = bench.path("attempt");
    let guest = tokio::spawn(async move {
        let script = "trap '' TERM HUP; echo $$ > guest; while :; do sleep 0.1; done";
        as_guest(attempt, &["sh", "-c", script], None).await
    });
    let pid = read_when_there(&bench.path("work/guest")).await;
    guest.abort();
    crate::bench::until("the guest's command ends", || !lives(&pid)).await;
    assert_eq!(step(&mut session, sh("exit 4")).await, Ok(code(4)));
    session.close().await.unwrap();
}

async fn what_a_guest_uses_is_no_steps_account(bench: Bench<HostExecutor>) {
    let running = busy(bench.open().await, &bench).await;
    let busy = "head -c 200000000 /dev/zero | tail -c 199999999 > /dev/null";
    let (exit, _) = as_guest(bench.path("attempt"), &["sh", "-c", busy], None).await;
    assert_eq!(exit, Ok(code(0)));
    std::fs::write(bench.path("work/go"), "").unwrap();
    let (mut session, _) = running.await.unwrap();
    let usage = session.usage().unwrap();
    assert!(usage.process_bytes.is_some_and(|n| n < 150_000_000), "{usage:?}");
    session.close().await.unwrap();
}

async fn nobody_comes_into_what_is_not_there(bench: Bench<HostExecutor>) {
    assert!(Guest::enter(&bench.path("attempt")).unwrap().is_none());
    let mut session = bench.open().await;
    assert!(Guest::enter(&bench.path("attempt")).unwrap().is_some());
    session.close().await.unwrap();
    assert!(Guest::enter(&bench.path("attempt")).unwrap().is_none());
}
