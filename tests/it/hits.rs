//! No hit is ever wrong: whatever a job that says what it reads can see, its result is of that.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use kiln_it::site::job;
use kiln_it::{Site, WorkTree, World};
use serde_json::Value;

use crate::containers::save_image;

/// The number of the run whose result a job has.
fn from(run: &Value, name: &str) -> Option<i64> {
    job(run, name)["reused_from"]["number"].as_i64()
}

fn show(tree: &WorkTree, number: i64) -> Value {
    let done = tree.kiln(["show", &format!("#{number}"), "--json"]).success();
    serde_json::from_str(&done.stdout).expect("JSON")
}

fn local(manifest: &str) -> (World, WorkTree) {
    let world = World::new();
    let tree = world.repository_with("work", &[(".kiln.yml", manifest)]);
    (world, tree)
}

/// A script reads behind kiln's back what differs in every run: it gets it only when a command says so.
#[test]
fn a_script_gets_no_variable_that_no_command_names() {
    let (_world, tree) = local(
        "jobs:\n  quiet: { inputs: [b.sh], steps: ['sh ./b.sh'] }\n  \
         named: { inputs: [b.sh], steps: ['sh ./b.sh # KILN_RUN'] }\n  \
         free: { steps: ['sh ./b.sh'] }\n",
    );
    tree.write("b.sh", "echo \"run <$KILN_RUN> of <$KILN_JOB> by <$KILN_EVENT>\"\n");
    tree.kiln(["run"]).success().says(&[
        "quiet | run <> of <quiet> by <>",
        "named | run <1> of <named> by <>",
        "free | run <1> of <free> by <local>",
    ]);
    tree.kiln(["run"]).success().says(&["named | run <2> of <named>"]);
    let run = show(&tree, 2);
    assert_eq!((from(&run, "quiet"), from(&run, "named")), (Some(1), None));
}

const GIT: &str = "jobs:\n  \
    says: { inputs: [src], steps: ['git describe --always --tags'] }\n  \
    script: { inputs: [src], steps: ['sh src/describe.sh'] }\n  \
    input: { inputs: [src, .git], steps: ['sh src/describe.sh'] }\n";

/// `.git` is another for every commit, and is there only for who names it.
#[test]
fn a_result_that_may_hold_the_commit_is_of_that_commit() {
    let site = Site::with(GIT);
    site.tree.write("src/describe.sh", "git describe --always --tags 2> /dev/null || echo none\n");
    site.run(1);
    site.tree.write("README", "not an input");
    let run = site.run(2);
    let taken = ["says", "script", "input"].map(|name| from(&run, name));
    assert_eq!(taken, [None, Some(1), None], "{run:#}");
    let short = &site.tree.head()[..7];
    assert!(site.log(2, "says").starts_with(short), "{}", site.log(2, "says"));
    assert!(site.log(2, "input").starts_with(short), "{}", site.log(2, "input"));
    assert_eq!(site.log(2, "script"), "none\n");
    let said = site.kiln(&["why", "site#2/input"]).success().said();
    assert!(said.contains("the repository's commit changed"), "{said}");
    // The same commit, and another tag on it.
    site.kiln(&["trigger", "site", "--follow"]).success();
    assert_eq!(from(&site.now(3), "input"), Some(2));
    site.tree.git(["tag", "v7"]).success();
    site.tree.push(["v7"]);
    site.server.over("site", 4);
    assert!(site.log(4, "says").starts_with("v7"), "{}", site.log(4, "says"));
}

#[test]
fn what_git_tells_of_a_working_tree_is_never_taken() {
    let (_world, tree) = local(GIT);
    tree.write("src/describe.sh", "git describe --always 2> /dev/null || echo none\n");
    tree.kiln(["run"]).success();
    tree.kiln(["run"]).success();
    let run = show(&tree, 2);
    let taken = ["says", "script", "input"].map(|name| from(&run, name));
    assert_eq!(taken, [None, Some(1), None]);
    let said = tree.kiln(["why", "#2/says"]).success().said();
    assert!(said.contains("its result was not kept: it names `git`"), "{said}");
    assert!(!said.contains("no file matches"), "{said}");
}

