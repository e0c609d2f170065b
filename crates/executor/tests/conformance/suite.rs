//! The promises of `Executor` and `Session`, whatever is behind them.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use kiln_executor::{Executor, Session, StepError};
use kiln_model::Exit;
use kiln_model::log::{EVERY_BYTES, RECORD_BYTES, Record};
use kiln_model::plan::ArtifactRule;
use tokio::sync::watch;

use crate::bench::{Bench, Case, code, command, lives, read_when_there, secrets, sh, step, text};
use crate::cases;

pub fn cases<E: Executor>() -> Vec<Case<E>> {
    cases![
        the_environment_is_exact,
        arguments_are_exact,
        the_directory_is_as_asked,
        a_directory_that_is_not_there_is_kilns_error,
        standard_input_is_empty,
        nothing_else_is_inherited,
        exit_codes_are_told_as_they_are,
        a_signal_is_not_an_exit_code,
        a_missing_command_ends_with_127_and_is_named,
        a_command_that_may_not_run_ends_with_126,
        a_script_without_a_first_line_is_run_by_sh,
        an_impossible_command_is_kilns_error,
        output_is_byte_exact,
        output_and_errors_are_interleaved_as_written,
        fifty_megabytes_arrive_whole,
        a_silent_step_makes_no_log,
        the_index_finds_lines,
        the_first_bytes_are_announced_at_once,
        a_full_log_says_so_once_and_the_step_goes_on,
        secrets_are_masked_also_when_written_in_pieces,
        a_message_of_kiln_is_masked_too,
        a_step_that_takes_too_long_is_timed_out,
        who_ignores_term_is_killed,
        a_cancelled_step_may_clean_up,
        a_step_cancelled_before_it_starts_does_not_start,
        a_step_whose_caller_left_is_cancelled_by_the_next,
        background_processes_outlive_the_step_and_are_heard,
        a_busy_background_process_does_not_hold_the_step,
        daemons_are_killed_at_the_end,
        a_swarm_that_forks_is_killed,
        sessions_do_not_disturb_one_another,
        closing_twice_is_harmless,
        a_closed_session_runs_nothing,
        artifacts_are_collected_by_glob,
        an_artifact_that_is_missing_is_named,
        artifacts_never_come_from_outside,
        odd_artifacts_are_named,
    ]
}

