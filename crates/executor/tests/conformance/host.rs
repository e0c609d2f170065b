//! What the host executor does besides: sessions that are killed, disks that are full, its spawner.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use kiln_executor::host::reap;
use kiln_executor::{Executor, HostExecutor, OpenError, Session, SessionSpec, StepError};
use kiln_model::Exit;
use kiln_stdx::process;
use tokio::sync::watch;

use crate::bench::{Bench, Case, Subject, lives, read_when_there, sh, spec_in, step, text, until};
use crate::cases;
use crate::overlay::{on, overlay};

pub fn cases() -> Vec<Case<HostExecutor>> {
    cases![
        a_session_that_cannot_open_leaves_nothing,
        a_path_that_is_not_utf_8_is_no_trouble,
        a_log_that_cannot_be_written_is_kilns_error,
        whoever_is_in_a_hurry_waits_for_no_grace,
        what_a_killed_session_left_is_reaped,
        the_reaper_spares_strangers,
        a_session_that_dies_is_told_apart,
        the_spawner_holds_nothing_and_bears_its_name,
        secrets_are_on_no_command_line,
    ]
}

impl Subject for HostExecutor {
    fn words(&self) -> Vec<String> {
        vec!["host".to_owned()]
    }
}

/// As a second process: cancels a step that ignores it, and cannot wait for the grace to pass.
pub async fn hurry(executor: HostExecutor, folder: &Path) -> ExitCode {
    let mut spec = spec_in(folder);
    spec.grace = Duration::from_secs(3_600);
    let termed = spec.directory.join("termed");
    let mut session = executor.open(spec).await.expect("the session opens");
    let (cancel, cancelled) = watch::channel(false);
    let script = "trap 'echo > termed' TERM; (trap '' TERM; exec sleep 1000) & \
                  echo $! > background; echo > begun; while :; do sleep 0.01; done";
    let begun = termed.with_file_name("begun");
    let (exit, ()) = tokio::join!(session.step(sh(script), cancelled), async {
        read_when_there(&begun).await;
        cancel.send_replace(true);
        read_when_there(&termed).await;
        executor.hurry();
    });
    assert_eq!(exit, Ok(Exit::Cancelled));
    let background = read_when_there(&termed.with_file_name("background")).await;
    assert!(!lives(&background));
    assert_eq!(session.close().await, Err(StepError::Gone));
    ExitCode::SUCCESS
}

pub fn myself() -> PathBuf {
    std::env::current_exe().expect("a test has a path")
}

pub fn is_root() -> bool {
    let stat = std::fs::read_to_string("/proc/self/status").unwrap();
    stat.lines().any(|line| line.starts_with("Uid:\t0\t0"))
}

async fn a_session_that_cannot_open_leaves_nothing(bench: Bench<HostExecutor>) {
    let Some(mut mount) = overlay(&bench).await else { return };
    mount.lowers = vec![bench.path("not-there")];
    let mut spec = bench.spec();
    spec.orphan_for = Duration::from_secs(100);
    on(mount)(&mut spec);
    let attempt_dir = spec.attempt_dir.clone();
    assert!(matches!(bench.executor.open(spec).await, Err(OpenError::Mount(_))));
    assert!(bench.executor.attach(&attempt_dir).await.unwrap().is_none());
    assert!(std::fs::read_dir(&attempt_dir).unwrap().next().is_none());

    let mut spec = bench.spec();
    spec.directory = bench.path("not-there");
    match bench.executor.open(spec).await {
        Err(OpenError::Other(why)) => assert!(why.contains("not-there"), "{why}"),
        other => panic!("{other:?}"),
    }
}

