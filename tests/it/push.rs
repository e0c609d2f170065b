//! A person pushes; runs begin.

use std::os::unix::ffi::OsStrExt;

use kiln_it::wait;
use kiln_it::{Site, World};
use serde_json::Value;

const HELLO: &str = "jobs: { hello: { steps: [echo hello] } }\n";

/// `(event, branch or tag, commit)` of each run, in the order of their names.
fn asked(site: &Site, n_runs: usize) -> Vec<(String, String, String)> {
    let runs = wait::until(&format!("{n_runs} runs"), || {
        let runs = site.server.runs("site");
        (runs.len() >= n_runs).then_some(runs)
    });
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut asked: Vec<_> = runs
        .iter()
        .map(|run| {
            let name = if run["branch"].is_null() { &run["tag"] } else { &run["branch"] };
            (text(&run["event"]), text(name), text(&run["commit"]))
        })
        .collect();
    asked.sort();
    asked
}

fn push_of(branch: &str, commit: &str) -> (String, String, String) {
    ("push".to_owned(), branch.to_owned(), commit.to_owned())
}

#[test]
fn a_push_becomes_a_run_with_its_log() {
    let site = Site::with(HELLO);
    let commit = site.push();
    let run = site.server.over("site", 1);
    assert_eq!(run["state"], "success", "{run:#}");
    assert_eq!(run["event"], "push");
    assert_eq!(run["branch"], "main");
    assert_eq!(run["commit"], commit.as_str());
    assert_eq!(run["title"], "change");
    assert_eq!(site.log(1, "hello"), "hello\n");
}

#[test]
fn each_ref_of_one_push_has_its_run() {
    let site = Site::with("on: { push: {}, tag: {} }\njobs: { hello: { steps: [echo hello] } }\n");
    let first = site.tree.commit("first");
    site.tree.git(["branch", "one"]).success();
    let second = site.tree.commit("second");
    site.tree.git(["branch", "two"]).success();
    site.tree.git(["tag", "v1"]).success();
    site.tree.git(["tag", "-a", "v2", "-m", "with a message", &first]).success();
    site.tree.push(["one", "two", "v1", "v2"]);
    let tag = |name: &str, commit: &str| ("tag".to_owned(), name.to_owned(), commit.to_owned());
    let expected =
        [push_of("one", &first), push_of("two", &second), tag("v1", &second), tag("v2", &first)];
    assert_eq!(asked(&site, 4), expected);
    let mut numbers: Vec<_> =
        site.server.runs("site").iter().map(|run| run["number"].as_i64().unwrap_or(0)).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4]);
}

#[test]
fn a_forced_push_runs_the_new_commit_and_a_deletion_runs_nothing() {
    let site = Site::with(HELLO);
    let first = site.push();
    site.tree.git(["commit", "--quiet", "--amend", "-m", "otherwise"]).success();
    let amended = site.tree.head();
    site.tree.push(["--force", "HEAD:refs/heads/main"]);
    site.tree.push(["HEAD:refs/heads/short"]);
    site.tree.push([":refs/heads/short"]);
    // The next run shows that the deletion before it has been seen and asked for nothing.
    site.tree.push(["HEAD:refs/heads/last"]);
    let mut expected = vec![
        push_of("main", &first),
        push_of("main", &amended),
        push_of("short", &amended),
        push_of("last", &amended),
    ];
    expected.sort();
    assert_eq!(asked(&site, 4), expected);
}

#[test]
fn a_root_commit_on_a_second_branch_runs() {
    let site = Site::with(HELLO);
    site.push();
    site.tree.git(["checkout", "--quiet", "--orphan", "fresh"]).success();
    let root = site.tree.commit("a new beginning");
    site.tree.push(["HEAD:refs/heads/fresh"]);
    assert!(asked(&site, 2).contains(&push_of("fresh", &root)));
    assert_eq!(site.server.over("site", 2)["state"], "success");
}

#[test]
fn a_branch_name_is_only_a_string() {
    let site =
        Site::with("jobs: { show: { steps: [ 'printf \"%s\\n\" \"$KILN_BRANCH\"', 'ls' ] } }\n");
    site.tree.commit("first");
    let hostile = [
        "$(touch${IFS}owned)",
        "`touch${IFS}owned`",
        ";touch${IFS}owned;",
        "--upload-pack=owned",
        "a'b\"c",
        "<img/src=x>",
    ];
    for (number, branch) in (1..).zip(hostile) {
        site.tree.push([format!("HEAD:refs/heads/{branch}")]);
        let run = site.server.over("site", number);
        assert_eq!(run["state"], "success", "{branch}: {run:#}");
        assert_eq!(run["branch"], branch);
        // The job saw the name as it is, and its folder has nothing that the name could have made.
        assert_eq!(site.log(number, "show"), format!("{branch}\n"));
        let page = site.server.get(&format!("/p/site/{number}")).text();
        assert!(!page.contains("<img/src"), "the name is not escaped in the page");
    }
    for folder in [site.world.path(), &site.bare.path, &site.world.data()] {
        assert!(!folder.join("owned").exists(), "a branch name was run in {folder:?}");
    }
}

