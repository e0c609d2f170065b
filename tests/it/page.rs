//! A person looks at the pages, in a real browser.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use kiln_it::browser::{Browser, END, HOME};
use kiln_it::world::ran;
use kiln_it::{Site, World, wait};

/// A pipe that holds a job until the story writes into it.
fn pipe(site: &Site) -> PathBuf {
    let pipe = site.world.at("pipe");
    ran(site.world.command("mkfifo").arg(&pipe)).success();
    pipe
}

#[test]
fn a_run_is_watched_live_to_its_end() {
    let site = Site::with("");
    let pipe = pipe(&site);
    site.tree.write(
        ".kiln.yml",
        format!(
            "jobs:\n  build: {{ steps: [echo built] }}\n  \
             test: {{ needs: build, matrix: {{ db: ['15', '16'] }}, steps: [echo tested $KILN_MATRIX_DB] }}\n  \
             speak: {{ sandbox: false, needs: build, steps: [\"cat '{}'\", echo over] }}\n  \
             pack: {{ needs: [test, speak], artifacts: [app], steps: [echo app > app] }}\n",
            pipe.display()
        ),
    );
    let browser = Browser::open(&site.world);
    browser.go(&site.server.url("/"));
    browser.sees("site");
    browser.pictures("projects-empty");
    site.push();
    let mut speak =
        OpenOptions::new().write(true).open(&pipe).expect("the job opens the other end");
    // Nobody reloads: the list hears of the run.
    browser.sees("change");
    browser.click("site");
    browser.sees("change");
    browser.is_clean();
    browser.go(&site.server.url("/p/site/1"));
    browser.sees("running");
    browser.pictures("run-running");
    browser.go(&site.server.url("/p/site/1/speak"));
    for line in ["first line", "\x1b[32msecond\x1b[0m line", "third <b>line</b>"] {
        writeln!(speak, "{line}").expect("the job reads");
        browser.log_shows(&line.replace("\x1b[32m", "").replace("\x1b[0m", ""));
    }
    browser.pictures("job-running");
    browser.is_clean();
    browser.go(&site.server.url("/p/site/1"));
    browser.sees("running");
    drop(speak);
    browser.holds(
        "the page turns to success by itself",
        "return document.title.startsWith('success')",
    );
    browser.sees("pack");
    browser.pictures("run-success");
    browser.go(&site.server.url("/p/site/1/speak"));
    browser.log_shows("over");
    browser.pictures("job-success");
    browser.go(&site.server.url("/"));
    browser.sees("site");
    browser.pictures("projects");
    browser.go(&site.server.url("/p/site"));
    browser.pictures("runs");
    browser.is_clean();
}

#[test]
fn buttons_cancel_and_run_again() {
    let site = Site::with("");
    let go = site.world.at("go");
    site.tree.write(
        ".kiln.yml",
        format!(
            "on:\n  push: {{}}\n  manual: {{ inputs: {{ target: {{ type: choice, options: [staging, production], default: staging }} }} }}\n\
             jobs:\n  quick: {{ steps: ['echo to ${{KILN_INPUT_TARGET:-nowhere}}'] }}\n  \
             long: {{ sandbox: false, needs: quick, steps: [\"test -e '{}' || sleep 86397\"] }}\n",
            go.display()
        ),
    );
    site.push();
    let browser = Browser::open(&site.world);
    wait::until("the long job runs", || {
        let answer = site.server.get("/api/v1/projects/site/runs/1");
        let run = (answer.status == 200).then(|| answer.json())?;
        (run["jobs"][1]["state"] == "running").then_some(())
    });
    browser.go(&site.server.url("/p/site/1"));
    browser.click("Cancel");
    browser.holds("the page turns to cancelled", "return document.title.startsWith('cancelled')");
    assert_eq!(site.now(1)["state"], "cancelled");
    browser.pictures("run-cancelled");
    std::fs::write(&go, "").expect("from now on it is quick");
    browser.click("Rerun failed");
    browser.holds("the page turns to success", "return document.title.startsWith('success')");
    let run = site.now(1);
    assert_eq!((&run["jobs"][0]["attempt"], &run["jobs"][1]["attempt"]), (&1.into(), &2.into()));
    browser.click("Rerun all");
    // Its title still says `success` from before, so the server is asked.
    wait::until("all ran again", || {
        let run = site.now(1);
        (run["jobs"][1]["attempt"] == 3 && run["state"] == "success").then_some(())
    });
    browser.holds("and succeeded", "return document.title.startsWith('success')");
    browser.is_clean();
    browser.click("Run again…");
    browser.holds(
        "the inputs are asked for",
        "return [...document.querySelectorAll('dialog[open] select option')].some(o => o.value === 'production')",
    );
    browser.pictures("run-again");
    browser.run(
        "const choice = document.querySelector('dialog[open] select');\
         choice.value = 'production'; choice.dispatchEvent(new Event('change', {bubbles: true}))",
    );
    browser.run("document.querySelector('dialog[open] form').requestSubmit()");
    let run = site.server.over("site", 2);
    assert_eq!(run["inputs"]["target"], "production", "{run:#}");
    assert_eq!(site.log(2, "quick"), "to production\n");
    browser.is_clean();
}

