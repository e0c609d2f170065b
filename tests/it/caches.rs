//! Jobs find what earlier ones left at the paths of their caches.

use kiln_it::site::{Site, job};
use kiln_it::{WorkTree, World};

fn repository(manifest: &str) -> (World, WorkTree) {
    let world = World::new();
    let tree = world.repository_with("work", &[(".kiln.yml", manifest)]);
    (world, tree)
}

const CARGO_LIKE: &str = "jobs:
  build:
    cache: [target]
    steps:
      - 'if test -e target/built; then echo \"nothing to build\"; else mkdir target; fi'
      - date > target/built
  test:
    needs: build
    cache: [target]
    steps: [test -e target/built, echo tested >> target/tests, wc -l target/tests]
";

#[test]
fn the_second_local_run_finds_what_the_first_has_built() {
    let (_world, tree) = repository(CARGO_LIKE);
    tree.write(".gitignore", "target\n");
    let first = tree.kiln(["run"]).success().said();
    assert!(first.contains("kiln: cache target (nothing kept yet)"), "{first}");
    assert!(first.contains("kiln: cache target (as its needs left it)"), "{first}");
    assert!(!first.contains("nothing to build"), "{first}");
    let second = tree.kiln(["run"]).success().said();
    assert!(second.contains("nothing to build"), "{second}");
    assert!(second.contains(", from #1)") && second.contains("2 target/tests"), "{second}");
    // The user's own folder is another matter.
    assert!(!tree.path.join("target").exists());
    let anew = tree.kiln(["run", "--no-cache"]).success().said();
    assert!(!anew.contains("nothing to build") && anew.contains("1 target/tests"), "{anew}");
    // What that left is kept.
    let third = tree.kiln(["run"]).success().said();
    assert!(third.contains(", from #3)") && third.contains("2 target/tests"), "{third}");
}

#[test]
fn a_branch_finds_the_cache_of_the_default_branch_until_it_has_its_own() {
    let manifest = "jobs:\n  a:\n    cache: { path: kept, key: \"${{ event }}\" }\n    steps:\n      \
                    - mkdir -p kept; cat kept/* || true; echo \"on $KILN_BRANCH\" > kept/$KILN_BRANCH\n";
    let (_world, tree) = repository(manifest);
    tree.kiln(["run"]).success();
    tree.git(["checkout", "-q", "-b", "topic"]);
    let said = tree.kiln(["run"]).success().said();
    assert!(
        said.contains("kiln: cache kept [local] (main, ") && said.contains("on main"),
        "{said}"
    );
    let said = tree.kiln(["run"]).success().said();
    assert!(said.contains("(topic, ") && said.contains("on topic"), "{said}");
    tree.git(["checkout", "-q", "main"]);
    let said = tree.kiln(["run"]).success().said();
    assert!(!said.contains("on topic"), "{said}");
}

#[test]
fn a_job_that_failed_leaves_nothing() {
    let manifest = "jobs:\n  a:\n    cache: kept\n    steps:\n      \
                    - if test -e kept; then cat kept; exit 0; fi\n      \
                    - 'test -e .again || { echo bad > kept; exit 1; }'\n      - echo good > kept\n";
    let (_world, tree) = repository(manifest);
    assert_eq!(tree.kiln(["run"]).code, Some(1));
    tree.write(".again", "");
    let said = tree.kiln(["run"]).success().said();
    assert!(said.contains("(nothing kept yet)"), "{said}");
    assert!(tree.kiln(["run"]).success().said().contains("good"));
}

#[test]
fn a_folder_of_the_home_is_found_again_and_not_written() {
    let manifest = "jobs:\n  a:\n    cache: [~/.pkg/registry]\n    steps:\n      \
                    - cat ~/.pkg/registry/*\n      - echo \"by $KILN_RUN\" >> ~/.pkg/registry/index\n";
    let (world, tree) = repository(manifest);
    let home = world.at("home/.pkg/registry");
    std::fs::create_dir_all(&home).expect("the home is ours");
    std::fs::write(home.join("index"), "own\n").expect("it is ours");
    tree.kiln(["run"]).success();
    let said = tree.kiln(["run"]).success().said();
    if said.contains("this machine cannot mount it") {
        return;
    }
    assert!(said.contains("own") && said.contains("by 1"), "{said}");
    assert_eq!(std::fs::read_to_string(home.join("index")).expect("it is there"), "own\n");
}

#[test]
fn a_pushed_branch_finds_what_its_server_kept() {
    let mut site = Site::with(CARGO_LIKE);
    site.run(1);
    site.again();
    site.tree.write("file", "more");
    let run = site.run(2);
    assert_eq!(job(&run, "build")["state"], "success");
    let log = site.log(2, "build");
    assert!(
        log.contains("kiln: cache target (main, ") && log.contains("nothing to build"),
        "{log}"
    );
}
