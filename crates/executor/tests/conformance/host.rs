//! What the host executor does besides: overlays, owners that die, disks that are full.

use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Stdio};
use std::time::Duration;

use kiln_executor::host::{reap, results_left};
use kiln_executor::{
    Executor, HostExecutor, OpenError, OverlayKind, Session, SessionSpec, StepDone, StepError,
};
use kiln_model::Exit;
use kiln_stdx::overlay::{LOWERS_MAX, Mount};
use kiln_stdx::process;
use tokio::sync::watch;

use crate::bench::{
    Bench, Case, code, command, lives, read_when_there, sh, spec_in, step, text, until,
};
use crate::cases;

pub fn cases() -> Vec<Case<HostExecutor>> {
    cases![
        writes_go_to_the_upper_folder_only,
        the_mount_is_seen_by_the_job_only,
        an_unprivileged_overlay_behaves_the_same,
        many_layers_with_odd_names_are_mounted,
        too_many_layers_are_refused_in_words,
        a_session_that_cannot_open_leaves_nothing,
        a_path_that_is_not_utf_8_is_no_trouble,
        a_log_that_cannot_be_written_is_kilns_error,
        a_lost_owner_takes_everything_along,
        whoever_is_in_a_hurry_waits_for_no_grace,
        an_orphan_finishes_its_step_and_is_found_again,
        an_orphan_that_nobody_wants_writes_down_what_it_knows,
        what_a_killed_session_left_is_reaped,
        the_reaper_spares_strangers,
        a_session_that_dies_is_told_apart,
        no_descriptor_is_left_open,
        the_spawner_holds_nothing_and_bears_its_name,
        secrets_are_on_no_command_line,
    ]
}

/// A second process, for what cannot be tried in this one.
pub enum Role {
    /// Opens a session, starts a step, waits to be killed.
    Owner { folder: PathBuf, orphan_for: Duration },
    /// Cancels a step that ignores it, and cannot wait for the grace to pass.
    Hurried { folder: PathBuf },
    /// Tries an unprivileged overlay.
    Nobody { folder: PathBuf },
}

impl Role {
    pub fn from_args(args: &[String]) -> Option<Self> {
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        match words[..] {
            ["--owner", folder, ms] => Some(Self::Owner {
                folder: folder.into(),
                orphan_for: Duration::from_millis(ms.parse().expect("a number")),
            }),
            ["--hurried", folder] => Some(Self::Hurried { folder: folder.into() }),
            ["--nobody", folder] => Some(Self::Nobody { folder: folder.into() }),
            _ => None,
        }
    }

    pub async fn play(self, executor: HostExecutor) -> ExitCode {
        match self {
            Self::Owner { folder, orphan_for } => {
                let mut spec = spec_in(&folder);
                spec.orphan_for = orphan_for;
                spec.grace = Duration::from_millis(100);
                spec.env.insert("KILN_ATTEMPT".to_owned(), spec.attempt.to_string());
                let mut session = executor.open(spec).await.expect("the session opens");
                step(&mut session, sh("echo one")).await.expect("it runs");
                let script = "trap '' TERM; setsid sleep 1000 & echo $! > background; \
                              echo $$ > step; echo two; \
                              while [ ! -e go ]; do sleep 0.01; done; echo three; exit 7";
                let exit = step(&mut session, sh(script)).await;
                eprintln!("the owner was not killed: {exit:?}");
                ExitCode::FAILURE
            }
            Self::Hurried { folder } => {
                let mut spec = spec_in(&folder);
                spec.grace = Duration::from_secs(3_600);
                let termed = spec.directory.join("termed");
                let mut session = executor.open(spec).await.expect("the session opens");
                let (cancel, cancelled) = watch::channel(false);
                let script = "trap 'echo > termed' TERM; (trap '' TERM; exec sleep 1000) & \
                              echo $! > background; echo > begun; while :; do sleep 0.01; done";
                let begun = termed.with_file_name("begun");
                let (exit, ()) = tokio::join!(session.step(sh(script), cancelled), async {
                    read_when_there(&begun).await;
                    cancel.send_replace(true);
                    read_when_there(&termed).await;
                    executor.hurry();
                });
                assert_eq!(exit, Ok(Exit::Cancelled));
                let background = read_when_there(&termed.with_file_name("background")).await;
                assert!(!lives(&background));
                assert_eq!(session.close().await, Err(StepError::Gone));
                ExitCode::SUCCESS
            }
            Self::Nobody { folder } => {
                let bench = Bench::new(executor);
                match bench.executor.probe_overlay(&folder).await {
                    Ok(Some(OverlayKind::User)) => {}
                    other => {
                        println!("no unprivileged overlay here: {other:?}");
                        return ExitCode::SUCCESS;
                    }
                }
                overlay_behaves(&bench, true).await;
                println!("unprivileged overlay behaves");
                ExitCode::SUCCESS
            }
        }
    }
}

