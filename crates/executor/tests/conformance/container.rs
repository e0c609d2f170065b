//! Steps in a root of their own: what is there, what is not, and what may not be done.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_executor::{
    Bind, Container, Executor, HostExecutor, OpenError, Reach, Root, Session, SessionNetwork,
    SessionSpec,
};
use kiln_model::Exit;
use kiln_stdx::overlay::Mount;

use crate::bench::{Bench, Case, code, command, lives, secrets, sh, step, text};
use crate::cases;
use crate::host::is_root;
use crate::overlay::overlay;

pub fn cases() -> Vec<Case<HostExecutor>> {
    cases![
        a_container_has_the_image_the_workspace_and_nothing_else,
        the_powers_of_a_container_are_few,
        a_container_of_one_user_works_too,
        the_user_is_the_one_that_the_image_names,
        what_a_container_starts_ends_with_it,
        a_command_that_is_not_in_the_image_is_127,
        a_hostile_image_leads_nowhere,
        an_image_without_anything_runs_a_static_program,
        two_containers_do_not_see_one_another,
    ]
}

/// An image made of one static program, as small ones are.
pub fn image(bench: &Bench<HostExecutor>) -> PathBuf {
    let image = bench.path("image");
    make_image(&image);
    image
}

/// Makes it in a folder.
pub fn make_image(image: &Path) {
    for folder in ["bin", "etc", "proc"] {
        std::fs::create_dir_all(image.join(folder)).unwrap();
    }
    std::fs::copy(busybox(), image.join("bin/busybox")).unwrap();
    for name in [
        "sh", "cat", "ls", "id", "ps", "hostname", "mount", "echo", "sleep", "setsid", "test",
        "env", "pwd", "touch", "mknod", "unshare", "chown", "su", "grep", "wc", "mkdir", "stat",
        "chroot", "true", "nc", "ping",
    ] {
        symlink("busybox", image.join("bin").join(name)).unwrap();
    }
    std::fs::write(
        image.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n",
    )
    .unwrap();
    std::fs::write(image.join("etc/group"), "root:x:0:\nextra:x:77:node\n").unwrap();
}

fn busybox() -> PathBuf {
    let found =
        ["/bin/busybox", "/usr/bin/busybox"].into_iter().map(PathBuf::from).find(|p| p.exists());
    found.expect("the package busybox-static is installed; `cargo xtask test` does that")
}

/// A session in the image, the workspace of [`overlay`] at `/workspace`.
pub async fn contained(
    bench: &Bench<HostExecutor>,
    image: PathBuf,
    user: bool,
) -> Option<SessionSpec> {
    let workspace = Mount { user, ..overlay(bench).await? };
    for name in ["root-upper", "root-work", "root"] {
        std::fs::create_dir_all(bench.path(name)).unwrap();
    }
    let container = Container {
        root: Root::Layers(Mount {
            lowers: vec![image],
            upper: bench.path("root-upper"),
            work: bench.path("root-work"),
            at: bench.path("root"),
            user,
        }),
        workspace: "/workspace".into(),
        binds: Vec::new(),
        user: String::new(),
        volumes: Vec::new(),
        privileged: false,
        hostname: "kiln".to_owned(),
    };
    Some(SessionSpec {
        directory: workspace.at.clone(),
        mount: Some(workspace),
        container: Some(container),
        network: SessionNetwork { reach: Reach::None, names: Vec::new() },
        ..bench.spec()
    })
}

async fn said(bench: &Bench<HostExecutor>, spec: SessionSpec, script: &str) -> (Exit, String) {
    let _ = std::fs::remove_file(bench.path("log"));
    let mut session = bench.executor.open(spec).await.expect("the container opens");
    let exit = step(&mut session, sh(script)).await.expect("the step runs");
    session.close().await.expect("the container closes");
    (exit, text(&bench.log()))
}