async fn the_environment_is_exact<E: Executor>(bench: Bench<E>) {
    let mut session = bench
        .open_with(|spec| {
            spec.env = [("A", "1"), ("HOME", "/h"), ("PATH", "/usr/bin"), ("Z", "a\nb = $c")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into();
        })
        .await;
    let mut command = command(["env", "-0"]);
    command.env = [("A".to_owned(), "step".to_owned()), ("EMPTY".to_owned(), String::new())].into();
    assert_eq!(step(&mut session, command).await, Ok(Exit::SUCCESS));
    let log = text(&bench.log());
    let mut pairs: Vec<&str> = log.split_terminator('\0').collect();
    pairs.sort_unstable();
    assert_eq!(pairs, ["A=step", "EMPTY=", "HOME=/h", "PATH=/usr/bin", "Z=a\nb = $c"]);
    session.close().await.unwrap();
}

async fn arguments_are_exact<E: Executor>(bench: Bench<E>) {
    let long = "x".repeat(100 << 10);
    let argv = ["printf", "<%s>", "a b", "", "*", "$(id)", "ü\n", "'\"\\", "--", &long];
    let (exit, log) = bench.run(command(argv)).await;
    assert_eq!(exit, Exit::SUCCESS);
    assert_eq!(text(&log), format!("<a b><><*><$(id)><ü\n><'\"\\><--><{long}>"));
}

async fn the_directory_is_as_asked<E: Executor>(bench: Bench<E>) {
    std::fs::create_dir_all(bench.path("work/sub dir/inner")).unwrap();
    symlink("sub dir", bench.path("work/link")).unwrap();
    for (asked, shown) in [
        (None, "work"),
        (Some("."), "work"),
        (Some("sub dir/inner"), "work/sub dir/inner"),
        (Some("./link/inner/"), "work/sub dir/inner"),
    ] {
        let mut command = command(["pwd", "-P"]);
        command.directory = asked.map(str::to_owned);
        let (_, log) = bench.run(command).await;
        let shown = bench.path(shown).canonicalize().unwrap();
        assert_eq!(text(&log), format!("{}\n", shown.display()), "{asked:?}");
    }
}

async fn a_directory_that_is_not_there_is_kilns_error<E: Executor>(bench: Bench<E>) {
    std::fs::write(bench.path("work/file"), "").unwrap();
    symlink("/tmp", bench.path("work/out")).unwrap();
    let mut session = bench.open().await;
    for (asked, cause) in [
        ("not/there", "there is no such directory"),
        ("file", "not a directory"),
        ("../work", "it must be a path inside the workspace, without `..`"),
        ("/tmp", "it must be a path inside the workspace, without `..`"),
        ("", "it must be a path inside the workspace, without `..`"),
        ("out", "it leads out of the workspace"),
    ] {
        let mut command = command(["true"]);
        command.directory = Some(asked.to_owned());
        let expected =
            StepError::Directory { directory: asked.to_owned(), cause: cause.to_owned() };
        assert_eq!(step(&mut session, command).await, Err(expected));
    }
    assert_eq!(step(&mut session, command(["true"])).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
}

async fn standard_input_is_empty<E: Executor>(bench: Bench<E>) {
    let (exit, log) = bench.run(sh("cat; echo $?; readlink /proc/self/fd/0")).await;
    assert_eq!((exit, text(&log).as_str()), (Exit::SUCCESS, "0\n/dev/null\n"));
}

async fn nothing_else_is_inherited<E: Executor>(bench: Bench<E>) {
    // The shell's own look into the folder is over when the loop runs.
    let script = "umask; grep -E '^Sig(Blk|Ign):' /proc/self/status; \
                  for fd in /proc/$$/fd/*; do [ -e $fd ] && echo ${fd##*/}; done";
    let (_, log) = bench.run(sh(script)).await;
    let none = "0000000000000000";
    assert_eq!(text(&log), format!("0022\nSigBlk:\t{none}\nSigIgn:\t{none}\n0\n1\n2\n"));
}

async fn exit_codes_are_told_as_they_are<E: Executor>(bench: Bench<E>) {
    let mut session = bench.open().await;
    for n in [0, 1, 2, 42, 77, 124, 126, 127, 128, 130, 137, 143, 254, 255] {
        assert_eq!(step(&mut session, sh(&format!("exit {n}"))).await, Ok(code(n)));
    }
    session.close().await.unwrap();
}

async fn a_signal_is_not_an_exit_code<E: Executor>(bench: Bench<E>) {
    let mut session = bench.open().await;
    for signal in [1, 2, 3, 6, 9, 11, 13, 15] {
        let exit = step(&mut session, sh(&format!("ulimit -c 0; kill -{signal} $$"))).await;
        assert_eq!(exit, Ok(Exit::Killed { signal }));
    }
    // What a shell says of its child is an exit code.
    assert_eq!(step(&mut session, sh("sh -c 'kill -9 $$'; exit $?")).await, Ok(code(137)));
    session.close().await.unwrap();
}

async fn a_missing_command_ends_with_127_and_is_named<E: Executor>(bench: Bench<E>) {
    for program in ["no-such-program", "./no-such-program", "/no/such/program"] {
        let (exit, log) = bench.run(command([program, "x"])).await;
        let line = format!("kiln: cannot run `{program}`: command not found\n");
        assert_eq!((exit, text(&log)), (code(127), line));
    }
}

async fn a_command_that_may_not_run_ends_with_126<E: Executor>(bench: Bench<E>) {
    let make = |name: &str, content: &str, mode: u32| {
        let path = bench.path("work").join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    make("plain", "text", 0o644);
    make("lost", "#!/no/such/interpreter\n", 0o755);
    for (program, why) in [
        ("./plain", "permission denied"),
        ("./lost", "the interpreter that it names is missing"),
        (".", "permission denied"),
    ] {
        let program = if program == "." { "./" } else { program };
        let (exit, log) = bench.run(command([program])).await;
        let line = format!("kiln: cannot run `{program}`: {why}\n");
        assert_eq!((exit, text(&log)), (code(126), line));
    }
}

async fn a_script_without_a_first_line_is_run_by_sh<E: Executor>(bench: Bench<E>) {
    let path = bench.path("work/script");
    std::fs::write(&path, "echo \"$1,$2\"\n").unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (exit, log) = bench.run(command(["./script", "a b", "c"])).await;
    assert_eq!((exit, text(&log).as_str()), (Exit::SUCCESS, "a b,c\n"));
}

async fn an_impossible_command_is_kilns_error<E: Executor>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let mut empty = command(["x"]);
    empty.argv.clear();
    for impossible in [empty, command([""]), command(["echo", "a\0b"])] {
        let refused = step(&mut session, impossible).await;
        assert!(matches!(refused, Err(StepError::Command(_))), "{refused:?}");
    }
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), "");
}

