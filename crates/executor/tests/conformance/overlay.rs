//! Workspaces that are mounted: an overlay in a namespace of the session's own.

use std::path::Path;
use std::process::ExitCode;

use kiln_executor::{Executor, HostExecutor, OpenError, OverlayKind, Session, SessionSpec};
use kiln_model::Exit;
use kiln_stdx::overlay::{LOWERS_MAX, Mount};
use kiln_stdx::process;

use crate::bench::{Bench, Case, sh, step, text};
use crate::cases;
use crate::host::{is_root, myself};

pub fn cases() -> Vec<Case<HostExecutor>> {
    cases![
        writes_go_to_the_upper_folder_only,
        the_mount_is_seen_by_the_job_only,
        an_unprivileged_overlay_behaves_the_same,
        many_layers_with_odd_names_are_mounted,
        too_many_layers_are_refused_in_words,
        what_is_read_only_stays_as_it_is,
    ]
}

/// Tries an unprivileged overlay, as a second process that nobody trusts.
pub async fn try_as_nobody(executor: HostExecutor, folder: &Path) -> ExitCode {
    let bench = Bench::new(executor);
    match bench.executor.probe_overlay(folder).await {
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

/// An overlay over one lower folder, or `None` where the machine refuses.
pub async fn overlay(bench: &Bench<HostExecutor>) -> Option<Mount> {
    let kind = bench.executor.probe_overlay(bench.folder.path()).await.expect("the probe runs")?;
    Some(overlay_mount(bench, kind == OverlayKind::User))
}

/// Its layers, in the bench's folder.
pub fn overlay_mount<E: Executor>(bench: &Bench<E>, user: bool) -> Mount {
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

async fn what_is_read_only_stays_as_it_is(bench: Bench<HostExecutor>) {
    let Some(mount) = overlay(&bench).await else { return };
    std::fs::create_dir_all(bench.path("mirror/objects")).unwrap();
    std::fs::write(bench.path("mirror/file"), "kept\n").unwrap();
    let place = bench.path("mirror");
    let protected = |spec: &mut SessionSpec| {
        spec.read_only = vec![place.clone()];
        on(mount)(spec);
    };
    let mut session = bench.open_with(protected).await;
    let script = format!(
        "cd {}; cat file; for try in 'echo x > file' 'rm file' 'touch objects/new' 'chmod 777 objects' \
         'mv objects other' 'ln file hard'; do sh -c \"$try\" 2> /dev/null && echo \"done: $try\"; done; \
         touch \"$OLDPWD/made\"",
        place.display()
    );
    assert_eq!(step(&mut session, sh(&script)).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), "kept\n");
    assert!(bench.path("upper/made").exists());
    // Only for the job: it was never so for us.
    std::fs::write(bench.path("mirror/file"), "ours\n").unwrap();
}
