//! What jobs may have of the machine is said there, not in a repository.

use std::fs;

use kiln_it::World;
use kiln_it::site::{Site, job};

use crate::containers::{save_image, scratch};

const PRIVILEGED: &str = "jobs:
  a:
    image: docker-archive:tiny.tar
    privileged: true
    steps: [\"grep CapEff /proc/self/status\"]
  b:
    image: docker-archive:tiny.tar
    volumes: [\"/etc:/in:ro\"]
    steps: [ls /in]
";

#[test]
fn a_pushed_job_that_wants_more_than_the_server_allows_never_begins() {
    let site = Site::with(PRIVILEGED);
    save_image(&site.tree.path.join("tiny.tar"), &scratch(&site.world));
    let run = site.run(1);
    assert_eq!(run["state"], "failed", "{run}");
    let reason = run["reason"].as_str().unwrap_or_default();
    for words in [
        "job `a` asks for `privileged`, which this server does not allow (privileged)",
        "job `b` asks for the volume `/etc`, which this server does not allow (mounts)",
    ] {
        assert!(reason.contains(words), "{reason}");
    }
    assert_eq!(run["jobs"].as_array().map(Vec::len), Some(0), "{run}");

    // The machine's word, read without a restart.
    let allowed = "[projects.site.jobs]\nprivileged = true\nmounts = [\"/etc:ro\"]\n";
    fs::write(site.world.data().join("kiln.toml"), allowed).unwrap();
    site.tree.write("more", "x");
    let run = site.run(2);
    assert_eq!(run["state"], "success", "{run}");
    assert!(site.log(2, "b").contains("passwd"));

    // A run that was planned before is asked again when its job would begin.
    fs::write(site.world.data().join("kiln.toml"), "").unwrap();
    site.kiln(&["rerun", "site#2/a"]).success();
    let run = site.server.over("site", 2);
    let reason = job(&run, "a")["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("does not allow (privileged)"), "{run}");
}

#[test]
fn a_server_does_not_start_with_a_policy_that_makes_no_sense() {
    let world = World::new();
    fs::create_dir_all(world.data()).unwrap();
    fs::write(world.data().join("kiln.toml"), "[jobs]\nmounts = [\"srv\"]\n").unwrap();
    let refused = world.kiln(world.path(), ["serve", "--listen", "127.0.0.1:0"]).exits(2);
    refused.says(&["kiln.toml", "`[jobs]`", "`srv` is not an absolute path"]);
}

#[test]
fn a_local_run_asks_before_a_job_becomes_root_of_the_machine() {
    let world = World::new();
    let manifest = "jobs:
  a:
    image: docker-archive:tiny.tar
    privileged: true
    steps: [\"grep CapEff /proc/self/status\"]
";
    let tree = world.repository_with("work", &[(".kiln.yml", manifest)]);
    save_image(&tree.path.join("tiny.tar"), &scratch(&world));
    tree.kiln(["run"]).exits(2).says(&["`privileged`", "(privileged)", "`--allow privileged`"]);
    let said = tree.kiln(["run", "--allow", "privileged"]).success().said();
    let powers = said.lines().find_map(|line| line.split("CapEff:").nth(1)).unwrap_or_default();
    // More than the ten that containers have.
    let powers = u64::from_str_radix(powers.trim(), 16).unwrap_or_default();
    assert!(powers.count_ones() > 10, "{said}");
}

#[test]
fn what_a_job_sees_of_the_machine_is_what_it_named_and_no_link_leads_out_of_it() {
    let world = World::new();
    let open = world.path().join("open");
    for folder in ["in", "out"] {
        fs::create_dir_all(open.join(folder)).unwrap();
    }
    fs::write(open.join("in/file"), "of the machine\n").unwrap();
    std::os::unix::fs::symlink(world.path(), open.join("leak")).unwrap();
    let shown = open.display();
    let manifest = format!(
        "jobs:
  a:
    image: docker-archive:tiny.tar
    volumes: [\"{shown}/in:/in:ro\", \"{shown}/out:/out\"]
    steps:
      - cat /in/file; echo made > /out/made
      - '! echo x > /in/file'
  b:
    image: docker-archive:tiny.tar
    volumes: [\"{shown}/leak:/in\"]
    steps: [ls /in]
  c:
    image: docker-archive:tiny.tar
    volumes: [\"{shown}/none:/in\"]
    steps: [ls /in]
"
    );
    let tree = world.repository_with("work", &[(".kiln.yml", &manifest)]);
    save_image(&tree.path.join("tiny.tar"), &scratch(&world));
    let policy = format!("[jobs]\nmounts = [\"{shown}\"]\n");
    fs::create_dir_all(world.data()).unwrap();
    fs::write(world.data().join("kiln.toml"), policy).unwrap();
    let said = tree.kiln(["run"]).exits(1).said();
    assert!(said.contains("a | of the machine"), "{said}");
    assert!(said.contains("kiln: a success"), "{said}");
    assert_eq!(fs::read_to_string(open.join("out/made")).unwrap(), "made\n");
    assert_eq!(fs::read_to_string(open.join("in/file")).unwrap(), "of the machine\n");
    assert!(said.contains("a link in it may lead out"), "{said}");
    assert!(said.contains("make it on the machine"), "{said}");
}
