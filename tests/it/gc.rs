//! What is no longer wanted goes, and what somebody counts on stays.

use std::process::Stdio;

use kiln_it::binary;
use kiln_it::site::Site;
use kiln_it::{Ran, WorkTree, World, ran, wait};
use serde_json::{Value, json};

const MANIFEST: &str = "jobs:\n  make:\n    steps: [\"echo made; head -c 3000000 /dev/urandom > large\"]\n    \
                        artifacts: [large]\n  look:\n    needs: make\n    steps: [\"wc -c large\"]\n";

fn repository() -> (World, WorkTree) {
    let world = World::new();
    let tree = world.repository_with("work", &[(".kiln.yml", MANIFEST)]);
    (world, tree)
}

fn json_of(done: Ran) -> Value {
    let done = done.success();
    serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}"))
}

/// How much a pass says that it took of a kind.
fn of_kind(report: &Value, kind: &str) -> (u64, u64) {
    let rows = report["collected"].as_array().expect("a list").iter();
    let number = |row: &Value, key: &str| row[key].as_u64().expect("a number");
    rows.filter(|row| row["kind"] == kind)
        .fold((0, 0), |sum, row| (sum.0 + number(row, "n"), sum.1 + number(row, "n_bytes")))
}

#[test]
fn old_local_runs_go_and_a_pinned_one_keeps_everything() {
    let (_world, tree) = repository();
    for _ in 0..4 {
        tree.kiln(["run"]).success();
    }
    tree.kiln(["pin", "#1"]).success().says(&["#1 is kept"]);
    let would =
        json_of(tree.kiln(["gc", "--dry-run", "--keep-layers", "0", "--keep-runs", "2", "--json"]));
    assert_eq!(of_kind(&would[0], "runs").0, 1, "{would}");
    let (n, n_bytes) = of_kind(&would[0], "layers");
    assert!(n == 3 && n_bytes >= 9_000_000, "{would}");
    assert_eq!(tree.kiln(["runs"]).success().stdout.matches("success").count(), 4);

    let done = json_of(tree.kiln(["gc", "--keep-layers", "0", "--keep-runs", "2", "--json"]));
    assert_eq!(of_kind(&done[0], "runs").0, 1, "{done}");
    assert_eq!(of_kind(&done[0], "layers"), (n, n_bytes), "{done}");
    assert_eq!(done[0]["trouble"], json!([]));
    // Gone, and it says so; its number stays taken.
    tree.kiln(["show", "#2"]).exits(2).says(&["was collected"]);
    // Its layers went and the rest is there.
    tree.kiln(["show", "#3/make"]).success().says(&["layer collected", "artifact large"]);
    assert!(tree.kiln(["logs", "#3/make"]).success().stdout.contains("made"));
    let kept = tree.kiln(["show", "#1/make"]).success();
    assert!(!kept.stdout.contains("collected"), "{kept:?}");
    tree.kiln(["rerun", "#1", "--job", "look"]).success().says(&["3000000"]);
    tree.kiln(["runs"]).success().says(&["[pinned]"]);
    tree.kiln(["run"]).success();
    tree.kiln(["show", "#5"]).success();

    tree.kiln(["unpin", "#1"]).success();
    let done = json_of(tree.kiln(["gc", "--keep-runs", "0", "--keep-layers", "0", "--json"]));
    assert_eq!(of_kind(&done[0], "runs").0, 4, "{done}");
    assert_eq!(json_of(tree.kiln(["runs", "--json"])), json!([]));
    tree.kiln(["show", "#1"]).exits(2).says(&["was collected"]);
    tree.kiln(["run"]).success();
}

