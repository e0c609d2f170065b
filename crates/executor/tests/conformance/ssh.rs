//! The table over ssh, and what only a far machine can do wrong. The far machine is this one, with an sshd
//! of the tests' own, another home folder, and the shell that is asked for.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kiln_executor::{
    Attached, Executor, HostExecutor, HostSession, OpenError, Remote, Session, SessionSpec,
    StepError,
};
use kiln_model::{AttemptId, Exit};
use kiln_stdx::process;
use tokio::sync::watch;

use crate::bench::{
    Bench, Case, code, command, lives, read_when_there, secrets, sh, step, text, until,
};
use crate::cases;

/// A machine of its own, as far as ssh can tell.
#[derive(Clone)]
pub struct Far {
    inner: HostExecutor,
    sshd: Arc<Sshd>,
}

pub struct Sshd {
    folder: tempfile::TempDir,
    daemon: Child,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Which programs the far machine has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tools {
    Machines,
    /// `sh` is bash.
    Bash,
    /// Everything is busybox's, which has no `find -cnewer`.
    Busybox,
}

impl Far {
    /// `None`: this machine has no sshd, or not the shell.
    pub fn new(inner: &HostExecutor, tools: Tools) -> Option<Self> {
        let sshd = Sshd::start(tools)?;
        Some(Self { inner: inner.clone(), sshd: Arc::new(sshd) })
    }

    fn remote(&self) -> Remote {
        Remote {
            host: "far".to_owned(),
            config: Some(self.sshd.path("config")),
            machine_env: Vec::new(),
            workspace_env: Vec::new(),
            output_env: vec!["OUT".to_owned()],
            output_file: "output".to_owned(),
        }
    }

    /// The folders of sessions there.
    fn folders(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.sshd.path("home/.cache/kiln")).into_iter().flatten();
        entries.flatten().map(|entry| entry.path()).collect()
    }

    /// The workspace of the only session.
    fn work(&self) -> PathBuf {
        match &self.folders()[..] {
            [one] => one.join("work"),
            other => panic!("one session, not {other:?}"),
        }
    }
}

impl Executor for Far {
    type Session = HostSession;