async fn output_is_byte_exact<E: Executor>(bench: Bench<E>) {
    let mut bytes: Vec<u8> = (0..=255).collect();
    bytes.extend(b"\r\n\x1b[31mred\x1b[0m no newline at the end");
    std::fs::write(bench.path("work/bytes"), &bytes).unwrap();
    let (_, log) = bench.run(command(["cat", "bytes"])).await;
    assert_eq!(log, bytes);
}

async fn output_and_errors_are_interleaved_as_written<E: Executor>(bench: Bench<E>) {
    let script = "i=0; while [ $i -lt 300 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done";
    let (_, log) = bench.run(sh(script)).await;
    let expected: String = (0..300).map(|i| format!("o{i}\ne{i}\n")).collect();
    assert_eq!(text(&log), expected);
}

async fn fifty_megabytes_arrive_whole<E: Executor>(bench: Bench<E>) {
    let (_, log) = bench.run(sh("seq 1 6700000")).await;
    let mut expected = String::with_capacity(log.len());
    for n in 1..=6_700_000 {
        use std::fmt::Write;
        writeln!(expected, "{n}").unwrap();
    }
    assert!(log == expected.as_bytes(), "{} of {} bytes", log.len(), expected.len());
    assert!(log.len() > 50_000_000);
}

async fn a_silent_step_makes_no_log<E: Executor>(bench: Bench<E>) {
    let (exit, _) = bench.run(command(["true"])).await;
    assert_eq!(exit, Exit::SUCCESS);
    assert!(!bench.path("log").exists() && !bench.path("log.idx").exists());
}

async fn the_index_finds_lines<E: Executor>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let script = "seq 1 200000; head -c 300000 /dev/zero | tr '\\0' x; echo; seq 1 50000; \
                  sleep 1.1; printf 'no '; printf 'newline'";
    step(&mut session, sh(script)).await.unwrap();
    session.close().await.unwrap();
    let (log, index) = (bench.log(), std::fs::read(bench.path("log.idx")).unwrap());
    let records: Vec<Record> = index
        .chunks(RECORD_BYTES)
        .map(|bytes| Record::decode(bytes.try_into().expect("whole records")))
        .collect();
    assert_eq!((records[0].offset, records[0].line), (0, 0));
    let mut n_inside = 0;
    for record in &records {
        let before = &log[..record.offset as usize];
        assert!(before.len() < log.len(), "{record:?} speaks of a byte that is there");
        let n_lines = before.iter().filter(|byte| **byte == b'\n').count() as u64;
        assert_eq!(record.line, n_lines, "{record:?}");
        n_inside += usize::from(!before.is_empty() && !before.ends_with(b"\n"));
    }
    // Only inside the line of 300,000 bytes.
    assert!((3..=5).contains(&n_inside), "{n_inside}");
    let mut ends: Vec<u64> = records.iter().map(|record| record.offset).collect();
    ends.push(log.len() as u64);
    assert!(ends.windows(2).all(|two| two[0] < two[1] && two[1] - two[0] <= EVERY_BYTES));
    let at: Vec<i64> = records.iter().map(|record| record.at_ms).collect();
    assert!(at.is_sorted() && at[at.len() - 1] - at[0] >= 1000, "{at:?}");
}

async fn the_first_bytes_are_announced_at_once<E: Executor>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let mut position = session.log();
    let running =
        step(&mut session, sh("echo first; while [ ! -e go ]; do sleep 0.01; done; seq 9"));
    let heard = async {
        let heard = position.wait_for(|position| position.n_bytes == 6).await.unwrap().n_bytes;
        assert_eq!(text(&bench.log()), "first\n");
        std::fs::write(bench.path("work/go"), "").unwrap();
        heard
    };
    let (exit, heard) = tokio::join!(running, heard);
    assert_eq!((exit, heard), (Ok(Exit::SUCCESS), 6));
    assert_eq!(session.log().borrow().n_bytes, 6 + 18);
    session.close().await.unwrap();
}

