//! A person enters a past job to see what went wrong.

use std::io::Write;
use std::process::Stdio;

use kiln_it::{Site, Terminal, WorkTree, World, wait};
use rustix::process::Signal;

use crate::containers::{save_image, scratch};

const FAILING: &str = "\
env: { COLOUR: red }
jobs:
  build:
    steps: [echo built > made]
    outputs: []
  test:
    needs: build
    secrets: [TOKEN]
    steps:
      - mkdir -p sub && echo one > sub/one
      - name: check
        run: echo two > two; exit 7
        directory: sub
        env: { ONLY: here }
      - run: echo cleaned > cleaned; rm sub/two
        always: true
";

fn failed() -> (World, WorkTree) {
    let world = World::new();
    let tree = world.repository_with("work", &[(".kiln.yml", FAILING), ("file", "source\n")]);
    tree.kiln(["secret", "set", "--local", "TOKEN"]).exits(2);
    tree.kiln(["run", "--secret", "TOKEN=HOME"]).exits(1).says(&["kiln shell '#1/test'"]);
    (world, tree)
}

fn enter(world: &World, tree: &WorkTree, args: &[&str]) -> Terminal {
    world.kiln_at_terminal(&tree.path, [&["shell"], args].concat())
}

/// What is left of shells in the data folder.
fn visits(world: &World, of: &str) -> usize {
    let folder = world.data().join(of).join("layers/visits");
    std::fs::read_dir(folder).map_or(0, |entries| entries.count())
}

#[test]
fn a_failed_job_is_entered_where_it_failed() {
    let (world, tree) = failed();
    let mut shell = enter(&world, &tree, &["#1"]);
    shell.until(", attempt 1, failed: its files as failed step 2 (check) left them");
    shell.until("thrown away");
    shell.until("without its secrets TOKEN");
    shell.until("(#1/test)");
    shell.types("echo $COLOUR-$ONLY-$KILN_JOB-$TERM; pwd\r");
    shell.until("red-here-test-xterm");
    shell.until("/sub");
    // Before the step that always runs.
    shell.types("cat two one ../made ../file; test ! -e ../cleaned && echo not-cl'e'aned\r");
    shell.until("two\r\none\r\nbuilt\r\nsource\r\nnot-cleaned");
    shell.types("echo mine > two; echo x > ../file; tty; exit 5\r");
    shell.until("/dev/pts/");
    assert_eq!(shell.code(), Some(5));
    assert!(shell.is_cooked());
    assert_eq!(std::fs::read_to_string(tree.path.join("file")).expect("a file"), "source\n");
    let again = tree.kiln(["shell", "#1/test", "--", "cat", "two"]).success();
    assert_eq!(again.stdout, "two\n", "what was changed in the shell is gone");
    assert_eq!(visits(&world, "local"), 0);
}

