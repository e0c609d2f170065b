//! A session that is handed on to another job.

use std::path::Path;
use std::time::Duration;

use kiln_executor::{Executor, HostExecutor, OpenError, Session, SessionSpec};
use kiln_model::{AttemptId, Exit, JobIndex, RunId};

use crate::bench::{Bench, Case, code, lives, read_when_there, secrets, sh, step, text, until};
use crate::cases;
use crate::container::{contained, image};
use crate::host::is_root;
use crate::overlay::{on, overlay};

pub fn cases() -> Vec<Case<HostExecutor>> {
    cases![
        the_next_job_finds_nothing_of_the_last,
        a_session_whose_mounts_were_touched_is_closed,
        a_session_without_a_mount_is_closed,
        a_renewal_on_other_layers_is_refused,
        a_resting_session_ends_with_its_owner,
        a_container_that_was_left_as_it_was_serves_the_next_job,
        a_container_looks_again_at_files_that_somebody_edits,
        what_a_job_leaves_in_a_container_is_nobody_elses,
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

async fn a_container_that_was_left_as_it_was_serves_the_next_job(bench: Bench<HostExecutor>) {
    let Some(spec) = contained(&bench, image(&bench), !is_root()).await else { return };
    let mut session = bench.executor.open(spec.clone()).await.unwrap();
    let script = "cd /; ls / /dev /workspace > /dev/null; setsid sleep 1000 & echo $$ > /dev/null; cat /etc/hosts";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    assert_eq!(session.rest().await, Ok(true));

    let mut second = next(&bench, &spec);
    (second.container, second.network) = (spec.container, spec.network);
    second.env.insert("WHO".to_owned(), "second".to_owned());
    session.renew(second).await.unwrap();
    assert_eq!(
        step(&mut session, sh("echo $WHO in $PWD; ps | grep -c '[s]leep'")).await,
        Ok(code(1))
    );
    assert_eq!(session.close().await, Ok(()));
    let said = std::fs::read_to_string(bench.path("next.log")).unwrap();
    assert_eq!(said, "second in /workspace\n0\n");
}

async fn a_container_looks_again_at_files_that_somebody_edits(bench: Bench<HostExecutor>) {
    let Some(spec) = contained(&bench, image(&bench), !is_root()).await else { return };
    let lower = spec.mount.as_ref().unwrap().lowers[0].clone();
    let mut session = bench.executor.open(spec.clone()).await.unwrap();
    assert_eq!(step(&mut session, sh("ls; cat file; cat new")).await, Ok(code(1)));
    assert_eq!(session.rest().await, Ok(true));

    let mut second = next(&bench, &spec);
    (second.container, second.network) = (spec.container, spec.network);
    session.renew(second).await.unwrap();
    std::fs::write(lower.join("new"), "new\n").unwrap();
    assert_eq!(session.remount(spec.mount.clone()).await, Ok(true));
    assert_eq!(step(&mut session, sh("cat new")).await, Ok(Exit::SUCCESS));
    // It is as good as before for a third job, and what is written shows.
    assert_eq!(session.rest().await, Ok(true));
    let top = spec.mount.as_ref().unwrap().upper.clone();
    assert_eq!(std::fs::read_dir(top).unwrap().count(), 0);
    assert_eq!(session.close().await, Ok(()));
}

async fn what_a_job_leaves_in_a_container_is_nobody_elses(bench: Bench<HostExecutor>) {
    let Some(spec) = contained(&bench, image(&bench), !is_root()).await else { return };
    let leaves = [
        "touch /left",
        "touch /tmp/left",
        "touch /etc/passwd",
        "touch /dev/left",
        "echo left > /dev/shm/left",
        "mkdir /dev/shm/left; test -d /dev/shm/left",
        "echo 127.0.0.9 left >> /etc/hosts",
        "cat /etc/hosts > /tmp/hosts; cat /tmp/hosts > /etc/hosts",
    ];
    for script in leaves {
        let tops = ["upper", "work-folder", "root-upper", "root-work"];
        for name in tops.iter().chain(&["attempt"]) {
            let _ = std::fs::remove_dir_all(bench.path(name));
        }
        tops.iter().for_each(|name| std::fs::create_dir_all(bench.path(name)).unwrap());
        let mut session = bench.executor.open(spec.clone()).await.unwrap();
        assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS), "{script}");
        assert_eq!(session.rest().await, Ok(false), "{script}");
        assert_eq!(session.close().await, Ok(()));
    }
}

fn pid_of_init(attempt_dir: &Path) -> String {
    let text = std::fs::read(attempt_dir.join("init.json")).unwrap();
    let file: serde_json::Value = serde_json::from_slice(&text).unwrap();
    file["pid"].to_string()
}