#[test]
fn names_that_are_not_utf8_are_checked_out_as_they_are() {
    let site = Site::with("jobs: { list: { steps: [ls] } }\n");
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9.txt");
    std::fs::write(site.tree.path.join(name), "x").expect("this file system keeps any bytes");
    assert_eq!(site.run(1)["state"], "success");
    assert_eq!(site.server.log("site", 1, "list"), b"caf\xe9.txt\n");
}

#[test]
fn a_hook_that_was_there_still_runs() {
    let world = World::new();
    let bare = world.bare("site.git");
    let tree = world.clone_of(&bare, "site");
    tree.write(".kiln.yml", HELLO);
    let seen = world.at("seen");
    let hook = bare.path.join("hooks/post-receive");
    let script = format!("#!/bin/sh\ncat >> '{}'\n", seen.display());
    std::fs::write(&hook, script).expect("a hook");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&hook, mode).expect("executable");
    let server = world.serve();
    world.watch("site", &bare);
    // Twice is as good as once.
    world.kiln(world.path(), ["project", "hook", "site"]).success();
    let commit = tree.commit("first");
    tree.push(["HEAD:refs/heads/main"]);
    assert_eq!(server.over("site", 1)["commit"], commit.as_str());
    let seen = std::fs::read_to_string(seen).expect("the old hook ran");
    assert_eq!(seen, format!("{} {commit} refs/heads/main\n", "0".repeat(40)));
    assert_eq!(server.runs("site").len(), 1);
}

#[test]
fn a_push_while_the_server_is_down_is_kept() {
    let mut site = Site::with(HELLO);
    site.server.signal(rustix::process::Signal::KILL);
    let commit = {
        let commit = site.tree.commit("while nobody listens");
        site.tree.push(["HEAD:refs/heads/main"]);
        commit
    };
    site.again();
    let run = site.server.over("site", 1);
    assert_eq!(run["commit"], commit.as_str());
    assert_eq!(run["state"], "success");
}

#[test]
fn a_push_without_a_manifest_says_so_and_runs_nothing() {
    let site = Site::with(HELLO);
    std::fs::remove_file(site.tree.path.join(".kiln.yml")).expect("it was there");
    site.tree.write("README", "nothing to run here\n");
    site.tree.commit("no pipeline yet");
    let said = site.tree.push(["HEAD:refs/heads/main"]).said();
    assert!(said.contains(".kiln.yml"), "who pushes is told what is missing: {said}");
    site.tree.write(".kiln.yml", HELLO);
    assert_eq!(site.run(1)["title"], "change", "the next push is the first run");
}

#[test]
fn a_change_outside_the_watched_paths_runs_nothing() {
    let site = Site::with(
        "on: { push: { branches: [main, 'release/*'], paths: ['src/**'] } }\n\
         jobs: { hello: { steps: [echo hello] } }\n",
    );
    site.tree.write("src/a", "1");
    site.push();
    site.server.over("site", 1);
    site.tree.write("docs/b", "2");
    site.push();
    site.tree.push(["HEAD:refs/heads/dev"]);
    site.tree.write("src/a", "3");
    let commit = site.push();
    // Deliveries are settled in order: had the two before asked for runs, this would be number 4.
    assert_eq!(site.server.over("site", 2)["commit"], commit.as_str());
    assert_eq!(site.server.runs("site").len(), 2);
}

#[test]
fn a_repository_given_as_a_file_url_takes_a_hook_and_is_looked_at_every_minute() {
    let world = World::new();
    let bare = world.bare("site.git");
    let tree = world.clone_of(&bare, "site");
    tree.write(".kiln.yml", HELLO);
    let server = world.serve();
    let url = format!("file://{}", bare.path.display());
    world.kiln(world.path(), ["project", "add", "site", "--repo", &url, "--hook"]).success();
    assert_eq!(server.json("/projects/site")["poll_every_s"], 60);
    let commit = tree.commit("first");
    let said = tree.push(["HEAD:refs/heads/main"]).said();
    assert!(said.contains("run site#1"), "{said}");
    assert_eq!(server.over("site", 1)["commit"], commit.as_str());
    let off = ["project", "add", "still", "--repo", &url, "--poll", "off"];
    world.kiln(world.path(), off).success();
    assert!(server.json("/projects/still")["poll_every_s"].is_null());
}
