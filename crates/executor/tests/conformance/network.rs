//! Which network a session is in, what it reaches, and what is left of it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_executor::{Executor, HostExecutor, Reach, Root, Session, SessionNetwork, SessionSpec};
use kiln_model::Exit;
use tokio::sync::watch;

use crate::bench::{Bench, Case, command, lives, sh, step, text, until};
use crate::cases;
use crate::container::{contained, image};
use crate::host::is_root;
use crate::overlay::overlay;

pub fn cases() -> Vec<Case<HostExecutor>> {
    cases![
        a_network_of_none_has_a_loopback_and_no_way_out,
        the_machines_loopback_and_clouds_are_out_of_reach,
        every_kind_of_session_has_a_way_out_where_one_has,
        a_network_without_its_program_is_one_without_a_way_out,
        names_are_kilns_and_not_the_images,
        a_session_joins_the_network_of_another_and_ends_with_it,
        a_session_that_is_killed_leaves_nothing_of_its_network,
        a_line_is_said_while_a_step_runs,
        a_network_that_is_not_the_machines_is_not_used_again,
    ]
}

fn reach(reach: Reach) -> SessionNetwork {
    SessionNetwork { reach, names: vec![("db".to_owned(), Ipv4Addr::new(127, 0, 2, 1))] }
}

/// The program that gives a way out; the tests' machine has one of them (`cargo xtask test`).
fn stacks() -> Vec<PathBuf> {
    let known = ["/usr/bin/pasta", "/usr/bin/slirp4netns"].map(PathBuf::from);
    let found: Vec<PathBuf> = known.into_iter().filter(|path| path.exists()).collect();
    assert!(!found.is_empty(), "the package passt is installed; `cargo xtask test` does that");
    found
}

/// As root and not, of a container, where this machine can make it.
async fn containers(bench: &Bench<HostExecutor>) -> Vec<SessionSpec> {
    let mut specs = Vec::new();
    for user in [false, true] {
        if user || is_root() {
            let image = image_once(bench);
            specs.extend(contained(bench, image, user).await);
        }
    }
    specs
}

fn image_once(bench: &Bench<HostExecutor>) -> PathBuf {
    match bench.path("image").exists() {
        true => bench.path("image"),
        false => image(bench),
    }
}

/// Runs a script in a session that is opened and closed for it, in folders of its own.
async fn said(bench: &Bench<HostExecutor>, mut spec: SessionSpec, script: &str) -> (Exit, String) {
    let log = bench.path("log");
    let _ = std::fs::remove_file(&log);
    for name in ["root-upper", "root-work", "upper", "work-folder", "attempt"] {
        let _ = std::fs::remove_dir_all(bench.path(name));
        std::fs::create_dir_all(bench.path(name)).unwrap();
    }
    spec.log = log;
    let mut session = bench.executor.open(spec).await.expect("the session opens");
    let exit = step(&mut session, sh(script)).await.expect("the step runs");
    session.close().await.expect("the session closes");
    (exit, text(&bench.log()))
}

async fn a_network_of_none_has_a_loopback_and_no_way_out(bench: Bench<HostExecutor>) {
    for mut spec in containers(&bench).await {
        spec.network = reach(Reach::None);
        let script = "cat /proc/net/dev | grep -c :; cat /proc/net/route | wc -l; cat /etc/resolv.conf; \
                      cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ls /sys/class/net";
        let (exit, log) = said(&bench, spec, script).await;
        assert_eq!(exit, Exit::SUCCESS, "{log}");
        // Some kernels add devices of tunnels to every network; they are down.
        assert!(log.contains("\n1\n# this job has no network\n0\n"), "{log}");
        assert!(log.lines().any(|line| line == "lo") && !log.contains("eth0"), "{log}");
    }
}

