//! Jobs of the server ask git about what they were started for.

use kiln_it::Site;

/// A manifest whose one job asks, started by `on`.
fn ask(on: &str) -> String {
    format!(
        r#"
on: {{ {on}: {{}} }}
jobs:
  ask:
    steps:
      - 'echo "status=$(git status --porcelain)"'
      - 'echo "head=$(git rev-parse HEAD) on $(git rev-parse --abbrev-ref HEAD)"'
      - 'echo "describe=$(git describe --tags --dirty)"'
      - 'echo "log=$(git log --format=%s | tr "\n" " ")"'
      - 'echo "n=$(git rev-list --count HEAD) changed=$(git diff --name-only HEAD~1)"'
      - 'echo "origin=$(git remote get-url origin)"'
"#
    )
}

#[test]
fn git_answers_in_a_job_as_in_a_clone() {
    let site = Site::with(&ask("push"));
    site.tree.commit("first");
    site.tree.git(["tag", "v1"]).success();
    site.tree.write("src/a.txt", "a");
    let commit = site.tree.commit("second");
    site.tree.push(["HEAD:refs/heads/main", "v1"]);
    let run = site.server.over("site", 1);
    assert_eq!(run["state"], "success", "{run:#}");
    let (origin, short) = (site.bare.path.display(), &commit[..7]);
    let expected = format!(
        "status=\nhead={commit} on main\ndescribe=v1-1-g{short}\nlog=second first \n\
         n=2 changed=src/a.txt\norigin={origin}\n"
    );
    assert_eq!(site.log(1, "ask"), expected);
}

#[test]
fn a_tag_is_checked_out_without_a_branch() {
    let site = Site::with(&ask("tag"));
    site.tree.commit("first");
    site.tree.write("a", "a");
    let commit = site.tree.commit("second");
    site.tree.git(["tag", "-a", "v2", "-m", "two"]).success();
    site.tree.push(["v2"]);
    let run = site.server.over("site", 1);
    assert_eq!(run["state"], "success", "{run:#}");
    let log = site.log(1, "ask");
    assert!(log.contains(&format!("head={commit} on HEAD\ndescribe=v2\n")), "{log}");
}

const MAKE: &str = "
jobs:
  make:
    steps:
      - git -c user.name=a -c user.email=a@b commit -q --allow-empty -m mine
      - git tag mine
  see:
    needs: [make]
    steps: [ 'git log --format=%s', git tag, git gc --quiet --prune=now ]
  other:
    steps: [ 'git log --format=%s' ]
";

#[test]
fn commits_of_a_job_are_seen_by_the_jobs_after_it_and_by_nobody_else() {
    let site = Site::with(MAKE);
    let run = site.run(1);
    assert_eq!(run["state"], "success", "{run:#}");
    assert_eq!(site.log(1, "see"), "mine\nchange\nmine\n");
    assert_eq!(site.log(1, "other"), "change\n");
    let refs = site.tree.git(["ls-remote", "origin"]).success();
    assert!(!refs.stdout.contains("mine"), "{}", refs.stdout);
}

/// Where workspaces are copied there are no mounts, and so nothing to protect it with.
const HARM: &str = r#"
jobs:
  harm:
    sandbox: false
    steps:
      - |
        grep -q " $PWD overlay " /proc/mounts || exit 0
        mirror=$(dirname "$(cat .git/objects/info/alternates)"); grep -q . "$mirror/HEAD"
        ! touch "$mirror/x"; ! rm -rf "$mirror/refs"; ! git -C "$mirror" update-ref refs/heads/x HEAD
  shut:
    sandbox: true
    steps: [ '! touch "$(cat .git/objects/info/alternates)/x"; git log --format=%s' ]
"#;

#[test]
fn a_job_does_not_change_the_mirror() {
    let site = Site::with(HARM);
    let run = site.run(1);
    assert_eq!(run["state"], "success", "{run:#} {}", site.log(1, "harm"));
    let mirror = site.world.data().join("mirrors/1");
    assert!(mirror.join("refs").is_dir() && !mirror.join("x").exists());
    assert!(!mirror.join("objects/x").exists());
    assert!(!mirror.join("refs/heads/x").exists());
}

/// Pushes were told to wait until somebody started the server again.
#[test]
fn a_mirror_that_is_gone_is_made_again_by_the_next_push() {
    let site = Site::with("jobs: { all: { steps: [git log --format=%s] } }\n");
    site.run(1);
    std::fs::remove_dir_all(site.world.data().join("mirrors/1")).expect("it is there");
    site.tree.commit("the second");
    site.tree.push(["HEAD:refs/heads/main"]);
    let run = site.server.over("site", 2);
    assert_eq!(run["state"], "success", "{run:#}");
    assert!(site.log(2, "all").starts_with("the second\n"));
}

/// What the workspace's history is borrowed from lies where a sandbox shows nothing else.
#[test]
fn git_answers_in_a_sandbox_too() {
    let manifest =
        "jobs: { all: { sandbox: true, steps: [git log --format=%s, git status --porcelain] } }\n";
    let site = Site::with(manifest);
    site.run(1);
    assert_eq!(site.log(1, "all"), "change\n");
    let tree = site.world.repository_with("local", &[(".kiln.yml", manifest)]);
    let run = tree.kiln(["run"]).success().said();
    tree.write("file", "new");
    tree.commit("later");
    let rerun = tree.kiln(["rerun", "#1"]).success().said();
    for said in [run, rerun] {
        assert!(!said.contains("later") && !said.contains("error:"), "{said}");
    }
}
