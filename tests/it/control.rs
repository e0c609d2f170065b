//! A person steers: cancel, run again, take turns.

use std::path::PathBuf;

use kiln_it::site::{job, states};
use kiln_it::world::ran;
use kiln_it::{Site, wait};
use serde_json::json;

fn pipe(site: &Site, name: &str) -> PathBuf {
    let pipe = site.world.at(name);
    ran(site.world.command("mkfifo").arg(&pipe)).success();
    pipe
}

#[test]
fn a_cancelled_run_stops_and_says_who() {
    let site = Site::with("");
    let up = pipe(&site, "up");
    site.tree.write(
        ".kiln.yml",
        format!(
            "jobs:\n  long: {{ steps: [\"echo up > '{}'; sleep 86398\"] }}\n  \
             after: {{ needs: long, steps: [echo no] }}\n",
            up.display()
        ),
    );
    site.push();
    assert_eq!(std::fs::read_to_string(&up).expect("the job says so"), "up\n");
    let answer = site.server.post("/projects/site/runs/1/cancel", &json!({}));
    assert!((200..300).contains(&answer.status), "{}", answer.text());
    let run = site.server.over("site", 1);
    assert_eq!(run["state"], "cancelled");
    assert_eq!(job(&run, "long")["state"], "cancelled");
    let reason = job(&run, "long")["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("cancelled by"), "{reason}");
    // Asking twice is harmless.
    let again = site.server.post("/projects/site/runs/1/cancel", &json!({}));
    assert!(again.status < 500, "{}", again.text());
    assert_eq!(site.now(1)["state"], "cancelled");
}

#[test]
fn only_what_failed_runs_again() {
    let site = Site::with("");
    let fixed = site.world.at("fixed");
    site.tree.write(
        ".kiln.yml",
        format!(
            "jobs:\n  good: {{ steps: [echo 1 > made] }}\n  bad: {{ needs: good, steps: [cat made, \"test -e '{}'\"] }}\n  \
             after: {{ needs: bad, steps: [echo done] }}\n",
            fixed.display()
        ),
    );
    let run = site.run(1);
    assert_eq!(states(&run), ["good=success", "bad=failed", "after=skipped"]);
    std::fs::write(&fixed, "").expect("the fix");
    let answer = site.server.post("/projects/site/runs/1/rerun", &json!({"failed": true}));
    assert!((200..300).contains(&answer.status), "{}", answer.text());
    let run = wait::until("the run succeeds", || {
        Some(site.now(1)).filter(|run| run["state"] == "success")
    });
    let attempts: Vec<_> =
        run["jobs"].as_array().expect("jobs").iter().map(|j| &j["attempt"]).collect();
    assert_eq!(attempts, [1, 2, 1], "`good` did not run again, its file was there");
    let first = site.server.get("/api/v1/projects/site/runs/1/jobs/bad/log?attempt=1");
    assert_eq!((first.status, first.text().as_str()), (200, "1\n"));
}

#[test]
fn a_run_can_be_asked_for_with_inputs() {
    let site = Site::with(
        "on:\n  push: {}\n  manual:\n    inputs:\n      target: { type: choice, options: [staging, production], default: staging }\n\
         jobs: { deploy: { steps: ['echo to $KILN_INPUT_TARGET'] } }\n",
    );
    site.run(1);
    site.kiln(&["trigger", "site", "--branch", "main", "-i", "target=production"]).success();
    let run = site.server.over("site", 2);
    assert_eq!((&run["state"], &run["event"]), (&json!("success"), &json!("manual")));
    assert_eq!(site.log(2, "deploy"), "to production\n");
    let refused = site.kiln(&["trigger", "site", "--branch", "main", "-i", "target=moon"]);
    refused.exits(2).says(&["moon", "staging"]);
}

/// Begin and end of each holder, in the order in which they came.
fn turns(site: &Site, file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(site.world.at(file)).expect("they ran");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn holders_of_one_lock_never_overlap() {
    let site = Site::with("");
    let file = site.world.at("turns");
    let jobs: String = (0..6)
        .map(|n| {
            format!(
                "  j{n}: {{ lock: board, steps: [\"echo begin {n} >> '{0}'\", sleep 0.05, \"echo end {n} >> '{0}'\"] }}\n",
                file.display()
            )
        })
        .collect();
    site.tree.write(".kiln.yml", format!("jobs:\n{jobs}"));
    // Two runs of the project share the lock.
    site.push();
    site.push();
    assert_eq!(site.server.over("site", 1)["state"], "success");
    assert_eq!(site.server.over("site", 2)["state"], "success");
    let turns = turns(&site, "turns");
    assert_eq!(turns.len(), 24);
    for pair in turns.chunks(2) {
        assert_eq!(pair[0].replace("begin", "end"), pair[1], "{turns:?}");
    }
}

#[test]
fn any_of_several_locks_is_held_and_named() {
    let site = Site::with("");
    let file = site.world.at("boards");
    let jobs: String = (0..6)
        .map(|n| {
            format!(
                "  j{n}: {{ lock: {{ any: [board-1, board-2] }}, steps: [\"echo begin $KILN_LOCK >> '{0}'\", sleep 0.05, \"echo end $KILN_LOCK >> '{0}'\"] }}\n",
                file.display()
            )
        })
        .collect();
    site.tree.write(".kiln.yml", format!("jobs:\n{jobs}"));
    assert_eq!(site.run(1)["state"], "success");
    let turns = turns(&site, "boards");
    assert_eq!(turns.len(), 12);
    for board in ["board-1", "board-2"] {
        let own: Vec<_> = turns.iter().filter(|line| line.ends_with(board)).collect();
        assert!(own.iter().step_by(2).all(|line| line.starts_with("begin")), "{turns:?}");
        assert!(own.iter().skip(1).step_by(2).all(|line| line.starts_with("end")), "{turns:?}");
    }
}

#[test]
fn a_limited_lock_lets_so_many_in() {
    let site = Site::with("");
    let file = site.world.at("three");
    let jobs: String = (0..8)
        .map(|n| {
            format!(
                "  j{n}: {{ lock: {{ name: gate, limit: 2 }}, steps: [\"echo begin >> '{0}'\", sleep 0.05, \"echo end >> '{0}'\"] }}\n",
                file.display()
            )
        })
        .collect();
    site.tree.write(".kiln.yml", format!("jobs:\n{jobs}"));
    assert_eq!(site.run(1)["state"], "success");
    let mut inside = 0;
    for line in turns(&site, "three") {
        inside += if line == "begin" { 1 } else { -1 };
        assert!((0..=2).contains(&inside), "{inside} at once");
    }
    assert_eq!(inside, 0);
}

#[test]
fn a_secret_of_the_server_is_given_and_masked() {
    let site = Site::with(
        "jobs: { a: { secrets: [TOKEN], steps: ['test \"$TOKEN\" = hunter2hunter2', 'echo \"<$TOKEN>\"'] } }\n",
    );
    let run = site.run(1);
    assert_eq!(run["state"], "failed", "a job without its secret does not run");
    let reason = job(&run, "a")["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("`TOKEN`"), "{reason}");
    let mut set = site.world.kiln_command(["secret", "set", "site", "TOKEN"]);
    let mut set = set.stdin(std::process::Stdio::piped()).spawn().expect("kiln starts");
    std::io::Write::write_all(&mut set.stdin.take().expect("is piped"), b"hunter2hunter2")
        .expect("read");
    assert!(set.wait().expect("it ends").success());
    assert_eq!(site.run(2)["state"], "success", "{}", site.log(2, "a"));
    assert_eq!(site.log(2, "a"), "<***>\n");
    // Nowhere on the disk in clear.
    let found = ran(site
        .world
        .command("grep")
        .args(["-r", "-l", "-a", "hunter2hunter2"])
        .arg(site.world.data()));
    let places: Vec<_> = found
        .stdout
        .lines()
        .filter(|path| {
            !path.contains(".kiln.yml") && !path.contains("/mirrors/") && !path.contains("/layers/")
        })
        .collect();
    // The manifest of this story itself names the value, and a plan keeps a job's commands.
    assert!(places.iter().all(|path| path.contains("kiln.db")), "{places:?}");
}
