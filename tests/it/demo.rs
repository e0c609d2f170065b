//! The first five minutes: `kiln demo`, on a machine that has nothing.

use kiln_it::World;
use kiln_it::wait;

#[test]
fn the_demonstration_runs_to_its_end() {
    let world = World::new();
    let said = world.kiln(world.path(), ["demo", "--once"]).success().said();
    assert!(said.contains("http://127.0.0.1:"), "the address is printed:\n{said}");
    let left = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!left.contains("kiln-demo"), "mounts are left:\n{left}");
}

#[test]
fn a_repository_given_by_url_is_polled() {
    let world = World::new();
    let bare = world.bare("far.git");
    let tree = world.clone_of(&bare, "far");
    tree.write(".kiln.yml", "jobs: { hello: { steps: [echo from afar] } }\n");
    tree.commit("first");
    tree.push(["HEAD:refs/heads/main"]);
    let server = world.serve();
    let url = format!("file://{}", bare.path.display());
    let add = ["project", "add", "far", "--repo", &url, "--poll", "10s"];
    world.kiln(world.path(), add).success();
    let commit = tree.commit("second");
    tree.push(["HEAD:refs/heads/main"]);
    let run = wait::until("the poll finds the push", || {
        let runs = server.runs("far");
        runs.into_iter().find(|run| run["commit"] == commit.as_str())
    });
    let number = run["number"].as_i64().expect("a number");
    assert_eq!(server.over("far", number)["state"], "success");
    assert_eq!(server.log("far", number, "hello"), b"from afar\n");
}
