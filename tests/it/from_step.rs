//! A job failed late; a person mends what was outside of it and goes on from the step that failed.

use std::fs::OpenOptions;
use std::path::Path;

use kiln_it::site::{job, states};
use kiln_it::{Site, WorkTree, World, wait};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Four steps; the second is the long one, and the third fails until `mended` is there. Each writes
/// down that it ran, gives an output and changes the files of those before.
fn manifest(world: &World, more: &str) -> String {
    let (ran, mended) = (world.at("ran"), world.at("mended"));
    let (ran, mended) = (ran.display(), mended.display());
    format!(
        "jobs:\n  base: {{ steps: ['echo base > base; echo old > gone'] }}\n  build:\n    sandbox: false\n    needs: base\n    \
         outputs: [one, two]\n{more}    steps:\n      \
         - echo 1 >> '{ran}'; echo first > first; rm gone; echo one=1 >> $KILN_OUTPUT\n      \
         - name: long\n        run: echo 2 >> '{ran}'; echo second >> first; mkdir dir; echo x > dir/x; echo two=2 >> $KILN_OUTPUT\n      \
         - echo 3 >> '{ran}'; find . -name .git -prune -o -type f -print | sort | xargs grep -H .; echo junk > first; rm -r dir; test -e '{mended}'\n      \
         - echo 4 >> '{ran}'; cat first; test ! -e dir\n  \
         after: {{ needs: build, steps: ['echo $KILN_NEEDS_BUILD_ONE $KILN_NEEDS_BUILD_TWO; cat first base; test ! -e gone'] }}\n"
    )
}

/// What the third step must find.
const FOUND: &str = "./.kiln.yml\n./base:base\n./dir/x:x\n./first:first\n./first:second\n";

fn found_in(log: &str) -> String {
    let mut found: Vec<&str> = log.lines().filter(|line| line.starts_with("./")).collect();
    found.retain(|line| !line.starts_with("./.kiln.yml:"));
    found.iter().map(|line| format!("{line}\n")).collect()
}

fn found() -> String {
    FOUND.lines().filter(|line| *line != "./.kiln.yml").map(|line| format!("{line}\n")).collect()
}

