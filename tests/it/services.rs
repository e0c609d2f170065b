//! Services: containers beside a job, reached by name, waited for, and gone with it.

use kiln_it::site::{Site, job};
use kiln_it::{World, wait};
use rustix::process::Signal;

use crate::containers::{pack, save_image, scratch};

/// Answers on one port with its host's name, and says so first.
const WEB: &str = "{ image: 'docker-archive:tiny.tar', ready: 'busybox nc -w 1 web 80 < /dev/null', \
                   command: [sh, -c, 'echo serving; exec busybox nc -ll -p 80 -e cat /etc/hostname'] }";

/// Two jobs at once with the same service on the same port: one in a container, one on the host.
fn manifest() -> String {
    format!(
        "jobs:
  inside:
    image: docker-archive:tiny.tar
    network: none
    services: {{ web: {WEB} }}
    steps:
      - busybox nc -w 5 web 80 < /dev/null
      - busybox nc -w 5 localhost 80 < /dev/null
  outside:
    services: {{ web: {WEB} }}
    steps: ['busybox nc -w 5 web 80 < /dev/null; grep web /etc/hosts']
"
    )
}

#[test]
fn a_job_reaches_its_services_by_name_and_their_logs_are_kept() {
    let world = World::new();
    let tree = world.repository_with("work", &[(".kiln.yml", &manifest())]);
    save_image(&tree.path.join("tiny.tar"), &scratch(&world));
    let said = tree.kiln(["run"]).success().said();
    assert_eq!(said.matches("inside | web").count(), 2, "{said}");
    assert!(said.contains("outside | web\n") && said.contains("outside | 127.0.2.1 web"), "{said}");
    tree.kiln(["artifacts", "#1/inside", "get", "services/web.log", "-o", "kept"]).success();
    let log = tree.path.join("kept/services/web.log");
    assert_eq!(std::fs::read_to_string(log).expect("it is kept"), "serving\n");
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    assert!(!hosts.contains("127.0.2.1"), "the machine's own names are as they were");
}

#[test]
fn a_service_that_is_never_ready_is_told_with_its_last_words() {
    let world = World::new();
    let manifest = "jobs:
  never:
    network: none
    services:
      db: { image: docker-archive:tiny.tar, command: [sh, -c, 'echo the disk is odd; sleep 1000'],
            ready: 'echo not yet; false', ready_timeout: 1s }
    steps: [echo never]
  gone:
    network: none
    services: { db: { image: docker-archive:tiny.tar, command: [sh, -c, 'echo bad configuration; exit 3'], ready: 'false' } }
    steps: [echo never]
  nothing:
    network: none
    services: { db: docker-archive:tiny.tar }
    steps: [echo never]
";
    let tree = world.repository_with("work", &[(".kiln.yml", manifest)]);
    save_image(&tree.path.join("tiny.tar"), &scratch(&world));
    let ran = tree.kiln(["run"]);
    assert_eq!(ran.code, Some(1));
    let said = ran.said();
    for words in [
        "service `db` is not ready after 1.0s: `echo not yet; false` says: not yet",
        "the disk is odd",
        "service `db` has ended before it was ready: exit code 3",
        "bad configuration",
        "service `db` cannot run: `docker-archive:tiny.tar` names no command to run: give the service a `command`",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("| never"), "no step ran: {said}");
    let kept = tree.kiln(["artifacts", "#1/gone"]).success().said();
    assert!(kept.contains("services/db.log"), "{kept}");
}

/// As databases want it: the program is asked, by the signal that its image names, and ends its own.
#[test]
fn a_service_is_asked_to_end_by_the_signal_of_its_image() {
    let world = World::new();
    let job = "{ image: 'docker-archive:tiny.tar', network: none, services: { db: { image: 'docker-archive:db.tar' } }, \
               steps: ['true'] }";
    let tree = world.repository_with("work", &[(".kiln.yml", &format!("jobs:\n  a: {job}\n"))]);
    let scratch = scratch(&world);
    save_image(&tree.path.join("tiny.tar"), &scratch);
    let asked = r#"trap 'echo asked; exit' INT; trap 'echo told' TERM; echo up; while :; do sleep 0.1; done"#;
    let health = r#"{"Test":["CMD","test","-e","/up"]}"#;
    let asked = asked.replace("echo up", "echo up; touch /up");
    let config = format!(
        r#"{{"Env":["PATH=/bin"],"StopSignal":"SIGINT","Healthcheck":{health},"Cmd":["sh","-c","{asked}"]}}"#
    );
    pack(&tree.path.join("db.tar"), &scratch, &config);
    tree.kiln(["run"]).success();
    let log = tree.kiln(["logs", "#1/a", "--service", "db"]).success().said();
    assert_eq!(log, "up\nasked\n");
}

