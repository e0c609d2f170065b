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
