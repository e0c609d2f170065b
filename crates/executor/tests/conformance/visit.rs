//! Commands of a person in a session, on a terminal or on plain streams.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use kiln_executor::{Session, SessionSpec, StepCommand, StepError, Streams};
use kiln_model::Exit;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::sync::mpsc;

use crate::bench::{Bench, Case, Subject, code, command, runs, sh, step, text};
use crate::cases;

pub fn cases<E: Subject>() -> Vec<Case<E>> {
    cases![
        a_visitor_sees_what_a_step_sees,
        the_streams_of_a_visit_stay_apart_and_whole,
        a_visit_ends_as_its_command_does,
        a_command_that_is_not_there_is_named_to_its_caller,
        a_terminal_controls_its_command,
        a_terminal_has_the_size_that_it_is_given,
        a_terminal_that_goes_away_ends_its_command,
        signals_are_passed_on,
        a_visit_whose_caller_left_is_ended_by_the_next,
        what_a_visit_left_ends_with_the_session,
    ]
}

/// What a command wrote to its two streams, and how it ended.
struct Said {
    out: Vec<u8>,
    error: Vec<u8>,
    exit: Result<Exit, StepError>,
}

fn pipe() -> (File, OwnedFd) {
    let (from, to) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (File::from(from), to)
}

/// All of what comes, read on a thread of its own.
fn reading(mut from: File) -> tokio::task::JoinHandle<Vec<u8>> {
    tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        // The outer end of a terminal whose inner end is closed gives an error.
        let _ = from.read_to_end(&mut all);
        all
    })
}

/// Nobody sends a signal.
fn quiet() -> mpsc::UnboundedReceiver<i32> {
    mpsc::unbounded_channel().1
}

async fn visit(session: &mut impl Session, command: StepCommand, input: Vec<u8>) -> Said {
    let (stdin, mut typed) = {
        let (inner, outer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        (inner, File::from(outer))
    };
    let ((out, stdout), (error, stderr)) = (pipe(), pipe());
    let (out, error) = (reading(out), reading(error));
    let typing = tokio::task::spawn_blocking(move || typed.write_all(&input));
    let streams = Streams::Plain([stdin, stdout, stderr]);
    let exit = session.visit(command, streams, &mut quiet()).await;
    let _ = typing.await.unwrap();
    Said { out: out.await.unwrap(), error: error.await.unwrap(), exit }
}

async fn a_visitor_sees_what_a_step_sees<E: Subject>(bench: Bench<E>) {
    std::fs::create_dir(bench.path("work/sub")).unwrap();
    // A container has a home also when it is not told of one.
    let home = |spec: &mut SessionSpec| drop(spec.env.insert("HOME".into(), "/home".into()));
    let mut session = bench.open_with(home).await;
    assert_eq!(step(&mut session, sh("echo left > sub/file")).await, Ok(Exit::SUCCESS));
    let mut command = sh("cat file; umask; env | grep -c . ; echo $MARK");
    command.directory = Some("sub".to_owned());
    command.env = [("MARK".to_owned(), "x y".to_owned())].into();
    let said = visit(&mut session, command, Vec::new()).await;
    // PATH, HOME and MARK, and PWD, which the shell sets.
    assert_eq!(text(&said.out), "left\n0022\n4\nx y\n");
    assert_eq!(said.exit, Ok(Exit::SUCCESS));
    let script = "grep -E '^Sig(Blk|Ign):' /proc/self/status; \
                  for fd in /proc/$$/fd/*; do [ -e $fd ] && echo ${fd##*/}; done";
    let said = visit(&mut session, sh(script), Vec::new()).await;
    let none = "0000000000000000";
    assert_eq!(text(&said.out), format!("SigBlk:\t{none}\nSigIgn:\t{none}\n0\n1\n2\n"));
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), "");
}

async fn the_streams_of_a_visit_stay_apart_and_whole<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let bytes: Vec<u8> =
        (0..10_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let said = visit(&mut session, sh("tee /dev/stderr"), bytes.clone()).await;
    assert_eq!(said.exit, Ok(Exit::SUCCESS));
    assert!(said.out == bytes && said.error == bytes);
    session.close().await.unwrap();
}

async fn a_visit_ends_as_its_command_does<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    for n in [0, 1, 42, 130, 255] {
        let said = visit(&mut session, sh(&format!("exit {n}")), Vec::new()).await;
        assert_eq!(said.exit, Ok(code(n)));
    }
    let said = visit(&mut session, sh("kill -SEGV $$"), Vec::new()).await;
    assert_eq!(said.exit, Ok(Exit::Killed { signal: 11 }));
    let mut command = command(["true"]);
    command.directory = Some("nowhere".to_owned());
    let said = visit(&mut session, command, Vec::new()).await;
    assert!(matches!(said.exit, Err(StepError::Directory { .. })));
    session.close().await.unwrap();
    let said = visit(&mut session, sh("true"), Vec::new()).await;
    assert_eq!(said.exit, Err(StepError::Closed));
}

async fn a_command_that_is_not_there_is_named_to_its_caller<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let said = visit(&mut session, command(["no-such-program"]), Vec::new()).await;
    assert_eq!(said.exit, Ok(code(127)));
    assert_eq!(text(&said.error), "cannot run `no-such-program`: command not found\n");
    assert_eq!(text(&said.out), "");
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), "");
}