async fn a_full_log_says_so_once_and_the_step_goes_on<E: Executor>(bench: Bench<E>) {
    let mut session = bench.open_with(|spec| spec.log_bytes_max = 10).await;
    assert_eq!(step(&mut session, sh("seq 1 100000; touch on")).await, Ok(Exit::SUCCESS));
    assert_eq!(step(&mut session, sh("seq 1 10; exit 3")).await, Ok(code(3)));
    session.close().await.unwrap();
    assert!(bench.path("work/on").exists());
    let expected = "1\n2\n3\n4\n5\nkiln: the log is full (10 B); the rest is not kept\n";
    assert_eq!(text(&bench.log()), expected);
}

async fn secrets_are_masked_also_when_written_in_pieces<E: Executor>(bench: Bench<E>) {
    let masked = secrets(["hunter2", "abc", "-----BEGIN-----\nline one\nline two\n-----END-----"]);
    let mut session = bench.open_with(|spec| spec.masked = masked).await;
    let script = "printf 'a hunt'; sleep 0.1; printf 'er2b\\n'; echo abc; \
                  printf hunter2 | base64; echo line two; printf hunt";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    assert_eq!(text(&bench.log()), "a ***b\nabc\n***==\n***\nhunt");
    assert_eq!(step(&mut session, sh("echo er2 hunter2hunter2")).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), "a ***b\nabc\n***==\n***\nhunter2 ******\n");
}

async fn a_message_of_kiln_is_masked_too<E: Executor>(bench: Bench<E>) {
    let mut session = bench.open_with(|spec| spec.masked = secrets(["hunter2"])).await;
    assert_eq!(step(&mut session, command(["./hunter2"])).await, Ok(code(127)));
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), "kiln: cannot run `./***`: command not found\n");
}

async fn a_step_that_takes_too_long_is_timed_out<E: Executor>(bench: Bench<E>) {
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

async fn who_ignores_term_is_killed<E: Executor>(bench: Bench<E>) {
    let mut session = bench.open_with(|spec| spec.grace = Duration::from_millis(100)).await;
    let mut stubborn = sh(
        "trap '' TERM; sh -c 'echo $$ > inner; while :; do sleep 1; done' & while :; do sleep 1; done",
    );
    stubborn.timeout = Some(Duration::from_secs(1));
    assert_eq!(step(&mut session, stubborn).await, Ok(Exit::TimedOut { after_ms: 1000 }));
    let inner = read_when_there(&bench.path("work/inner")).await;
    assert!(!lives(&inner));
    session.close().await.unwrap();
}

async fn a_cancelled_step_may_clean_up<E: Executor>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let (cancel, asked) = watch::channel(false);
    let script = "trap 'sleep 0.05; echo bye; exit 3' TERM; echo ready > ready; \
                  while :; do sleep 0.01; done";
    let running = session.step(sh(script), asked);
    let asking = async {
        read_when_there(&bench.path("work/ready")).await;
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

async fn a_step_cancelled_before_it_starts_does_not_start<E: Executor>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let (_keep, asked) = watch::channel(true);
    assert_eq!(session.step(sh("touch ran"), asked).await, Ok(Exit::Cancelled));
    session.close().await.unwrap();
    assert!(!bench.path("work/ran").exists());
}

async fn a_step_whose_caller_left_is_cancelled_by_the_next<E: Executor>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let first = bench.path("work/first");
    tokio::select! {
        ended = step(&mut session, sh("echo $$ > first; exec sleep 1000")) => panic!("{ended:?}"),
        _ = read_when_there(&first) => {}
    }
    assert_eq!(step(&mut session, sh("exit 6")).await, Ok(code(6)));
    assert!(!lives(&read_when_there(&first).await));
    session.close().await.unwrap();
}

