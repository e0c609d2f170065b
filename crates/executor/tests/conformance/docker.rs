//! The table in containers that a daemon makes, and what only those can do wrong.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use kiln_executor::{
    Attached, Bind, Container, Daemon, Executor, HostExecutor, HostSession, OpenError, Reach, Root,
    Session, SessionNetwork, SessionSpec,
};
use kiln_model::plan::{Limits, Volume};
use kiln_model::{AttemptId, Exit};

use crate::bench::{Bench, Case, Subject, lives, sh, step, text, until};
use crate::cases;
use crate::container::make_image;
use crate::dockerd::{Dockerd, IMAGE};
use crate::overlay::overlay_mount;

static SHARED: Mutex<Option<Arc<Dockerd>>> = Mutex::new(None);

/// The daemon of these tests, started when it is first asked for: by the main thread ([`Subject::begin`] is
/// called there), because it ends with the thread that has started it.
pub fn shared() -> Arc<Dockerd> {
    let mut shared = SHARED.lock().unwrap();
    shared.get_or_insert_with(|| Arc::new(Dockerd::start(make_image))).clone()
}

/// At the end of all tests: what is static is not dropped.
pub fn end_shared() {
    drop(SHARED.lock().unwrap().take());
}

/// The host executor with every session in a container of the tests' own daemon.
#[derive(Clone)]
pub struct Docker {
    inner: HostExecutor,
    daemon: Known,
}

#[derive(Clone)]
enum Known {
    /// This process has it started.
    Ours(Arc<OnceLock<Arc<Dockerd>>>),
    /// Another one has.
    Theirs(Daemon),
}

impl Docker {
    pub fn new(inner: &HostExecutor) -> Self {
        Self { inner: inner.clone(), daemon: Known::Ours(Arc::default()) }
    }

    /// From [`Subject::words`].
    pub fn known(inner: &HostExecutor, socket: &str, image: &str) -> Self {
        let daemon = Daemon { socket: socket.into(), image: image.to_owned() };
        Self { inner: inner.clone(), daemon: Known::Theirs(daemon) }
    }

    fn ours(&self) -> &Arc<Dockerd> {
        let Known::Ours(daemon) = &self.daemon else { panic!("it is another process's") };
        daemon.get().expect("it was begun")
    }

    fn daemon(&self) -> Daemon {
        match &self.daemon {
            Known::Theirs(daemon) => daemon.clone(),
            Known::Ours(_) => named(self.ours(), IMAGE),
        }
    }

    /// Containers that are there, whatever they do.
    fn containers(&self) -> String {
        self.ours().ask(&["ps", "--all", "--quiet"])
    }
}

fn named(dockerd: &Dockerd, image: &str) -> Daemon {
    let image = dockerd.ask(&["image", "inspect", "--format", "{{.Id}}", image]);
    Daemon { socket: dockerd.socket(), image }
}

impl Executor for Docker {
    type Session = HostSession;

    async fn open(&self, mut spec: SessionSpec) -> Result<HostSession, OpenError> {
        if spec.container.is_none() {
            let folder = spec.attempt_dir.parent().expect("it is in the bench's folder").to_owned();
            // The machine's programs in the place of the image's.
            let programs =
                ["/usr", "/bin", "/sbin", "/lib", "/lib64"].map(PathBuf::from).into_iter();
            let mut binds: Vec<Bind> = programs
                .filter(|path| path.exists())
                .map(|path| Bind { from: path.clone(), to: path, writable: false })
                .collect();
            binds.push(Bind { from: folder.clone(), to: folder, writable: true });
            let workspace = spec.directory.clone();
            spec.container = Some(Container { binds, workspace, ..container(self.daemon()) });
        }
        self.inner.open(spec).await
    }

    async fn attach(&self, attempt_dir: &Path) -> Result<Option<Attached<HostSession>>, OpenError> {
        self.inner.attach(attempt_dir).await
    }

    fn reap(&self, attempt: AttemptId, attempt_dir: &Path) {
        self.inner.reap(attempt, attempt_dir);
    }
}

impl Subject for Docker {
    fn begin(&self) {
        if let Known::Ours(daemon) = &self.daemon {
            daemon.get_or_init(shared);
        }
    }

