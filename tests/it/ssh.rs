//! Jobs with `ssh` run on another machine.

use kiln_it::sshd::Sshd;
use kiln_it::world::ran;
use kiln_it::{Ran, WorkTree, World, wait};
use kiln_stdx::process;

fn run(world: &World, tree: &WorkTree, far: &Sshd) -> Ran {
    let mut command = world.kiln_command(["run"]);
    ran(command.current_dir(&tree.path).env("KILN_SSH_CONFIG", far.config()))
}

const MANIFEST: &str = "jobs:
  build:
    steps: [\"echo built > product; mkdir d; ln -s ../product d/link\"]
  deploy:
    needs: build
    ssh: far
    env: { WHAT: \"a 'b' $x\" }
    outputs: [where]
    artifacts: [report.txt]
    steps:
      - \"cat d/link; echo \\\"$WHAT\\\"; git log --format=%s\"
      - \"echo report > report.txt; rm product; echo where=there >> $KILN_OUTPUT\"
      - run: [printf, \"<%s>\\n\", \"a b\", \"$(id)\", \"\"]
      - \"case $KILN_WORKSPACE in $HOME/.cache/kiln/*/work) echo in its place;; esac\"
  after:
    needs: deploy
    steps: [\"cat report.txt; test ! -e product; echo said $KILN_NEEDS_DEPLOY_WHERE\"]
";

#[test]
fn a_job_runs_where_ssh_leads() {
    let world = World::new();
    let far = Sshd::start(&world);
    let tree = world.repository_with("work", &[(".kiln.yml", MANIFEST)]);
    let said = run(&world, &tree, &far).success().said();
    for line in [
        "deploy | kiln: the steps run on `far`",
        "deploy | built",
        "deploy | a 'b' $x",
        "deploy | <a b>\n",
        "deploy | <$(id)>\n",
        "deploy | <>\n",
        "deploy | in its place",
        "after | report",
        "after | said there",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let kept = tree.kiln(["artifacts", "#1"]).success().said();
    assert!(kept.contains("report.txt"), "{kept}");
    assert_eq!(far.folders().len(), 0);
    assert!(far.connections().is_empty());
}

#[test]
fn a_lost_connection_is_tried_again_when_the_job_says_so() {
    let world = World::new();
    let far = Sshd::start(&world);
    let flag = world.at("second");
    let manifest = format!(
        "jobs:\n  deploy:\n    ssh: far\n    retry: {{ attempts: 2, on: [lost] }}\n    steps:\n      \
         - \"echo begun; test -e {0} || {{ touch {0}; sleep 1000; }}\"\n",
        flag.display()
    );
    let tree = world.repository_with("work", &[(".kiln.yml", &manifest)]);
    let said = std::thread::scope(|scope| {
        let running = scope.spawn(|| run(&world, &tree, &far));
        wait::until("the first attempt runs", || flag.exists().then_some(()));
        for ssh in far.connections() {
            let mut kill = process::command("kill");
            process::output(kill.args(["-9", &ssh])).expect("it runs");
        }
        running.join().expect("kiln ends")
    });
    let said = said.success().said();
    assert!(said.contains("`far`") && said.contains("success"), "{said}");
    wait::until("the far side has tidied up", || far.folders().is_empty().then_some(()));
}

#[test]
fn the_files_that_came_back_can_be_looked_at() {
    let world = World::new();
    let far = Sshd::start(&world);
    let manifest = "jobs:\n  deploy:\n    ssh: far\n    steps: [\"mkdir d; echo x > d/made; mv d moved; exit 3\"]\n";
    let tree = world.repository_with("work", &[(".kiln.yml", manifest)]);
    let said = run(&world, &tree, &far);
    assert_eq!(said.code, Some(1));
    // What the end of a failed run offers.
    assert!(said.said().contains("kiln shell '#1/deploy'"), "{}", said.said());
    let seen = tree.kiln(["shell", "#1/deploy", "--", "cat", "moved/made"]).success().said();
    assert!(seen.contains("x\n") && seen.contains("it ran on `far`"), "{seen}");
}

#[test]
fn a_host_that_refuses_is_told_with_the_way_out() {
    let world = World::new();
    let far = Sshd::start(&world);
    std::fs::write(world.at("far/known"), "").expect("a file");
    let manifest = "jobs:\n  deploy:\n    ssh: far\n    steps: [\"true\"]\n";
    let tree = world.repository_with("work", &[(".kiln.yml", manifest)]);
    let done = run(&world, &tree, &far);
    assert_eq!(done.code, Some(1));
    let said = done.said();
    assert!(said.contains("the host key of `far` is not known here"), "{said}");
    assert!(said.contains("`ssh far true`"), "{said}");
    tree.write(".kiln.yml", "jobs:\n  a: { ssh: \"x`id`\", steps: [make] }\n");
    let said = tree.kiln(["check"]).said();
    assert!(said.contains("a host cannot have '`'"), "{said}");
}
