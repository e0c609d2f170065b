//! Bounds on what a session uses, and the account of what its steps have used.

use std::path::PathBuf;

use kiln_executor::host::{reap, try_limits};
use kiln_executor::{Executor, HostExecutor, Session};
use kiln_model::plan::Limits;
use kiln_model::{Exit, Usage};

use crate::bench::{Bench, Case, code, command, lives, read_when_there, sh, step, text, until};
use crate::cases;

/// Of every executor whose machine can bound all processes of a session together.
pub fn cases<E: Executor>() -> Vec<Case<E>> {
    cases![
        a_step_out_of_memory_is_told_apart,
        a_step_that_survives_a_process_out_of_memory_succeeds,
        too_many_processes_are_refused_and_the_log_says_why,
        a_limit_too_small_to_start_anything_is_named,
        what_a_step_used_is_told,
    ]
}

/// Of the host executor.
pub fn cases_of_host() -> Vec<Case<HostExecutor>> {
    cases![
        the_group_is_as_asked_and_goes_with_the_session,
        a_group_outlives_nobody,
        a_group_goes_also_when_its_folder_has_gone_before,
        a_session_that_cannot_open_leaves_no_group,
        only_what_is_bounded_has_a_group,
    ]
}

const MEMORY: u64 = 64_000_000;

/// Whether this machine lets us make groups for everything. The suite says so where it does not.
pub fn has_groups() -> bool {
    let folder = tempfile::tempdir().unwrap();
    let held = try_limits(folder.path()).unwrap();
    let without: Vec<_> =
        held.iter().filter_map(|(name, why)| Some((name, why.as_ref()?))).collect();
    if !without.is_empty() {
        println!("no control groups here: {without:?}");
    }
    without.is_empty()
}

async fn bounded<E: Executor>(bench: &Bench<E>, limits: Limits) -> E::Session {
    bench.open_with(|spec| spec.limits = limits).await
}

fn memory(n_bytes: u64) -> Limits {
    Limits { memory: Some(n_bytes), ..Limits::default() }
}

async fn a_step_out_of_memory_is_told_apart<E: Executor>(bench: Bench<E>) {
    if !has_groups() {
        return;
    }
    let mut session = bounded(&bench, memory(MEMORY)).await;
    // What `tail` cannot print before the end it keeps.
    let greedy = sh("echo begun; head -c 300000000 /dev/zero | tail -c 299999999 > /dev/null");
    let exit = step(&mut session, greedy).await.unwrap();
    assert_eq!(exit, Exit::OutOfMemory { limit_bytes: Some(MEMORY) });
    assert_eq!(exit.ended(), "ran out of memory: the limit is 64.0 MB (`limits.memory`)");
    let usage = session.usage().unwrap();
    assert!(
        usage.memory_bytes.is_some_and(|peak| peak <= MEMORY && peak > MEMORY / 2),
        "{usage:?}"
    );
    // The session is none the worse.
    assert_eq!(step(&mut session, sh("echo again; exit 3")).await, Ok(code(3)));
    let small = session.usage().unwrap();
    assert!(small.memory_bytes.is_none_or(|peak| peak < MEMORY / 2), "{small:?}");
    // Nor is what dies of a signal of its own out of memory.
    assert_eq!(step(&mut session, sh("kill -9 $$")).await, Ok(Exit::Killed { signal: 9 }));
    session.close().await.unwrap();
    let log = text(&bench.log());
    let said = "kiln: out of memory: the limit is 64.0 MB (`limits.memory`)\n";
    assert!(log.starts_with("begun\n") && log.contains(said) && log.ends_with("again\n"), "{log}");
}