    async fn open(&self, mut spec: SessionSpec) -> Result<HostSession, OpenError> {
        spec.remote.get_or_insert(self.remote());
        // It was for the case to see that a variable is told; the table's environments are exact.
        if !spec.env.contains_key("WANTS_OUT") {
            spec.remote.iter_mut().for_each(|remote| remote.output_env.clear());
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

impl Sshd {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(tools: Tools) -> Option<Self> {
        let program = ["/usr/sbin/sshd", "/usr/bin/sshd"].map(Path::new);
        let program = program.into_iter().find(|path| path.exists())?;
        let folder = tempfile::Builder::new().prefix("kiln-sshd-").tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["home", "bin"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        match tools {
            Tools::Machines => {}
            Tools::Bash => symlink(which(&["/bin/bash", "/usr/bin/bash"])?, at("bin/sh")).unwrap(),
            Tools::Busybox => {
                let busybox = which(&["/bin/busybox", "/usr/bin/busybox"])?;
                for name in
                    ["sh", "tar", "find", "ls", "grep", "sed", "setsid", "sleep", "wc", "cat"]
                {
                    symlink(busybox, at("bin").join(name)).unwrap();
                }
            }
        }
        for name in ["host", "user"] {
            let mut keygen = process::command("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(at(name));
            process::output(&mut keygen).unwrap();
        }
        std::fs::copy(at("user.pub"), at("authorized")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let shown = |name: &str| at(name).display().to_string();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\n\
             StrictModes no\nPidFile none\nPasswordAuthentication no\nMaxStartups 100\n\
             KbdInteractiveAuthentication no\nSetEnv HOME={} PATH={}:/usr/bin:/bin KEPT=far\n",
            shown("host"),
            shown("authorized"),
            shown("home"),
            shown("bin"),
        );
        std::fs::write(at("sshd_config"), config).unwrap();
        let key = std::fs::read_to_string(at("host.pub")).unwrap();
        std::fs::write(at("known"), format!("[127.0.0.1]:{port} {key}")).unwrap();
        let config = format!(
            "Host far\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {}\n  IdentitiesOnly yes\n  \
             UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null\n",
            shown("user"),
            shown("known"),
        );
        std::fs::write(at("config"), config).unwrap();
        if crate::is_root() {
            // Where it leaves its privileges.
            let _ = std::fs::create_dir_all("/run/sshd");
        }
        let mut sshd = process::command(program);
        sshd.arg("-D").arg("-E").arg(at("sshd.log")).arg("-f").arg(at("sshd_config"));
        let daemon = sshd.stdin(Stdio::null()).spawn().unwrap();
        let sshd = Self { folder, daemon };
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::yield_now();
        }
        Some(sshd)
    }
}

fn which(paths: &[&'static str]) -> Option<&'static str> {
    paths.iter().copied().find(|path| Path::new(path).exists())
}

/// These look into the workspace from outside while a step runs, or hold an executor to more than a shell
/// can tell. What they hold the host to, the cases below hold the far side to.
pub const FROM_OUTSIDE: &[&str] = &[
    "nothing_else_is_inherited",
    "a_signal_is_not_an_exit_code",
    "the_directory_is_as_asked",
    "the_first_bytes_are_announced_at_once",
    "who_ignores_term_is_killed",
    "a_cancelled_step_may_clean_up",
    "a_step_whose_caller_left_is_cancelled_by_the_next",
    "daemons_are_killed_at_the_end",
];

pub fn cases() -> Vec<Case<Far>> {
    cases![
        a_far_step_inherits_nothing,
        a_far_signal_is_not_an_exit_code,
        files_go_there_and_changes_come_back,
        what_is_not_changed_is_not_written_here,
        the_far_machine_gives_its_own_variables,
        odd_names_of_variables_arrive_too,
        outputs_come_back_after_each_step,
        a_far_step_that_ignores_term_is_killed,
        far_daemons_are_killed_at_the_end,
        nothing_is_left_there_at_the_end,
        a_lost_connection_is_a_host_that_is_gone,
        a_killed_session_leaves_nothing_there,
        nobody_is_asked_for_a_password_or_a_key,
        secrets_are_on_no_command_line_there,
        a_directory_over_there_is_as_asked,
    ]
}

async fn a_far_step_inherits_nothing(bench: Bench<Far>) {
    let script = "umask; grep '^SigBlk:' /proc/self/status; \
                  [ $((0x$(sed -n 's/^SigIgn:.//p' /proc/self/status) & 0x7fffffff)) = 0 ] && echo none; \
                  for fd in /proc/$$/fd/*; do [ -e $fd ] && echo ${fd##*/}; done";
    let (_, log) = bench.run(sh(script)).await;
    assert_eq!(text(&log), "0022\nSigBlk:\t0000000000000000\nnone\n0\n1\n2\n");
}

async fn a_far_signal_is_not_an_exit_code(bench: Bench<Far>) {
    let mut session = bench.open().await;
    // Not 3, which the shell of busybox does not heed.
    for signal in [1, 6, 9, 11, 15] {
        let exit = step(&mut session, sh(&format!("ulimit -c 0; kill -{signal} $$"))).await;
        assert_eq!(exit, Ok(Exit::Killed { signal }));
    }
    // Of these a shell says nothing.
    for signal in [2, 13] {
        let exit = step(&mut session, sh(&format!("kill -{signal} $$"))).await;
        assert_eq!(exit, Ok(code(128 + signal)));
    }
    assert_eq!(step(&mut session, sh("exit 137")).await, Ok(code(137)));
    session.close().await.unwrap();
}

async fn files_go_there_and_changes_come_back(bench: Bench<Far>) {
    let work = bench.path("work");
    let odd = std::ffi::OsStr::from_bytes(b"caf\xe9 \n 'x' $y \\");
    let long = "n".repeat(200);
    for folder in ["kept", "gone/deep", "changed", &format!("{long}/{long}"), "turns"] {
        std::fs::create_dir_all(work.join(folder)).unwrap();
    }
    std::fs::write(work.join(odd), "odd").unwrap();
    std::fs::write(work.join(format!("{long}/{long}/{long}")), "long").unwrap();
    std::fs::write(work.join("gone/deep/file"), "x").unwrap();
    std::fs::write(work.join("changed/file"), "before").unwrap();
    std::fs::write(work.join("tool"), "#!/bin/sh\necho tool\n").unwrap();
    std::fs::set_permissions(work.join("tool"), Permissions::from_mode(0o755)).unwrap();
    symlink("changed/file", work.join("link")).unwrap();
    let big: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(work.join("big"), &big).unwrap();
    let mut session = bench.open().await;
    let script = format!(
        "set -e; ./tool; cat link; cat {long}/{long}/{long}; set -- *; echo $#; rm -r gone turns; \
         printf AFTER_ > changed/file; touch -r tool changed/file; echo file > turns; \
         ln -sfn elsewhere link; chmod 640 tool; mkdir -p new/empty; echo n > new/n; ln new/n new/same; \
         printf 'a\\nb' > \"$(printf 'new\\nline \\303\\251')\"; printf x | dd of=big bs=1 seek=5 conv=notrunc 2>/dev/null"
    );
    assert_eq!(step(&mut session, sh(&script)).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), "tool\nbeforelong9\n");
    let read = |name: &str| std::fs::read_to_string(work.join(name)).unwrap();
    assert_eq!(read("changed/file"), "AFTER_");
    assert_eq!(
        (read("turns"), read("new/n"), read("new/same")),
        ("file\n".into(), "n\n".into(), "n\n".into())
    );
    assert!(!work.join("gone").exists());
    assert!(work.join("new/empty").is_dir() && work.join("kept").is_dir());
    assert_eq!(std::fs::read_link(work.join("link")).unwrap(), Path::new("elsewhere"));
    assert_eq!(work.join("tool").metadata().unwrap().mode() & 0o777, 0o640);
    assert_eq!(std::fs::read_to_string(work.join(odd)).unwrap(), "odd");
    assert_eq!(read("new\nline \u{e9}"), "a\nb");
    let mut changed = big;
    changed[5] = b'x';
    assert!(std::fs::read(work.join("big")).unwrap() == changed);
    let left = std::fs::read_dir(&work).unwrap().flatten();
    assert!(!left.into_iter().any(|entry| entry.file_name() == ".kiln-fetched"));
}

async fn what_is_not_changed_is_not_written_here(bench: Bench<Far>) {
    std::fs::create_dir(bench.path("work/folder")).unwrap();
    for name in ["work/a", "work/folder/b"] {
        std::fs::write(bench.path(name), "same").unwrap();
    }
    let inode = |name: &str| {
        let meta = bench.path(name).metadata().unwrap();
        (meta.ino(), meta.mtime(), meta.ctime(), meta.ctime_nsec())
    };
    let before = ["work/a", "work/folder/b"].map(inode);
    let mut session = bench.open().await;
    // Written there with what it had.
    let script = "cp -p a b; cat b > a; rm b; touch a; cat folder/b";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
    assert_eq!(["work/a", "work/folder/b"].map(inode), before);
}

async fn the_far_machine_gives_its_own_variables(bench: Bench<Far>) {
    let mut remote = bench.executor.remote();
    remote.machine_env = ["HOME", "KEPT", "LC_ALL", "PATH"].map(str::to_owned).to_vec();
    remote.workspace_env = vec!["WORK".to_owned()];
    let mut session = bench
        .open_with(|spec| {
            spec.env = [("PATH".to_owned(), "/bin:/usr/bin".to_owned())].into();
            spec.remote = Some(remote);
        })
        .await;
    let work = bench.executor.work();
    assert_eq!(step(&mut session, command(["env"])).await, Ok(Exit::SUCCESS));
    let log = text(&bench.log());
    let mut lines: Vec<&str> = log.lines().filter(|line| !line.starts_with("_=")).collect();
    lines.sort_unstable();
    let home = format!("HOME={}", bench.executor.sshd.path("home").display());
    let work = format!("WORK={}", work.display());
    assert_eq!(lines, [home.as_str(), "KEPT=far", "PATH=/bin:/usr/bin", work.as_str()]);
    session.close().await.unwrap();
}

async fn odd_names_of_variables_arrive_too(bench: Bench<Far>) {
    let env =
        [("UID", "12"), ("a-b", "x y\nz"), ("IFS", "0123"), ("k_dir", "/"), ("A", "'\"\\$(id)")];
    let spec = |spec: &mut SessionSpec| {
        spec.env.extend(env.map(|(name, value)| (name.to_owned(), value.to_owned())));
    };
    let mut session = bench.open_with(spec).await;
    assert_eq!(step(&mut session, command(["env", "-0"])).await, Ok(Exit::SUCCESS));
    let log = text(&bench.log());
    for (name, value) in env {
        assert!(log.split('\0').any(|pair| pair == format!("{name}={value}")), "{name}: {log:?}");
    }
    session.close().await.unwrap();
    let hidden = |spec: &mut SessionSpec| {
        spec.env.insert("a-b".to_owned(), "sesame".to_owned());
        spec.masked = secrets(["sesame"]);
    };
    let mut session = bench.open_with(hidden).await;
    let refused = step(&mut session, command(["true"])).await;
    assert!(
        matches!(&refused, Err(StepError::Command(why)) if why.contains("`a-b`")),
        "{refused:?}"
    );
    session.close().await.unwrap();
}

async fn outputs_come_back_after_each_step(bench: Bench<Far>) {
    let wanted = |spec: &mut SessionSpec| {
        spec.env.insert("WANTS_OUT".to_owned(), String::new());
    };
    let mut session = bench.open_with(wanted).await;
    assert_eq!(step(&mut session, sh("echo a=1 >> $OUT")).await, Ok(Exit::SUCCESS));
    assert_eq!(std::fs::read_to_string(bench.path("attempt/output")).unwrap(), "a=1\n");
    let more = "i=0; while [ $i -lt 5000 ]; do echo key$i=value; i=$((i+1)); done >> $OUT; yes | head -n 9999";
    assert_eq!(step(&mut session, sh(more)).await, Ok(Exit::SUCCESS));
    let output = std::fs::read_to_string(bench.path("attempt/output")).unwrap();
    assert_eq!((output.lines().count(), output.lines().last()), (5001, Some("key4999=value")));
    session.close().await.unwrap();
}

async fn a_far_step_that_ignores_term_is_killed(bench: Bench<Far>) {
    let mut session = bench.open_with(|spec| spec.grace = Duration::from_millis(100)).await;
    let (cancel, cancelled) = watch::channel(false);
    let script = "trap 'echo termed' TERM; (trap '' TERM; echo $$ > pid; exec sleep 1000) & \
                  while :; do sleep 0.01; done";
    let work = bench.executor.work();
    let (exit, pid) = tokio::join!(session.step(sh(script), cancelled), async {
        let pid = read_when_there(&work.join("pid")).await;
        cancel.send_replace(true);
        pid
    });
    assert_eq!(exit, Ok(Exit::Cancelled));
    assert!(!lives(&pid));
    // The shell says of its own `sleep` that it was terminated, too.
    assert!(text(&bench.log()).ends_with("termed\n"));
    let mut slow = sh("sleep 1000");
    slow.timeout = Some(Duration::from_millis(50));
    assert_eq!(step(&mut session, slow).await, Ok(Exit::TimedOut { after_ms: 50 }));
    assert_eq!(step(&mut session, sh("exit 3")).await, Ok(code(3)));
    session.close().await.unwrap();
}

async fn far_daemons_are_killed_at_the_end(bench: Bench<Far>) {
    let mut session = bench.open_with(|spec| spec.grace = Duration::from_millis(50)).await;
    let script = "setsid sh -c 'setsid sh -c \"trap \\\"\\\" TERM HUP; echo \\$\\$ > daemon; \
                  while :; do sleep 1; done\" >/dev/null 2>&1 <&- & exit' >/dev/null 2>&1 &";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    let daemon = read_when_there(&bench.executor.work().join("daemon")).await;
    assert!(lives(&daemon));
    session.close().await.unwrap();
    assert!(!lives(&daemon));
}

async fn nothing_is_left_there_at_the_end(bench: Bench<Far>) {
    let mut session = bench.open().await;
    let script = "mkdir -p locked/in; touch locked/in/file; chmod 500 locked/in locked";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
    assert_eq!(bench.executor.folders(), Vec::<PathBuf>::new());
    assert!(!bench.path("attempt/ssh").exists());
}

/// The processes of this case's connection.
fn connections(bench: &Bench<Far>) -> Vec<String> {
    let config = bench.executor.sshd.path("config");
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"ssh\0") && text(&line).contains(&config.display().to_string())
    })
    .collect()
}

fn kill(pid: &str) {
    let mut kill = process::command("kill");
    process::output(kill.args(["-9", pid])).unwrap();
}

async fn a_lost_connection_is_a_host_that_is_gone(bench: Bench<Far>) {
    let mut session = bench.open().await;
    let work = bench.executor.work();
    let running = step(&mut session, sh("echo begun; echo $$ > pid; sleep 1000"));
    let (exit, pid) = tokio::join!(running, async {
        let pid = read_when_there(&work.join("pid")).await;
        until("its output is here", || bench.log() == b"begun\n").await;
        connections(&bench).iter().for_each(|ssh| kill(ssh));
        pid
    });
    let Ok(Exit::HostGone { detail }) = exit else { panic!("{exit:?}") };
    assert!(detail.contains("`far`"), "{detail}");
    until("the far side has noticed", || !lives(&pid) && bench.executor.folders().is_empty()).await;
    // What comes after has no machine to run on.
    assert!(matches!(step(&mut session, sh("true")).await, Ok(Exit::HostGone { .. })));
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), "begun\n");
}