async fn the_machines_loopback_and_clouds_are_out_of_reach(bench: Bench<HostExecutor>) {
    // Every address of the machine, loopback among them.
    let here = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = here.local_addr().unwrap().port();
    for through in stacks() {
        for mut spec in containers(&bench).await {
            spec.network = reach(Reach::Internet { through: through.clone() });
            // Its own loopback answers with a refusal at once; the gateway of either program must not
            // lead to the machine's.
            let script = format!(
                "for at in 127.0.0.1 10.0.2.2 $GATEWAY 169.254.169.254; do \
                   nc -w 2 $at {port} < /dev/null 2> /dev/null && echo reached $at; done; \
                 nc -w 2 169.254.169.254 80 < /dev/null; nc -w 2 168.63.129.16 80 < /dev/null; \
                 cat /proc/[0-9]*/comm /etc/resolv.conf"
            );
            if let Some(gateway) = gateway() {
                spec.env.insert("GATEWAY".to_owned(), gateway.to_string());
            }
            let (_, log) = said(&bench, spec, &script).await;
            assert!(!log.contains("reached"), "{}: {log}", through.display());
            if log.contains("nothing outside can be reached") {
                // A machine without a network: nothing to be refused.
                continue;
            }
            assert_eq!(log.matches("Permission denied").count(), 2, "{}: {log}", through.display());
            assert!(log.contains("nameserver 169.254.1.1") || log.contains("nameserver 10.0.2.3"));
            assert!(!log.contains("pasta") && !log.contains("slirp"), "it is seen inside: {log}");
        }
    }
    drop(here);
}

async fn every_kind_of_session_has_a_way_out_where_one_has(bench: Bench<HostExecutor>) {
    for through in stacks() {
        let mut specs = containers(&bench).await;
        for user in [false, true] {
            if (user || is_root())
                && let Some(mount) = overlay(&bench).await
            {
                let mount = kiln_stdx::overlay::Mount { user, ..mount };
                let directory = mount.at.clone();
                specs.push(SessionSpec { mount: Some(mount), directory, ..bench.spec() });
            }
        }
        // Without a mount, too: only its names need a view of the mounts.
        specs.push(bench.spec());
        let mut ways = Vec::new();
        for mut spec in specs {
            spec.network = reach(Reach::Internet { through: through.clone() });
            let (_, log) = said(&bench, spec, "cat /etc/hosts; grep -c : /proc/net/dev").await;
            assert!(log.contains("127.0.2.1 db\n"), "{log}");
            ways.push(
                log.lines().next().filter(|line| line.starts_with("kiln: ")).map(str::to_owned),
            );
        }
        assert!(ways.iter().all(|way| *way == ways[0]), "{}: {ways:?}", through.display());
    }
}

/// Of the machine's default route.
fn gateway() -> Option<Ipv4Addr> {
    let routes = std::fs::read_to_string("/proc/net/route").ok()?;
    let default = routes.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        (fields.get(1) == Some(&"00000000")).then(|| fields.get(2).copied())?
    })?;
    let number = u32::from_str_radix(default, 16).ok()?;
    Some(Ipv4Addr::from(number.to_le_bytes()))
}

