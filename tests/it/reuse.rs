//! A job that says what it reads does not run again while that is the same, and never gets a result of
//! something else.

use std::path::Path;

use kiln_it::site::{job, states};
use kiln_it::{Site, WorkTree, World};
use serde_json::Value;

fn show(tree: &WorkTree, number: i64) -> Value {
    let done = tree.kiln(["show", &format!("#{number}"), "--json"]).success();
    serde_json::from_str(&done.stdout).expect("JSON")
}

/// The number of the run whose result a job has.
fn from(run: &Value, name: &str) -> Option<i64> {
    job(run, name)["reused_from"]["number"].as_i64()
}

fn why(tree: &WorkTree, of: &str) -> String {
    tree.kiln(["why", of]).success().said()
}

fn local(manifest: &str) -> (World, WorkTree) {
    let world = World::new();
    let tree = world.repository_with("work", &[(".kiln.yml", manifest)]);
    (world, tree)
}

const BUILD: &str = "jobs:\n  build:\n    inputs: ['src/**', '!src/notes']\n    env: { LEVEL: '1' }\n    \
                     outputs: [n]\n    artifacts: [out/app]\n    steps:\n      - mkdir out && cat src/* > out/app\n      \
                     - echo \"n=$(ls src | wc -l)\" >> $KILN_OUTPUT; echo built\n  \
                     use: { needs: build, steps: ['cat out/app; echo n is $KILN_NEEDS_BUILD_N'] }\n";

#[test]
fn a_second_run_takes_everything_of_the_first_and_why_names_what_is_another() {
    let (_world, tree) = local(BUILD);
    tree.write("src/a", "one\n");
    tree.write("src/notes", "x\n");
    tree.kiln(["run"]).success().says(&["built", "n is 2"]);
    let second = tree.kiln(["run"]).success().says(&["reused from run #1", "n is 2", "1 reused"]);
    assert!(!second.said().contains("built"), "it has not run: {}", second.said());
    let run = show(&tree, 2);
    assert_eq!(from(&run, "build"), Some(1));
    assert_eq!(states(&run), ["build=success", "use=success"]);
    // The log, the artifact and the reason are there as if it had run.
    tree.kiln(["logs", "#2/build"]).success().says(&["built"]);
    tree.kiln(["artifacts", "#2"]).success().says(&["out/app"]);
    assert!(why(&tree, "#2/build").contains("`#1/build`"), "{}", why(&tree, "#2/build"));
    // A chain leads to the original.
    tree.write("src/notes", "is excluded\n");
    tree.kiln(["run"]).success();
    assert_eq!(from(&show(&tree, 3), "build"), Some(1));

    tree.write("src/a", "two\n");
    tree.write("src/b", "new\n");
    tree.write(".kiln.yml", BUILD.replace("LEVEL: '1'", "LEVEL: '2'"));
    tree.kiln(["run"]).success().says(&["built", "two", "n is 3"]);
    assert_eq!(from(&show(&tree, 4), "build"), None);
    let said = why(&tree, "#4/build");
    for part in
        ["since #3/build", "`LEVEL` changed: `1` -> `2`", "`src/a` changed", "`src/b` is new"]
    {
        assert!(said.contains(part), "`{part}`: {said}");
    }
    // What was once made is still there for who goes back.
    tree.write("src/a", "one\n");
    std::fs::remove_file(tree.path.join("src/b")).expect("it is there");
    tree.write(".kiln.yml", BUILD);
    tree.kiln(["run"]).success().says(&["n is 2"]);
    assert_eq!(from(&show(&tree, 5), "build"), Some(1));
}

#[test]
fn who_asks_for_it_to_run_makes_it_run() {
    let (_world, tree) = local(BUILD);
    tree.write("src/a", "one\n");
    tree.kiln(["run"]).success();
    tree.kiln(["run", "--no-cache"]).success().says(&["built"]);
    assert_eq!(from(&show(&tree, 2), "build"), None);
    assert!(why(&tree, "#2/build").contains("asked to take nothing"), "{}", why(&tree, "#2/build"));
    tree.kiln(["run"]).success();
    // What came of it may be taken.
    assert_eq!(from(&show(&tree, 3), "build"), Some(2));
    tree.kiln(["rerun", "#3", "--job", "build"]).success().says(&["built"]);
    assert_eq!(from(&show(&tree, 3), "build"), None);
}