async fn a_step_that_survives_a_process_out_of_memory_succeeds<E: Executor>(bench: Bench<E>) {
    if !has_groups() {
        return;
    }
    let mut session = bounded(&bench, memory(MEMORY)).await;
    let greedy = "head -c 300000000 /dev/zero | tail -c 299999999 > /dev/null; echo lived";
    assert_eq!(step(&mut session, sh(greedy)).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
    let said =
        "kiln: a process was killed for want of memory: the limit is 64.0 MB (`limits.memory`)";
    assert!(text(&bench.log()).contains(said), "{}", text(&bench.log()));
}

async fn too_many_processes_are_refused_and_the_log_says_why<E: Executor>(bench: Bench<E>) {
    if !has_groups() {
        return;
    }
    let limits = Limits { pids: Some(12), ..Limits::default() };
    let mut session = bounded(&bench, limits).await;
    let many = "i=0; while [ $i -lt 30 ]; do sleep 1000 & i=$((i+1)); done";
    let exit = step(&mut session, sh(many)).await.unwrap();
    assert!(matches!(exit, Exit::Code { code } if code != 0), "{exit:?}");
    assert_eq!(session.usage().unwrap().n_processes.filter(|n| *n != 12), None);
    session.close().await.unwrap();
    let log = text(&bench.log());
    let said = "kiln: a process could not be started: the limit is 12 (`limits.pids`)\n";
    assert!(log.ends_with(said), "{log}");
}

async fn a_limit_too_small_to_start_anything_is_named<E: Executor>(bench: Bench<E>) {
    if !has_groups() {
        return;
    }
    let mut session = bounded(&bench, memory(8 << 10)).await;
    let exit = step(&mut session, sh("echo never")).await.unwrap();
    session.close().await.unwrap();
    let log = text(&bench.log());
    let too_little = exit == code(126) && log.contains("is too little memory to start it");
    let out = matches!(exit, Exit::OutOfMemory { .. }) && log.contains("out of memory");
    assert!((too_little || out) && log.contains("`limits.memory`"), "{exit:?}: {log}");
    assert!(!log.contains("never"), "{log}");
}

async fn what_a_step_used_is_told<E: Executor>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let busy = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; \
                dd if=/dev/zero of=big bs=1M count=8 conv=fsync 2> /dev/null";
    assert_eq!(step(&mut session, sh(busy)).await, Ok(Exit::SUCCESS));
    let usage = session.usage().expect("it is known");
    assert!(usage.cpu_us().is_some_and(|us| us > 1_000), "{usage:?}");
    assert!(usage.process_bytes.is_some_and(|n| n > 100_000), "{usage:?}");
    assert!(usage.written_bytes.is_none_or(|n| n >= 8 << 20 || is_in_memory(&bench)), "{usage:?}");
    // One step's account is not another's.
    assert_eq!(step(&mut session, command(["true"])).await, Ok(Exit::SUCCESS));
    let less = session.usage().expect("it is known");
    assert!(less.cpu_us() < usage.cpu_us(), "{less:?}");
    assert!(less.written_bytes.is_none_or(|n| n < 8 << 20), "{less:?}");
    // What did not start has used nothing that is known.
    assert_eq!(step(&mut session, command(["not-there"])).await, Ok(code(127)));
    assert_eq!(session.usage(), None::<Usage>);
    session.close().await.unwrap();
}

fn is_in_memory<E: Executor>(bench: &Bench<E>) -> bool {
    /// linux/magic.h.
    const TMPFS: u64 = 0x0102_1994;
    rustix::fs::statfs(bench.folder.path()).is_ok_and(|fs| u64::try_from(fs.f_type) == Ok(TMPFS))
}

fn folders(bench: &Bench<HostExecutor>) -> Vec<PathBuf> {
    let text = std::fs::read(bench.path("attempt/cgroups.json")).unwrap_or_default();
    let found: Vec<String> = serde_json::from_slice(&text).unwrap_or_default();
    found.into_iter().map(PathBuf::from).collect()
}