#[test]
fn artifacts_and_logs_that_are_gone_are_not_taken_for_empty_ones() {
    let mut site = Site::with(MANIFEST);
    site.run(1);
    let asked = json!({ "keep": { "logs": "0", "artifacts": "0" } });
    let report = site.server.post("/gc", &asked).json();
    assert_eq!(of_kind(&report, "logs").0, 1, "{report}");
    let status = |path: &str| {
        let answer = site.server.get(&format!("/api/v1/projects/site/runs/{path}"));
        (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(status("1/jobs/make/log"), (410, "log_collected".into()));
    assert_eq!(status("1/jobs/make/log/lines"), (410, "log_collected".into()));
    assert_eq!(status("1/artifacts/make/large"), (410, "artifact_gone".into()));
    let listed = site.server.json("/projects/site/runs/1/artifacts");
    assert!(listed[0]["collected_at"].is_string(), "{listed}");
    site.run(2);
    assert!(site.log(2, "make").contains("made"));
    let report = site.server.post("/gc", &json!({ "keep": { "runs": "1" } })).json();
    assert_eq!(of_kind(&report, "runs").0, 1, "{report}");
    assert_eq!(status("1"), (410, "run_collected".into()));
    assert_eq!(status("3"), (404, "run_not_found".into()));
    assert_eq!(site.server.runs("site").len(), 1);
    // A server that does not run is collected from outside, and finds what is left.
    site.server.end();
    let done = json_of(site.kiln(&["gc", "--keep-runs", "0", "--keep-layers", "0", "--json"]));
    assert_eq!(
        (done[0]["of"].as_str(), of_kind(&done[0], "runs").0),
        (Some("server"), 1),
        "{done}"
    );
    site.again();
    assert_eq!(site.server.runs("site").len(), 0);
    site.run(3);
}

#[test]
fn what_was_asked_wrong_removes_nothing() {
    let (world, tree) = repository();
    tree.kiln(["run"]).success();
    tree.kiln(["gc", "--keep-layers", "soon"]).exits(2).says(&["`soon` says not how long"]);
    tree.write("../data/kiln.toml", "[keep]\nlayrs = { for = \"1d\" }\n");
    tree.kiln(["gc", "--keep-runs", "0"]).exits(2).says(&["kiln.toml", "layrs"]);
    let said = world.try_serve(&["--listen", "127.0.0.1:0"]).err().expect("it is refused");
    assert!(said.contains("layrs"), "{said}");
    tree.write("../data/kiln.toml", "[keep]\nruns = { for = \"1ms\", at_least = 0 }\n");
    let done = json_of(tree.kiln(["gc", "--local", "--json"]));
    assert_eq!(of_kind(&done[0], "runs").0, 1, "{done}");
}

/// Killed for real, wherever it happens to be; what the rows promise is there afterwards.
#[test]
fn a_collector_that_is_killed_leaves_no_half_run() {
    let (world, tree) = repository();
    for round in 0..6 {
        for _ in 0..3 {
            tree.kiln(["run"]).success();
        }
        let logs = world.data().join("local/logs");
        let count = || std::fs::read_dir(&logs).map_or(0, Iterator::count);
        let before = count();
        let mut gc = tree.kiln_command(["gc", "--keep-runs", "0", "--keep-layers", "0"]);
        let mut gc = gc.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        // Later in each round: at once, when the first logs are gone, when more are.
        wait::until("it has removed some", || {
            let ended = gc.try_wait().expect("it can be asked").is_some();
            (ended || count() + round / 2 <= before).then_some(())
        });
        let _ = gc.kill();
        gc.wait().expect("it has ended");
        for run in json_of(tree.kiln(["runs", "--json"])).as_array().expect("a list") {
            let reference = format!("#{}/make", run["number"]);
            let shown = json_of(tree.kiln(["show", &reference, "--json"]));
            let collected =
                shown["attempts"][0]["collected"].as_array().cloned().unwrap_or_default();
            let log = tree.kiln(["logs", &reference]);
            match collected.contains(&json!("log")) {
                true => drop(log.exits(2).says(&["was collected"])),
                false => assert!(log.success().stdout.contains("made")),
            }
        }
        let done = json_of(tree.kiln(["gc", "--keep-runs", "0", "--keep-layers", "0", "--json"]));
        assert_eq!(done[0]["trouble"], json!([]), "{done}");
        assert_eq!(json_of(tree.kiln(["runs", "--json"])), json!([]));
        assert_eq!(count(), 0);
        let left = |folder: &str| {
            let entries = std::fs::read_dir(world.data().join("local").join(folder));
            entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>()
        };
        assert!(left("layers/sealed").is_empty(), "{:?}", left("layers/sealed"));
    }
}

/// On a file system of its own that somebody fills to the last byte.
#[test]
fn a_disk_without_a_free_byte_is_cleared() {
    let (world, tree) = repository();
    let small = world.at("small");
    std::fs::create_dir(&small).expect("a folder");
    let script = format!(
        "set -e\nmount -t tmpfs -o size=48m none {small}\nexport KILN_DATA={small}/data\n\
         kiln run >/dev/null; kiln run >/dev/null; kiln run > /dev/null\n\
         kiln pin '#3' > /dev/null\n\
         cat /dev/zero > {small}/filler 2>/dev/null || true\n\
         echo free $(stat -f -c %a {small})\n\
         if kiln run; then echo ran all the same; fi\n\
         kiln gc --keep-layers 0 --json\n\
         echo then $(stat -f -c %a {small})\n\
         kiln gc --keep-runs 0 --keep-layers 0 --keep-artifacts 0 >/dev/null\n\
         kiln run > /dev/null; kiln show '#3/look'\nkiln runs\n",
        small = small.display()
    );
    let kiln = binary::kiln();
    let path = format!(
        "{}:{}",
        kiln.parent().expect("in a folder").display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut command = world.command("unshare");
    command.arg("--mount");
    if !rustix::process::getuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["sh", "-c", &script]).env("PATH", path).current_dir(&tree.path);
    let done = ran(&mut command).success();
    let number = |word: &str| -> u64 {
        let line = done.stdout.lines().find_map(|line| line.strip_prefix(word));
        line.and_then(|n| n.trim().parse().ok()).unwrap_or_else(|| panic!("{done:?}"))
    };
    assert_eq!(number("free"), 0, "{done:?}");
    assert!(number("then") > 1_000, "{done:?}");
    assert!(done.stdout.contains("[pinned]"), "{done:?}");
}
