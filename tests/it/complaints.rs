//! A manifest is wrong; all that is wrong is said at once, with its place.

use kiln_it::{WorkTree, World};
use serde_json::Value;

fn tree(manifest: &str) -> WorkTree {
    let world = World::new();
    world.repository_with("work", &[(".kiln.yml", manifest)])
}

#[test]
fn every_mistake_is_named_with_its_place_and_a_way_out() {
    let tree = tree(
        "jobs:\n  build:\n    stpes: [make]\n  test:\n    needs: biuld\n    steps: [make test]\n    \
         timeout: 10 minutes\n  x:\n    if: branch ==\n    steps: [echo]\n",
    );
    let said = tree.kiln(["check"]).exits(2).said();
    for part in [
        ".kiln.yml:3:5",
        "stpes",
        "did you mean `steps`",
        ".kiln.yml:5:12",
        "biuld",
        "did you mean `build`",
        ".kiln.yml:7:14",
        "10 minutes",
        ".kiln.yml:9:",
        "^^^^^",
    ] {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
    let json = tree.kiln(["check", "--json"]).exits(2).stdout;
    let list: Value = serde_json::from_str(&json).expect("JSON");
    let list = list.as_array().expect("a list");
    assert!(list.len() >= 4, "{json}");
    for one in list {
        assert!(
            one["line"].is_u64() && one["column"].is_u64() && one["message"].is_string(),
            "{one}"
        );
    }
}

#[test]
fn a_cycle_is_named_in_full() {
    let tree = tree(
        "jobs:\n  a: { needs: c, steps: [x] }\n  b: { needs: a, steps: [x] }\n  c: { needs: b, steps: [x] }\n",
    );
    let said = tree.kiln(["check"]).exits(2).said();
    let cycle = ["a -> c -> b -> a", "c -> b -> a -> c", "b -> a -> c -> b"];
    let named = |way: &&str| said.replace('`', "").contains(*way);
    assert!(cycle.iter().any(named), "{said}");
}

#[test]
fn duplicates_and_wrong_types_are_errors() {
    for (manifest, part) in [
        ("jobs:\n  a: { steps: [x] }\n  a: { steps: [y] }\n", ".kiln.yml:3:3"),
        ("jobs:\n  a: { steps: [x], steps: [y] }\n", "steps"),
        ("jobs: [a, b]\n", "jobs"),
        ("jobs:\n  a: { steps: [[x]] }\n", ".kiln.yml:2:16"),
        ("jobs:\n  a: { needs: [b], steps: [x] }\n", "`b`"),
        ("jobs:\n  a: { steps: [] }\n", "step"),
        ("jobs: {}\n", "job"),
        ("jobs:\n  'a b': { steps: [x] }\n", ".kiln.yml:2:"),
        ("jobs:\n  a: { steps: ['echo ${{ branch }}'] }\n", "KILN_BRANCH"),
        ("jobs:\n\ta: {}\n", ".kiln.yml:2:"),
    ] {
        let said = tree(manifest).kiln(["check"]).exits(2).said();
        assert!(said.contains(part), "{manifest}: `{part}` is not in:\n{said}");
    }
}

#[test]
fn a_right_manifest_is_shown_as_its_plan() {
    let tree = tree(
        "jobs:\n  build: { steps: [make] }\n  test: { needs: build, matrix: { v: [1, 2] }, steps: [make test] }\n",
    );
    tree.kiln(["check"]).success();
    tree.kiln(["plan"]).success().says(&["build", "test:1", "test:2"]);
    let plan: Value =
        serde_json::from_str(&tree.kiln(["plan", "--json"]).success().stdout).expect("JSON");
    let names: Vec<_> = plan["jobs"].as_array().expect("jobs").iter().map(|j| &j["name"]).collect();
    assert_eq!(names, ["build", "test:1", "test:2"]);
    assert_eq!(plan["jobs"][1]["needs"], serde_json::json!([0]));
}