async fn a_container_has_the_image_the_workspace_and_nothing_else(bench: Bench<HostExecutor>) {
    for user in [false, true] {
        if !user && !is_root() {
            continue;
        }
        let Some(spec) = contained(&bench, image(&bench), user).await else { return };
        let script = "set -e; pwd; cat file; echo new > made; ls /; hostname; id -u; echo $HOME; echo $$; \
                      ls /dev; ls /dev/pts /dev/shm; test -w /dev/null; test ! -e /root/.bashrc; \
                      cat /proc/timer_list /proc/keys | wc -c; grep -c . /proc/mounts > /dev/null; touch /etc/mine; \
                      echo x > /tmp/x; stat -c %a /tmp; ls /proc/self/fd | wc -l";
        let (exit, log) = said(&bench, spec, script).await;
        assert_eq!(exit, Exit::SUCCESS, "{log}");
        let found: Vec<&str> = log.lines().collect();
        assert_eq!(found[..2], ["/workspace", "lower"], "{log}");
        assert_eq!(
            found[2..10],
            ["bin", "dev", "etc", "proc", "sys", "tmp", "workspace", "kiln"],
            "{log}"
        );
        assert_eq!(found[10..12], ["0", "/root"]);
        assert_eq!(found[12], "2", "the first step is the process after the stage");
        assert!(log.ends_with("0\n1777\n4\n"), "{log}");
        assert_eq!(std::fs::read_to_string(bench.path("upper/made")).unwrap(), "new\n");
        assert!(bench.path("root-upper/etc/mine").exists());
        assert!(!bench.path("image/etc/mine").exists());
        for upper in ["upper", "work-folder", "root-upper", "root-work"] {
            std::fs::remove_dir_all(bench.path(upper)).unwrap();
        }
        std::fs::remove_dir_all(bench.path("image")).unwrap();
        std::fs::remove_dir_all(bench.path("attempt")).unwrap();
    }
}

async fn the_powers_of_a_container_are_few(bench: Bench<HostExecutor>) {
    if !is_root() {
        return;
    }
    let Some(spec) = contained(&bench, image(&bench), false).await else { return };
    let script = "grep -E '^(CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status; \
                  mount -t tmpfs x /tmp; mknod /tmp/sda b 8 0; unshare -U true; unshare -m true; \
                  echo x > /proc/sys/kernel/core_pattern; hostname other; \
                  chown 5:5 /workspace/file; stat -c %u /workspace/file; ls -A /sys/firmware | wc -l; \
                  touch /sys/x";
    let (_, log) = said(&bench, spec, script).await;
    let found: Vec<&str> = log.lines().collect();
    assert_eq!(found[0], "CapEff:\t00000000000405fb", "{log}");
    assert_eq!(found[1], "CapBnd:\t00000000000405fb", "{log}");
    assert!(log.contains("NoNewPrivs:\t1\nSeccomp:\t2\n"), "{log}");
    for refused in ["mount: ", "mknod: ", "unshare: ", "core_pattern", "hostname: ", "/sys/x"] {
        assert!(log.lines().any(|line| line.contains(refused)), "{refused}: {log}");
    }
    assert!(log.contains("\n5\n0\n"), "a file of one's own can be given away: {log}");
}

async fn a_container_of_one_user_works_too(bench: Bench<HostExecutor>) {
    let Some(mut spec) = contained(&bench, image(&bench), true).await else { return };
    spec.container.as_mut().unwrap().user = "node".to_owned();
    let (exit, log) = said(&bench, spec, "id -u; unshare -U true").await;
    assert_ne!(exit, Exit::SUCCESS);
    assert!(log.starts_with("kiln: the image wants the user `node`"), "{log}");
    assert!(log.contains("\n0\n"), "{log}");
}

async fn the_user_is_the_one_that_the_image_names(bench: Bench<HostExecutor>) {
    if !is_root() {
        return;
    }
    let Some(mut spec) = contained(&bench, image(&bench), false).await else { return };
    std::fs::set_permissions(bench.folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    spec.container.as_mut().unwrap().user = "node".to_owned();
    let (exit, log) =
        said(&bench, spec.clone(), "id; echo $HOME; grep CapEff /proc/self/status; touch /etc/x")
            .await;
    assert_ne!(exit, Exit::SUCCESS);
    assert!(log.contains("uid=1000(node) gid=1000 groups=77(extra)"), "{log}");
    assert!(log.contains("/home/node\nCapEff:\t0000000000000000\n"), "{log}");
    for used in ["work-folder/work", "root-work/work"] {
        std::fs::remove_dir_all(bench.path(used)).unwrap();
    }
    spec.container.as_mut().unwrap().user = "nobody".to_owned();
    let refused = bench.executor.open(spec).await.unwrap_err().to_string();
    assert!(refused.contains("`nobody`") && refused.contains("/etc/passwd"), "{refused}");
}

async fn what_a_container_starts_ends_with_it(bench: Bench<HostExecutor>) {
    let Some(mut spec) = contained(&bench, image(&bench), !is_root()).await else { return };
    spec.grace = Duration::ZERO;
    spec.masked = secrets(["hunter22"]);
    let mut session = bench.executor.open(spec).await.unwrap();
    let daemon = "setsid sleep 4321 & (setsid sleep 4321 &) ; echo hunter22";
    assert_eq!(step(&mut session, sh(daemon)).await, Ok(Exit::SUCCESS));
    let of_ours = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let is_ours = |pid: &String| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.windows(4).any(|word| word == b"4321") && lives(pid)
        };
        all.filter_map(|entry| entry.file_name().into_string().ok()).filter(is_ours).count()
    };
    assert!(of_ours() >= 1);
    // A step that takes too long ends with all that was started, and the next one runs.
    let mut slow = sh("sleep 1000");
    slow.timeout = Some(Duration::from_millis(50));
    assert!(matches!(step(&mut session, slow).await, Ok(Exit::TimedOut { .. })));
    assert_eq!(of_ours(), 0);
    assert_eq!(step(&mut session, sh("setsid sleep 4321 & exit 3")).await, Ok(code(3)));
    session.close().await.unwrap();
    assert_eq!(of_ours(), 0);
    assert_eq!(text(&bench.log()), "***\n");
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(&*bench.folder.path().to_string_lossy()));
}

