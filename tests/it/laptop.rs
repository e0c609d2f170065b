//! A person runs the pipeline where they work, before they commit.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kiln_it::site::states;
use kiln_it::{WorkTree, World, wait};
use rustix::process::{Pid, Signal, kill_process};

fn repository(manifest: &str) -> (World, WorkTree) {
    let world = World::new();
    let tree = world.repository_with("work", &[(".kiln.yml", manifest)]);
    (world, tree)
}

/// Kind, mode, owner, size, time of change and content of everything below, git's own files too.
fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            let known = path.symlink_metadata().expect("it is there");
            let content = match known.file_type() {
                kind if kind.is_dir() => {
                    folders.push(path.clone());
                    "folder".to_owned()
                }
                kind if kind.is_symlink() => format!("{:?}", std::fs::read_link(&path)),
                _ => format!("{:?}", std::fs::read(&path).expect("a file")),
            };
            let facts =
                (known.mode(), known.uid(), known.size(), known.mtime(), known.mtime_nsec());
            found.insert(path, format!("{facts:?} {content}"));
        }
    }
    found
}

#[test]
fn a_run_sees_the_dirty_tree_and_changes_no_file_of_it() {
    let (_world, tree) = repository(
        "jobs:\n  all:\n    steps:\n      - cat tracked new\n      - test ! -e ignored.o\n      \
         - echo changed > tracked; rm new; mkdir -p deep/er; echo x > deep/er/file; rm -r gone\n      \
         - chmod 600 tracked; ln -s tracked link; git status > /dev/null; git add --all\n",
    );
    tree.write("tracked", "committed\n");
    tree.write("gone/file", "committed\n");
    tree.write(".gitignore", "*.o\n");
    tree.commit("files");
    tree.write("tracked", "dirty\n");
    tree.write("new", "untracked\n");
    tree.write("ignored.o", "built\n");
    std::os::unix::fs::symlink("tracked", tree.path.join("sym")).expect("a link");
    let before = listing(&tree.path);
    let done = tree.kiln(["run"]).success();
    assert!(done.said().contains("dirty"), "the job printed the dirty file: {}", done.said());
    assert!(done.said().contains("untracked"), "and the untracked one: {}", done.said());
    let after = listing(&tree.path);
    for (path, was) in &before {
        assert_eq!(after.get(path), Some(was), "{} changed", path.display());
    }
    let new: Vec<_> = after.keys().filter(|path| !before.contains_key(*path)).collect();
    assert!(new.is_empty(), "new files in the working tree: {new:?}");
}

/// One after another in one place where that can be, each as if it were the first.
#[test]
fn a_job_finds_nothing_of_the_one_before() {
    let job = |name: &str, steps: &str| format!("  {name}:\n    steps:\n      - {steps}\n");
    let clean = "test -z \"$(ls)\" && test ! -e $KILN_OUTPUT && test -z \"$MARK\" && pwd";
    let mut manifest = "jobs:\n".to_owned();
    for n in 0..4 {
        manifest += &job(&format!("clean-{n}"), clean);
        manifest += &job(&format!("writes-{n}"), "echo x > file");
        manifest += &job(&format!("goes-back-{n}"), "mkdir sub && rmdir sub && chmod 700 .");
        manifest += &job(&format!("leaves-{n}"), "sleep 1000.0625 & cd / && echo half-a-line");
        manifest += &format!("  tells-{n}:\n    env: {{ MARK: x }}\n    outputs: [a]\n    steps: ");
        manifest += "['echo a=b >> $KILN_OUTPUT']\n";
        manifest += &job(&format!("again-{n}"), clean);
    }
    let (_world, tree) = repository(&manifest);
    tree.kiln(["run", "-j1"]).success();
    assert_eq!(processes_with("1000.0625"), Vec::<String>::new());
}

#[test]
fn a_repository_without_a_commit_runs() {
    let world = World::new();
    let tree = world.repository("fresh");
    tree.write(".kiln.yml", "jobs: { a: { steps: [cat file] } }\n");
    tree.write("file", "not committed yet\n");
    tree.kiln(["run"]).success().says(&["not committed yet"]);
}