#[test]
fn a_failure_is_not_taken_and_a_pattern_without_a_file_is_a_warning() {
    let (_world, tree) = local(
        "jobs: { a: { inputs: [src, 'gone/*'], steps: ['echo ran; test \"$(cat src/a)\" = right'] } }\n",
    );
    tree.write("src/a", "wrong");
    tree.kiln(["run"]).exits(1);
    tree.kiln(["run"]).exits(1).says(&["ran"]);
    assert!(why(&tree, "#2/a").contains("it was no success then"), "{}", why(&tree, "#2/a"));
    tree.write("src/a", "right");
    tree.kiln(["run"]).success().says(&["`gone/*`, and no file matches it"]);
    tree.kiln(["run"]).success();
    assert_eq!(from(&show(&tree, 4), "a"), Some(3));
}

#[test]
fn a_variable_of_the_run_counts_where_it_is_named_and_a_machine_s_always_does() {
    let (_world, tree) = local(
        "jobs:\n  plain: { inputs: [src], steps: [echo plain] }\n  \
         named: { inputs: [src], steps: ['echo $KILN_RUN'] }\n",
    );
    tree.write("src/a", "one");
    tree.kiln(["run"]).success();
    tree.kiln(["run"]).success();
    let run = show(&tree, 2);
    assert_eq!((from(&run, "plain"), from(&run, "named")), (Some(1), None));
    assert!(why(&tree, "#2/named").contains("`KILN_RUN` changed: `1` -> `2`"));
    tree.kiln(["run", "--env", "HIDDEN=s3cr3t"]).success();
    assert_eq!(from(&show(&tree, 3), "plain"), None);
    let said = why(&tree, "#3/plain");
    assert!(said.contains("the machine's variable `HIDDEN` is new"), "{said}");
    assert!(!said.contains("s3cr3t"), "{said}");
}

#[test]
fn a_result_that_hides_a_changed_file_of_the_source_is_not_taken() {
    let (_world, tree) = local(
        "jobs:\n  install: { inputs: [wanted], steps: ['echo for $(cat wanted) >> lock'] }\n  \
         look: { needs: install, steps: [cat lock] }\n",
    );
    tree.write("wanted", "a");
    tree.write("lock", "first\n");
    tree.kiln(["run"]).success().says(&["first", "for a"]);
    tree.kiln(["run"]).success();
    assert_eq!(from(&show(&tree, 2), "install"), Some(1));
    tree.write("lock", "second\n");
    tree.kiln(["run"]).success().says(&["second", "for a"]);
    assert_eq!(from(&show(&tree, 3), "install"), None);
    assert!(
        why(&tree, "#3/install").contains("written over `lock`"),
        "{}",
        why(&tree, "#3/install")
    );
}

#[test]
fn files_that_are_gone_are_a_miss_that_says_so() {
    let (world, tree) = local(BUILD);
    tree.write("src/a", "one\n");
    tree.kiln(["run"]).success();
    let sealed = folder_named(&world.data(), "sealed");
    std::fs::remove_dir_all(&sealed).expect("layers");
    std::fs::create_dir(&sealed).expect("a folder");
    tree.kiln(["run"]).success().says(&["built"]);
    assert!(why(&tree, "#2/build").contains("run #1 are gone"), "{}", why(&tree, "#2/build"));
    tree.kiln(["run"]).success();
    assert_eq!(from(&show(&tree, 3), "build"), Some(2));
}

fn folder_named(root: &Path, name: &str) -> std::path::PathBuf {
    let mut todo = vec![root.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true if entry.file_name() == name => return entry.path(),
                true => todo.push(entry.path()),
                false => {}
            }
        }
    }
    panic!("no folder `{name}` in {}", root.display());
}

