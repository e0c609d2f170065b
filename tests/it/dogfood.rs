//! kiln's own pipeline, run by kiln.

use std::path::Path;

use kiln_it::binary::checkout;
use kiln_it::{World, world};

/// The checkout's files in a repository of their own, so that the story also works where the
/// sources came without git, and can disturb nothing.
fn copy(world: &World) -> kiln_it::WorkTree {
    let tree = world.repository("kiln");
    let mut folders = vec![checkout().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            let inside = path.strip_prefix(checkout()).expect("walked from there").to_owned();
            let kind = entry.file_type().expect("a type");
            if inside == Path::new(".git") || inside == Path::new("target") {
                continue;
            } else if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                tree.write(&inside.to_string_lossy(), std::fs::read(&path).expect("a file"));
            }
        }
    }
    tree
}

#[test]
fn kilns_own_pipeline_is_right_and_its_format_job_runs() {
    let world = World::new();
    let tree = copy(&world);
    tree.kiln(["check"]).success();
    tree.kiln(["plan"]).success().says(&["format", "lints", "tidy", "tests"]);
    let mut run = tree.kiln_command(["run", "format"]);
    // The tool chain belongs to the person who runs this.
    for name in ["HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"] {
        if let Some(value) = std::env::var_os(name) {
            run.env(name, value);
        }
    }
    world::ran(&mut run).success();
}
