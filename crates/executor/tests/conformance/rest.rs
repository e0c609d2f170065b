//! A session that is handed on to another job.

use std::path::Path;
use std::time::Duration;

use kiln_executor::{Executor, HostExecutor, OpenError, Session, SessionSpec};
use kiln_model::{AttemptId, Exit, JobIndex, RunId};

use crate::bench::{Bench, Case, lives, read_when_there, secrets, sh, step, text, until};
use crate::cases;
use crate::host::{is_root, on, overlay};

pub fn cases() -> Vec<Case<HostExecutor>> {
    cases![
        the_next_job_finds_nothing_of_the_last,
        a_session_whose_mounts_were_touched_is_closed,
        a_session_without_a_mount_is_closed,
        a_renewal_on_other_layers_is_refused,
        a_resting_session_ends_with_its_owner,
    ]
}

/// Another attempt whose folder is the first one's, renamed.
fn next(bench: &Bench<HostExecutor>, first: &SessionSpec) -> SessionSpec {
    std::fs::rename(&first.attempt_dir, bench.path("next")).unwrap();
    SessionSpec {
        attempt: AttemptId { run: RunId(7), job: JobIndex(1), attempt: 1 },
        attempt_dir: bench.path("next"),
        log: bench.path("next.log"),
        mount: first.mount.clone(),
        container: None,
        further: Vec::new(),
        preface: Vec::new(),
        directory: first.directory.clone(),
        ..bench.spec()
    }
}

async fn the_next_job_finds_nothing_of_the_last(bench: Bench<HostExecutor>) {
    let Some(mount) = overlay(&bench).await else { return };
    let mut spec = bench.spec();
    on(mount)(&mut spec);
    let plain = spec.clone();
    spec.env.insert("TOKEN".to_owned(), "hunter22".to_owned());
    spec.masked = secrets(["hunter22"]);
    spec.grace = Duration::ZERO;
    let mut session = bench.executor.open(spec).await.unwrap();
    let pid = bench.path("pid");
    let script =
        format!("echo $TOKEN; setsid sleep 1000 & echo $! > {}; printf half", pid.display());
    assert_eq!(step(&mut session, sh(&script)).await, Ok(Exit::SUCCESS));
    let pid = read_when_there(&pid).await;
    assert_eq!(session.rest().await, Ok(true));
    assert!(!lives(&pid));

    session.renew(next(&bench, &plain)).await.unwrap();
    assert_eq!(session.log().borrow().n_bytes, 0);
    let script = "echo ${TOKEN-none} hunter22; cat file; ls; umask; readlink /proc/self/fd/0";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    let (_keep, never) = tokio::sync::watch::channel(false);
    assert_eq!(session.resume(never).await, Ok(None));
    let seen = "none hunter22\nlower\nfile\nsub\n0022\n/dev/null\n";
    assert_eq!(session.log().borrow().n_bytes, seen.len() as u64);
    assert_eq!(session.close().await, Ok(()));
    assert_eq!(std::fs::read_to_string(bench.path("next.log")).unwrap(), seen);
    assert_eq!(text(&bench.log()), "***\nhalf");
    assert!(!bench.path("next/init.json").exists() && !bench.path("attempt").exists());
}

async fn a_session_whose_mounts_were_touched_is_closed(bench: Bench<HostExecutor>) {
    let Some(mount) = overlay(&bench).await.filter(|_| is_root()) else { return };
    let mut session = bench.open_with(on(mount)).await;
    let script = "mount -t tmpfs none sub; umount sub";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    assert_eq!(session.rest().await, Ok(false));
    assert_eq!(session.close().await, Ok(()));
}

async fn a_session_without_a_mount_is_closed(bench: Bench<HostExecutor>) {
    let mut session = bench.open().await;
    assert_eq!(step(&mut session, sh("true")).await, Ok(Exit::SUCCESS));
    assert_eq!(session.rest().await, Ok(false));
    assert!(matches!(session.renew(bench.spec()).await, Err(OpenError::Gone)));
    assert_eq!(session.close().await, Ok(()));
}

async fn a_renewal_on_other_layers_is_refused(bench: Bench<HostExecutor>) {
    let Some(mount) = overlay(&bench).await else { return };
    let mut spec = bench.spec();
    on(mount)(&mut spec);
    let mut session = bench.executor.open(spec.clone()).await.unwrap();
    assert_eq!(session.rest().await, Ok(true));
    let mut other = next(&bench, &spec);
    other.mount.as_mut().unwrap().lowers.push(bench.path("work"));
    assert!(matches!(session.renew(other).await, Err(OpenError::Gone)));
}

async fn a_resting_session_ends_with_its_owner(bench: Bench<HostExecutor>) {
    let Some(mount) = overlay(&bench).await else { return };
    let mut spec = bench.spec();
    on(mount)(&mut spec);
    // Only work that is under way is worth waiting for a new owner.
    spec.orphan_for = Duration::from_secs(1000);
    let mut session = bench.executor.open(spec).await.unwrap();
    let pid = pid_of_init(&bench.path("attempt"));
    assert_eq!(step(&mut session, sh("true")).await, Ok(Exit::SUCCESS));
    assert_eq!(session.rest().await, Ok(true));
    assert!(lives(&pid));
    drop(session);
    until("the session's process is gone", || !lives(&pid)).await;
}

fn pid_of_init(attempt_dir: &Path) -> String {
    let text = std::fs::read(attempt_dir.join("init.json")).unwrap();
    let file: serde_json::Value = serde_json::from_slice(&text).unwrap();
    file["pid"].to_string()
}