#[test]
fn each_moment_of_a_job_can_be_seen() {
    let (_world, tree) = failed();
    let seen = |args: &[&str]| {
        let command = ["--", "sh", "-c", "cd $KILN_WORKSPACE; ls; test ! -d sub || ls sub"];
        let done = tree.kiln([&["shell", "#1/test"], args, &command].concat()).success();
        done.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(seen(&["--fresh"]), "file made");
    assert_eq!(seen(&["--step", "1"]), "file made");
    assert_eq!(seen(&["--step", "1", "--after"]), "file made sub one");
    assert_eq!(seen(&["--step", "check"]), "file made sub one");
    assert_eq!(seen(&[]), "file made sub one two");
    assert_eq!(seen(&["--step", "check", "--after"]), "file made sub one two");
    assert_eq!(seen(&["--step", "3"]), "file made sub one two");
    assert_eq!(seen(&["--step", "3", "--after"]), "cleaned file made sub one");
    let other = tree.kiln(["shell", "#1/test", "--step", "chekc", "--", "true"]).exits(2);
    other.says(&["has no step `chekc`", "2 `check`"]);
    tree.kiln(["shell", "#1/tset", "--", "true"]).exits(2).says(&["did you mean `test`?"]);
    tree.kiln(["shell", "#1/test", "--attempt", "2", "--", "true"])
        .exits(2)
        .says(&["no attempt 2"]);
    tree.kiln(["shell", "#7/test", "--", "true"]).exits(2).says(&["no local run #7"]);
}

#[test]
fn bytes_go_through_a_command_as_they_are() {
    let (world, tree) = failed();
    let bytes: Vec<u8> =
        (0..10_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut command = world.kiln_command(["shell", "#1/test", "--", "sh", "-c", "tee /dev/stderr"]);
    command.current_dir(&tree.path).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("kiln starts");
    let (mut stdin, input) = (child.stdin.take().expect("piped"), bytes.clone());
    let typing = std::thread::spawn(move || stdin.write_all(&input));
    let done = child.wait_with_output().expect("it ends");
    typing.join().expect("it ends").expect("all is taken");
    assert!(done.stdout == bytes);
    let words = done.stderr.len() - bytes.len();
    assert!(done.stderr[words..] == bytes && done.stderr.starts_with(b"note: without its secrets"));
    assert_eq!(done.status.code(), Some(0));
    for code in [1, 42, 130, 255] {
        tree.kiln(["shell", "#1/test", "--", "sh", "-c", &format!("exit {code}")]).exits(code);
    }
    tree.kiln(["shell", "#1/test", "--", "sh", "-c", "kill -TERM $$"]).exits(143);
    tree.kiln(["shell", "#1/test", "--", "no-such"]).exits(127).says(&["command not found"]);
    let secret =
        tree.kiln(["shell", "#1/test", "--secret", "TOKEN=LANG", "--", "sh", "-c", "echo $TOKEN"]);
    assert_eq!(secret.success().stdout, "C.UTF-8\n");
}

#[test]
fn keys_and_the_size_of_the_window_reach_what_runs() {
    let (world, tree) = failed();
    let mut shell = enter(&world, &tree, &["#1/test"]);
    shell.until("(#1/test)");
    assert!(!shell.is_cooked());
    shell.types("stty size\r");
    shell.until("24 80");
    shell.resize(132, 50);
    // What the shell knows by the signal, not by asking.
    shell.types("true\rwhile [ $COLUMNS != 132 ]; do sleep 0.01; true; done; stty size\r");
    shell.until("50 132");
    // Started, and not only typed: until then the keys are the shell's own.
    shell.types("sh -c 'echo sta''rted; exec sleep 1000'\r");
    shell.until("started");
    shell.types("\u{3}");
    shell.until("^C");
    shell.until("(#1/test)");
    shell.types("echo code $?\r");
    shell.until("code 130");
    shell.until("(#1/test)");
    shell.types("sh -c 'echo sta''rted; exec sleep 1001'\r");
    shell.until("started");
    shell.types("\u{1a}");
    shell.until("Stopped");
    shell.until("(#1/test)");
    shell.types("kill %1; wait; echo wai'ted'\r");
    shell.until("waited");
    shell.until("(#1/test)");
    shell.types("\u{4}");
    assert_eq!(shell.code(), Some(0));
    assert!(shell.is_cooked());
    let mut shell =
        enter(&world, &tree, &["#1/test", "--", "sh", "-c", "echo here; exec sleep 1002"]);
    shell.until("here");
    shell.types("\u{3}");
    assert_eq!(shell.code(), Some(130));
}

/// `tty` is asked by whatever draws on the screen.
#[test]
fn a_terminal_has_a_name_in_a_container_and_in_a_sandbox() {
    let world = World::new();
    let manifest = "jobs:
  inside: { image: 'docker-archive:tiny.tar', network: none, steps: ['true'] }
  apart: { sandbox: true, network: none, steps: ['true'] }
";
    let tree = world.repository_with("work", &[(".kiln.yml", manifest)]);
    save_image(&tree.path.join("tiny.tar"), &scratch(&world));
    tree.kiln(["run"]).success();
    for (job, tty) in [("#1/inside", ["busybox", "tty"].as_slice()), ("#1/apart", &["tty"])] {
        let mut shell = enter(&world, &tree, &[&[job, "--"], tty].concat());
        shell.until("/dev/pts/0");
        assert_eq!(shell.code(), Some(0));
    }
}

#[test]
fn a_shell_that_is_told_to_end_gives_the_terminal_back() {
    let (world, tree) = failed();
    let mut shell = enter(&world, &tree, &["#1/test"]);
    shell.until("(#1/test)");
    shell.signal(Signal::TERM);
    assert_eq!(shell.code(), Some(143));
    assert!(shell.is_cooked());
    assert_eq!(visits(&world, "local"), 0);
    // One that is killed cannot clear up. The next one does.
    let mut shell = enter(&world, &tree, &["#1/test"]);
    shell.until("(#1/test)");
    assert_eq!(visits(&world, "local"), 1);
    shell.signal(Signal::KILL);
    assert_eq!(shell.code(), None);
    tree.kiln(["shell", "#1/test", "--", "true"]).success();
    wait::until("nothing is left", || (visits(&world, "local") == 0).then_some(()));
}

#[test]
fn several_people_do_not_see_one_another() {
    let (world, tree) = failed();
    let mut shells = [1, 2].map(|_| enter(&world, &tree, &["#1/test"]));
    for (n, shell) in shells.iter_mut().enumerate() {
        shell.until("(#1/test)");
        shell.types(&format!("echo {n} > mine; ls; echo do'n'e\r"));
        shell.until("done");
    }
    for (n, shell) in shells.iter_mut().enumerate() {
        shell.types("cat mine; exit\r");
        shell.until(&format!("{n}\r\n"));
        assert_eq!(shell.code(), Some(0));
    }
}

#[test]
fn a_job_of_a_server_is_entered_whether_the_server_runs_or_not() {
    let mut site = Site::with(FAILING);
    let data = site.world.data();
    let data = data.to_string_lossy().into_owned();
    let mut set = site.world.kiln_command(["secret", "set", "--all", "TOKEN", "--data", &data]);
    let mut set = set.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("kiln starts");
    set.stdin.take().expect("piped").write_all(b"hunter22\n").expect("it is read");
    assert!(set.wait().expect("it ends").success());
    site.run(1);
    for _ in 0..2 {
        let script = "cd $KILN_WORKSPACE; echo ${TOKEN-none} $KILN_PROJECT $COLOUR; cat sub/one made; git log --oneline";
        let seen = site.kiln(&["shell", "site#1/test", "--", "sh", "-c", script]).success();
        let words: Vec<&str> = seen.stdout.split_whitespace().collect();
        assert_eq!(words[..5], ["none", "site", "red", "one", "built"], "{seen:?}");
        assert!(seen.stdout.contains("change"), "the commit is there: {seen:?}");
        assert!(seen.stderr.contains("TOKEN"), "{seen:?}");
        let with = site.kiln(&["shell", "site#1", "--secrets", "--", "sh", "-c", "echo $TOKEN"]);
        let with = with.success();
        assert_eq!(with.stdout, "hunter22\n");
        assert!(with.stderr.contains("in site#1/test"), "{with:?}");
        site.kiln(&["shell", "site#1/test", "--step", "2", "--", "true"])
            .exits(2)
            .says(&["are not kept", "snapshots: steps"]);
        site.kiln(&["shell", "site#9/test", "--", "true"]).exits(2);
        site.kiln(&["shell", "other#1/test", "--", "true"]).exits(2).says(&["other"]);
        site.server.end();
    }
    assert_eq!(visits(&site.world, ""), 0);
}

#[test]
fn files_that_are_gone_and_jobs_that_run_are_told() {
    let (world, tree) = failed();
    for entry in
        std::fs::read_dir(world.data().join("local/layers/sealed")).expect("a folder").flatten()
    {
        let _ = std::fs::remove_dir_all(entry.path());
        let _ = std::fs::remove_file(entry.path());
    }
    tree.kiln(["shell", "#1/test", "--", "true"])
        .exits(2)
        .says(&["are gone", "kiln rerun '#1' --job 'build'"]);
    tree.kiln(["rerun", "#1", "--job", "build", "--secret", "TOKEN=HOME"]).exits(1);
    tree.kiln(["shell", "#1/test", "--", "cat", "../made"]).success().says(&["built"]);
    tree.write(".kiln.yml", "jobs:\n  a: { steps: [true] }\n  b: { steps: [true] }\n");
    tree.kiln(["run"]).success();
    tree.kiln(["shell", "#2", "--", "true"]).exits(2).says(&["a (success), b (success)", "#2/a"]);
    // A name that means two steps is no name.
    tree.write(
        ".kiln.yml",
        "jobs: { a: { steps: [echo, { name: two, run: echo }, { name: two, run: echo }] } }\n",
    );
    tree.kiln(["run"]).success();
    tree.kiln(["shell", "#3", "--step", "two", "--", "true"])
        .exits(2)
        .says(&["several steps `two`"]);
    tree.kiln(["shell", "#3", "--", ""]).exits(2).says(&["is empty"]);
}