async fn a_network_without_its_program_is_one_without_a_way_out(bench: Bench<HostExecutor>) {
    let broken = bench.path("pasta");
    std::fs::write(&broken, "#!/bin/sh\necho 'no such interface' >&2; exit 1\n").unwrap();
    std::fs::set_permissions(&broken, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for (through, why) in [
        (broken, "kiln: nothing outside can be reached: pasta: no such interface\n"),
        (
            bench.path("none/pasta"),
            "kiln: nothing outside can be reached: pasta: it ended without a word\n",
        ),
    ] {
        for mut spec in containers(&bench).await {
            spec.network = reach(Reach::Internet { through: through.clone() });
            let (exit, log) = said(&bench, spec, "ls /sys/class/net | grep -c eth0; echo on").await;
            assert_eq!(exit, Exit::SUCCESS);
            assert_eq!(log, format!("{why}0\non\n"));
        }
    }
}

async fn names_are_kilns_and_not_the_images(bench: Bench<HostExecutor>) {
    let image = image_once(&bench);
    std::fs::write(image.join("etc/hosts"), "1.2.3.4 odd\n").unwrap();
    // As images of Ubuntu have it: a link to what only a running machine has.
    std::os::unix::fs::symlink(
        "../run/systemd/resolve/stub-resolv.conf",
        image.join("etc/resolv.conf"),
    )
    .unwrap();
    for mut spec in containers(&bench).await {
        for (network, resolver) in [(Reach::None, "# this job"), (Reach::Host, "")] {
            spec.network = reach(network);
            let script = "cat /etc/hosts /etc/hostname /etc/resolv.conf; ping -c 1 -w 2 db > /dev/null && echo answers";
            let (_, log) = said(&bench, spec.clone(), script).await;
            assert!(log.starts_with("127.0.2.1 db\n"), "{log}");
            assert!(
                log.contains("127.0.0.1 localhost") || log.contains("127.0.0.1\tlocalhost"),
                "{log}"
            );
            assert!(log.contains("127.0.1.1 kiln\nkiln\n"), "{log}");
            assert!(log.contains(resolver) && !log.contains("1.2.3.4"), "{log}");
        }
    }
    assert_eq!(std::fs::read_to_string(image.join("etc/hosts")).unwrap(), "1.2.3.4 odd\n");
    // Without a container, too, and only there.
    let before = std::fs::read_to_string("/etc/hosts").unwrap();
    if let Some(mount) = overlay(&bench).await {
        let directory = mount.at.clone();
        let network = reach(Reach::None);
        let spec = SessionSpec { mount: Some(mount), directory, network, ..bench.spec() };
        let (exit, log) = said(&bench, spec, "cat /etc/hosts; exec 3<> /dev/tcp/db/1").await;
        assert_ne!(exit, Exit::SUCCESS);
        assert!(log.starts_with("127.0.2.1 db\n127.0.0.1 localhost"), "{log}");
    }
    assert_eq!(std::fs::read_to_string("/etc/hosts").unwrap(), before);
}

/// A second container, joined to the first.
async fn beside(bench: &Bench<HostExecutor>, first: &SessionSpec) -> SessionSpec {
    for name in ["attempt/services/db", "db-upper", "db-work", "db-root"] {
        std::fs::create_dir_all(bench.path(name)).unwrap();
    }
    let mut spec = first.clone();
    spec.mount = None;
    spec.directory = bench.path("attempt/services/db");
    spec.attempt_dir = bench.path("attempt/services/db");
    spec.log = bench.path("db.log");
    spec.network = SessionNetwork { reach: Reach::Of(bench.path("attempt")), names: Vec::new() };
    let container = spec.container.as_mut().unwrap();
    container.hostname = "db".to_owned();
    container.workspace = "/srv/new".into();
    let Root::Layers(root) = &mut container.root else { unreachable!("made so") };
    root.lowers = vec![image_once(bench)];
    root.upper = bench.path("db-upper");
    root.work = bench.path("db-work");
    root.at = bench.path("db-root");
    spec
}

async fn a_session_joins_the_network_of_another_and_ends_with_it(bench: Bench<HostExecutor>) {
    for mut job in containers(&bench).await {
        for name in
            ["root-upper", "root-work", "upper", "work-folder", "attempt", "db-upper", "db-work"]
        {
            let _ = std::fs::remove_dir_all(bench.path(name));
            std::fs::create_dir_all(bench.path(name)).unwrap();
        }
        let _ = std::fs::remove_file(bench.path("log"));
        job.network = reach(Reach::None);
        let mut first = bench.executor.open(job.clone()).await.unwrap();
        let mut second = bench.executor.open(beside(&bench, &job).await).await.unwrap();
        // A port that only root had, and the name by which it is reached.
        let serve = command(["nc", "-ll", "-p", "80", "-e", "sh", "-c", "pwd; hostname; id -u"]);
        second.begin(Some(serve)).await.unwrap();
        let (_keep, never) = watch::channel(false);
        while !second.listening().await.unwrap().contains(&80) {
            tokio::select! {
                ended = second.resume(never.clone()) => panic!("{ended:?}: {}", text(&std::fs::read(bench.path("db.log")).unwrap())),
                () = tokio::task::yield_now() => {}
            }
        }
        // Asked beside what it serves, which goes on.
        let (_keep, mut signals) = tokio::sync::mpsc::unbounded_channel();
        let null =
            || std::fs::File::options().read(true).write(true).open("/dev/null").unwrap().into();
        let streams = kiln_executor::Streams::Plain([null(), null(), null()]);
        let asked = second.visit(sh("test $(hostname) = db"), streams, &mut signals).await;
        assert_eq!(asked, Ok(Exit::SUCCESS));
        let script = "nc -w 5 db 80 < /dev/null; nc -w 5 localhost 80 < /dev/null | wc -l; ps | grep -c '[n]c -ll'";
        assert!(step(&mut first, sh(script)).await.is_ok());
        assert_eq!(text(&bench.log()), "/srv/new\ndb\n0\n3\n0\n");
        let inner = std::fs::read_to_string(bench.path("attempt/services/db/init.json")).unwrap();
        let inner = inner.split([':', ',']).nth(1).unwrap().trim().to_owned();
        first.close().await.unwrap();
        until("it ends with the session whose network it shares", || !lives(&inner)).await;
        let (_keep, never) = watch::channel(false);
        assert!(second.resume(never).await.is_err());
    }
}

async fn a_session_that_is_killed_leaves_nothing_of_its_network(bench: Bench<HostExecutor>) {
    for through in stacks() {
        for mut spec in containers(&bench).await {
            spec.network = reach(Reach::Internet { through: through.clone() });
            for name in ["root-upper", "root-work", "upper", "work-folder", "attempt"] {
                let _ = std::fs::remove_dir_all(bench.path(name));
                std::fs::create_dir_all(bench.path(name)).unwrap();
            }
            spec.grace = Duration::ZERO;
            let mut session = bench.executor.open(spec).await.unwrap();
            assert_eq!(step(&mut session, sh("true")).await, Ok(Exit::SUCCESS));
            let of_it = || with_path(&bench.path("attempt/network"));
            let init = std::fs::read_to_string(bench.path("attempt/init.json")).unwrap();
            let init = init.split([':', ',']).nth(1).unwrap().trim().to_owned();
            let pid = rustix::process::Pid::from_raw(init.parse().unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            until("its processes are gone", || of_it().is_empty() && !lives(&init)).await;
            let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
            assert!(!mounts.contains(&*bench.folder.path().to_string_lossy()));
        }
    }
}

/// The processes whose command line has this path.
fn with_path(path: &Path) -> Vec<String> {
    let path = path.to_string_lossy().into_owned();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().into_string().ok());
    let has = |pid: &String| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&path) && lives(pid)
    };
    pids.filter(has).collect()
}

async fn a_line_is_said_while_a_step_runs(bench: Bench<HostExecutor>) {
    let mut session = bench.open().await;
    let voice = session.voice();
    let log = bench.path("log");
    let says = tokio::spawn(async move {
        until("the step has begun", || {
            std::fs::read(&log).is_ok_and(|log| log.starts_with(b"begun\n"))
        })
        .await;
        voice.say("two\nlines");
    });
    let script = "echo begun; until grep -qs lines ../log; do :; done; echo heard";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    says.await.unwrap();
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), "begun\nkiln: two\nlines\nheard\n");
}

async fn a_network_that_is_not_the_machines_is_not_used_again(bench: Bench<HostExecutor>) {
    let Some(mount) = overlay(&bench).await else { return };
    let directory = mount.at.clone();
    let spec =
        SessionSpec { mount: Some(mount), directory, network: reach(Reach::None), ..bench.spec() };
    let mut session = bench.executor.open(spec).await.unwrap();
    assert_eq!(step(&mut session, sh("true")).await, Ok(Exit::SUCCESS));
    assert_eq!(session.rest().await, Ok(false));
}