async fn a_path_that_is_not_utf_8_is_no_trouble(bench: Bench<HostExecutor>) {
    use std::os::unix::ffi::OsStrExt;
    let odd = bench.folder.path().join(std::ffi::OsStr::from_bytes(b"w\xff"));
    std::fs::create_dir(&odd).unwrap();
    let change = |spec: &mut SessionSpec| {
        spec.log = odd.join("log");
        spec.directory = odd.clone();
        spec.attempt_dir = odd.join("attempt");
    };
    let mut session = bench.open_with(change).await;
    assert_eq!(step(&mut session, sh("pwd")).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
    assert!(std::fs::read(odd.join("log")).unwrap().ends_with(b"/w\xff\n"));
}

async fn a_log_that_cannot_be_written_is_kilns_error(bench: Bench<HostExecutor>) {
    std::os::unix::fs::symlink("/dev/full", bench.path("log")).unwrap();
    let mut session = bench.open().await;
    // It prints more than a pipe holds, so it would hang if nobody read.
    let script = "echo $$ > pid; sleep 1000 & yes; exit 1";
    let expected = StepError::Log {
        path: bench.path("log").display().to_string(),
        cause: "no space left on device".to_owned(),
    };
    assert_eq!(step(&mut session, sh(script)).await, Err(expected.clone()));
    assert!(!lives(&read_when_there(&bench.path("work/pid")).await));
    assert_eq!(step(&mut session, sh("touch ran")).await, Err(expected));
    assert!(!bench.path("work/ran").exists());
    let _ = session.close().await;
}

async fn whoever_is_in_a_hurry_waits_for_no_grace(bench: Bench<HostExecutor>) {
    let hurried = process::command(myself()).arg("--hurried").arg(bench.folder.path()).spawn();
    let mut hurried = hurried.expect("the test can be started again");
    // Its grace is an hour.
    until("it has ended", || hurried.try_wait().is_ok_and(|ended| ended.is_some())).await;
    assert!(hurried.wait().unwrap().success());
    until("init is gone", || !bench.path("attempt/init.json").exists()).await;
}

fn init_pid(bench: &Bench<HostExecutor>) -> String {
    let text = std::fs::read_to_string(bench.path("attempt/init.json")).unwrap();
    let digits = text.split("\"pid\":").nth(1).expect("it says its number");
    digits.chars().take_while(char::is_ascii_digit).collect()
}

async fn what_a_killed_session_left_is_reaped(bench: Bench<HostExecutor>) {
    let mut session = bench
        .open_with(|spec| {
            spec.env.insert("KILN_ATTEMPT".to_owned(), spec.attempt.to_string());
        })
        .await;
    let script = "setsid sleep 1000 >/dev/null 2>&1 & echo $! > background";
    step(&mut session, sh(script)).await.unwrap();
    let background = read_when_there(&bench.path("work/background")).await;
    process::output(process::command("kill").args(["-9", &init_pid(&bench)])).unwrap();
    assert_eq!(session.close().await, Err(StepError::Gone));
    assert!(lives(&background));
    // Its working directory is what ties it to this attempt's folder here.
    let attempt = bench.spec().attempt;
    assert!(reap(attempt, bench.folder.path()) >= 1);
    until("it is gone", || !lives(&background)).await;
}

async fn the_reaper_spares_strangers(bench: Bench<HostExecutor>) {
    let attempt = bench.spec().attempt;
    let mut stranger = process::command("sleep")
        .arg("1000")
        .env("KILN_ATTEMPT", attempt.to_string())
        .current_dir("/")
        .spawn()
        .unwrap();
    assert_eq!(reap(attempt, &bench.path("attempt")), 0);
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

async fn a_session_that_dies_is_told_apart(bench: Bench<HostExecutor>) {
    let mut session = bench.open().await;
    let (ended, ()) =
        tokio::join!(step(&mut session, sh("echo $$ > pid; exec sleep 1000")), async {
            read_when_there(&bench.path("work/pid")).await;
            process::output(process::command("kill").args(["-9", &init_pid(&bench)])).unwrap();
        });
    assert_eq!(ended, Err(StepError::Gone));
    let pid = read_when_there(&bench.path("work/pid")).await;
    until("the step goes with it", || !lives(&pid)).await;
}

fn spawner_pid() -> String {
    let children = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let all: Vec<String> = children
        .flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    // It is the first of this process's children, and the only one that no case has started.
    all[0].clone()
}

async fn the_spawner_holds_nothing_and_bears_its_name(_bench: Bench<HostExecutor>) {
    let pid = spawner_pid();
    let folder = format!("/proc/{pid}/fd");
    let mut held: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .flatten()
        .map(|entry| {
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            let kind = target.display().to_string();
            let kind = kind.split(':').next().unwrap_or_default();
            format!("{} {kind}", entry.file_name().to_string_lossy())
        })
        .collect();
    held.sort_unstable();
    assert_eq!(held, ["0 /dev/null", "1 /dev/null", "2 /dev/null", "3 socket"]);
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(name, "kiln-spawner\n");
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(line.starts_with(b"kiln-spawner\0"), "{}", text(&line));
}

async fn secrets_are_on_no_command_line(bench: Bench<HostExecutor>) {
    const SECRET: &str = "correct-horse-battery";
    let mut session = bench
        .open_with(|spec| {
            spec.masked = crate::bench::secrets([SECRET]);
            spec.env.insert("TOKEN".to_owned(), SECRET.to_owned());
        })
        .await;
    step(&mut session, sh("test -n \"$TOKEN\"")).await.unwrap();
    let init = init_pid(&bench);
    for file in ["cmdline", "environ"] {
        let bytes = std::fs::read(format!("/proc/{init}/{file}")).unwrap();
        assert!(!text(&bytes).contains(SECRET), "{file}");
    }
    let on_disk = std::fs::read_to_string(bench.path("attempt/init.json")).unwrap();
    assert!(!on_disk.contains(SECRET));
    session.close().await.unwrap();
}