#[test]
fn a_failure_and_a_missing_page_read_well() {
    let site = Site::with(
        "jobs:\n  bad: { steps: [\"printf '\\\\033[31merror:\\\\033[0m it broke\\\\n'\", exit 3] }\n  after: { needs: bad, steps: [echo no] }\n",
    );
    site.run(1);
    site.tree.write(".kiln.yml", "jobs:\n  a: { stpes: [x] }\n");
    site.run(2);
    let browser = Browser::open(&site.world);
    browser.go(&site.server.url("/p/site/1"));
    browser.sees("exit code 3");
    browser.pictures("run-failed");
    browser.go(&site.server.url("/p/site/1/bad"));
    browser.log_shows("error: it broke");
    browser.pictures("job-failed");
    browser.go(&site.server.url("/p/site/2"));
    browser.sees("stpes");
    browser.pictures("run-no-plan");
    browser.is_clean();
    browser.go(&site.server.url("/p/site/99"));
    browser.sees("99");
    browser.pictures("not-found");
}

#[test]
fn warnings_files_and_a_step_to_begin_from_are_at_hand() {
    let site = Site::with(
        "jobs:\n  \
         a: { steps: ['mkdir out; echo a > shared; echo \"<h1>Report</h1><script>document.title = 7</script>\" > out/index.html', 'echo two', 'test -e /nowhere'], \
         snapshots: steps, artifacts: [out], allow_failure: true }\n  \
         b: { steps: [echo b > shared] }\n  \
         both: { needs: [a, b], steps: [cat shared] }\n",
    );
    site.run(1);
    let browser = Browser::open(&site.world);
    browser.go(&site.server.url("/p/site/1"));
    browser.sees("1 warning");
    browser.sees("both changed shared");
    browser.pictures("run-warning");
    browser.click("both");
    browser.sees("both changed shared");
    browser.sees("kiln shell 'site#1/both'");
    browser.is_clean();
    browser.go(&site.server.url("/p/site/1/a"));
    browser.pictures("job-artifacts");
    browser.is_clean();
    browser.click("out/index.html");
    browser.sees("Report");
    assert_ne!(browser.run("return document.title"), "7", "a file of a job runs no script");
    browser.complains("Blocked script execution");
    browser.go(&site.server.url("/p/site/1/a"));
    browser.run("document.querySelectorAll('.again')[1].click()");
    browser.sees("Attempt 2");
    let attempt = wait::until("attempt 2 is over", || {
        let job = site.server.json("/projects/site/runs/1/jobs/a");
        let attempt = job["attempts"][1].clone();
        (attempt["state"] == "failed").then_some(attempt)
    });
    assert_eq!(attempt["steps"][1]["attempt"], 1, "{attempt:#}");
    browser.sees("taken over from");
    browser.pictures("job-from-step");
    browser.is_clean();
}

#[test]
fn a_log_of_a_gigabyte_opens_and_scrolls() {
    // 112,333,333 numbers are 1,000,000,000 bytes and a few.
    const LAST: u64 = 112_333_333;
    let site = Site::with(&format!("jobs: {{ count: {{ steps: [seq {LAST}] }} }}\n"));
    let run = site.run(1);
    assert_eq!(run["state"], "success");
    assert!(run["jobs"][0]["log_bytes"].as_u64().is_some_and(|n| n >= 999_999_000), "{run:#}");
    let browser = Browser::open(&site.world);
    browser.go(&site.server.url("/p/site/1/count"));
    browser
        .holds("the log's window is there", "return !!document.querySelector('log-view[ready]')");
    browser.press(END);
    browser.log_shows(&LAST.to_string());
    browser.press(HOME);
    browser.holds(
        "the first line",
        "return [...document.querySelectorAll('log-view *')].some(e => e.textContent.trim() === '1')",
    );
    browser.go(&site.server.url(&format!("/p/site/1/count#L{}", LAST / 2)));
    browser.log_shows(&(LAST / 2).to_string());
    let n_nodes = browser.run("return document.querySelectorAll('*').length");
    assert!(n_nodes.as_u64().is_some_and(|n| n < 20_000), "the page holds too much: {n_nodes}");
    browser.pictures("job-gigabyte");
    browser.is_clean();
}

#[test]
fn the_scripts_know_terminals_scroll_bars_times_and_lists() {
    const PURE: &str = include_str!("../../crates/server/tests/page/pure.js");
    let world = World::new();
    let server = world.serve();
    let browser = Browser::open(&world);
    browser.go(&server.url("/"));
    assert_eq!(browser.run(PURE), serde_json::json!([]), "what does not hold");
    browser.is_clean();
}

#[test]
fn a_page_goes_on_by_itself_when_the_server_is_back() {
    let mut site = Site::with("");
    let pipe = pipe(&site);
    let steps =
        format!("jobs: {{ speak: {{ sandbox: false, steps: [\"cat '{}'\"] }} }}\n", pipe.display());
    site.tree.write(".kiln.yml", steps);
    site.push();
    let mut speak =
        OpenOptions::new().write(true).open(&pipe).expect("the job opens the other end");
    let browser = Browser::open(&site.world);
    browser.go(&site.server.url("/p/site/1/speak"));
    writeln!(speak, "before the crash").expect("the job reads");
    browser.log_shows("before the crash");
    browser.run("window.sameDocument = true");
    let address = site.server.address.to_string();
    site.server.end();
    writeln!(speak, "while nobody serves").expect("the job reads on");
    browser.sees("Connection lost");
    site.server = site.world.serve_with(&["--listen", &address]);
    browser.log_shows("while nobody serves");
    writeln!(speak, "after the crash").expect("the job reads");
    browser.log_shows("after the crash");
    let lines = browser.log_text().matches("while nobody serves").count();
    assert_eq!(lines, 1, "nothing comes twice: {}", browser.log_text());
    drop(speak);
    browser.holds("it ends as it ended", "return document.title.startsWith('success')");
    browser.holds("without being loaded anew", "return window.sameDocument === true");
}