async fn background_processes_outlive_the_step_and_are_heard<E: Executor>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let server = "(while [ ! -e go ]; do sleep 0.01; done; echo late; touch done) & echo early";
    assert_eq!(step(&mut session, sh(server)).await, Ok(Exit::SUCCESS));
    assert_eq!(text(&bench.log()), "early\n");
    let client = "touch go; while [ ! -e done ]; do sleep 0.01; done";
    assert_eq!(step(&mut session, sh(client)).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), "early\nlate\n");
}

async fn a_busy_background_process_does_not_hold_the_step<E: Executor>(bench: Bench<E>) {
    let mut session = bench.open_with(|spec| spec.log_bytes_max = 1 << 20).await;
    assert_eq!(step(&mut session, sh("yes & exit 9")).await, Ok(code(9)));
    assert_eq!(step(&mut session, sh("exit 8")).await, Ok(code(8)));
    session.close().await.unwrap();
}

async fn daemons_are_killed_at_the_end<E: Executor>(bench: Bench<E>) {
    let mut session = bench.open_with(|spec| spec.grace = Duration::from_millis(50)).await;
    // A double fork into a session of its own, with every descriptor closed, deaf to TERM.
    let script = "setsid sh -c 'setsid sh -c \"trap \\\"\\\" TERM HUP; echo \\$\\$ > daemon; \
                  while :; do sleep 1; done\" >/dev/null 2>&1 <&- & exit' >/dev/null 2>&1 &";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    let daemon = read_when_there(&bench.path("work/daemon")).await;
    assert!(lives(&daemon));
    session.close().await.unwrap();
    assert!(!lives(&daemon));
}

async fn a_swarm_that_forks_is_killed<E: Executor>(bench: Bench<E>) {
    let mut session = bench.open_with(|spec| spec.grace = Duration::ZERO).await;
    let script = ": > pids; f() { sh -c 'trap \"\" TERM; echo $$ >> pids; sleep 0.02; . ./again' & }; \
                  echo 'i=0; while [ $i -lt 2 ]; do \
                  sh -c \"echo \\$\\$ >> pids; sleep 0.05; . ./again\" & i=$((i+1)); done; \
                  sleep 0.05; exit' > again; f; f; \
                  while [ $(wc -l < pids) -lt 40 ]; do sleep 0.01; done";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
    let pids = std::fs::read_to_string(bench.path("work/pids")).unwrap();
    assert!(pids.lines().count() >= 40);
    assert!(!pids.lines().any(lives));
}

async fn sessions_do_not_disturb_one_another<E: Executor>(bench: Bench<E>) {
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

async fn closing_twice_is_harmless<E: Executor>(bench: Bench<E>) {
    let mut session = bench.open().await;
    step(&mut session, sh("sleep 1000 &")).await.unwrap();
    assert_eq!(session.close().await, Ok(()));
    assert_eq!(session.close().await, Ok(()));
}

async fn a_closed_session_runs_nothing<E: Executor>(bench: Bench<E>) {
    let mut session = bench.open().await;
    session.close().await.unwrap();
    assert_eq!(step(&mut session, sh("touch ran")).await, Err(StepError::Closed));
    let collected = session.collect(Vec::new(), bench.path("objects")).await;
    assert_eq!(collected, Err(StepError::Closed));
    assert!(!bench.path("work/ran").exists());
}

fn rules<const N: usize>(globs: [&str; N]) -> Vec<ArtifactRule> {
    globs.map(|glob| ArtifactRule { glob: glob.to_owned(), optional: false }).to_vec()
}

async fn artifacts_are_collected_by_glob<E: Executor>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let script = "mkdir -p out/deep 'a b' other; echo one > out/one.txt; echo two > out/deep/two.txt; \
                  echo x > out/deep/x.log; cp /bin/true out/tool; echo s > 'a b/s*p'; : > empty; \
                  ln -s out/one.txt link; ln -s out linked; echo no > other/no.txt";
    step(&mut session, sh(script)).await.unwrap();
    let objects = bench.path("objects");
    for (globs, expected) in [
        (vec!["out/*.txt"], vec!["out/one.txt"]),
        (vec!["./out/**/*.txt"], vec!["out/deep/two.txt", "out/one.txt"]),
        (vec!["out/"], vec!["out/deep/two.txt", "out/deep/x.log", "out/one.txt", "out/tool"]),
        (vec!["o*t/de*"], vec!["out/deep/two.txt", "out/deep/x.log"]),
        (vec!["out/tool", "out/t*", "empty"], vec!["empty", "out/tool"]),
        (vec!["out/{one,two}.txt", "[l]ink"], vec!["link", "out/one.txt"]),
        (vec!["linked/*.txt"], vec!["linked/one.txt"]),
        (vec!["a b/s\\*p"], vec!["a b/s*p"]),
    ] {
        let rules = globs
            .iter()
            .map(|glob| ArtifactRule { glob: (*glob).to_owned(), optional: false })
            .collect();
        let found = session.collect(rules, objects.clone()).await.expect("all is there");
        let paths: Vec<&str> = found.iter().map(|artifact| artifact.path.as_str()).collect();
        assert_eq!(paths, expected, "{globs:?}");
        for artifact in found {
            let (folder, file) = artifact.digest.as_str().split_at(2);
            let kept = std::fs::read(objects.join(folder).join(file)).unwrap();
            assert_eq!(kept, std::fs::read(bench.path("work").join(&artifact.path)).unwrap());
            assert_eq!(artifact.n_bytes, kept.len() as u64);
            assert_eq!(artifact.executable, artifact.path == "out/tool");
        }
    }
    let optional = vec![ArtifactRule { glob: "*.none".to_owned(), optional: true }];
    assert_eq!(session.collect(optional, objects.clone()).await, Ok(vec![]));
    session.close().await.unwrap();
    let left_over = std::fs::read_dir(objects).unwrap().flatten();
    assert!(left_over.into_iter().all(|entry| entry.file_name().len() == 2));
}

