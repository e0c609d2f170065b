//! The floors of the house: who may know whom.

use std::collections::BTreeSet;

use kiln_stdx::process;
use serde_json::Value;

use super::tree::none;

/// Floor, crate, and the crates that it may name. An arrow points down only, and floor 3 never
/// names its own floor.
const ARROWS: &[(u8, &str, &[&str])] = &[
    (1, "kiln-stdx", &[]),
    (2, "kiln-model", &["kiln-stdx"]),
    (3, "kiln-git", &["kiln-model", "kiln-stdx"]),
    (3, "kiln-workspace", &["kiln-model", "kiln-stdx"]),
    (3, "kiln-executor", &["kiln-model", "kiln-stdx"]),
    (3, "kiln-image", &["kiln-model", "kiln-stdx"]),
    (3, "kiln-api", &["kiln-model", "kiln-stdx"]),
    (3, "kiln-manifest", &["kiln-model", "kiln-stdx"]),
    (3, "kiln-engine", &["kiln-model", "kiln-stdx"]),
    (3, "kiln-store", &["kiln-model", "kiln-stdx"]),
    (3, "kiln-forge", &["kiln-model", "kiln-stdx"]),
    (
        4,
        "kiln-agent",
        &[
            "kiln-api",
            "kiln-executor",
            "kiln-git",
            "kiln-image",
            "kiln-model",
            "kiln-stdx",
            "kiln-workspace",
        ],
    ),
    (
        4,
        "kiln-server",
        &[
            "kiln-api",
            "kiln-engine",
            "kiln-forge",
            "kiln-git",
            "kiln-manifest",
            "kiln-model",
            "kiln-stdx",
            "kiln-store",
        ],
    ),
    (
        5,
        "kiln",
        &[
            "kiln-agent",
            "kiln-api",
            "kiln-engine",
            "kiln-executor",
            "kiln-git",
            "kiln-image",
            "kiln-manifest",
            "kiln-model",
            "kiln-server",
            "kiln-stdx",
            "kiln-store",
            "kiln-workspace",
        ],
    ),
    // Beside the house. The stories know the program from outside only.
    (6, "kiln-it", &["kiln-stdx"]),
    (
        6,
        "xtask",
        &["kiln-git", "kiln-it", "kiln-manifest", "kiln-model", "kiln-stdx", "kiln-store"],
    ),
];

fn floor(name: &str) -> Option<u8> {
    ARROWS.iter().find(|(_, of, _)| *of == name).map(|(floor, _, _)| *floor)
}

#[test]
fn crates_name_only_whom_they_may() {
    let mut complaints = Vec::new();
    let mut seen = BTreeSet::new();
    for package in packages() {
        let name = package["name"].as_str().expect("a package has a name").to_owned();
        let Some((own, _, allowed)) = ARROWS.iter().find(|(_, of, _)| *of == name) else {
            complaints.push(format!("`{name}` has no line in the table of arrows"));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("a list") {
            let to = dependency["name"].as_str().expect("a dependency has a name");
            let Some(other) = floor(to) else { continue };
            // Tests of a crate may look at anything that is not above it.
            let lawful = match dependency["kind"].as_str() {
                Some("dev") => other <= *own,
                _ => allowed.contains(&to),
            };
            if !lawful {
                complaints.push(format!("`{name}` names `{to}`"));
            }
        }
        seen.insert(name);
    }
    let gone = ARROWS.iter().filter(|(_, name, _)| !seen.contains(*name));
    complaints.extend(gone.map(|(_, name, _)| format!("`{name}` is in the table and not there")));
    none("arrows that must not be", &complaints);
}

#[test]
fn the_table_itself_points_down() {
    for (own, name, allowed) in ARROWS {
        for to in *allowed {
            let other = floor(to).unwrap_or_else(|| panic!("`{to}` has no line"));
            let down = other < *own || *own == 6;
            assert!(down, "`{name}` on floor {own} names `{to}` on floor {other}");
        }
    }
}

fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = process::command(cargo);
    command.args(["metadata", "--no-deps", "--format-version=1"]);
    command.current_dir(kiln_it::binary::checkout());
    let metadata = process::output(&mut command).expect("cargo knows the workspace");
    let mut metadata: Value = serde_json::from_slice(&metadata).expect("cargo writes JSON");
    serde_json::from_value(metadata["packages"].take()).expect("a list of packages")
}