fn myself() -> PathBuf {
    std::env::current_exe().expect("a test has a path")
}

fn start_owner(folder: &Path, orphan_ms: u32) -> Child {
    process::command(myself())
        .arg("--owner")
        .arg(folder)
        .arg(orphan_ms.to_string())
        .stdin(Stdio::null())
        .spawn()
        .expect("the test can be started again")
}

/// An overlay over one lower folder, or `None` where the machine refuses.
pub async fn overlay(bench: &Bench<HostExecutor>) -> Option<Mount> {
    let kind = bench.executor.probe_overlay(bench.folder.path()).await.expect("the probe runs")?;
    Some(overlay_mount(bench, kind == OverlayKind::User))
}

fn overlay_mount(bench: &Bench<HostExecutor>, user: bool) -> Mount {
    for name in ["lower/sub", "upper", "work-folder", "at"] {
        std::fs::create_dir_all(bench.path(name)).unwrap();
    }
    std::fs::write(bench.path("lower/file"), "lower\n").unwrap();
    std::fs::write(bench.path("lower/sub/gone"), "lower\n").unwrap();
    Mount {
        lowers: vec![bench.path("lower")],
        upper: bench.path("upper"),
        work: bench.path("work-folder"),
        at: bench.path("at"),
        user,
    }
}

pub fn on(mount: Mount) -> impl FnOnce(&mut SessionSpec) {
    move |spec| {
        spec.directory = mount.at.clone();
        spec.mount = Some(mount);
    }
}

async fn overlay_behaves(bench: &Bench<HostExecutor>, user: bool) {
    let mount = overlay_mount(bench, user);
    let mut session = bench.open_with(on(mount)).await;
    let script = "id -u; cat file; echo upper > file; rm sub/gone; mkdir new; echo n > new/n; \
                  mv sub moved; ls";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    let objects = bench.path("objects");
    let rule = kiln_model::plan::ArtifactRule { glob: "file".to_owned(), optional: false };
    let kept = session.collect(vec![rule], objects).await.unwrap();
    assert_eq!(kept[0].n_bytes, 6, "read as the job sees it");
    session.close().await.unwrap();
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(bench.path("log")).unwrap());
    assert_eq!(text(&bench.log()), format!("{uid}\nlower\nfile\nmoved\nnew\n"));
    assert_eq!(std::fs::read_to_string(bench.path("upper/file")).unwrap(), "upper\n");
    assert_eq!(std::fs::read_to_string(bench.path("upper/new/n")).unwrap(), "n\n");
    assert_eq!(std::fs::read_to_string(bench.path("lower/file")).unwrap(), "lower\n");
    assert!(bench.path("lower/sub/gone").exists());
    assert!(std::fs::read_dir(bench.path("at")).unwrap().next().is_none());
}

async fn writes_go_to_the_upper_folder_only(bench: Bench<HostExecutor>) {
    if let Some(mount) = overlay(&bench).await {
        overlay_behaves(&bench, mount.user).await;
    }
}

async fn the_mount_is_seen_by_the_job_only(bench: Bench<HostExecutor>) {
    let Some(mount) = overlay(&bench).await else { return };
    let at = mount.at.display().to_string();
    let mounted = || std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&at);
    let mut session = bench.open_with(on(mount)).await;
    let script = "grep -c \" $PWD \" /proc/self/mountinfo; exec 3> held; sleep 1000 &";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    assert_eq!(text(&bench.log()), "1\n");
    assert!(!mounted() && !bench.path("at/file").exists());
    assert_eq!(session.close().await, Ok(()));
    assert!(!mounted());
    // Free for the next one: the upper folder can be renamed, which is how it is sealed.
    std::fs::rename(bench.path("upper"), bench.path("sealed")).unwrap();
    assert!(bench.path("sealed/held").exists());
}