async fn an_artifact_that_is_missing_is_named<E: Executor>(bench: Bench<E>) {
    let mut session = bench.open().await;
    for glob in ["none.txt", "no/such/*", "**/*.xml"] {
        let expected =
            StepError::Artifact { what: glob.to_owned(), cause: "no file matches it".to_owned() };
        assert_eq!(session.collect(rules([glob]), bench.path("objects")).await, Err(expected));
    }
    for glob in ["", "../x", "/etc/passwd", "a/../../b", "a[", "a/{b"] {
        let refused = session.collect(rules([glob]), bench.path("objects")).await;
        assert!(
            matches!(&refused, Err(StepError::Artifact { what, .. }) if what == glob),
            "{glob}: {refused:?}"
        );
    }
    session.close().await.unwrap();
}

async fn artifacts_never_come_from_outside<E: Executor>(bench: Bench<E>) {
    std::fs::write(bench.path("outside"), "not yours").unwrap();
    let mut session = bench.open().await;
    let script = "ln -s ../outside up; ln -s /etc/passwd absolute; ln -s .. parent; \
                  mkdir d; ln -s ../../outside d/up; ln -s /proc/self/root root";
    step(&mut session, sh(script)).await.unwrap();
    for glob in ["up", "absolute", "parent/outside", "parent/*", "d", "d/*", "root/etc/passwd"] {
        let refused = session.collect(rules([glob]), bench.path("objects")).await;
        assert!(matches!(refused, Err(StepError::Artifact { .. })), "{glob}: {refused:?}");
    }
    // A link that is not asked for does no harm, and a walk does not go through it.
    let found = session.collect(rules(["**/outside"]), bench.path("objects")).await;
    assert!(matches!(&found, Err(StepError::Artifact { what, .. }) if what == "**/outside"));
    session.close().await.unwrap();
    assert!(!bench.path("objects").exists());
}

async fn odd_artifacts_are_named<E: Executor>(bench: Bench<E>) {
    let mut session = bench.open().await;
    step(&mut session, sh("mkfifo fifo; ln -s gone dangling; mkdir d; ln -s d folder"))
        .await
        .unwrap();
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9");
    std::fs::write(bench.path("work").join(Path::new(name)), "").unwrap();
    for (glob, what, cause) in [
        ("fifo", "fifo", "it is not a regular file"),
        ("dang*", "dangling", "it is a link to `gone`, which does not exist"),
        ("fold*", "folder", "it is a link to a folder"),
        ("caf*", "caf\u{fffd}", "its name is not UTF-8"),
    ] {
        let expected = StepError::Artifact { what: what.to_owned(), cause: cause.to_owned() };
        let refused = session.collect(rules([glob]), bench.path("objects")).await;
        assert_eq!(refused, Err(expected));
    }
    session.close().await.unwrap();
}
