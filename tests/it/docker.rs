//! Jobs with `executor: docker` run in a container that the machine's daemon makes.

use std::process::{Command, Stdio};

use kiln_it::world::{Ran, ran};
use kiln_it::{World, wait};

use crate::containers::make_root;
use crate::dockerd::{Dockerd, IMAGE};

/// A daemon with an image that says something of itself, or `None` where none can be had.
fn daemon() -> Option<Dockerd> {
    if !Dockerd::is_possible() {
        println!("no dockerd here, or not root, so nothing is tried with Docker");
        return None;
    }
    let daemon = Dockerd::start(make_root);
    daemon.change("said:1", &["ENV PATH=/bin", "ENV OF_IMAGE=yes", "WORKDIR /elsewhere"]);
    Some(daemon)
}

fn told(command: &mut Command, daemon: &Dockerd) -> Ran {
    ran(command.env("DOCKER_HOST", format!("unix://{}", daemon.socket().display())))
}

#[test]
fn a_job_in_dockers_container_is_as_one_in_kilns_own() {
    let Some(daemon) = daemon() else { return };
    let manifest = "jobs:
  first:
    image: said:1
    executor: docker
    network: none
    outputs: [answer]
    artifacts: [made]
    cache: [/root/.cache]
    services:
      web: { image: said:1, ready: 'busybox nc -w 1 web 80 < /dev/null',
             command: [sh, -c, 'echo serving; exec busybox nc -ll -p 80 -e echo from web'] }
    steps:
      - echo $OF_IMAGE; cat file; busybox pwd; busybox nc -w 5 web 80 < /dev/null
      - echo answer=42 >> $KILN_OUTPUT; echo made > made; mkdir -p /root/.cache; echo kept > /root/.cache/x
  second:
    needs: first
    image: { name: said:1, pull: never }
    executor: docker
    network: none
    limits: { memory: 64MB, pids: 50 }
    steps: ['cat made; echo $KILN_NEEDS_FIRST_ANSWER; exit 3']
";
    let world = World::new();
    let tree = world.repository_with("work", &[(".kiln.yml", manifest), ("file", "of the tree\n")]);
    let run = told(&mut tree.kiln_command(["run"]), &daemon);
    let said = run.said();
    for line in [
        "first | yes\n",
        "first | of the tree\n",
        "first | /workspace\n",
        "first | from web\n",
        "second | made\n",
        "second | 42\n",
        "ended with exit code 3",
    ] {
        assert!(said.contains(line), "{line:?}: {said}");
    }
    let args = ["artifacts", "#1/first", "get", "services/web.log", "-o", "kept"];
    told(&mut tree.kiln_command(args), &daemon).success();
    let log = std::fs::read_to_string(tree.path.join("kept/services/web.log")).unwrap();
    assert!(log.contains("serving\n"), "{log}");
    let look = ["shell", "#1/second", "--", "sh", "-c", "cat made; cat /proc/1/comm"];
    let looked = told(&mut tree.kiln_command(look), &daemon).success().said();
    assert!(looked.contains("made\nstage\n"), "{looked}");
    wait::until("no container is left", || {
        daemon.ask(&["ps", "--all", "--quiet"]).is_empty().then_some(())
    });
}

#[test]
fn whoever_is_killed_no_container_is_left() {
    let Some(daemon) = daemon() else { return };
    let manifest = format!(
        "jobs:\n  long: {{ image: '{IMAGE}', executor: docker, network: none, \
         steps: ['touch begun; /bin/sleep 86397'] }}\n"
    );
    let world = World::new();
    let tree = world.repository_with("work", &[(".kiln.yml", &manifest)]);
    let mut run = tree.kiln_command(["run"]);
    run.env("DOCKER_HOST", format!("unix://{}", daemon.socket().display()));
    let mut run = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait::until("its step runs", || {
        let container = daemon.ask(&["ps", "--quiet"]);
        let has = |top: &String| top.contains("86397");
        (!container.is_empty()).then(|| daemon.ask(&["top", &container])).filter(has)
    });
    run.kill().unwrap();
    run.wait().unwrap();
    wait::until("no container is left", || {
        daemon.ask(&["ps", "--all", "--quiet"]).is_empty().then_some(())
    });
}

#[test]
fn what_docker_cannot_do_is_told_with_the_way_out() {
    let world = World::new();
    let manifest = "jobs:
  far: { image: 'said:1', executor: docker, steps: ['true'] }
  files: { image: 'oci:here', executor: docker, steps: ['true'] }
";
    let tree = world.repository_with("work", &[(".kiln.yml", manifest)]);
    let mut run = tree.kiln_command(["run"]);
    let said = ran(run.env("DOCKER_HOST", "tcp://user:hunter22@example.org:2376")).said();
    assert!(said.contains("DOCKER_HOST leads to a daemon by `tcp:`"), "{said}");
    assert!(said.contains("unix://") && said.contains("`executor: oci`"), "{said}");
    assert!(said.contains("`oci:here` is an image in files"), "{said}");
    assert!(!said.contains("hunter22"), "{said}");
}