fn ran(world: &World) -> String {
    let text = std::fs::read_to_string(world.at("ran")).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn detail(tree: &WorkTree, reference: &str) -> Value {
    let done = tree.kiln(["show", reference, "--json"]).success();
    serde_json::from_str(&done.stdout).expect("JSON")
}

#[test]
fn a_local_job_goes_on_from_the_step_that_failed() {
    let world = World::new();
    let tree = world.repository_with("work", &[(".kiln.yml", &manifest(&world, ""))]);
    tree.kiln(["run"]).exits(1);
    assert_eq!(ran(&world), "1 2 3");
    std::fs::write(world.at("mended"), "").expect("a file");
    tree.kiln(["rerun", "#1/build", "--from", "3"]).success();
    assert_eq!(ran(&world), "1 2 3 3 4", "what was done is not done again");
    let log = tree.kiln(["logs", "#1/build"]).success();
    assert_eq!(found_in(&log.stdout), found());
    let after = tree.kiln(["logs", "#1/after"]).success();
    assert_eq!(after.stdout, "1 2\njunk\nbase\n", "outputs of all steps count");
    let first = tree.kiln(["logs", "#1/build", "--attempt", "1"]).success();
    assert_eq!(found_in(&first.stdout), found(), "the old log is there");
    tree.kiln(["why", "#1/build"]).success().says(&["from step 3, on the files of attempt 1"]);

    let shown = detail(&tree, "#1/build");
    let steps = &shown["attempts"][1]["steps"];
    assert_eq!(
        (&steps[0]["attempt"], &steps[0]["exit"]["code"]),
        (&json!(1), &json!(0)),
        "{steps:#}"
    );
    assert_eq!(steps[1]["reason"], "taken over from attempt 1");
    assert_eq!(
        (&steps[2]["attempt"], &steps[2]["kept"]),
        (&Value::Null, &json!(true)),
        "{steps:#}"
    );

    // By its name, and from an attempt that began in the middle itself.
    tree.kiln(["rerun", "#1/build", "--from", "long"]).success();
    assert_eq!(ran(&world), "1 2 3 3 4 2 3 4");
    tree.kiln(["rerun", "#1/build", "--from", "4"]).success();
    assert_eq!(ran(&world), "1 2 3 3 4 2 3 4 4");
    let after = tree.kiln(["logs", "#1/after"]).success();
    assert_eq!(after.stdout, "1 2\njunk\nbase\n");
}

#[test]
fn what_cannot_be_begun_from_is_refused_with_the_way_out() {
    let world = World::new();
    let tree =
        world.repository_with("work", &[(".kiln.yml", &manifest(&world, "    snapshots: off\n"))]);
    tree.kiln(["run"]).exits(1);
    let refused = |args: &[&str], words: &[&str]| {
        tree.kiln([&["rerun", "#1/build", "--from"], args].concat()).exits(2).says(words);
    };
    refused(&["3"], &["`snapshots: off`", "from its beginning"]);
    refused(&["5"], &["no step `5`", "2 `long`"]);
    refused(&["lnog"], &["no step `lnog`", "2 `long`"]);
    refused(&["0"], &["no step `0`"]);
    refused(&[""], &["no step"]);
    tree.kiln(["rerun", "#1", "--from", "3"]).exits(2).says(&["name it"]);
    tree.kiln(["rerun", "#1", "--failed", "--from", "3"]).exits(2);
    assert_eq!(ran(&world), "1 2 3");
    // The first step's files are those that any attempt begins with.
    tree.kiln(["rerun", "#1/build", "--from", "1"]).exits(1);
    assert_eq!(ran(&world), "1 2 3 1 2 3");
}

#[test]
fn files_that_are_gone_are_missed_with_the_way_out() {
    let world = World::new();
    let tree = world.repository_with("work", &[(".kiln.yml", &manifest(&world, ""))]);
    tree.kiln(["run"]).exits(1);
    let mut sealed = Vec::new();
    let mut folders = vec![world.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.path().ends_with("sealed") {
                sealed.push(entry.path());
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    let build =
        |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("-1-1."));
    for entry in
        sealed.iter().flat_map(|sealed| std::fs::read_dir(sealed).expect("a folder")).flatten()
    {
        if build(&entry.path()) && entry.path().is_dir() {
            std::fs::remove_dir_all(entry.path()).expect("ours");
        }
    }
    let words = ["step 3 found them", "no longer on this machine", "from its beginning"];
    tree.kiln(["rerun", "#1/build", "--from", "3"]).exits(1).says(&words);
    assert_eq!(ran(&world), "1 2 3");
}

#[test]
fn a_servers_job_goes_on_from_the_step_that_failed() {
    let mut site = Site::with("");
    let manifest = manifest(&site.world, "    snapshots: steps\n");
    site.tree.write(".kiln.yml", manifest);
    site.run(1);
    assert_eq!(ran(&site.world), "1 2 3");
    let path = "/projects/site/runs/1/rerun";
    let wrong = site.server.post(path, &json!({ "job": "build", "from": "lnog" }));
    assert_eq!((wrong.status, wrong.json()["code"].as_str()), (422, Some("bad_step")));
    let untaken = site.server.post(path, &json!({ "job": "build", "from": 4 }));
    assert_eq!((untaken.status, untaken.json()["code"].as_str()), (409, Some("not_kept")));
    std::fs::write(site.world.at("mended"), "").expect("a file");
    let asked = site.server.post(path, &json!({ "job": "build", "from": 3 }));
    assert_eq!(asked.status, 202, "{}", asked.text());
    let run = site.server.over("site", 1);
    assert_eq!(states(&run), ["base=success", "build=success", "after=success"], "{run:#}");
    assert_eq!(ran(&site.world), "1 2 3 3 4");
    assert_eq!(found_in(&site.log(1, "build")), found());
    assert_eq!(site.log(1, "after"), "1 2\njunk\nbase\n");
    assert_eq!(job(&run, "base")["attempt"], 1);

    // The same after a restart, by the command line.
    site.server.signal(Signal::KILL);
    site.again();
    site.kiln(&["rerun", "site#1/build", "--from", "long", "--follow"]).success();
    assert_eq!(ran(&site.world), "1 2 3 3 4 2 3 4");
}

#[test]
fn a_server_keeps_files_for_who_failed_before() {
    let site = Site::with("");
    let manifest = manifest(&site.world, "");
    site.tree.write(".kiln.yml", manifest);
    site.run(1);
    let rerun = |body: &Value| site.server.post("/projects/site/runs/1/rerun", body);
    let none = rerun(&json!({ "job": "build", "from": 3 }));
    assert_eq!(none.status, 409);
    assert!(none.text().contains("snapshots: steps"), "{}", none.text());
    assert_eq!(rerun(&json!({ "failed": true })).status, 202);
    site.server.over("site", 1);
    assert_eq!(rerun(&json!({ "job": "build", "from": 3 })).status, 202);
    site.server.over("site", 1);
    assert_eq!(ran(&site.world), "1 2 3 1 2 3 3");
}

/// At each step the server is killed; the session lives on, and what each step found is kept.
#[test]
fn boundaries_outlive_the_server() {
    let mut site = Site::with("");
    let pipe = |n: u32| site.world.at(&format!("pipe-{n}"));
    for n in 1..=3 {
        let mut make = site.world.command("mkfifo");
        kiln_it::world::ran(make.arg(pipe(n))).success();
    }
    let step = |n: u32| {
        format!("      - echo {n} > file; cat '{}'; echo {n}{n} >> file\n", pipe(n).display())
    };
    let steps: String = (1..=3).map(step).collect();
    let manifest = format!(
        "jobs:\n  a:\n    sandbox: false\n    snapshots: steps\n    steps:\n{steps}      - name: last\n        run: cat file; false\n"
    );
    site.tree.write(".kiln.yml", manifest);
    site.push();
    let pipes: Vec<_> = (1..=3).map(pipe).collect();
    for pipe in &pipes {
        // Opens when the step does.
        let told = OpenOptions::new().write(true).open(pipe).expect("the step opens the other end");
        site.server.signal(Signal::KILL);
        site.again();
        drop(told);
    }
    let run = site.server.over("site", 1);
    assert_eq!(states(&run), ["a=failed"], "{run:#}");
    let detail = site.server.json("/projects/site/runs/1/jobs/a");
    let kept: Vec<_> = detail["attempts"][0]["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .map(|step| step["kept"] == true)
        .collect();
    assert_eq!(kept, [false, true, true, true], "{detail:#}");
    let asked =
        site.server.post("/projects/site/runs/1/rerun", &json!({ "job": "a", "from": "last" }));
    assert_eq!(asked.status, 202);
    wait::until("the second attempt is over", || {
        let run = site.now(1);
        (job(&run, "a")["attempt"] == 2 && job(&run, "a")["state"] == "failed").then_some(())
    });
    assert_eq!(site.log(1, "a"), "3\n33\n");
}