async fn the_group_is_as_asked_and_goes_with_the_session(bench: Bench<HostExecutor>) {
    if !has_groups() {
        return;
    }
    let limits = Limits { cpu_millis: Some(1_500), memory: Some(MEMORY), pids: Some(50) };
    let mut session = bounded(&bench, limits).await;
    let found = folders(&bench);
    assert!(!found.is_empty());
    let value = |name: &str| {
        let files = found.iter().map(|folder| folder.join(name));
        let values: Vec<_> = files.filter_map(|file| std::fs::read_to_string(file).ok()).collect();
        values.first().map(|value| value.trim().to_owned())
    };
    let cpu = value("cpu.cfs_quota_us").or_else(|| value("cpu.max"));
    assert!(cpu.as_deref().is_some_and(|cpu| cpu.starts_with("150000")), "{cpu:?}");
    assert_eq!(value("pids.max").as_deref(), Some("50"));
    let memory = value("memory.limit_in_bytes").or_else(|| value("memory.max"));
    let memory: u64 = memory.unwrap().parse().unwrap();
    assert!(memory <= MEMORY && memory > MEMORY - 8192, "in whole pages: {memory}");
    // Every process is in there, those that lost their parent too.
    let script = "(setsid sleep 1000 & echo $! > daemon); echo $$; cat /proc/self/cgroup";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    let daemon = read_when_there(&bench.path("work/daemon")).await;
    for folder in &found {
        let inside = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap();
        assert!(inside.lines().any(|pid| pid == daemon), "{inside}");
    }
    session.close().await.unwrap();
    assert!(found.iter().all(|folder| !folder.exists()), "{found:?}");
    assert!(!lives(&daemon));
    assert!(!bench.path("attempt/cgroups.json").exists());
}

async fn a_group_outlives_nobody(bench: Bench<HostExecutor>) {
    if !has_groups() {
        return;
    }
    let mut session = bounded(&bench, memory(MEMORY)).await;
    // One that has nothing of the attempt about it but its group.
    let script = "(cd / && exec env -i setsid sleep 1000 > /dev/null 2>&1) & echo $! > daemon";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    let daemon = read_when_there(&bench.path("work/daemon")).await;
    let found = folders(&bench);
    let init = std::fs::read_to_string(bench.path("attempt/init.json")).unwrap();
    let init: serde_json::Value = serde_json::from_str(&init).unwrap();
    let pid = i32::try_from(init["pid"].as_i64().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert!(session.close().await.is_err());
    assert!(found.iter().all(|folder| folder.exists()));
    reap(bench.spec().attempt, &bench.path("attempt"));
    assert!(found.iter().all(|folder| !folder.exists()), "{found:?}");
    until("the daemon ends", || !lives(&daemon)).await;
    // Twice is harmless.
    reap(bench.spec().attempt, &bench.path("attempt"));
}

/// Somebody removes the data folder while jobs run.
async fn a_group_goes_also_when_its_folder_has_gone_before(bench: Bench<HostExecutor>) {
    if !has_groups() {
        return;
    }
    let mut session = bounded(&bench, memory(MEMORY)).await;
    let found = folders(&bench);
    assert_eq!(step(&mut session, sh("setsid sleep 1000 &")).await, Ok(Exit::SUCCESS));
    std::fs::remove_dir_all(bench.path("attempt")).unwrap();
    let _ = session.close().await;
    assert!(found.iter().all(|folder| !folder.exists()), "{found:?}");
}

async fn a_session_that_cannot_open_leaves_no_group(bench: Bench<HostExecutor>) {
    if !has_groups() {
        return;
    }
    let mut spec = bench.spec();
    spec.limits = memory(MEMORY);
    spec.directory = bench.path("not-there");
    assert!(bench.executor.open(spec).await.is_err());
    assert!(!bench.path("attempt/cgroups.json").exists());
}

async fn only_what_is_bounded_has_a_group(bench: Bench<HostExecutor>) {
    let mut session = bench.open().await;
    assert!(!bench.path("attempt/cgroups.json").exists());
    session.close().await.unwrap();
}
