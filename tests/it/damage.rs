//! Layers that somebody has broken: what can be made again is, and of what cannot it is said what must
//! run again.

use kiln_it::site::Site;
use kiln_it::{Ran, WorkTree, World, binary, ran};
use serde_json::Value;

const MANIFEST: &str = "jobs:\n  make:\n    steps: [\"mkdir -p deep; echo made > deep/file\"]\n  \
                        look:\n    needs: make\n    steps: [\"cat deep/file readme\"]\n";

fn repository() -> (World, WorkTree) {
    let world = World::new();
    let files = [(".kiln.yml", MANIFEST), ("readme", "read me\n")];
    let tree = world.repository_with("work", &files);
    tree.kiln(["run"]).success();
    (world, tree)
}

fn verified(done: &Ran) -> Value {
    let report: Value =
        serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {done:?}"));
    report[0]["verified"].clone()
}

#[test]
fn who_needs_what_is_gone_says_what_must_run_again() {
    let (world, tree) = repository();
    let layers = world.data().join("local/layers");
    std::fs::remove_dir_all(layers.join("sealed/1-0-1")).expect("it is there");
    let words = ["what `make` left is no longer on this machine", "kiln rerun '#1' --job make"];
    tree.kiln(["rerun", "#1", "--job", "look"]).exits(1).says(&words);
    tree.kiln(["logs", "#1/look"]).success().says(&words);
    tree.kiln(["show", "#1/look"]).success().says(&words);
    assert_eq!(std::fs::read_dir(layers.join("attempts")).expect("a folder").count(), 0);
    // As it says.
    tree.kiln(["rerun", "#1", "--job", "make"]).success().says(&["made", "read me"]);
    tree.kiln(["rerun", "#1", "--job", "look"]).success();
}

#[test]
fn a_layer_that_was_changed_is_found_set_aside_and_made_again() {
    let (world, tree) = repository();
    let layers = world.data().join("local/layers");
    let first = tree.kiln(["gc", "--verify", "--json"]).success();
    assert_eq!((&verified(&first)["n_layers"], &verified(&first)["n_new"]), (&1.into(), &1.into()));
    let again = tree.kiln(["gc", "--verify", "--json"]).success();
    assert_eq!(verified(&again)["n_new"], 0);

    std::fs::write(layers.join("sealed/1-0-1/deep/file"), "").expect("it is there");
    let found = tree.kiln(["gc", "--verify", "--json"]).exits(3);
    let said = verified(&found)["damaged"][0].as_str().expect("a sentence").to_owned();
    for words in ["what `make` of #1 left", "set aside", "`kiln rerun '#1' --job make`"] {
        assert!(said.contains(words), "{said}");
    }
    assert!(layers.join("damaged/sealed-1-0-1.1/deep/file").exists());
    assert!(layers.join("damaged/sealed-1-0-1.1.txt").exists());
    let words = ["was damaged, and is set aside in", "kiln rerun '#1' --job make"];
    tree.kiln(["rerun", "#1", "--job", "look"]).exits(1).says(&words);
    tree.kiln(["rerun", "#1", "--job", "make"]).success().says(&["made"]);
    tree.kiln(["gc", "--verify"]).success().says(&["1 layer read"]);
}

/// Somebody has tidied up in the data folder of a server, at the top of a source and further down, and
/// has emptied a file of its `.git`.
#[test]
fn a_damaged_source_is_made_again_by_the_next_job() {
    let site = Site::with(MANIFEST);
    site.tree.write("readme", "read me\n");
    assert_eq!(site.run(1)["state"], "success");
    let layers = site.world.data().join("layers");
    let only = |folder: &str| {
        let entries = std::fs::read_dir(layers.join(folder)).expect("a folder").flatten();
        let mut folders = entries.map(|entry| entry.path()).filter(|path| path.is_dir());
        folders.next().expect("there is one")
    };
    let rerun = || {
        site.kiln(&["rerun", "site#1"]).success();
        site.server.over("site", 1)["state"].clone()
    };
    let manifest = only("sources").join(".kiln.yml");
    std::fs::remove_file(&manifest).expect("it is there");
    assert_eq!(rerun(), "success");
    assert!(manifest.exists() && layers.join("damaged").is_dir());

    std::fs::write(&manifest, "jobs: {}").expect("it is there");
    std::fs::write(only("gits").join(".git/HEAD"), "").expect("it is there");
    let done = site.kiln(&["gc", "--verify", "--json"]).exits(3);
    let said = verified(&done)["damaged"][0].as_str().expect("a sentence").to_owned();
    assert!(said.contains("`.kiln.yml` is not as it was checked out"), "{said}");
    assert_eq!(rerun(), "success");
    assert_eq!(std::fs::read_to_string(&manifest).expect("it is there"), MANIFEST);
    assert!(std::fs::metadata(only("gits").join(".git/HEAD")).expect("it is there").len() > 0);
    site.kiln(&["gc", "--verify"]).success();
}

/// What it wrote would keep everybody, itself included, from saying how it ended.
#[test]
fn a_job_that_fills_the_disk_gives_the_room_back() {
    let world = World::new();
    let manifest = "jobs: { fill: { steps: [\"head -c 90000000 /dev/zero > large\"] } }\n";
    let tree = world.repository_with("work", &[(".kiln.yml", manifest)]);
    let small = world.at("small");
    std::fs::create_dir(&small).expect("a folder");
    let script = format!(
        "mount -t tmpfs -o size=40m none {small}\nexport KILN_DATA={small}/data\n\
         {kiln} run && exit 9\n\
         {kiln} show '#1' && {kiln} logs '#1/fill' && test $(stat -f -c %a {small}) -gt 1000\n",
        small = small.display(),
        kiln = binary::kiln().display()
    );
    let mut command = world.command("unshare");
    command.arg("--mount");
    if !rustix::process::getuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let done = ran(command.args(["sh", "-c", &script]).current_dir(&tree.path)).success();
    let line = "the disk is full, so what this job wrote is not kept";
    assert!(done.stdout.contains("run #1 failed") && done.stdout.contains(line), "{done:?}");
}
