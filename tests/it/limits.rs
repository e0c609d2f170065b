//! Jobs that use too much, jobs that may change nothing, and people who look on while they run.

use kiln_it::{World, wait};

const GREEDY: &str = "\
jobs:
  greedy:
    limits: { memory: 50MB, pids: 60 }
    steps:
      - name: eat
        run: echo begun; head -c 300000000 /dev/zero | tail -c 299999999 > /dev/null
  many:
    limits: { pids: 10 }
    steps: ['i=0; while [ $i -lt 30 ]; do sleep 100 & i=$((i+1)); done']
";

/// Whether control groups can be made here; else limits hold in part, and the log says so.
fn has_groups(world: &World) -> bool {
    let doctor = world.kiln(world.path(), ["doctor"]).said();
    let has = doctor.contains("control groups hold cpu, memory, pids");
    if !has {
        eprintln!("no control groups on this machine");
    }
    has
}

#[test]
fn a_job_out_of_memory_says_so_and_what_the_limit_is() {
    let world = World::new();
    if !has_groups(&world) {
        return;
    }
    let tree = world.repository_with("work", &[(".kiln.yml", GREEDY)]);
    tree.kiln(["run"]).exits(1).says(&[
        "step 1 `eat` ran out of memory: the limit is 50.0 MB (`limits.memory`)",
        "kiln: out of memory: the limit is 50.0 MB (`limits.memory`)",
        "kiln: a process could not be started: the limit is 10 (`limits.pids`)",
    ]);
    tree.kiln(["show", "#1/greedy"]).success().says(&["cpu ", "memory 50.0 MB", "processes"]);
    let json = tree.kiln(["show", "#1/greedy", "--json"]).success().said();
    for field in [
        "\"how\": \"out_of_memory\"",
        "\"limit_bytes\": 50000000",
        "\"memory_bytes\": ",
        "\"user_us\": ",
    ] {
        assert!(json.contains(field), "{field}: {json}");
    }
}

const BOXED: &str = "\
jobs:
  open:
    steps: [ls -d /]
  boxed:
    sandbox: true
    outputs: [seen]
    steps:
      - run: |
          touch /etc/kiln-was-here && exit 9
          ls -A \"$HOME\" | grep -c secret || true
          cat file; git log --format=%s | head -1; echo made > made
          echo \"seen=yes\" >> \"$KILN_OUTPUT\"
      - run: cat made; echo more >> made
";

#[test]
fn a_sandboxed_job_works_and_changes_only_its_workspace() {
    let world = World::new();
    let tree = world.repository_with("work", &[(".kiln.yml", BOXED), ("file", "source\n")]);
    std::fs::write(world.at("home/secret"), "x").expect("a home");
    tree.kiln(["run"]).success().says(&["source"]);
    tree.kiln(["show", "#1/boxed"]).success().says(&["seen=yes"]);
    let log = tree.kiln(["logs", "#1/boxed"]).success().said();
    assert!(log.contains("Read-only file system"), "{log}");
    assert!(log.lines().any(|line| line == "0"), "its home is empty: {log}");
    // Its files are kept as its second step found them, as of any job.
    tree.kiln(["rerun", "#1", "--job", "boxed", "--from", "2"]).success();
    // Who looks into it later is no freer than it was.
    tree.kiln(["shell", "#1/boxed", "--", "touch", "/etc/kiln-was-here"]).exits(1);
    assert!(!std::path::Path::new("/etc/kiln-was-here").exists());
}

const LONG: &str = "\
jobs:
  long:
    steps:
      - name: wait here
        env: { OF_STEP: right }
        directory: sub
        run: echo waiting > ../waiting; while [ ! -e ../go ]; do sleep 0.02; done; cat ../go
  short:
    steps: [ls]
";

#[test]
fn a_running_job_is_entered_as_it_is() {
    let world = World::new();
    let tree = world.repository_with("work", &[(".kiln.yml", LONG), ("sub/file", "source\n")]);
    let run = world.spawn_kiln(&tree.path, ["run"]);
    let live = |args: &[&str]| tree.kiln([&["shell", "--live", "#1/long", "--"], args].concat());
    wait::until("the step waits", || {
        let ran = live(&["cat", "../waiting"]);
        ran.said().contains("waiting").then_some(())
    });
    live(&["sh", "-c", "echo $OF_STEP $KILN_JOB; cat file; exit 6"])
        .exits(6)
        .says(&["right long", "source"]);
    live(&["no-such-program"]).exits(127).says(&["cannot run `no-such-program`"]);
    tree.kiln(["shell", "--live", "#1/short"]).exits(2).says(&["is not running", "success"]);
    let mut shell = world.kiln_at_terminal(&tree.path, ["shell", "--live", "#1/long"]);
    shell.until("runs, at step 1 (wait here): these are its own files");
    shell.until("(#1/long)");
    shell.types("echo $OF_STEP-$TERM; pwd; stty size\r");
    shell.until("right-xterm");
    shell.until("/sub");
    shell.until("(#1/long)");
    shell.types("sleep 1000\r");
    shell.types("\u{3}");
    // What is typed while an interrupt is under way is forgotten by the terminal.
    shell.until("(#1/long)");
    shell.types("echo by-gu'e'st > ../go.new; mv ../go.new ../go; trap '' TERM HUP\r");
    // The job goes on with what its guest has left, and takes the guest along at its end.
    shell.until("has ended, or was stopped, and this with it");
    let ended = run.wait_with_output().expect("it is ours");
    assert!(ended.status.success(), "{ended:?}");
    tree.kiln(["logs", "#1/long"]).success().says(&["by-guest"]);
}
