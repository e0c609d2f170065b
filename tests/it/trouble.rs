//! Steps fail, hang and die; kiln says which, how, and what follows.

use kiln_it::Site;
use kiln_it::site::{job, states};

/// A step that appends a line to a file outside, so that each time it ran can be counted.
fn counted(path: &std::path::Path, line: &str) -> String {
    format!("echo {line} >> '{}'", path.display())
}

fn reason(run: &serde_json::Value, name: &str) -> String {
    job(run, name)["reason"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn each_way_to_end_is_told_apart() {
    let site = Site::with(
        "jobs:\n  code: { steps: [exit 7] }\n  signal: { steps: [kill -SEGV $$] }\n  \
         slow: { steps: [{ run: sleep 600, timeout: 300ms }] }\n  \
         long: { timeout: 300ms, steps: [sleep 600] }\n  missing: { steps: [no-such-program-here] }\n",
    );
    let run = site.run(1);
    assert_eq!(run["state"], "failed");
    for (name, words) in [
        ("code", "exit code 7"),
        ("signal", "SIGSEGV"),
        ("slow", "timed out"),
        ("long", "timed out"),
        ("missing", "command not found"),
    ] {
        assert_eq!(job(&run, name)["state"], "failed", "{name}");
        assert!(reason(&run, name).contains(words), "{name}: {}", reason(&run, name));
    }
}

#[test]
fn a_shell_step_stops_at_its_first_error() {
    let site =
        Site::with("jobs: { a: { steps: [\"echo one\\nfalse\\necho two\", echo three] } }\n");
    assert_eq!(site.run(1)["state"], "failed");
    assert_eq!(site.log(1, "a"), "one\n");
}

#[test]
fn what_follows_a_failure_is_skipped_with_its_reason_or_runs_always() {
    let site = Site::with(
        "jobs:\n  bad: { steps: ['false'] }\n  after: { needs: bad, steps: [echo no] }\n  \
         later: { needs: after, steps: [echo no] }\n  \
         clean: { needs: bad, always: true, steps: [echo cleaned] }\n",
    );
    let run = site.run(1);
    assert_eq!(states(&run), ["bad=failed", "after=skipped", "later=skipped", "clean=success"]);
    assert!(reason(&run, "after").contains("`bad`"), "{}", reason(&run, "after"));
    assert!(reason(&run, "later").contains("`after`"), "{}", reason(&run, "later"));
    assert_eq!(site.log(1, "clean"), "cleaned\n");
}

#[test]
fn an_allowed_failure_is_a_warning() {
    let site = Site::with(
        "jobs:\n  flaky: { allow_failure: true, steps: ['false'] }\n  \
         after: { needs: flaky, steps: [echo on] }\n",
    );
    let run = site.run(1);
    assert_eq!(run["state"], "warning");
    assert_eq!(states(&run), ["flaky=warning", "after=success"]);
}

#[test]
fn a_step_runs_again_only_when_the_policy_says_so() {
    let mut site = Site::with("");
    let tries = site.world.at("tries");
    let other = site.world.at("other");
    site.tree.write(
        ".kiln.yml",
        format!(
            "jobs:\n  again:\n    retry: {{ attempts: 3, on: [failed] }}\n    steps:\n      - {}\n      \
             - test $(wc -l < '{}') -eq 3\n  once:\n    retry: {{ attempts: 3, on: [timeout] }}\n    \
             steps:\n      - {}\n      - 'false'\n",
            counted(&tries, "x"),
            tries.display(),
            counted(&other, "x"),
        ),
    );
    let run = site.run(1);
    assert_eq!(states(&run), ["again=success", "once=failed"]);
    assert_eq!(job(&run, "again")["attempt"], 3);
    assert_eq!(std::fs::read_to_string(&tries).expect("it ran"), "x\nx\nx\n");
    assert_eq!(std::fs::read_to_string(&other).expect("it ran"), "x\n");
    // Each attempt keeps its own log.
    site.again();
    let detail = site.server.json("/projects/site/runs/1/jobs/again");
    assert_eq!(detail["attempts"].as_array().map(Vec::len), Some(3), "{detail:#}");
}

#[test]
fn a_timed_out_step_leaves_no_process() {
    let site = Site::with("");
    let pid = site.world.at("pid");
    let manifest = format!(
        "jobs: {{ a: {{ steps: [{{ run: \"setsid sleep 86399 & echo $! > '{}'; sleep 86399\", timeout: 500ms }}] }} }}\n",
        pid.display()
    );
    site.tree.write(".kiln.yml", manifest);
    assert_eq!(site.run(1)["state"], "failed");
    let pid = std::fs::read_to_string(&pid).expect("the step ran");
    assert!(!std::path::Path::new("/proc").join(pid.trim()).exists(), "the daemon still runs");
}

#[test]
fn standard_input_is_closed_and_the_environment_exact() {
    let site = Site::with(
        "env: { A: one, B: '2' }\njobs: { a: { env: { B: three }, steps: [cat, 'echo $A $B', env] } }\n",
    );
    site.run(1);
    let log = site.log(1, "a");
    assert!(log.starts_with("one three\n"), "{log}");
    assert!(!log.contains("CARGO_MANIFEST_DIR"), "the server's own environment: {log}");
    assert!(!log.contains("KILN_DATA="), "the server's own environment: {log}");
    assert!(log.contains("KILN_BRANCH=main\n"), "{log}");
}

#[test]
fn output_is_interleaved_as_it_was_written() {
    let site = Site::with(
        "jobs: { a: { steps: ['for n in 1 2 3 4 5; do echo out $n; echo err $n >&2; done'] } }\n",
    );
    site.run(1);
    let expected: String = (1..=5).map(|n| format!("out {n}\nerr {n}\n")).collect();
    assert_eq!(site.log(1, "a"), expected);
}
