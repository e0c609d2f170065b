//! Which files a job starts from, and what is said when two of its needs changed the same one.

use kiln_it::{Site, World};

const VIEWS: &str = "\
jobs:
  build: { steps: ['echo b > built; echo b > shared'] }
  check: { needs: build, steps: ['echo c > shared; echo same > agreed'] }
  test: { needs: build, steps: ['echo t > shared; echo same > agreed'] }
  all: { needs: [check, test], steps: ['cat shared built; ls -A'] }
  next: { needs: all, steps: [cat shared] }
  from: { needs: [check, test], workspace: { from: [check] }, steps: ['cat shared built'] }
  fresh: { needs: build, workspace: fresh, steps: ['ls', 'git describe --always'] }
  none: { needs: build, workspace: none, outputs: [n], steps: ['ls -A; echo n=1 >> $KILN_OUTPUT; echo x > left'] }
  on: { needs: [none, check], steps: ['cat left shared; echo $KILN_NEEDS_NONE_N'] }
";

const WARNING: &str =
    "`check` and `test` both changed `shared`: what `test` left is seen, the later need";

#[test]
fn a_job_on_a_laptop_sees_the_files_that_it_asks_for() {
    let world = World::new();
    let tree = world.repository_with("work", &[(".kiln.yml", VIEWS), ("file", "")]);
    let done = tree.kiln(["run"]).success();
    let said = done.said();
    let lines: Vec<&str> = said.lines().collect();
    for line in [
        "all | t",
        "all | b",
        "next | t",
        "from | c",
        "from | b",
        "fresh | file",
        "on | x",
        "on | c",
        "on | 1",
    ] {
        assert!(lines.contains(&line), "no `{line}` in\n{said}");
    }
    assert!(!lines.contains(&"fresh | built"), "{said}");
    assert!(!lines.iter().any(|line| line.starts_with("none | ")), "{said}");
    assert_eq!(said.matches(WARNING).count(), 1, "of one job, and not of its child:\n{said}");
    tree.kiln(["show", "#1"]).success().says(&["warning:", "all:", WARNING]);
    let shown: serde_json::Value = world.kiln_json(&world.at("work"), ["show", "#1/all", "--json"]);
    assert_eq!(shown["attempts"][0]["warnings"], serde_json::json!([WARNING]));
}

#[test]
fn a_servers_job_sees_the_files_that_it_asks_for() {
    let site = Site::with(VIEWS);
    let run = site.run(1);
    assert_eq!(run["state"], "success", "{run:#}");
    assert_eq!(site.log(1, "all").lines().take(2).collect::<Vec<_>>(), ["t", "b"]);
    assert_eq!(site.log(1, "from"), "c\nb\n");
    assert_eq!(site.log(1, "none"), "");
    assert_eq!(site.log(1, "on"), "x\nc\n1\n");
    assert!(site.log(1, "fresh").contains(&site.tree.head()[..7]), "{}", site.log(1, "fresh"));
    let warned: Vec<_> = run["jobs"].as_array().expect("jobs").iter().collect();
    let warned: Vec<_> = warned.iter().filter(|job| !job["warnings"].is_null()).collect();
    assert_eq!(warned.len(), 1, "{run:#}");
    assert_eq!((&warned[0]["job"], &warned[0]["warnings"][0]), (&"all".into(), &WARNING.into()));
    // The warning is part of the run's history.
    let mut site = site;
    site.again();
    assert_eq!(site.now(1)["jobs"][3]["warnings"][0], WARNING);
}

#[test]
fn a_folder_of_artifacts_is_fetched_as_it_was() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::with(
        "jobs:\n  build:\n    artifacts: [out]\n    steps:\n      - mkdir -p 'out/d \u{e9}/deep'; echo 1 > 'out/d \u{e9}/deep/\u{fc}'; \
         echo app > out/app; chmod +x out/app; echo x > out/x\n",
    );
    let run = site.run(1);
    assert_eq!(run["state"], "success", "{run:#}");
    let to = site.world.at("got");
    let to = to.to_str().expect("a plain path");
    site.kiln(&["artifacts", "site#1", "get", "out/d \u{e9}", "out/app", "-o", to]).success();
    let at = |path: &str| site.world.at("got").join(path);
    assert_eq!(
        std::fs::read_to_string(at("out/d \u{e9}/deep/\u{fc}")).expect("it is there"),
        "1\n"
    );
    assert!(!at("out/x").exists());
    let mode = std::fs::metadata(at("out/app")).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o111, 0o111);
    // The server may be named after `get`, too.
    let server = site.server.url("");
    site.kiln(&["artifacts", "site#1", "get", "out/x", "-o", "-", "--server", &server])
        .success()
        .says(&["x"]);
    let zip = site.server.get("/api/v1/projects/site/runs/1/artifacts.zip?path=out/d%20%C3%A9");
    assert_eq!((zip.status, &zip.body[..4]), (200, &b"PK\x03\x04"[..]));
}