async fn an_unprivileged_overlay_behaves_the_same(bench: Bench<HostExecutor>) {
    if !is_root() {
        return overlay_unless_refused(&bench).await;
    }
    // Where anybody may look, unlike a target folder below /root.
    let program = bench.path("conformance");
    std::fs::copy(myself(), &program).unwrap();
    for path in [bench.folder.path(), &program] {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(path, open).unwrap();
    }
    let mut command = process::command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(&program).arg("--nobody").arg(bench.folder.path());
    command.env("TMPDIR", bench.folder.path());
    let said = process::output(&mut command).expect("it behaves");
    print!("{}", text(&said));
}

async fn overlay_unless_refused(bench: &Bench<HostExecutor>) {
    if overlay(bench).await.is_some() {
        overlay_behaves(bench, true).await;
    }
}

pub fn is_root() -> bool {
    let stat = std::fs::read_to_string("/proc/self/status").unwrap();
    stat.lines().any(|line| line.starts_with("Uid:\t0\t0"))
}

async fn many_layers_with_odd_names_are_mounted(bench: Bench<HostExecutor>) {
    let Some(mut mount) = overlay(&bench).await else { return };
    let long = "n".repeat(200);
    mount.lowers = (0..LOWERS_MAX)
        .map(|n| {
            let path = bench.path(&format!("a,b:c\\d {long}/{n}"));
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join(format!("f{n}")), "").unwrap();
            path
        })
        .collect();
    let mut session = bench.open_with(on(mount)).await;
    assert_eq!(step(&mut session, sh("ls | wc -l")).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), format!("{LOWERS_MAX}\n"));
}

async fn too_many_layers_are_refused_in_words(bench: Bench<HostExecutor>) {
    let Some(mut mount) = overlay(&bench).await else { return };
    mount.lowers = vec![mount.lowers[0].clone(); LOWERS_MAX + 1];
    let mut spec = bench.spec();
    on(mount)(&mut spec);
    match bench.executor.open(spec).await {
        Err(OpenError::Mount(why)) => assert!(why.starts_with("501 layers are too many"), "{why}"),
        other => panic!("{other:?}"),
    }
}

async fn a_session_that_cannot_open_leaves_nothing(bench: Bench<HostExecutor>) {
    let Some(mut mount) = overlay(&bench).await else { return };
    mount.lowers = vec![bench.path("not-there")];
    let mut spec = bench.spec();
    spec.orphan_for = Duration::from_secs(100);
    on(mount)(&mut spec);
    let attempt_dir = spec.attempt_dir.clone();
    assert!(matches!(bench.executor.open(spec).await, Err(OpenError::Mount(_))));
    assert!(bench.executor.attach(&attempt_dir).await.unwrap().is_none());
    assert!(std::fs::read_dir(&attempt_dir).unwrap().next().is_none());

    let mut spec = bench.spec();
    spec.directory = bench.path("not-there");
    match bench.executor.open(spec).await {
        Err(OpenError::Other(why)) => assert!(why.contains("not-there"), "{why}"),
        other => panic!("{other:?}"),
    }
}