async fn a_killed_session_leaves_nothing_there(bench: Bench<Far>) {
    let mut session = bench.open().await;
    let noted = bench.executor.work().join("pid");
    let pid = tokio::select! {
        ended = step(&mut session, sh("echo $$ > pid; sleep 1000 & sleep 1000")) => panic!("{ended:?}"),
        pid = read_when_there(&noted) => pid,
    };
    let attempt = bench.spec().attempt;
    bench.executor.reap(attempt, &bench.path("attempt"));
    until("the far side has noticed", || !lives(&pid) && bench.executor.folders().is_empty()).await;
    until("the connection is closed", || connections(&bench).is_empty()).await;
    assert!(session.close().await.is_err());
}

async fn nobody_is_asked_for_a_password_or_a_key(bench: Bench<Far>) {
    let sshd = &bench.executor.sshd;
    let known = std::fs::read_to_string(sshd.path("known")).unwrap();
    let config = std::fs::read_to_string(sshd.path("config")).unwrap();
    let other = std::fs::read_to_string(sshd.path("user.pub")).unwrap();
    let place = known.split_whitespace().next().unwrap();
    let changed = format!("{place} {other}");
    for (known, find, instead, why) in [
        ("", "", "", "the host key of `far` is not known here"),
        (changed.as_str(), "", "", "somebody stands between"),
        (known.as_str(), "IdentityFile", "IdentityFile /dev/null\n#", "accepts no key of ours"),
        (
            known.as_str(),
            "HostName 127.0.0.1",
            "HostName no-such-host.invalid",
            "cannot connect to `far`",
        ),
        (known.as_str(), "Port ", "Port 1 #", "cannot connect to `far`"),
    ] {
        let (known_at, config_at) = (bench.path("known"), bench.path("config"));
        std::fs::write(&known_at, known).unwrap();
        let config = config
            .replace(&sshd.path("known").display().to_string(), &known_at.display().to_string());
        let config = if find.is_empty() { config } else { config.replace(find, instead) };
        std::fs::write(&config_at, config).unwrap();
        let mut spec = bench.spec();
        spec.remote = Some(Remote { config: Some(config_at), ..bench.executor.remote() });
        let refused = bench.executor.open(spec).await.map(drop);
        let Err(OpenError::Other(told)) = refused else { panic!("{refused:?}") };
        assert!(told.contains(why), "{told}");
    }
    for host in ["", "-oProxyCommand=x", "a`id`", "a b", "a;b", "$(x)"] {
        let mut spec = bench.spec();
        spec.remote = Some(Remote { host: host.to_owned(), ..bench.executor.remote() });
        let refused = bench.executor.open(spec).await.map(drop);
        assert!(
            matches!(&refused, Err(OpenError::Other(why)) if why.contains("no name of a host")),
            "{refused:?}"
        );
    }
    assert_eq!(bench.executor.folders(), Vec::<PathBuf>::new());
    assert!(connections(&bench).is_empty());
}

async fn secrets_are_on_no_command_line_there(bench: Bench<Far>) {
    let hidden = |spec: &mut SessionSpec| {
        spec.env.insert("TOKEN".to_owned(), "open sesame".to_owned());
        spec.masked = secrets(["open sesame"]);
    };
    let mut session = bench.open_with(hidden).await;
    let script =
        "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c 'n sesam[e]'; echo $TOKEN";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), "0\n***\n");
}

async fn a_directory_over_there_is_as_asked(bench: Bench<Far>) {
    std::fs::create_dir_all(bench.path("work/sub dir/inner")).unwrap();
    symlink("sub dir", bench.path("work/link")).unwrap();
    let mut session = bench.open().await;
    let work = bench.executor.work().display().to_string();
    let mut expected = String::new();
    for (asked, shown) in [
        (None, ""),
        (Some("."), ""),
        (Some("sub dir/inner"), "/sub dir/inner"),
        (Some("./link/inner/"), "/sub dir/inner"),
    ] {
        let mut command = command(["pwd", "-P"]);
        command.directory = asked.map(str::to_owned);
        assert_eq!(step(&mut session, command).await, Ok(Exit::SUCCESS));
        expected.push_str(&format!("{work}{shown}\n"));
    }
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), expected);
}