#[test]
fn two_local_runs_of_the_same_do_it_once() {
    let world = World::new();
    let gate = world.at("gate");
    kiln_it::world::ran(world.command("mkfifo").arg(&gate)).success();
    let count = world.at("count");
    let manifest = format!(
        "jobs: {{ a: {{ inputs: [src], steps: ['echo x >> {}; cat {} > /dev/null; echo done'] }} }}\n",
        count.display(),
        gate.display()
    );
    let tree = world.repository_with("work", &[(".kiln.yml", &manifest), ("src/a", "one")]);
    let first = world.spawn_kiln(&tree.path, ["run"]);
    let open = std::fs::OpenOptions::new().write(true).open(&gate).expect("the first one runs");
    let second = world.spawn_kiln(&tree.path, ["run"]);
    kiln_it::wait::until("the second run is there", || {
        let done = tree.kiln(["runs", "--json"]);
        let runs: Value = serde_json::from_str(&done.stdout).ok()?;
        (runs.as_array()?.len() == 2).then_some(())
    });
    drop(open);
    for running in [first, second] {
        let done = running.wait_with_output().expect("it ends");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    assert_eq!(std::fs::read_to_string(&count).expect("it ran"), "x\n");
}

#[test]
fn pushes_take_results_of_other_commits_and_wait_for_those_that_come() {
    let site = Site::with(
        "jobs:\n  build: { inputs: ['src/**'], steps: ['cat src/a > built', cat built] }\n  \
         test: { needs: build, inputs: [tests], steps: [cat built] }\n",
    );
    site.tree.write("src/a", "one\n");
    site.tree.write("tests/t", "t\n");
    site.run(1);
    site.tree.write("README", "not an input\n");
    let run = site.run(2);
    assert_eq!((from(&run, "build"), from(&run, "test")), (Some(1), Some(1)), "{run:#}");
    assert_eq!(site.log(2, "test"), "one\n");
    site.tree.chmod_x("src/a");
    let run = site.run(3);
    // A mode is a difference; what `build` left is the same, so `test` has nothing to do.
    assert_eq!((from(&run, "build"), from(&run, "test")), (None, Some(1)), "{run:#}");
    let said = site.kiln(&["why", "site#3/build"]).success().said();
    assert!(said.contains("`src/a` has mode 100755, and had 100644"), "{said}");
    site.tree.write("src/a", "two\n");
    let run = site.run(4);
    assert_eq!((from(&run, "build"), from(&run, "test")), (None, None), "{run:#}");
    assert_eq!(site.log(4, "test"), "two\n");
    let said = site.kiln(&["why", "site#4/test"]).success().said();
    assert!(said.contains("what `build` left changed"), "{said}");
    site.kiln(&["trigger", "site", "--no-cache", "--follow"]).success();
    assert_eq!(from(&site.now(5), "build"), None);
}

#[test]
fn of_two_pushed_runs_that_do_the_same_one_waits_and_a_killed_server_forgets_nothing() {
    let world_gate = tempfile::tempdir().expect("a folder");
    let (gate, count) = (world_gate.path().join("gate"), world_gate.path().join("count"));
    let mut site = Site::with(&format!(
        "jobs: {{ a: {{ sandbox: false, inputs: [src], steps: ['echo x >> {}; while ! test -e {}; do sleep 0.01; done; echo done'] }} }}\n",
        count.display(),
        gate.display()
    ));
    site.tree.write("src/a", "one");
    site.push();
    kiln_it::wait::until("the first one runs", || count.exists().then_some(()));
    site.tree.write("README", "x");
    site.push();
    let waits = |site: &Site| {
        kiln_it::wait::until("the second one waits", || {
            let run = site.server.json("/projects/site/runs/2");
            let reason = run["jobs"][0]["reason"].as_str()?.to_owned();
            reason.contains("waits for `#1/a`").then_some(())
        });
    };
    waits(&site);
    site.again();
    waits(&site);
    std::fs::write(&gate, "").expect("the gate");
    assert_eq!(from(&site.server.over("site", 2), "a"), Some(1));
    assert_eq!(site.log(2, "a"), "done\n");
    assert_eq!(std::fs::read_to_string(&count).expect("it ran"), "x\n");
}
