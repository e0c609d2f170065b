//! What a step is given on another machine, and how its end is told from there.

use kiln_executor::{Session, SessionSpec, StepError};
use kiln_model::Exit;

use super::Far;
use crate::bench::{Bench, Case, code, command, secrets, sh, step, text};
use crate::cases;

pub fn cases() -> Vec<Case<Far>> {
    cases![
        a_far_step_inherits_nothing,
        a_far_signal_is_not_an_exit_code,
        the_far_machine_gives_its_own_variables,
        odd_names_of_variables_arrive_too,
        secrets_are_on_no_command_line_there,
    ]
}

async fn a_far_step_inherits_nothing(bench: Bench<Far>) {
    let script = "umask; grep '^SigBlk:' /proc/self/status; \
                  [ $((0x$(sed -n 's/^SigIgn:.//p' /proc/self/status) & 0x7fffffff)) = 0 ] && echo none; \
                  for fd in /proc/$$/fd/*; do [ -e $fd ] && echo ${fd##*/}; done";
    let (_, log) = bench.run(sh(script)).await;
    assert_eq!(text(&log), "0022\nSigBlk:\t0000000000000000\nnone\n0\n1\n2\n");
}

async fn a_far_signal_is_not_an_exit_code(bench: Bench<Far>) {
    let mut session = bench.open().await;
    // Not 3, which the shell of busybox does not heed.
    for signal in [1, 6, 9, 11, 15] {
        let exit = step(&mut session, sh(&format!("ulimit -c 0; kill -{signal} $$"))).await;
        assert_eq!(exit, Ok(Exit::Killed { signal }));
    }
    // Of these a shell says nothing.
    for signal in [2, 13] {
        let exit = step(&mut session, sh(&format!("kill -{signal} $$"))).await;
        assert_eq!(exit, Ok(code(128 + signal)));
    }
    assert_eq!(step(&mut session, sh("exit 137")).await, Ok(code(137)));
    session.close().await.unwrap();
}

async fn the_far_machine_gives_its_own_variables(bench: Bench<Far>) {
    let mut remote = bench.executor.remote();
    remote.machine_env = ["HOME", "KEPT", "LC_ALL", "PATH"].map(str::to_owned).to_vec();
    remote.workspace_env = vec!["WORK".to_owned()];
    let mut session = bench
        .open_with(|spec| {
            spec.env = [("PATH".to_owned(), "/bin:/usr/bin".to_owned())].into();
            spec.remote = Some(remote);
        })
        .await;
    let work = bench.executor.work();
    assert_eq!(step(&mut session, command(["env"])).await, Ok(Exit::SUCCESS));
    let log = text(&bench.log());
    let mut lines: Vec<&str> = log.lines().filter(|line| !line.starts_with("_=")).collect();
    lines.sort_unstable();
    let home = format!("HOME={}", bench.executor.path("home").display());
    let work = format!("WORK={}", work.display());
    assert_eq!(lines, [home.as_str(), "KEPT=far", "PATH=/bin:/usr/bin", work.as_str()]);
    session.close().await.unwrap();
}

async fn odd_names_of_variables_arrive_too(bench: Bench<Far>) {
    let env =
        [("UID", "12"), ("a-b", "x y\nz"), ("IFS", "0123"), ("k_dir", "/"), ("A", "'\"\\$(id)")];
    let spec = |spec: &mut SessionSpec| {
        spec.env.extend(env.map(|(name, value)| (name.to_owned(), value.to_owned())));
    };
    let mut session = bench.open_with(spec).await;
    assert_eq!(step(&mut session, command(["env", "-0"])).await, Ok(Exit::SUCCESS));
    let log = text(&bench.log());
    for (name, value) in env {
        assert!(log.split('\0').any(|pair| pair == format!("{name}={value}")), "{name}: {log:?}");
    }
    session.close().await.unwrap();
    let hidden = |spec: &mut SessionSpec| {
        spec.env.insert("a-b".to_owned(), "sesame".to_owned());
        spec.masked = secrets(["sesame"]);
    };
    let mut session = bench.open_with(hidden).await;
    let refused = step(&mut session, command(["true"])).await;
    assert!(
        matches!(&refused, Err(StepError::Command(why)) if why.contains("`a-b`")),
        "{refused:?}"
    );
    session.close().await.unwrap();
}

async fn secrets_are_on_no_command_line_there(bench: Bench<Far>) {
    let hidden = |spec: &mut SessionSpec| {
        spec.env.insert("TOKEN".to_owned(), "open sesame".to_owned());
        spec.masked = secrets(["open sesame"]);
    };
    let mut session = bench.open_with(hidden).await;
    let script =
        "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c 'n sesam[e]'; echo $TOKEN";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), "0\n***\n");
}