    fn words(&self) -> Vec<String> {
        let Daemon { socket, image } = self.daemon();
        vec!["docker".to_owned(), socket.to_string_lossy().into_owned(), image]
    }
}

fn container(daemon: Daemon) -> Container {
    Container {
        root: Root::Daemon(daemon),
        workspace: "/workspace".into(),
        binds: Vec::new(),
        user: String::new(),
        volumes: Vec::new(),
        privileged: false,
        hostname: "kiln".to_owned(),
    }
}

/// What is promised in another way.
pub const OTHERWISE: &[(&str, &str)] = &[(
    "a_limit_too_small_to_start_anything_is_named",
    "the daemon refuses it: what_the_daemon_refuses_is_told_in_its_words",
)];

pub fn cases() -> Vec<Case<Docker>> {
    cases![
        a_daemons_container_has_the_image_the_workspace_and_nothing_else,
        the_powers_in_a_daemons_container_are_few,
        nothing_is_left_with_the_daemon,
        a_container_that_is_removed_is_a_host_that_is_gone,
        a_container_that_is_removed_between_two_steps_is_found_gone,
        a_killed_init_leaves_nothing_with_the_daemon,
        limits_are_the_daemons_and_hold_for_the_steps,
        containers_on_one_bridge_do_not_reach_one_another,
        a_service_shares_the_network_of_its_job,
        a_volume_is_shown_in_a_daemons_container,
        a_user_that_the_image_does_not_have_is_named_and_nothing_is_left,
        what_the_daemon_refuses_is_told_in_its_words,
        a_daemon_that_is_not_there_is_named,
        a_daemon_that_dies_in_the_middle_takes_the_step_along,
    ]
}

/// A session in [`IMAGE`], the workspace of [`overlay_mount`] at `/workspace`, without a network.
async fn contained(bench: &Bench<Docker>) -> Option<SessionSpec> {
    bench.executor.inner.probe_overlay(bench.folder.path()).await.expect("the probe runs")?;
    let mount = overlay_mount(bench, false);
    Some(SessionSpec {
        directory: mount.at.clone(),
        mount: Some(mount),
        container: Some(container(bench.executor.daemon())),
        network: SessionNetwork { reach: Reach::None, names: Vec::new() },
        env: [("PATH".to_owned(), "/bin".to_owned())].into(),
        grace: Duration::ZERO,
        ..bench.spec()
    })
}

async fn said(bench: &Bench<Docker>, spec: SessionSpec, script: &str) -> (Exit, String) {
    let mut session = bench.executor.open(spec).await.expect("the container opens");
    let exit = step(&mut session, sh(script)).await.expect("the step runs");
    session.close().await.expect("the container closes");
    (exit, text(&bench.log()))
}

/// Ours, by its labels. A container has called before its daemon says that it runs.
async fn running(bench: &Bench<Docker>) -> String {
    let label = format!("label=kiln.data={}", bench.path("attempt").display());
    let ours = ["ps", "--quiet", "--filter", &label, "--filter", "label=kiln.attempt=7-0-1"];
    until("the container runs", || !bench.executor.ours().ask(&ours).is_empty()).await;
    bench.executor.ours().ask(&ours)
}

/// The daemon removes containers in its own time.
async fn until_no_container(bench: &Bench<Docker>) {
    until("the daemon has no container", || bench.executor.containers().is_empty()).await;
}

async fn a_daemons_container_has_the_image_the_workspace_and_nothing_else(bench: Bench<Docker>) {
    let Some(spec) = contained(&bench).await else { return };
    let script = "set -e; pwd; cat file; echo new > made; ls -A /; hostname; id -u; echo $HOME; cat /proc/1/comm; \
                  echo x > /tmp/x; stat -c %a /tmp; ls /proc/self/fd | wc -l; ls -A /.kiln || true";
    let (exit, log) = said(&bench, spec, script).await;
    assert_eq!(exit, Exit::SUCCESS, "{log}");
    let found: Vec<&str> = log.lines().collect();
    assert_eq!(found[..2], ["/workspace", "lower"], "{log}");
    let there = [".dockerenv", "bin", "dev", "etc", "proc", "sys", "tmp", "workspace", "kiln"];
    assert_eq!(found[2..11], there, "{log}");
    assert_eq!(
        found[11..],
        ["0", "/root", "stage", "1777", "4", "ls: /.kiln: No such file or directory"]
    );
    assert_eq!(std::fs::read_to_string(bench.path("upper/made")).unwrap(), "new\n");
    until_no_container(&bench).await;
}