/// A terminal of 80 columns and 24 rows: the outer end and the inner one.
fn terminal() -> (File, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let outer = openpt(flags).unwrap();
    grantpt(&outer).unwrap();
    unlockpt(&outer).unwrap();
    resize(&outer, 80, 24);
    let inner = ioctl_tiocgptpeer(&outer, flags).unwrap();
    (File::from(outer), inner)
}

fn resize(outer: impl AsFd, columns: u16, rows: u16) {
    let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(outer, size).unwrap();
}

/// Reads until `word` was read. Gives all of it.
fn until_said(outer: &mut File, word: &str) -> String {
    let mut all = Vec::new();
    let mut bytes = [0; 4096];
    while !text(&all).contains(word) {
        let n = outer.read(&mut bytes).unwrap();
        all.extend_from_slice(&bytes[..n]);
    }
    text(&all)
}

/// Runs `script` on a terminal while `person` sits at it.
async fn at_terminal<S: Session, T: Send + 'static>(
    session: &mut S,
    script: &str,
    person: impl FnOnce(File) -> T + Send + 'static,
) -> (Result<Exit, StepError>, T) {
    let (outer, inner) = terminal();
    let person = tokio::task::spawn_blocking(move || person(outer));
    let exit = session.visit(sh(script), Streams::Terminal(inner), &mut quiet()).await;
    (exit, person.await.unwrap())
}

async fn a_terminal_controls_its_command<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    // Ctrl-C reaches what is in the foreground, by way of the controlling terminal.
    let script = "trap 'echo heard; exit 7' INT; test -t 0 && test -t 1 && test -t 2 && \
                  echo here > /dev/tty; while read line; do echo got $line; done";
    let (exit, (said, _)) = at_terminal(&mut session, script, |mut outer| {
        until_said(&mut outer, "here");
        outer.write_all(b"word\n").unwrap();
        until_said(&mut outer, "got word");
        outer.write_all(&[3]).unwrap();
        (until_said(&mut outer, "heard"), outer)
    })
    .await;
    assert_eq!(exit, Ok(code(7)));
    assert!(said.contains("^C"), "{said}");
    session.close().await.unwrap();
}

async fn a_terminal_has_the_size_that_it_is_given<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let script = "trap 'stty size; exit 0' WINCH; stty size; while :; do read line; done";
    let (exit, _) = at_terminal(&mut session, script, |mut outer| {
        until_said(&mut outer, "24 80");
        resize(&outer, 132, 50);
        until_said(&mut outer, "50 132");
        // Open until the command has ended: closing it would end it.
        outer
    })
    .await;
    assert_eq!(exit, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
}

async fn a_terminal_that_goes_away_ends_its_command<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let (exit, ()) = at_terminal(&mut session, "echo here; cat", |mut outer| {
        until_said(&mut outer, "here");
    })
    .await;
    assert_eq!(exit, Ok(Exit::Killed { signal: Signal::HUP.as_raw() }));
    session.close().await.unwrap();
}

async fn signals_are_passed_on<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let (sender, mut signals) = mpsc::unbounded_channel();
    let (mut out, stdout) = pipe();
    let (_, stderr) = pipe();
    let (stdin, _typed) = rustix::pipe::pipe().unwrap();
    let person = tokio::task::spawn_blocking(move || {
        until_said(&mut out, "ready");
        sender.send(Signal::INT.as_raw()).unwrap();
        // `tail` ends by itself when nobody reads.
        out
    });
    // A shell that is about to start something defers an interrupt until that has ended, so what says
    // that it is ready is what waits.
    let streams = Streams::Plain([stdin, stdout, stderr]);
    let script = "echo ready > said; exec tail -f said";
    let exit = session.visit(sh(script), streams, &mut signals).await;
    assert_eq!(exit, Ok(Exit::Killed { signal: Signal::INT.as_raw() }));
    person.await.unwrap();
    session.close().await.unwrap();
}

async fn a_visit_whose_caller_left_is_ended_by_the_next<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let (mut out, stdout) = pipe();
    let (_, stderr) = pipe();
    let (stdin, _typed) = rustix::pipe::pipe().unwrap();
    let ready = tokio::task::spawn_blocking(move || until_said(&mut out, "ready"));
    let streams = Streams::Plain([stdin, stdout, stderr]);
    let mark = bench.mark("visitor");
    let shell = command(["sh", "-c", "echo ready; while :; do sleep 1; done", &mark]);
    let mut log = quiet();
    tokio::select! {
        exit = session.visit(shell, streams, &mut log) => panic!("it ended by itself: {exit:?}"),
        _ = ready => {}
    }
    assert!(runs(&mark));
    let said = visit(&mut session, sh("echo next"), Vec::new()).await;
    assert_eq!((text(&said.out).as_str(), said.exit), ("next\n", Ok(Exit::SUCCESS)));
    assert!(!runs(&mark));
    session.close().await.unwrap();
}

async fn what_a_visit_left_ends_with_the_session<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open_with(|spec| spec.grace = std::time::Duration::ZERO).await;
    let mark = bench.mark("left");
    let script = format!(
        "setsid sh -c 'echo > left; while :; do sleep 1; done' {mark} > /dev/null 2>&1 < /dev/null & \
         while [ ! -e left ]; do sleep 0.01; done"
    );
    let said = visit(&mut session, sh(&script), Vec::new()).await;
    assert_eq!(said.exit, Ok(Exit::SUCCESS));
    assert!(runs(&mark));
    session.close().await.unwrap();
    assert!(!runs(&mark));
}
