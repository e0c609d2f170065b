//! A job with the machine's programs and none of the machine's secrets.

use std::path::Path;

use kiln_executor::{Executor, HostExecutor, Reach, Session, SessionNetwork, SessionSpec};
use kiln_model::Exit;

use crate::bench::{Bench, Case, code, command, sh, step, text};
use crate::cases;
use crate::host::is_root;
use crate::within::sandbox;

pub fn cases() -> Vec<Case<HostExecutor>> {
    cases![
        a_sandbox_cannot_change_the_machine,
        a_sandbox_sees_no_secret,
        a_sandbox_has_places_of_its_own,
        a_sandbox_sees_no_other_process,
        the_powers_in_a_sandbox_are_few,
        a_sandbox_leaves_nothing,
    ]
}

/// As root, where we are, and as one who is not.
fn kinds() -> impl Iterator<Item = bool> {
    [false, true].into_iter().filter(|user| *user || is_root())
}

fn spec(bench: &Bench<HostExecutor>, user: bool) -> SessionSpec {
    let mut spec = bench.spec();
    let mut sandbox = sandbox(bench.folder.path(), user);
    sandbox.binds.clear();
    spec.sandbox = Some(sandbox);
    spec
}

async fn said(bench: &Bench<HostExecutor>, spec: SessionSpec, script: &str) -> (Exit, String) {
    let _ = std::fs::remove_file(bench.path("log"));
    let mut session = bench.executor.open(spec).await.expect("the sandbox opens");
    let exit = step(&mut session, sh(script)).await.expect("the step runs");
    session.close().await.expect("the sandbox closes");
    (exit, text(&bench.log()))
}

async fn a_sandbox_cannot_change_the_machine(bench: Bench<HostExecutor>) {
    for user in kinds() {
        let script = "for place in / /etc /usr /usr/bin /var /opt /sys /proc/sys /home /root/..; do \
                        touch $place/kiln-was-here && echo \"wrote $place\"; done; \
                      rm -f /etc/hostname && echo removed; \
                      mount -o remount,rw / && echo remounted; umount /tmp && echo unmounted; \
                      echo mine > made && cat made";
        let (exit, log) = said(&bench, spec(&bench, user), script).await;
        assert_eq!(exit, Exit::SUCCESS, "{log}");
        for word in ["wrote", "removed", "remounted", "unmounted"] {
            assert!(!log.lines().any(|line| line.starts_with(word)), "{user}: {log}");
        }
        assert!(log.ends_with("mine\n"), "{log}");
        assert_eq!(std::fs::read_to_string(bench.path("work/made")).unwrap(), "mine\n");
        assert!(!Path::new("/etc/kiln-was-here").exists());
        std::fs::remove_file(bench.path("work/made")).unwrap();
    }
}

async fn a_sandbox_sees_no_secret(bench: Bench<HostExecutor>) {
    let data = bench.path("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("token"), "hunter22").unwrap();
    std::fs::write(bench.path("neighbour"), "hunter22").unwrap();
    let home = std::env::var("HOME").unwrap_or_else(|_| "/root".to_owned());
    for user in kinds() {
        let mut spec = spec(&bench, user);
        let sandbox = spec.sandbox.as_mut().unwrap();
        sandbox.home = home.clone().into();
        // What is below a hidden folder is shown when it is asked for.
        sandbox.hidden = vec![bench.folder.path().to_owned()];
        let script = format!(
            "ls -A \"$HOME\" /home /run; wc -c < /etc/shadow; ls -A {}; cat {} {}; ls /tmp; \
             cat /etc/passwd > /dev/null && echo programs: $(ls /usr/bin | wc -l)",
            data.display(),
            data.join("token").display(),
            bench.path("neighbour").display(),
        );
        let (_, log) = said(&bench, spec, &script).await;
        assert!(
            !log.contains("hunter22") && !log.contains("root:*") && !log.contains("root:$"),
            "{log}"
        );
        assert!(!log.contains(".sock") && !log.contains(".ssh"), "{log}");
        assert!(log.contains("programs: ") && !log.contains("programs: 0"), "{log}");
    }
}

async fn a_sandbox_has_places_of_its_own(bench: Bench<HostExecutor>) {
    let marker = std::env::temp_dir().join(format!("kiln-marker-{}", std::process::id()));
    std::fs::write(&marker, "outside").unwrap();
    for user in kinds() {
        let script = format!(
            "test ! -e {}; for place in /tmp /var/tmp /dev/shm \"$HOME\"; do \
               echo x > \"$place/kiln-own\" || echo \"cannot write $place\"; done; \
             ls /dev | tr '\\n' ' '; hostname; pwd; id -u",
            marker.display()
        );
        let (exit, log) = said(&bench, spec(&bench, user), &script).await;
        assert_eq!(exit, Exit::SUCCESS, "{log}");
        assert!(!log.contains("cannot write"), "{log}");
        assert!(!log.contains("sda") && log.contains("null"), "{log}");
        assert!(log.contains(&*bench.path("work").to_string_lossy()), "{log}");
        // Who runs kiln is who the steps are.
        let me = rustix::process::geteuid().as_raw().to_string();
        assert_eq!(log.lines().last(), Some(me.as_str()), "{log}");
        for place in ["/tmp", "/var/tmp", "/dev/shm", "/root"] {
            assert!(!Path::new(place).join("kiln-own").exists(), "{place}");
        }
    }
    std::fs::remove_file(marker).unwrap();
}

async fn a_sandbox_sees_no_other_process(bench: Bench<HostExecutor>) {
    for user in kinds() {
        let mut spec = spec(&bench, user);
        spec.network = SessionNetwork { reach: Reach::None, names: Vec::new() };
        let me = std::process::id();
        let script = format!(
            "n=0; for pid in /proc/[0-9]*; do n=$((n+1)); done; echo $n; kill -0 {me} 2> /dev/null && echo seen; \
             cat /proc/net/dev | tail -n +3 | wc -l"
        );
        let (_, log) = said(&bench, spec, &script).await;
        let found: Vec<&str> = log.lines().collect();
        // The stage and the shell.
        assert_eq!(found, ["2", "1"], "{log}");
    }
}

async fn the_powers_in_a_sandbox_are_few(bench: Bench<HostExecutor>) {
    for user in kinds() {
        let script = "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status; unshare -U true; \
                      mknod /tmp/sda b 8 0; chroot / true; echo x > /proc/sysrq-trigger";
        let (_, log) = said(&bench, spec(&bench, user), script).await;
        assert!(log.contains("NoNewPrivs:\t1\nSeccomp:\t2\n"), "{log}");
        for refused in ["unshare: ", "mknod: ", "sysrq-trigger"] {
            assert!(log.contains(refused), "{refused}: {log}");
        }
    }
}

async fn a_sandbox_leaves_nothing(bench: Bench<HostExecutor>) {
    for user in kinds() {
        let mut session = bench.executor.open(spec(&bench, user)).await.unwrap();
        let script = "setsid sleep 1000 & mkdir -p /tmp/a/b; echo x > /tmp/a/b/c; chmod 500 /tmp/a";
        assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
        assert_eq!(step(&mut session, command(["no-such-program"])).await, Ok(code(127)));
        session.close().await.unwrap();
        if is_root() {
            assert!(!bench.path("attempt/sandbox").exists());
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&*bench.folder.path().to_string_lossy()), "{mounts}");
    }
}
