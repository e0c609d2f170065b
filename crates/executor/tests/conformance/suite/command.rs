//! What a step is given, and what its end is.

use std::os::unix::fs::{PermissionsExt, symlink};

use kiln_executor::{Session, StepError};
use kiln_model::Exit;

use crate::bench::{Bench, Case, Subject, code, command, sh, step, text};
use crate::cases;

pub fn cases<E: Subject>() -> Vec<Case<E>> {
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
    ]
}

async fn the_environment_is_exact<E: Subject>(bench: Bench<E>) {
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

async fn arguments_are_exact<E: Subject>(bench: Bench<E>) {
    let long = "x".repeat(100 << 10);
    let argv = ["printf", "<%s>", "a b", "", "*", "$(id)", "ü\n", "'\"\\", "--", &long];
    let (exit, log) = bench.run(command(argv)).await;
    assert_eq!(exit, Exit::SUCCESS);
    assert_eq!(text(&log), format!("<a b><><*><$(id)><ü\n><'\"\\><--><{long}>"));
}

async fn the_directory_is_as_asked<E: Subject>(bench: Bench<E>) {
    std::fs::create_dir_all(bench.path("work/sub dir/inner")).unwrap();
    symlink("sub dir", bench.path("work/link")).unwrap();
    let mut session = bench.open().await;
    let work = bench.seen("").canonicalize().unwrap();
    let mut expected = String::new();
    for (asked, shown) in [
        (None, ""),
        (Some("."), ""),
        (Some("sub dir/inner"), "/sub dir/inner"),
        (Some("./link/inner/"), "/sub dir/inner"),
    ] {
        let mut command = command(["pwd", "-P"]);
        command.directory = asked.map(str::to_owned);
        assert_eq!(step(&mut session, command).await, Ok(Exit::SUCCESS));
        expected.push_str(&format!("{}{shown}\n", work.display()));
    }
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), expected);
}

async fn a_directory_that_is_not_there_is_kilns_error<E: Subject>(bench: Bench<E>) {
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

async fn standard_input_is_empty<E: Subject>(bench: Bench<E>) {
    let (exit, log) = bench.run(sh("cat; echo $?; readlink /proc/self/fd/0")).await;
    assert_eq!((exit, text(&log).as_str()), (Exit::SUCCESS, "0\n/dev/null\n"));
}

async fn nothing_else_is_inherited<E: Subject>(bench: Bench<E>) {
    // The shell's own look into the folder is over when the loop runs.
    let script = "umask; grep -E '^Sig(Blk|Ign):' /proc/self/status; \
                  for fd in /proc/$$/fd/*; do [ -e $fd ] && echo ${fd##*/}; done";
    let (_, log) = bench.run(sh(script)).await;
    let none = "0000000000000000";
    assert_eq!(text(&log), format!("0022\nSigBlk:\t{none}\nSigIgn:\t{none}\n0\n1\n2\n"));
}

async fn exit_codes_are_told_as_they_are<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    for n in 0..=255 {
        assert_eq!(step(&mut session, sh(&format!("exit {n}"))).await, Ok(code(n)));
    }
    session.close().await.unwrap();
}

async fn a_signal_is_not_an_exit_code<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    for signal in [1, 2, 3, 6, 9, 11, 13, 15] {
        let exit = step(&mut session, sh(&format!("ulimit -c 0; kill -{signal} $$"))).await;
        assert_eq!(exit, Ok(Exit::Killed { signal }));
    }
    // What a shell says of its child is an exit code.
    assert_eq!(step(&mut session, sh("sh -c 'kill -9 $$'; exit $?")).await, Ok(code(137)));
    session.close().await.unwrap();
}

async fn a_missing_command_ends_with_127_and_is_named<E: Subject>(bench: Bench<E>) {
    for program in ["no-such-program", "./no-such-program", "/no/such/program"] {
        let (exit, log) = bench.run(command([program, "x"])).await;
        assert_eq!(exit, code(127));
        bench.in_words(&log, &format!("kiln: cannot run `{program}`: command not found\n"));
    }
}

async fn a_command_that_may_not_run_ends_with_126<E: Subject>(bench: Bench<E>) {
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
        assert_eq!(exit, code(126), "{program}");
        bench.in_words(&log, &format!("kiln: cannot run `{program}`: {why}\n"));
    }
}

async fn a_script_without_a_first_line_is_run_by_sh<E: Subject>(bench: Bench<E>) {
    let path = bench.path("work/script");
    std::fs::write(&path, "echo \"$1,$2\"\n").unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (exit, log) = bench.run(command(["./script", "a b", "c"])).await;
    assert_eq!((exit, text(&log).as_str()), (Exit::SUCCESS, "a b,c\n"));
}

async fn an_impossible_command_is_kilns_error<E: Subject>(bench: Bench<E>) {
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