async fn a_command_that_is_not_in_the_image_is_127(bench: Bench<HostExecutor>) {
    let Some(spec) = contained(&bench, image(&bench), !is_root()).await else { return };
    let mut session = bench.executor.open(spec).await.unwrap();
    // On the machine, and not in the image.
    assert_eq!(step(&mut session, command(["git", "--version"])).await, Ok(code(127)));
    assert_eq!(step(&mut session, command(["/workspace/file"])).await, Ok(code(126)));
    session.close().await.unwrap();
    assert!(text(&bench.log()).contains("cannot run `git`: command not found"));
}

async fn a_hostile_image_leads_nowhere(bench: Bench<HostExecutor>) {
    let image = image(&bench);
    let outside = bench.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::remove_dir(image.join("proc")).unwrap();
    for name in ["proc", "dev", "sys", "tmp", "workspace"] {
        symlink(&outside, image.join(name)).unwrap();
    }
    std::fs::remove_file(image.join("etc/passwd")).unwrap();
    symlink("/etc/shadow", image.join("etc/passwd")).unwrap();
    let Some(spec) = contained(&bench, image, !is_root()).await else { return };
    match bench.executor.open(spec).await {
        Ok(mut session) => session.close().await.unwrap(),
        Err(OpenError::Isolation(_)) => {}
        Err(OpenError::Other(why)) if why.contains("the image has something else") => {}
        Err(other) => panic!("{other}"),
    }
    assert_eq!(std::fs::read_dir(outside).unwrap().count(), 0);
    assert!(!bench.path("attempt/init").exists());
}

async fn an_image_without_anything_runs_a_static_program(bench: Bench<HostExecutor>) {
    let image = bench.path("bare");
    std::fs::create_dir(&image).unwrap();
    std::fs::copy(busybox(), image.join("busybox")).unwrap();
    let Some(mut spec) = contained(&bench, image, !is_root()).await else { return };
    spec.container.as_mut().unwrap().binds = vec![Bind {
        from: bench.path("lower/file"),
        to: "/run/kiln/given".into(),
        writable: false,
    }];
    let mut session = bench.executor.open(spec).await.unwrap();
    let cat = command(["/busybox", "cat", "/run/kiln/given", "/workspace/file"]);
    assert_eq!(step(&mut session, cat).await, Ok(Exit::SUCCESS));
    let write = command(["/busybox", "touch", "/run/kiln/given"]);
    assert_eq!(step(&mut session, write).await, Ok(code(1)));
    session.close().await.unwrap();
    assert!(text(&bench.log()).starts_with("lower\nlower\n"));
}

async fn two_containers_do_not_see_one_another(bench: Bench<HostExecutor>) {
    let Some(spec) = contained(&bench, image(&bench), !is_root()).await else { return };
    let mut first = bench.executor.open(spec.clone()).await.unwrap();
    assert_eq!(
        step(&mut first, sh("sleep 1000 & echo mine > /dev/shm/x")).await,
        Ok(Exit::SUCCESS)
    );
    let mut second = spec;
    second.attempt_dir = bench.path("second");
    second.log = bench.path("second.log");
    let container = second.container.as_mut().unwrap();
    for name in ["second-upper", "second-work"] {
        std::fs::create_dir(bench.path(name)).unwrap();
    }
    let Root::Layers(root) = &mut container.root else { unreachable!("made so") };
    root.upper = bench.path("second-upper");
    root.work = bench.path("second-work");
    let mount = second.mount.as_mut().unwrap();
    for name in ["upper2", "work2"] {
        std::fs::create_dir(bench.path(name)).unwrap();
    }
    (mount.upper, mount.work) = (bench.path("upper2"), bench.path("work2"));
    let mut second = bench.executor.open(second).await.unwrap();
    assert_eq!(
        step(
            &mut second,
            sh("n=0; for pid in /proc/[0-9]*; do n=$((n+1)); done; echo $n; ls /dev/shm")
        )
        .await,
        Ok(Exit::SUCCESS)
    );
    second.close().await.unwrap();
    first.close().await.unwrap();
    let log = std::fs::read_to_string(bench.path("second.log")).unwrap();
    // The stage and the shell.
    assert_eq!(log, "2\n");
}