async fn the_powers_in_a_daemons_container_are_few(bench: Bench<Docker>) {
    let Some(spec) = contained(&bench).await else { return };
    let script = "grep -E '^(CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status; \
                  mount -t tmpfs x /tmp; mknod /tmp/sda b 8 0; unshare -U true; \
                  echo x > /proc/sys/kernel/core_pattern; hostname other; kill -9 1; echo alive";
    let (_, log) = said(&bench, spec, script).await;
    let found: Vec<&str> = log.lines().collect();
    assert_eq!(found[..2], ["CapEff:\t00000000000405fb", "CapBnd:\t00000000000405fb"], "{log}");
    assert!(log.contains("NoNewPrivs:\t1\nSeccomp:\t2\n"), "{log}");
    for refused in ["mount: ", "mknod: ", "unshare: ", "core_pattern", "hostname: "] {
        assert!(log.lines().any(|line| line.contains(refused)), "{refused}: {log}");
    }
    assert!(log.ends_with("alive\n"), "{log}");
}

async fn nothing_is_left_with_the_daemon(bench: Bench<Docker>) {
    let Some(spec) = contained(&bench).await else { return };
    let mut session = bench.executor.open(spec).await.unwrap();
    assert_eq!(running(&bench).await.lines().count(), 1);
    let daemonised = "(setsid sleep 4322 &) ; setsid sleep 4322 & echo begun";
    assert_eq!(step(&mut session, sh(daemonised)).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
    until_no_container(&bench).await;
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let left = all.filter(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.windows(4).any(|word| word == b"4322")
    });
    assert_eq!(left.count(), 0);
    for name in ["attempt/daemon", "attempt/daemon.json", "attempt/init.json"] {
        assert!(!bench.path(name).exists(), "{name}");
    }
}

async fn a_container_that_is_removed_is_a_host_that_is_gone(bench: Bench<Docker>) {
    let Some(spec) = contained(&bench).await else { return };
    let mut session = bench.executor.open(spec).await.unwrap();
    let dockerd = bench.executor.ours().clone();
    let upper = bench.path("upper");
    let removed = std::thread::spawn(move || {
        while !upper.join("begun").exists() {
            std::thread::yield_now();
        }
        let container = dockerd.ask(&["ps", "--quiet"]);
        dockerd.ask(&["rm", "--force", &container]);
    });
    let exit = step(&mut session, sh("touch begun; sleep 1000")).await;
    let Ok(Exit::HostGone { detail }) = exit else { panic!("{exit:?}") };
    assert!(detail.contains("ended from outside"), "{detail}");
    assert!(matches!(step(&mut session, sh("true")).await, Ok(Exit::HostGone { .. })));
    session.close().await.unwrap();
    removed.join().unwrap();
    until_no_container(&bench).await;
}

async fn a_container_that_is_removed_between_two_steps_is_found_gone(bench: Bench<Docker>) {
    let Some(spec) = contained(&bench).await else { return };
    let mut session = bench.executor.open(spec).await.unwrap();
    assert_eq!(step(&mut session, sh("sleep 1000 & true")).await, Ok(Exit::SUCCESS));
    let dockerd = bench.executor.ours();
    dockerd.ask(&["kill", &running(&bench).await]);
    let exit = step(&mut session, sh("true")).await;
    assert!(matches!(exit, Ok(Exit::HostGone { .. })), "{exit:?}");
    session.close().await.unwrap();
}

