//! What a step sees of the workspace, and what is there when the session is closed.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use kiln_executor::Session;
use kiln_model::Exit;

use crate::bench::{Bench, Case, Subject, command, sh, step, text};
use crate::cases;

pub fn cases<E: Subject>() -> Vec<Case<E>> {
    cases![
        the_workspace_is_seen_and_kept,
        every_step_finds_what_the_last_one_left,
        names_of_any_bytes_are_seen_and_kept,
        unicode_is_passed_on_everywhere,
        what_a_step_makes_belongs_to_who_runs_kiln,
    ]
}

async fn the_workspace_is_seen_and_kept<E: Subject>(bench: Bench<E>) {
    let work = bench.path("work");
    for folder in ["kept/empty", "gone/deep", "turns"] {
        std::fs::create_dir_all(work.join(folder)).unwrap();
    }
    for (name, content) in [("gone/deep/file", "x"), ("file", "before"), ("removed", "")] {
        std::fs::write(work.join(name), content).unwrap();
    }
    std::fs::write(work.join("tool"), "#!/bin/sh\necho tool\n").unwrap();
    std::fs::set_permissions(work.join("tool"), Permissions::from_mode(0o755)).unwrap();
    symlink("file", work.join("link")).unwrap();
    let script = "set -e; ./tool; cat link; test -d kept/empty; rm -r gone turns removed; \
                  printf after > link; echo file > turns; ln -sfn elsewhere link; chmod 640 tool; \
                  mkdir -p new/empty; echo n > new/n; ln new/n new/same; mv kept moved; : > empty";
    let (exit, log) = bench.run(sh(script)).await;
    assert_eq!((exit, text(&log).as_str()), (Exit::SUCCESS, "tool\nbefore"));
    let read = |name: &str| std::fs::read_to_string(work.join(name)).unwrap();
    assert_eq!(
        ["file", "turns", "new/n", "new/same", "empty"].map(read),
        ["after", "file\n", "n\n", "n\n", ""]
    );
    for gone in ["gone", "removed", "kept"] {
        assert!(!work.join(gone).exists(), "{gone}");
    }
    assert!(work.join("new/empty").is_dir() && work.join("moved/empty").is_dir());
    assert_eq!(std::fs::read_link(work.join("link")).unwrap(), Path::new("elsewhere"));
    assert_eq!(work.join("tool").metadata().unwrap().mode() & 0o777, 0o640);
}

async fn every_step_finds_what_the_last_one_left<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    for n in 0..3 {
        let script = format!("cat left 2> /dev/null; echo {n} >> left");
        assert_eq!(step(&mut session, sh(&script)).await, Ok(Exit::SUCCESS));
    }
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), "0\n0\n1\n");
    assert_eq!(std::fs::read_to_string(bench.path("work/left")).unwrap(), "0\n1\n2\n");
}

async fn names_of_any_bytes_are_seen_and_kept<E: Subject>(bench: Bench<E>) {
    let work = bench.path("work");
    let long = "n".repeat(255);
    let odd: &[&[u8]] = &[
        b"caf\xe9",
        b"new\nline",
        b" a 'b' \"c\" $(d) `e` \\",
        b"-rf",
        b"\x01\x7f",
        long.as_bytes(),
    ];
    for name in odd {
        std::fs::write(work.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let script = "set -e; for f in *; do cat ./\"$f\"; echo x >> ./\"$f\"; cp ./\"$f\" made/; done";
    std::fs::create_dir(work.join("made")).unwrap();
    let script = script.replace("cat ./", "test -d \"$f\" && continue; cat ./");
    let (exit, log) = bench.run(sh(&script)).await;
    assert_eq!(exit, Exit::SUCCESS, "{}", text(&log));
    assert_eq!(log.len(), odd.iter().map(|name| name.len()).sum::<usize>());
    for name in odd {
        let expected = [name, b"x\n".as_slice()].concat();
        for folder in [work.clone(), work.join("made")] {
            let found = std::fs::read(folder.join(OsStr::from_bytes(name))).unwrap();
            assert_eq!(found, expected, "{}", text(name));
        }
    }
}

async fn unicode_is_passed_on_everywhere<E: Subject>(bench: Bench<E>) {
    let words = "\u{1f525} brännöfen \u{4e2d}\u{6587} e\u{301} \u{200d}";
    std::fs::create_dir(bench.path("work").join(words)).unwrap();
    let mut command =
        command(["sh", "-c", "echo \"$WORDS|$1|${PWD##*/}\"; : > \"$1\"", "sh", words]);
    command.env = [("WORDS".to_owned(), words.to_owned())].into();
    command.directory = Some(words.to_owned());
    let (exit, log) = bench.run(command).await;
    assert_eq!((exit, text(&log)), (Exit::SUCCESS, format!("{words}|{words}|{words}\n")));
    assert!(bench.path("work").join(words).join(words).exists());
}

async fn what_a_step_makes_belongs_to_who_runs_kiln<E: Subject>(bench: Bench<E>) {
    let (exit, log) = bench.run(sh("echo x > file; mkdir folder; ln -s file link; id -u")).await;
    assert_eq!(exit, Exit::SUCCESS);
    let me = rustix::process::geteuid().as_raw();
    // In a user namespace with one user, that one is root.
    assert!(["0".to_owned(), me.to_string()].contains(&text(&log).trim().to_owned()));
    for (name, mode) in [("file", 0o644), ("folder", 0o755), ("link", 0o777)] {
        let found = bench.path("work").join(name).symlink_metadata().unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (me, mode), "{name}");
    }
}