#[test]
fn a_part_of_the_pipeline_runs_with_what_it_needs() {
    let (_world, tree) = repository(
        "jobs:\n  build: { steps: [echo b > built] }\n  test: { needs: build, steps: [cat built] }\n  \
         lint: { steps: [echo l] }\n",
    );
    tree.kiln(["run", "test"]).success();
    let run = show(&tree, 1);
    let ran: Vec<_> = states(&run).into_iter().filter(|s| s.ends_with("=success")).collect();
    assert_eq!(ran, ["build=success", "test=success"]);
    tree.kiln(["run", "tset"]).exits(2).says(&["tset", "test"]);
}

fn show(tree: &WorkTree, number: i64) -> serde_json::Value {
    let done = tree.kiln(["show", &format!("#{number}"), "--json"]).success();
    serde_json::from_str(&done.stdout).expect("JSON")
}

#[test]
fn a_local_run_is_kept_and_can_be_asked_about() {
    let (_world, tree) =
        repository("jobs: { a: { steps: [echo one; exit 3] }, b: { steps: [echo two] } }\n");
    tree.kiln(["run"]).exits(1).says(&["exit code 3"]);
    tree.kiln(["logs", "#1/a"]).success().says(&["one"]);
    tree.kiln(["why", "#1/a"]).success().says(&["exit code 3"]);
    let done = tree.kiln(["runs", "--json"]).success();
    let runs: serde_json::Value = serde_json::from_str(&done.stdout).expect("JSON");
    assert_eq!(runs[0]["number"], 1, "{runs:#}");
    assert_eq!(runs[0]["state"], "failed");
    tree.kiln(["rerun", "#1", "--failed"]).exits(1);
    let run = show(&tree, 1);
    let attempts: Vec<_> =
        run["jobs"].as_array().expect("jobs").iter().map(|j| &j["attempt"]).collect();
    assert_eq!(attempts, [2, 1]);
}

#[test]
fn each_event_is_one_line_of_json() {
    let (_world, tree) = repository("jobs: { a: { steps: [echo hi] } }\n");
    let done = tree.kiln(["run", "--json"]).success();
    let lines: Vec<serde_json::Value> =
        done.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(lines.len() >= 4, "{}", done.stdout);
    assert!(lines.iter().all(serde_json::Value::is_object), "{}", done.stdout);
}

#[test]
fn a_secret_is_given_and_masked() {
    let (_world, tree) = repository(
        "jobs:\n  a:\n    secrets: [TOKEN]\n    steps:\n      - 'test \"$TOKEN\" = \"$(cat expected)\"'\n      \
         - echo \"token is $TOKEN.\"\n      - printf %s \"$TOKEN\" | base64\n",
    );
    tree.write("expected", "s3cr3t-0f-1ts-0wn");
    let mut command = tree.kiln_command(["run", "--secret", "TOKEN=GIVEN"]);
    command.env("GIVEN", "s3cr3t-0f-1ts-0wn");
    let done = kiln_it::world::ran(&mut command).success().says(&["token is ***."]);
    assert!(!done.said().contains("s3cr3t"), "{}", done.said());
    assert!(!done.said().contains("czNjcjN0LTBmLTF0cy0wd24"), "base64: {}", done.said());
}

#[test]
fn ctrl_c_ends_the_run_and_every_process_of_it() {
    let world = World::new();
    // A number that no other process here has in its command line.
    let mark =
        format!("{}.{:09}", 86_400 + fastrand::u32(..100_000), fastrand::u32(..1_000_000_000));
    let pipe = world.at("started");
    kiln_it::world::ran(world.command("mkfifo").arg(&pipe)).success();
    let manifest = format!(
        "jobs:\n  long:\n    steps:\n      - |\n        setsid sleep {mark} &\n        sleep {mark} &\n        \
         (trap '' TERM INT; sleep {mark}; sleep {mark}) &\n        echo up > '{}'\n        sleep {mark}\n",
        pipe.display()
    );
    let tree = world.repository_with("work", &[(".kiln.yml", &manifest)]);
    let running = world.spawn_kiln(&tree.path, ["run"]);
    assert_eq!(std::fs::read_to_string(&pipe).expect("the job says that it is up"), "up\n");
    assert!(!processes_with(&mark).is_empty(), "the job runs");
    let pid = Pid::from_raw(running.id().cast_signed()).expect("not zero");
    kill_process(pid, Signal::INT).expect("it runs");
    let done = running.wait_with_output().expect("it ends");
    let said =
        String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(130), "{said}");
    wait::until("no process is left", || processes_with(&mark).is_empty().then_some(()));
    assert_eq!(show(&tree, 1)["state"], "cancelled");
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!mounts.contains(&*world.path().to_string_lossy()), "mounts are left:\n{mounts}");
}

