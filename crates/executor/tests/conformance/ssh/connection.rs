//! Connections that are refused, and connections that end.

use std::path::PathBuf;

use kiln_executor::{Executor, OpenError, Remote, Session};
use kiln_model::Exit;
use kiln_stdx::process;

use super::Far;
use crate::bench::{Bench, Case, lives, read_when_there, sh, step, text, until};
use crate::cases;

pub fn cases() -> Vec<Case<Far>> {
    cases![
        a_lost_connection_is_a_host_that_is_gone,
        a_killed_session_leaves_nothing_there,
        nobody_is_asked_for_a_password_or_a_key,
    ]
}

async fn a_lost_connection_is_a_host_that_is_gone(bench: Bench<Far>) {
    let mut session = bench.open().await;
    let work = bench.executor.work();
    let running = step(&mut session, sh("echo begun; echo $$ > pid; sleep 1000"));
    let (exit, pid) = tokio::join!(running, async {
        let pid = read_when_there(&work.join("pid")).await;
        until("its output is here", || bench.log() == b"begun\n").await;
        connections(&bench).iter().for_each(|ssh| kill(ssh));
        pid
    });
    let Ok(Exit::HostGone { detail }) = exit else { panic!("{exit:?}") };
    assert!(detail.contains("`far`"), "{detail}");
    until("the far side has noticed", || !lives(&pid) && bench.executor.folders().is_empty()).await;
    // What comes after has no machine to run on.
    assert!(matches!(step(&mut session, sh("true")).await, Ok(Exit::HostGone { .. })));
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), "begun\n");
}

async fn a_killed_session_leaves_nothing_there(bench: Bench<Far>) {
    let mut session = bench.open().await;
    let noted = bench.executor.work().join("pid");
    let pid = tokio::select! {
        ended = step(&mut session, sh("echo $$ > pid; sleep 1000 & sleep 1000")) => panic!("{ended:?}"),
        pid = read_when_there(&noted) => pid,
    };
    let attempt = bench.spec().attempt;
    bench.executor.reap(attempt, &bench.path("attempt"));
    until("the far side has noticed", || !lives(&pid) && bench.executor.folders().is_empty()).await;
    until("the connection is closed", || connections(&bench).is_empty()).await;
    assert!(session.close().await.is_err());
}

async fn nobody_is_asked_for_a_password_or_a_key(bench: Bench<Far>) {
    let sshd = &bench.executor;
    let known = std::fs::read_to_string(sshd.path("known")).unwrap();
    let config = std::fs::read_to_string(sshd.path("config")).unwrap();
    let other = std::fs::read_to_string(sshd.path("user.pub")).unwrap();
    let place = known.split_whitespace().next().unwrap();
    let changed = format!("{place} {other}");
    for (known, find, instead, why) in [
        ("", "", "", "the host key of `far` is not known here"),
        (changed.as_str(), "", "", "somebody stands between"),
        (known.as_str(), "IdentityFile", "IdentityFile /dev/null\n#", "accepts no key of ours"),
        (
            known.as_str(),
            "HostName 127.0.0.1",
            "HostName no-such-host.invalid",
            "cannot connect to `far`",
        ),
        (known.as_str(), "Port ", "Port 1 #", "cannot connect to `far`"),
    ] {
        let (known_at, config_at) = (bench.path("known"), bench.path("config"));
        std::fs::write(&known_at, known).unwrap();
        let config = config
            .replace(&sshd.path("known").display().to_string(), &known_at.display().to_string());
        let config = if find.is_empty() { config } else { config.replace(find, instead) };
        std::fs::write(&config_at, config).unwrap();
        let mut spec = bench.spec();
        spec.remote = Some(Remote { config: Some(config_at), ..bench.executor.remote() });
        let refused = bench.executor.open(spec).await.map(drop);
        let Err(OpenError::Other(told)) = refused else { panic!("{refused:?}") };
        assert!(told.contains(why), "{told}");
    }
    for host in ["", "-oProxyCommand=x", "a`id`", "a b", "a;b", "$(x)"] {
        let mut spec = bench.spec();
        spec.remote = Some(Remote { host: host.to_owned(), ..bench.executor.remote() });
        let refused = bench.executor.open(spec).await.map(drop);
        assert!(
            matches!(&refused, Err(OpenError::Other(why)) if why.contains("no name of a host")),
            "{refused:?}"
        );
    }
    assert_eq!(bench.executor.folders(), Vec::<PathBuf>::new());
    assert!(connections(&bench).is_empty());
}

/// The processes of this case's connection.
fn connections(bench: &Bench<Far>) -> Vec<String> {
    let config = bench.executor.path("config");
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"ssh\0") && text(&line).contains(&config.display().to_string())
    })
    .collect()
}

fn kill(pid: &str) {
    let mut kill = process::command("kill");
    process::output(kill.args(["-9", pid])).unwrap();
}