#[test]
fn an_image_is_what_is_in_it_and_not_what_it_is_called() {
    let (world, tree) = local(
        "jobs:\n  a:\n    image: docker-archive:tiny.tar\n    inputs: [src]\n    \
         steps: ['cat /etc/version || echo first']\n",
    );
    tree.write("src/a", "one");
    let scratch = |name: &str| {
        let folder = world.path().join(name);
        std::fs::create_dir_all(folder.join("root/etc")).expect("a folder");
        folder
    };
    save_image(&tree.path.join("tiny.tar"), &scratch("first"));
    tree.kiln(["run"]).success().says(&["a | first"]);
    // Nothing of the machine reaches the job, so nothing of it counts.
    tree.kiln_command(["run"]).env("TZ", "Asia/Tokyo").status().expect("it runs");
    assert_eq!(from(&show(&tree, 2), "a"), Some(1));
    // What is given for the run does.
    tree.kiln(["run", "--env", "MORE=1"]).success();
    assert_eq!(from(&show(&tree, 3), "a"), None);
    std::fs::write(scratch("second").join("root/etc/version"), "second\n").expect("a file");
    save_image(&tree.path.join("tiny.tar"), &scratch("second"));
    tree.kiln(["run"]).success().says(&["a | second"]);
    let said = tree.kiln(["why", "#4/a"]).success().said();
    assert!(said.contains("its `image digest` changed"), "{said}");
}

#[test]
fn a_dot_is_everything_and_what_matches_nothing_is_nothing_to_go_by() {
    let (_world, tree) = local(
        "jobs:\n  all: { inputs: [.], steps: [cat a] }\n  \
         slip: { inputs: [scr], steps: [cat a] }\n",
    );
    for text in ["one", "two"] {
        tree.write("a", text);
        tree.kiln(["run"]).success().says(&[&format!("all | {text}"), &format!("slip | {text}")]);
    }
    tree.kiln(["run"]).success().says(&["of `slip` is not kept", "no file matches its `inputs`"]);
    assert_eq!(from(&show(&tree, 3), "all"), Some(2));
}

#[test]
fn needs_that_meet_in_a_reused_job_are_still_told_of() {
    let (_world, tree) = local(
        "jobs:\n  one: { steps: [echo 1 > x] }\n  two: { steps: [echo 2 > x] }\n  \
         both: { needs: [one, two], inputs: [src], steps: [cat x] }\n",
    );
    tree.write("src/a", "one");
    for _ in 0..2 {
        tree.kiln(["run"]).success().says(&["`one` and `two` both changed `x`"]);
    }
    assert_eq!(from(&show(&tree, 2), "both"), Some(1));
}

/// What the job of the properties below says of all that it may read.
const LOOK: &str = "{ printf '%s\\n' \"$LEVEL\"; \
    for f in $(find src *.txt left ! -path 'src/skip*' | LC_ALL=C sort); do \
    stat -c '%n %f' $f; if test -L $f; then readlink $f; elif test -f $f; then cat $f; fi; done; } | sha256sum";

/// `look` also writes over a file of the source that it does not name, and `after` sees both.
fn manifest(level: u32) -> String {
    let look = LOOK.replace('\'', "''");
    format!(
        "jobs:\n  need: {{ steps: ['cat seed > left; chmod 644 left'] }}\n  \
         look:\n    needs: need\n    env: {{ LEVEL: '{level}' }}\n    \
         inputs: [src, '*.txt', '!src/skip*']\n    outputs: [digest]\n    \
         steps: ['echo \"digest=$({look})\" >> $KILN_OUTPUT; echo more >> covered']\n  \
         after: {{ needs: look, steps: [cat covered] }}\n"
    )
}

/// Some edit, most of which the job can see.
fn edit(tree: &WorkTree, level: &mut u32, random: &mut fastrand::Rng) {
    let name = |random: &mut fastrand::Rng| match random.u8(..8) {
        0 => "top.txt".to_owned(),
        1 => "other.md".to_owned(),
        2 => format!("src/skip{}", random.u8(..2)),
        n => format!("src/d{}/f{}", n % 3, random.u8(..3)),
    };
    let (one, other) = (tree.path.join(name(random)), tree.path.join(name(random)));
    match random.u8(..10) {
        0..3 => {
            let _ = std::fs::create_dir_all(one.parent().expect("a folder"));
            let _ = std::fs::remove_file(&one);
            std::fs::write(&one, format!("{}\n", random.u8(..3))).expect("written");
        }
        3 => drop(std::fs::remove_file(&one)),
        4 => {
            let mode = if random.bool() { 0o755 } else { 0o644 };
            let _ = std::fs::set_permissions(&one, std::fs::Permissions::from_mode(mode));
        }
        5 => {
            let _ = std::fs::create_dir_all(other.parent().expect("a folder"));
            let _ = std::fs::rename(&one, &other);
        }
        6 => {
            let _ = std::fs::create_dir_all(one.parent().expect("a folder"));
            let _ = std::fs::remove_file(&one);
            let _ = std::os::unix::fs::symlink(format!("to{}", random.u8(..2)), &one);
        }
        7 => tree.write("seed", format!("{}\n", random.u8(..2))),
        8 => tree.write("covered", format!("{}\n", random.u8(..2))),
        _ => {
            *level = random.u32(..2);
            tree.write(".kiln.yml", manifest(*level));
        }
    }
}