/// The process that would have ended those of the job is killed itself.
#[test]
fn a_job_whose_session_was_killed_leaves_no_process() {
    let world = World::new();
    let mark =
        format!("{}.{:09}", 86_400 + fastrand::u32(..100_000), fastrand::u32(..1_000_000_000));
    let pipe = world.at("started");
    kiln_it::world::ran(world.command("mkfifo").arg(&pipe)).success();
    let steps = format!("setsid sleep {mark} & echo $PPID > '{}'; sleep {mark}", pipe.display());
    let manifest = format!("jobs:\n  long:\n    steps:\n      - |\n        {steps}\n");
    let tree = world.repository_with("work", &[(".kiln.yml", &manifest)]);
    let running = world.spawn_kiln(&tree.path, ["run"]);
    let init = std::fs::read_to_string(&pipe).expect("the job says whose child it is");
    let init = Pid::from_raw(init.trim().parse().expect("a number")).expect("not zero");
    kill_process(init, Signal::KILL).expect("it runs");
    assert_eq!(running.wait_with_output().expect("it ends").status.code(), Some(1));
    assert_eq!(processes_with(&mark), Vec::<String>::new());
    let run = show(&tree, 1);
    // Not the step's doing.
    assert_eq!(
        (&run["state"], &run["jobs"][0]["state"]),
        (&"failed".into(), &"lost".into()),
        "{run}"
    );
}

/// Process ids whose command line has this text.
fn processes_with(text: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let has = |path: &Path| {
        std::fs::read(path.join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(text))
    };
    entries
        .filter(|e| has(&e.path()))
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

/// A rerun is of what was, and `kiln run` of what is.
#[test]
fn a_rerun_finds_the_files_as_they_were_when_the_run_began() {
    let steps = "cat tracked; cat new; test ! -e later; test ! -e ignored.o; git log --format=%s";
    let (_world, tree) = repository(&format!("jobs:\n  all:\n    steps: ['{steps}']\n"));
    tree.write("tracked", "committed\n");
    tree.write(".gitignore", "*.o\n");
    tree.commit("the first");
    tree.write("tracked", "dirty then\n");
    tree.write("new", "untracked then\n");
    tree.write("ignored.o", "built\n");
    tree.kiln(["run"]).success();
    tree.write("tracked", "dirty now\n");
    std::fs::remove_file(tree.path.join("new")).expect("it is there");
    tree.write("later", "new now\n");
    tree.commit("the second");
    tree.git(["gc", "--quiet", "--prune=now"]).success();
    let before = listing(&tree.path);
    for rerun in [&["rerun", "#1"][..], &["rerun", "#1", "--job", "all"]] {
        let said = tree.kiln(rerun).success().said();
        for line in ["dirty then", "untracked then", "the first"] {
            assert!(said.contains(line), "{line}: {said}");
        }
        assert!(!said.contains("now") && !said.contains("second"), "{said}");
    }
    assert_eq!(listing(&tree.path), before);
    let said = tree.kiln(["run"]).exits(1).said();
    assert!(said.contains("dirty now"), "{said}");
}

#[test]
fn what_git_ignores_is_shown_when_all_is_asked_for() {
    let (_world, tree) = repository("jobs: { all: { steps: [cat target/built] } }\n");
    tree.write(".gitignore", "target\n");
    tree.commit("files");
    tree.write("target/built", "ignored\n");
    tree.kiln(["run"]).exits(1);
    assert!(tree.kiln(["run", "--all"]).success().said().contains("ignored"));
    tree.kiln(["rerun", "#2"]).success();
    tree.kiln(["rerun", "#1"]).exits(1);
}