#[test]
fn services_outlive_the_server_with_their_job() {
    let mut site = Site::with("");
    let go = site.world.at("go");
    let manifest = format!(
        "jobs:
  a:
    sandbox: false
    services: {{ web: {WEB} }}
    steps:
      - echo begun; until test -e '{}'; do sleep 0.02; done
      - busybox nc -w 5 web 80 < /dev/null
",
        go.display()
    );
    site.tree.write(".kiln.yml", manifest);
    save_image(&site.tree.path.join("tiny.tar"), &scratch(&site.world));
    site.push();
    let log = "/api/v1/projects/site/runs/1/jobs/a/log";
    for signal in [Signal::KILL, Signal::TERM] {
        wait::until("the first step has begun", || {
            let answer = site.server.get(log);
            (answer.status == 200 && answer.text().contains("begun\n")).then_some(())
        });
        site.server.signal(signal);
        site.again();
    }
    std::fs::write(go, "").expect("a file");
    let run = site.server.over("site", 1);
    assert_eq!(job(&run, "a")["state"], "success", "{run}");
    assert!(site.log(1, "a").ends_with("web\n"), "{}", site.log(1, "a"));
    let kept = site.kiln(&["artifacts", "site#1/a"]).success().said();
    assert!(kept.contains("services/web.log"), "{kept}");
}

#[test]
fn each_service_says_how_it_is_and_what_it_says_while_it_runs_and_after() {
    let site = Site::with("");
    let (go, die) = (site.world.at("go"), site.world.at("die"));
    let manifest = format!(
        "jobs:
  a:
    sandbox: false
    services:
      web: {{ image: 'docker-archive:tiny.tar', limits: {{ pids: 20 }}, command: [sh, -c, 'echo one; sleep 1000'] }}
      dies: {{ image: 'docker-archive:tiny.tar', command: [sh, -c, 'echo two; until busybox nc -w 1 web 81 < /dev/null > /dev/null 2>&1; do sleep 0.05; done; exit 3'] }}
    steps:
      - until test -e '{die}'; do sleep 0.02; done
      - busybox nc -ll -p 81 -e cat /etc/hostname > /dev/null 2>&1 &
      - until test -e '{go}'; do sleep 0.02; done
",
        die = die.display(),
        go = go.display()
    );
    site.tree.write(".kiln.yml", manifest);
    save_image(&site.tree.path.join("tiny.tar"), &scratch(&site.world));
    site.push();
    let of = "/api/v1/projects/site/runs/1/jobs/a";
    let services = || {
        let answer = site.server.get(of);
        // Until its run is planned there is no such job.
        let job = if answer.status == 200 { answer.json() } else { serde_json::Value::Null };
        job["attempts"][0]["services"].clone()
    };
    let is = |at: usize, state: &str| {
        wait::until(state, || (services()[at]["state"] == state).then_some(()));
    };
    is(0, "ready");
    is(1, "ready");
    let mut live = site.server.sse("/projects/site/runs/1/jobs/a/services/web/log/stream");
    let event = live.next_event().expect("it answers").expect("there is a line");
    assert_eq!((event.name.as_str(), event.data.as_str()), ("log", "b25lCg=="));
    let shown = site.kiln(&["show", "site#1/a"]).success().said();
    assert!(
        shown.contains("executor host") && shown.contains("docker-archive:tiny.tar"),
        "{shown}"
    );
    std::fs::write(die, "").expect("a file");
    is(0, "ended");
    assert_eq!(services()[0]["reason"], "ended early: exit code 3");
    assert_eq!(services()[1]["state"], "ready");
    std::fs::write(go, "").expect("a file");
    let run = site.server.over("site", 1);
    assert_eq!(job(&run, "a")["state"], "success", "{run}");
    assert!(
        site.log(1, "a")
            .contains("service `dies` has ended early: exit code 3; its last lines:\n  two\n")
    );
    assert_eq!(services()[1]["state"], "stopped");
    let ended = live.next_event().expect("it answers").expect("it ends");
    assert_eq!(ended.name, "end");
    let said = site.kiln(&["logs", "site#1/a", "--service", "dies", "-f"]).success().said();
    assert_eq!(said, "two\n");
    site.kiln(&["logs", "site#1/a", "--service", "wbe"]).exits(2).says(&["did you mean `web`?"]);
    site.kiln(&["why", "site#1/a"]).success().says(&["service `dies` ended early: exit code 3"]);
    let page = site.server.get("/p/site/1/a?service=dies").text();
    assert!(page.contains("two\n") && page.contains("services/dies/log"), "{page}");
    assert_eq!(site.server.get(&format!("{of}/services/none/log")).status, 404);
}

#[test]
fn a_service_that_cannot_be_begun_fails_its_job_before_the_first_step() {
    let world = World::new();
    let manifest = "jobs:
  a:
    network: none
    services:
      db: { image: docker-archive:tiny.tar, command: [no-such-program] }
      slow: { image: docker-archive:tiny.tar, command: [sleep, '1000'], ready: 'false', ready_timeout: 1h }
    steps: [echo never]
";
    let tree = world.repository_with("work", &[(".kiln.yml", manifest)]);
    save_image(&tree.path.join("tiny.tar"), &scratch(&world));
    let said = tree.kiln(["run"]).exits(1).said();
    let why = "service `db` has ended before it was ready: exit code 127 (command not found)";
    assert!(said.contains(why) && !said.contains("| never"), "{said}");
}