async fn a_killed_init_leaves_nothing_with_the_daemon(bench: Bench<Docker>) {
    let Some(spec) = contained(&bench).await else { return };
    let mut session = bench.executor.open(spec).await.unwrap();
    let script = "setsid sleep 4323 & touch begun; sleep 4323";
    let init = std::fs::read(bench.path("attempt/init.json")).unwrap();
    let init: serde_json::Value = serde_json::from_slice(&init).unwrap();
    let begun = bench.path("upper/begun");
    let killed = std::thread::spawn(move || {
        while !begun.exists() {
            std::thread::yield_now();
        }
        let pid = rustix::process::Pid::from_raw(init["pid"].as_i64().unwrap() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    });
    assert!(step(&mut session, sh(script)).await.is_err());
    killed.join().unwrap();
    until_no_container(&bench).await;
    let left = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let of_ours = |entry: &std::fs::DirEntry| {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            line.windows(4).any(|word| word == b"4323")
        };
        all.filter(of_ours).count()
    };
    until("its processes are gone", || left() == 0).await;
}

async fn limits_are_the_daemons_and_hold_for_the_steps(bench: Bench<Docker>) {
    let Some(mut spec) = contained(&bench).await else { return };
    spec.limits = Limits { cpu_millis: Some(1_500), memory: Some(64_000_000), pids: Some(30) };
    let mut session = bench.executor.open(spec).await.unwrap();
    let dockerd = bench.executor.ours();
    let format = "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}";
    let held = dockerd.ask(&["inspect", "--format", format, &running(&bench).await]);
    assert_eq!(held, "64000000 64000000 1500000000 31");
    let same = "test \"$(grep -v name= /proc/1/cgroup | sort)\" = \"$(grep -v name= /proc/self/cgroup | sort)\"";
    assert_eq!(step(&mut session, sh(same)).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
}

async fn containers_on_one_bridge_do_not_reach_one_another(bench: Bench<Docker>) {
    let Some(mut spec) = contained(&bench).await else { return };
    spec.network.reach = Reach::Bridge;
    let dockerd = bench.executor.ours();
    let other = ["run", "--detach", "--rm", IMAGE, "sh", "-c", "nc -l -p 80 -e echo hello"];
    let other = dockerd.ask(&other);
    let format = "{{.NetworkSettings.IPAddress}}";
    let address = dockerd.ask(&["inspect", "--format", format, &other]);
    let script = format!(
        "nc -w 5 {address} 80 < /dev/null; nc -w 5 169.254.169.254 80 < /dev/null; \
                          echo done"
    );
    let (_, log) = said(&bench, spec, &script).await;
    dockerd.ask(&["rm", "--force", &other]);
    assert!(!log.contains("hello") && log.ends_with("done\n"), "{log}");
    assert_eq!(
        log.matches("Permission denied").count(),
        2,
        "refused, and not only unanswered: {log}"
    );
}

async fn a_service_shares_the_network_of_its_job(bench: Bench<Docker>) {
    let Some(mut spec) = contained(&bench).await else { return };
    spec.network.names = vec![("db".to_owned(), std::net::Ipv4Addr::new(127, 0, 2, 1))];
    let mut job = bench.executor.open(spec.clone()).await.unwrap();
    let service = SessionSpec {
        attempt_dir: bench.path("attempt/services/db"),
        directory: bench.path("attempt/services/db"),
        log: bench.path("db.log"),
        mount: None,
        network: SessionNetwork { reach: Reach::Of(spec.attempt_dir), names: Vec::new() },
        ..spec
    };
    std::fs::create_dir_all(&service.attempt_dir).unwrap();
    let mut service = bench.executor.open(service).await.unwrap();
    let serves = sh("echo ready; nc -l -p 5432 -e echo from the service");
    service.begin(Some(serves)).await.unwrap();
    let mut listening = service.listening().await.unwrap();
    while !listening.contains(&5432) {
        tokio::task::yield_now().await;
        listening = service.listening().await.unwrap();
    }
    assert_eq!(step(&mut job, sh("nc -w 5 db 5432 < /dev/null")).await, Ok(Exit::SUCCESS));
    assert_eq!(text(&bench.log()), "from the service\n");
    service.close().await.unwrap();
    job.close().await.unwrap();
    assert_eq!(std::fs::read_to_string(bench.path("db.log")).unwrap(), "ready\n");
    until_no_container(&bench).await;
}

async fn a_volume_is_shown_in_a_daemons_container(bench: Bench<Docker>) {
    let Some(mut spec) = contained(&bench).await else { return };
    std::fs::create_dir_all(bench.path("given/inner")).unwrap();
    std::fs::write(bench.path("given/inner/file"), "given\n").unwrap();
    let folder = bench.path("given").to_string_lossy().into_owned();
    let volume = |to: &str, read_only| Volume {
        from: format!("{folder}/inner"),
        to: to.to_owned(),
        read_only,
        within: Some(folder.clone()),
    };
    spec.container.as_mut().unwrap().volumes = vec![volume("/vol", false), volume("/ro", true)];
    let script = "cat /vol/file /ro/file; echo mine > /vol/made; echo no > /ro/no";
    let (exit, log) = said(&bench, spec, script).await;
    assert_ne!(exit, Exit::SUCCESS);
    assert!(log.starts_with("given\ngiven\n") && log.contains("Read-only"), "{log}");
    assert_eq!(std::fs::read_to_string(bench.path("given/inner/made")).unwrap(), "mine\n");
}

async fn a_user_that_the_image_does_not_have_is_named_and_nothing_is_left(bench: Bench<Docker>) {
    let Some(mut spec) = contained(&bench).await else { return };
    spec.container.as_mut().unwrap().user = "nobody-here".to_owned();
    let refused = bench.executor.open(spec).await.unwrap_err().to_string();
    assert!(refused.contains("`nobody-here`") && refused.contains("/etc/passwd"), "{refused}");
    until_no_container(&bench).await;
}

async fn what_the_daemon_refuses_is_told_in_its_words(bench: Bench<Docker>) {
    let Some(spec) = contained(&bench).await else { return };
    let mut small = spec.clone();
    small.limits = Limits { memory: Some(1_000_000), ..Limits::default() };
    let refused = bench.executor.open(small).await.unwrap_err().to_string();
    assert!(refused.contains("the daemon says: Minimum memory limit"), "{refused}");
    std::fs::remove_dir_all(bench.path("work-folder/work")).unwrap();
    let mut unknown = spec;
    let Some(Container { root: Root::Daemon(daemon), .. }) = &mut unknown.container else {
        unreachable!("made so")
    };
    daemon.image = format!("sha256:{}", "0".repeat(64));
    let refused = bench.executor.open(unknown).await.unwrap_err().to_string();
    assert!(refused.contains("the daemon says: No such image"), "{refused}");
    until_no_container(&bench).await;
    assert!(!bench.path("attempt/daemon").exists());
}

async fn a_daemon_that_is_not_there_is_named(bench: Bench<Docker>) {
    let Some(mut spec) = contained(&bench).await else { return };
    let socket = bench.path("none.sock");
    let daemon = Daemon { socket: socket.clone(), ..bench.executor.daemon() };
    spec.container = Some(container(daemon));
    let refused = bench.executor.open(spec).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("`{}`", socket.display())), "{refused}");
    assert!(refused.contains("is it running?"), "{refused}");
}

async fn a_daemon_that_dies_in_the_middle_takes_the_step_along(bench: Bench<Docker>) {
    let Some(mut spec) = contained(&bench).await else { return };
    // Not the one of the other cases. It dies with the thread that starts it.
    let (found, socket) = std::sync::mpsc::channel();
    let upper = bench.path("upper");
    let killed = std::thread::spawn(move || {
        let dockerd = Dockerd::start(make_image);
        found.send((named(&dockerd, IMAGE), dockerd.pid())).unwrap();
        while !upper.join("begun").exists() {
            std::thread::yield_now();
        }
        drop(dockerd);
    });
    let (daemon, pid) = socket.recv().unwrap();
    spec.container = Some(container(daemon));
    let mut session = bench.executor.open(spec).await.unwrap();
    let exit = step(&mut session, sh("touch begun; sleep 1000")).await;
    assert!(matches!(exit, Ok(Exit::HostGone { .. })), "{exit:?}");
    session.close().await.unwrap();
    killed.join().unwrap();
    assert!(!lives(&pid.to_string()));
}