async fn a_path_that_is_not_utf_8_is_no_trouble(bench: Bench<HostExecutor>) {
    use std::os::unix::ffi::OsStrExt;
    let odd = bench.folder.path().join(std::ffi::OsStr::from_bytes(b"w\xff"));
    std::fs::create_dir(&odd).unwrap();
    let change = |spec: &mut SessionSpec| {
        spec.log = odd.join("log");
        spec.directory = odd.clone();
        spec.attempt_dir = odd.join("attempt");
    };
    let mut session = bench.open_with(change).await;
    assert_eq!(step(&mut session, sh("pwd")).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
    assert!(std::fs::read(odd.join("log")).unwrap().ends_with(b"/w\xff\n"));
}

async fn a_log_that_cannot_be_written_is_kilns_error(bench: Bench<HostExecutor>) {
    std::os::unix::fs::symlink("/dev/full", bench.path("log")).unwrap();
    let mut session = bench.open().await;
    // It prints more than a pipe holds, so it would hang if nobody read.
    let script = "echo $$ > pid; sleep 1000 & yes; exit 1";
    let expected = StepError::Log {
        path: bench.path("log").display().to_string(),
        cause: "no space left on device".to_owned(),
    };
    assert_eq!(step(&mut session, sh(script)).await, Err(expected.clone()));
    assert!(!lives(&read_when_there(&bench.path("work/pid")).await));
    assert_eq!(step(&mut session, sh("touch ran")).await, Err(expected));
    assert!(!bench.path("work/ran").exists());
    let _ = session.close().await;
}

async fn a_lost_owner_takes_everything_along(bench: Bench<HostExecutor>) {
    let mut owner = start_owner(bench.folder.path(), 0);
    let step = read_when_there(&bench.path("work/step")).await;
    let background = read_when_there(&bench.path("work/background")).await;
    assert!(lives(&step) && lives(&background));
    owner.kill().unwrap();
    owner.wait().unwrap();
    until("the step is gone", || !lives(&step) && !lives(&background)).await;
    until("init is gone", || !bench.path("attempt/init.json").exists()).await;
    assert!(bench.executor.attach(&bench.path("attempt")).await.unwrap().is_none());
}

async fn whoever_is_in_a_hurry_waits_for_no_grace(bench: Bench<HostExecutor>) {
    let hurried = process::command(myself()).arg("--hurried").arg(bench.folder.path()).spawn();
    let mut hurried = hurried.expect("the test can be started again");
    // Its grace is an hour.
    until("it has ended", || hurried.try_wait().is_ok_and(|ended| ended.is_some())).await;
    assert!(hurried.wait().unwrap().success());
    until("init is gone", || !bench.path("attempt/init.json").exists()).await;
}

async fn an_orphan_finishes_its_step_and_is_found_again(bench: Bench<HostExecutor>) {
    let mut owner = start_owner(bench.folder.path(), 60_000);
    let pid = read_when_there(&bench.path("work/step")).await;
    owner.kill().unwrap();
    owner.wait().unwrap();

    let found = bench.executor.attach(&bench.path("attempt")).await.unwrap();
    let mut found = found.expect("the session waits");
    let told = |done: &StepDone| (done.counter, done.exit.clone(), done.log_to);
    let before: Vec<_> = found.steps_done.iter().map(told).collect();
    assert_eq!((before, found.running), (vec![(0, Exit::SUCCESS, 4)], Some(1)));
    assert!(found.steps_done[0].usage.is_some());
    assert!(lives(&pid));
    // Its new owner goes as well, and the step ends while there is none.
    drop(found.session);
    std::fs::write(bench.path("work/go"), "").unwrap();
    until("the step has ended", || !lives(&pid)).await;
    found = bench.executor.attach(&bench.path("attempt")).await.unwrap().expect("it still waits");
    let (_keep, never) = watch::channel(false);
    let two = match found.running {
        Some(_) => found.session.resume(never).await.unwrap().expect("it ran"),
        None => found.steps_done.pop().expect("it ended"),
    };
    assert_eq!(told(&two), (1, code(7), 14));
    assert!(two.usage.is_some());
    assert_eq!(step(&mut found.session, sh("echo four")).await, Ok(Exit::SUCCESS));
    found.session.close().await.unwrap();
    assert_eq!(text(&bench.log()), "one\ntwo\nthree\nfour\n");
    let background = read_when_there(&bench.path("work/background")).await;
    assert!(!lives(&background));
    assert!(bench.executor.attach(&bench.path("attempt")).await.unwrap().is_none());
}

async fn an_orphan_that_nobody_wants_writes_down_what_it_knows(bench: Bench<HostExecutor>) {
    let mut owner = start_owner(bench.folder.path(), 100);
    let background = read_when_there(&bench.path("work/background")).await;
    read_when_there(&bench.path("work/step")).await;
    owner.kill().unwrap();
    owner.wait().unwrap();
    until("the loss is noticed", || bench.path("attempt/results.json").exists()).await;
    std::fs::write(bench.path("work/go"), "").unwrap();
    until("it gives up", || !bench.path("attempt/init.json").exists()).await;
    assert!(!lives(&background));
    let left = results_left(&bench.path("attempt"));
    let exits: Vec<_> = left.into_iter().map(|done| done.exit).collect();
    assert_eq!(exits, [Exit::SUCCESS, code(7)]);
    assert_eq!(text(&bench.log()), "one\ntwo\nthree\n");
}

fn init_pid(bench: &Bench<HostExecutor>) -> String {
    let text = std::fs::read_to_string(bench.path("attempt/init.json")).unwrap();
    let digits = text.split("\"pid\":").nth(1).expect("it says its number");
    digits.chars().take_while(char::is_ascii_digit).collect()
}

async fn what_a_killed_session_left_is_reaped(bench: Bench<HostExecutor>) {
    let mut session = bench
        .open_with(|spec| {
            spec.env.insert("KILN_ATTEMPT".to_owned(), spec.attempt.to_string());
        })
        .await;
    let script = "setsid sleep 1000 >/dev/null 2>&1 & echo $! > background";
    step(&mut session, sh(script)).await.unwrap();
    let background = read_when_there(&bench.path("work/background")).await;
    process::output(process::command("kill").args(["-9", &init_pid(&bench)])).unwrap();
    assert_eq!(session.close().await, Err(StepError::Gone));
    assert!(lives(&background));
    // Its working directory is what ties it to this attempt's folder here.
    let attempt = bench.spec().attempt;
    assert!(reap(attempt, bench.folder.path()) >= 1);
    until("it is gone", || !lives(&background)).await;
}

async fn the_reaper_spares_strangers(bench: Bench<HostExecutor>) {
    let attempt = bench.spec().attempt;
    let mut stranger = process::command("sleep")
        .arg("1000")
        .env("KILN_ATTEMPT", attempt.to_string())
        .current_dir("/")
        .spawn()
        .unwrap();
    assert_eq!(reap(attempt, &bench.path("attempt")), 0);
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

async fn a_session_that_dies_is_told_apart(bench: Bench<HostExecutor>) {
    let mut session = bench.open().await;
    let (ended, ()) =
        tokio::join!(step(&mut session, sh("echo $$ > pid; exec sleep 1000")), async {
            read_when_there(&bench.path("work/pid")).await;
            process::output(process::command("kill").args(["-9", &init_pid(&bench)])).unwrap();
        });
    assert_eq!(ended, Err(StepError::Gone));
    let pid = read_when_there(&bench.path("work/pid")).await;
    until("the step goes with it", || !lives(&pid)).await;
}

async fn no_descriptor_is_left_open(bench: Bench<HostExecutor>) {
    let n_open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    bench.run(command(["true"])).await;
    let before = n_open();
    for _ in 0..20 {
        bench.run(command(["true"])).await;
    }
    until("as many as before", || n_open() <= before).await;
}

fn spawner_pid() -> String {
    let children = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let all: Vec<String> = children
        .flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    // It is the first of this process's children, and the only one that no case has started.
    all[0].clone()
}

async fn the_spawner_holds_nothing_and_bears_its_name(_bench: Bench<HostExecutor>) {
    let pid = spawner_pid();
    let folder = format!("/proc/{pid}/fd");
    let mut held: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .flatten()
        .map(|entry| {
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            let kind = target.display().to_string();
            let kind = kind.split(':').next().unwrap_or_default();
            format!("{} {kind}", entry.file_name().to_string_lossy())
        })
        .collect();
    held.sort_unstable();
    assert_eq!(held, ["0 /dev/null", "1 /dev/null", "2 /dev/null", "3 socket"]);
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(name, "kiln-spawner\n");
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(line.starts_with(b"kiln-spawner\0"), "{}", text(&line));
}

async fn secrets_are_on_no_command_line(bench: Bench<HostExecutor>) {
    const SECRET: &str = "correct-horse-battery";
    let mut session = bench
        .open_with(|spec| {
            spec.masked = crate::bench::secrets([SECRET]);
            spec.env.insert("TOKEN".to_owned(), SECRET.to_owned());
        })
        .await;
    step(&mut session, sh("test -n \"$TOKEN\"")).await.unwrap();
    let init = init_pid(&bench);
    for file in ["cmdline", "environ"] {
        let bytes = std::fs::read(format!("/proc/{init}/{file}")).unwrap();
        assert!(!text(&bytes).contains(SECRET), "{file}");
    }
    let on_disk = std::fs::read_to_string(bench.path("attempt/init.json")).unwrap();
    assert!(!on_disk.contains(SECRET));
    session.close().await.unwrap();
}
