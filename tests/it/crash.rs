//! The server is killed at any moment; nothing that was promised is lost, nothing runs twice.
//!
//! Each round starts the server on what the last one left, pushes, and kills it: at once, in the
//! middle of a push, or while jobs run. Jobs write down outside of kiln that they ran.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::Duration;

use kiln_it::server::is_over;
use kiln_it::site::job;
use kiln_it::{World, wait};
use serde_json::Value;

/// As often as this is the server killed.
const N_KILLS: usize = 50;
/// Lines that each job prints, some before a pause and some after it.
const N_LINES: usize = 400;

#[test]
fn nothing_promised_is_lost_and_nothing_runs_twice() {
    let seed = std::env::var("KILN_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("KILN_SEED={seed} kills at the same moments again");
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::new();
    let bare = world.bare("site.git");
    let tree = world.clone_of(&bare, "site");
    let ran = world.at("ran");
    let half = N_LINES / 2;
    let steps = format!(
        "[\"echo $KILN_RUN $KILN_JOB >> '{}'\", \"seq 1 {half}; sleep 0.03; seq {} {N_LINES}\"]",
        ran.display(),
        half + 1
    );
    tree.write(
        ".kiln.yml",
        format!(
            "jobs:\n  a: {{ steps: {steps} }}\n  b: {{ needs: a, steps: {steps} }}\n  c: {{ needs: a, steps: {steps} }}\n"
        ),
    );
    let mut server = world.serve();
    world.watch("site", &bare);
    let mut pushed = Vec::new();
    for _ in 0..N_KILLS {
        for _ in 0..random.usize(..3) {
            pushed.push(tree.commit("change"));
            tree.push(["HEAD:refs/heads/main"]);
        }
        // One more push is under way when the server dies. The moment is random, so this pause is
        // no wait for anything.
        pushed.push(tree.commit("under way"));
        let mut push = world.command("git");
        push.args(["push", "--quiet", "origin", "HEAD:refs/heads/main"]).current_dir(&tree.path);
        let push = push.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("git starts");
        std::thread::park_timeout(Duration::from_micros(random.u64(..120_000)));
        server.kill();
        let done = push.wait_with_output().expect("git ends");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        server = world.serve();
    }
    let runs = wait::until("every push has its run and every run is over", || {
        let runs = server.runs("site");
        let over = |run: &Value| run["state"].as_str().is_some_and(is_over);
        (runs.len() >= pushed.len() && runs.iter().all(over)).then_some(runs)
    });

    // Every acknowledged push has exactly one run.
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut commits: Vec<_> = runs.iter().map(|run| text(&run["commit"])).collect();
    commits.sort();
    pushed.sort();
    assert_eq!(commits, pushed, "KILN_SEED={seed}");
    let numbers: Vec<_> = runs.iter().filter_map(|run| run["number"].as_i64()).collect();
    let n_runs = i64::try_from(runs.len()).expect("few runs");
    assert_eq!(numbers, (1..=n_runs).collect::<Vec<_>>(), "numbered without gaps");

    // No step ran twice.
    let lines = std::fs::read_to_string(&ran).expect("jobs ran");
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for line in lines.lines() {
        *times.entry(line).or_default() += 1;
    }
    let twice: Vec<_> = times.iter().filter(|(_, n)| **n > 1).collect();
    assert!(twice.is_empty(), "ran more than once: {twice:?}; KILN_SEED={seed}");

    let whole: String = (1..=N_LINES).map(|n| format!("{n}\n")).collect();
    let mut states = BTreeSet::new();
    for number in numbers {
        let run = server.json(&format!("/projects/site/runs/{number}"));
        states.insert(text(&run["state"]));
        for name in ["a", "b", "c"] {
            let row = job(&run, name);
            let state = text(&row["state"]);
            let ran_once = times.contains_key(format!("{number} {name}").as_str());
            let what =
                format!("site#{number}/{name} is {state} ({}); KILN_SEED={seed}", row["reason"]);
            if state == "success" {
                assert!(ran_once, "{what}, and never ran");
            } else {
                assert!(!text(&row["reason"]).is_empty(), "{what}, without a reason");
            }
            if state == "skipped" {
                assert!(!ran_once, "{what}, and ran");
                continue;
            }
            // What is served is what was printed: all of it, or its beginning.
            let answer =
                server.get(&format!("/api/v1/projects/site/runs/{number}/jobs/{name}/log"));
            let log = if answer.status == 200 { answer.text() } else { String::new() };
            assert!(whole.starts_with(&log), "{what}: the log has a gap:\n{log}");
            assert!(state != "success" || log == whole, "{what}: the log is short");
        }
    }
    assert!(states.contains("success"), "no run came through: {states:?}");
}