fn seed() -> u64 {
    let given = std::env::var("KILN_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| fastrand::u64(..))
}

fn begin(tree: &WorkTree) {
    tree.write(".kiln.yml", manifest(0));
    for path in ["seed", "src/d0/f0", "top.txt", "covered"] {
        tree.write(path, "0\n");
    }
}

/// What there is to see, looked at without kiln; and what `after` must say.
fn expected(world: &World, tree: &WorkTree, level: u32) -> (String, String) {
    std::fs::copy(tree.path.join("seed"), tree.path.join("left")).expect("a copy");
    let mode = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(tree.path.join("left"), mode).expect("a mode");
    let mut look = world.command("sh");
    look.args(["-e", "-c", LOOK]).current_dir(&tree.path).env("LEVEL", level.to_string());
    let digest = kiln_it::world::ran(&mut look).success().stdout.trim().to_owned();
    std::fs::remove_file(tree.path.join("left")).expect("it is there");
    let covered = std::fs::read_to_string(tree.path.join("covered")).expect("it is there");
    (digest, covered + "more\n")
}

#[test]
fn no_local_hit_is_ever_wrong() {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let (world, tree) = local("");
    begin(&tree);
    let (mut level, mut seen, mut n_hits) = (0, BTreeSet::new(), 0);
    for number in 1..=40 {
        for _ in 0..random.u8(..3) {
            edit(&tree, &mut level, &mut random);
        }
        tree.kiln(["run"]).success();
        let detail = tree.kiln(["show", &format!("#{number}/look"), "--json"]).success();
        let detail: Value = serde_json::from_str(&detail.stdout).expect("JSON");
        let digest = detail["outputs"]["digest"].as_str().expect("an output").to_owned();
        let after = tree.kiln(["logs", &format!("#{number}/after")]).success().stdout;
        let expected = expected(&world, &tree, level);
        assert_eq!((digest, after), expected, "seed {seed}, run {number}");
        let is_hit = detail["reused_from"].is_object();
        let known = !seen.insert(expected);
        // Of one key, only the newest results are compared with the source.
        assert!(known || !is_hit, "seed {seed}, run {number}: {detail:#}");
        n_hits += usize::from(is_hit);
    }
    assert!(n_hits >= 5, "seed {seed}: {n_hits} hits");
}

#[test]
fn no_hit_of_a_push_is_ever_wrong() {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let site = Site::with("");
    begin(&site.tree);
    let (mut level, mut seen, mut n_hits) = (0, BTreeSet::new(), 0);
    for number in 1..=25 {
        for _ in 0..random.u8(..3) {
            edit(&site.tree, &mut level, &mut random);
        }
        let run = site.run(number);
        assert_eq!(run["state"], "success", "seed {seed}, run {number}: {run:#}");
        // git knows no empty folders.
        site.tree.git(["clean", "-fdq"]).success();
        let expected = expected(&site.world, &site.tree, level);
        let detail = site.server.json(&format!("/projects/site/runs/{number}/jobs/look"));
        let digest = detail["outputs"]["digest"].as_str().expect("an output").to_owned();
        let after = site.log(number, "after");
        assert_eq!((digest, after), expected, "seed {seed}, run {number}");
        let is_hit = from(&run, "look").is_some();
        let known = !seen.insert(expected);
        assert!(known || !is_hit, "seed {seed}, run {number}: {detail:#}");
        n_hits += usize::from(is_hit);
    }
    assert!(n_hits >= 3, "seed {seed}: {n_hits} hits");
}
