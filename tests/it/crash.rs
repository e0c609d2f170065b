//! The server is killed at any moment; nothing that was promised is lost, nothing runs twice.
//!
//! Each round starts the server on what the last one left, pushes, and kills it: at once, in the
//! middle of a push, or while jobs run. Jobs write down outside of kiln that they ran.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::Duration;

use kiln_it::server::is_over;
use kiln_it::site::{job, states};
use kiln_it::{Site, World, wait};
use rustix::process::Signal;
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
                assert!(
                    ["lost", "skipped"].contains(&state.as_str()),
                    "{what}: no step fails here"
                );
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

/// Once, the restarted agent told again where in the log its running step begins. By then the log
/// was longer, so the server took it for a second start, and every job that had printed something
/// failed although it ran on.
#[test]
fn jobs_that_run_outlive_the_server() {
    let mut site = Site::with("");
    let (go, ran) = (site.world.at("go"), site.world.at("ran"));
    let (go_at, ran_at) = (go.display(), ran.display());
    let manifest = format!(
        "jobs:\n  a:\n    steps:\n      - echo one >> '{ran_at}'; echo one\n      \
         - echo two >> '{ran_at}'; seq 1 1000; until [ -e '{go_at}' ]; do sleep 0.02; done; seq 1001 2000\n      \
         - echo three >> '{ran_at}'; echo three\n  \
         b: {{ needs: a, steps: [echo b] }}\n"
    );
    site.tree.write(".kiln.yml", manifest);
    site.push();
    let log = "/api/v1/projects/site/runs/1/jobs/a/log";
    for signal in [Signal::KILL, Signal::TERM, Signal::KILL] {
        wait::until("the second step has printed", || {
            let answer = site.server.get(log);
            (answer.status == 200 && answer.text().ends_with("1000\n")).then_some(())
        });
        site.server.signal(signal);
        site.again();
    }
    std::fs::write(&go, "").expect("a file");
    let run = site.server.over("site", 1);
    assert_eq!(states(&run), ["a=success", "b=success"], "{run:#}");
    assert_eq!(job(&run, "a")["attempt"], 1);
    let whole: String = (1..=2000).map(|n| format!("{n}\n")).collect();
    assert_eq!(site.log(1, "a"), format!("one\n{whole}three\n"));
    assert_eq!(std::fs::read_to_string(&ran).expect("it ran"), "one\ntwo\nthree\n");
    // Each step has its own part of the log, also the one that two servers looked after.
    let detail = site.server.json("/projects/site/runs/1/jobs/a");
    let parts: Vec<_> = detail["attempts"][0]["steps"]
        .as_array()
        .expect("a list of steps")
        .iter()
        .map(|step| (step["log_from"].as_u64(), step["log_to"].as_u64()))
        .collect();
    let end = 4 + u64::try_from(whole.len()).expect("short");
    let parts_expected = [(Some(0), Some(4)), (Some(4), Some(end)), (Some(end), Some(end + 6))];
    assert_eq!(parts, parts_expected);
}

#[test]
fn what_an_attempt_without_a_lease_left_is_cleared_at_the_start() {
    let world = World::new();
    world.serve().stop();
    let folder = world.data().join("layers/attempts/77-0-1");
    std::fs::create_dir_all(folder.join("upper")).expect("a folder");
    std::fs::write(folder.join("upper/file"), "left").expect("a file");
    let mut stray = world.command("sleep");
    stray.arg("86399").env("KILN_ATTEMPT", "77-0-1").current_dir(&folder);
    let mut stray = stray.spawn().expect("a process");
    let _server = world.serve();
    let ended = wait::until("the process is ended", || stray.try_wait().expect("ours"));
    assert!(!ended.success());
    wait::until("the folder is gone", || (!folder.exists()).then_some(()));
}
