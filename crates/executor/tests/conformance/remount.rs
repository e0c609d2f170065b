//! A workspace that gets a new top between two steps.

use std::time::Duration;

use kiln_executor::{Executor, HostExecutor, Sandbox, Session};
use kiln_model::Exit;
use kiln_stdx::overlay::Mount;

use crate::bench::{Bench, Case, sh, step, text};
use crate::cases;
use crate::container::{contained, image};
use crate::host::is_root;
use crate::overlay::{on, overlay};
use crate::within::sandbox;

pub fn cases() -> Vec<Case<HostExecutor>> {
    cases![
        what_was_written_lies_below_the_new_top,
        containers_and_sandboxes_get_a_new_top_too,
        what_a_step_left_running_keeps_its_workspace,
        a_mount_that_a_step_made_keeps_the_workspace,
        a_workspace_that_was_taken_away_is_left_alone,
        a_mount_that_is_refused_changes_nothing,
        what_is_mounted_in_the_workspace_comes_back,
        a_new_owner_hears_how_the_workspace_is_mounted,
        a_session_without_a_mount_says_whether_it_is_quiet,
    ]
}

/// The same with an empty top over the top of now.
fn new_top(bench: &Bench<HostExecutor>, mount: &Mount, n: u32) -> Mount {
    let (upper, work) = (bench.path(&format!("upper.{n}")), bench.path(&format!("work.{n}")));
    for folder in [&upper, &work] {
        std::fs::create_dir(folder).unwrap();
    }
    let lowers = [&mount.upper].into_iter().chain(&mount.lowers).cloned().collect();
    Mount { lowers, upper, work, at: mount.at.clone(), user: mount.user }
}

fn names(bench: &Bench<HostExecutor>, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(bench.path(folder)).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> =
        entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

async fn what_was_written_lies_below_the_new_top(bench: Bench<HostExecutor>) {
    let Some(first) = overlay(&bench).await else { return };
    let mut session = bench.open_with(on(first.clone())).await;
    assert_eq!(
        step(&mut session, sh("echo 1 > one; rm sub/gone; echo 1 >> file")).await,
        Ok(Exit::SUCCESS)
    );
    let second = new_top(&bench, &first, 1);
    assert_eq!(session.remount(Some(second.clone())).await, Ok(true));
    assert_eq!(names(&bench, "upper.1"), Vec::<String>::new());
    let script = "cat file; ls . sub; pwd -P | grep -q /at$; echo 2 > one; mkdir sub/new";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    assert_eq!(session.remount(Some(new_top(&bench, &second, 2))).await, Ok(true));
    assert_eq!(step(&mut session, sh("cat one; ls sub; rm one")).await, Ok(Exit::SUCCESS));
    assert_eq!(session.close().await, Ok(()));
    assert_eq!(text(&bench.log()), "lower\n1\n.:\nfile\none\nsub\n\nsub:\n2\nnew\n");
    assert_eq!(names(&bench, "upper"), ["file", "one", "sub"]);
    assert_eq!(std::fs::read_to_string(bench.path("upper/one")).unwrap(), "1\n");
    assert_eq!(names(&bench, "upper.1"), ["one", "sub"]);
    assert_eq!(names(&bench, "upper.2"), ["one"]);
    assert_eq!(names(&bench, "at"), Vec::<String>::new());
}

async fn containers_and_sandboxes_get_a_new_top_too(bench: Bench<HostExecutor>) {
    let users = [false, true].into_iter().filter(|user| *user || is_root());
    for (user, boxed) in users.flat_map(|user| [(user, false), (user, true)]) {
        let bench = Bench::new(bench.executor.clone());
        let Some(mut spec) = contained(&bench, image(&bench), user).await else { return };
        let first = spec.mount.clone().unwrap();
        if boxed {
            spec.container = None;
            let sandbox = sandbox(bench.folder.path(), user);
            spec.sandbox = Some(Sandbox { binds: Vec::new(), ..sandbox });
        }
        let mut session = bench.executor.open(spec).await.unwrap();
        assert_eq!(step(&mut session, sh("echo 1 > one; echo 1 >> file")).await, Ok(Exit::SUCCESS));
        let second = new_top(&bench, &first, 1);
        assert_eq!(session.remount(Some(second.clone())).await, Ok(true), "{user} {boxed}");
        let script = "cat file; ls; cd sub; cat ../one; echo 2 > ../one; sleep 1000 &";
        assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
        // What runs keeps it, and it stays where it is.
        assert_eq!(session.remount(Some(new_top(&bench, &second, 2))).await, Ok(false));
        assert_eq!(step(&mut session, sh("cat one")).await, Ok(Exit::SUCCESS));
        session.close().await.unwrap();
        assert_eq!(text(&bench.log()), "lower\n1\nfile\none\nsub\n1\n2\n", "{user} {boxed}");
        assert_eq!(std::fs::read_to_string(bench.path("upper/one")).unwrap(), "1\n");
        assert_eq!(names(&bench, "upper.1"), ["one"]);
        assert_eq!(names(&bench, "at"), Vec::<String>::new());
    }
}

async fn what_a_step_left_running_keeps_its_workspace(bench: Bench<HostExecutor>) {
    let Some(first) = overlay(&bench).await else { return };
    let mut session = bench
        .open_with(|spec| {
            on(first.clone())(spec);
            spec.grace = Duration::ZERO;
        })
        .await;
    // Wherever it is: it may come back to the workspace at any moment.
    let script = "(cd / && exec sleep 1000) & echo 1 > one";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    assert_eq!(session.remount(Some(new_top(&bench, &first, 1))).await, Ok(false));
    assert_eq!(
        step(&mut session, sh("cat one; echo 2 > two; kill %1 $!; true")).await,
        Ok(Exit::SUCCESS)
    );
    assert_eq!(names(&bench, "upper"), ["one", "two"]);
    assert_eq!(session.close().await, Ok(()));
}

async fn a_mount_that_a_step_made_keeps_the_workspace(bench: Bench<HostExecutor>) {
    let Some(first) = overlay(&bench).await.filter(|_| is_root()) else { return };
    let mut session = bench.open_with(on(first.clone())).await;
    let script = "echo 1 > one; mount -t tmpfs none sub; echo x > sub/x";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    assert_eq!(session.remount(Some(new_top(&bench, &first, 1))).await, Ok(false));
    assert_eq!(step(&mut session, sh("cat sub/x one; umount sub")).await, Ok(Exit::SUCCESS));
    assert_eq!(session.remount(Some(new_top(&bench, &first, 2))).await, Ok(true));
    assert_eq!(step(&mut session, sh("cat sub/gone")).await, Ok(Exit::SUCCESS));
    assert_eq!(session.close().await, Ok(()));
    assert_eq!(text(&bench.log()), "x\n1\nlower\n");
}

async fn a_workspace_that_was_taken_away_is_left_alone(bench: Bench<HostExecutor>) {
    let Some(first) = overlay(&bench).await.filter(|_| is_root()) else { return };
    let mut session = bench.open_with(on(first.clone())).await;
    let script = format!("mount -t tmpfs none {}", bench.path("at").display());
    assert_eq!(step(&mut session, sh(&script)).await, Ok(Exit::SUCCESS));
    assert_eq!(session.remount(Some(new_top(&bench, &first, 1))).await, Ok(false));
    let script = format!("cd /; umount {0}; umount {0}", bench.path("at").display());
    assert_eq!(step(&mut session, sh(&script)).await, Ok(Exit::SUCCESS));
    assert_eq!(session.remount(Some(new_top(&bench, &first, 2))).await, Ok(false));
    let _ = session.close().await;
}

async fn a_mount_that_is_refused_changes_nothing(bench: Bench<HostExecutor>) {
    let Some(first) = overlay(&bench).await else { return };
    let mut session = bench.open_with(on(first.clone())).await;
    assert_eq!(step(&mut session, sh("echo 1 > one")).await, Ok(Exit::SUCCESS));
    let mut wrong = new_top(&bench, &first, 1);
    wrong.lowers.push(bench.path("nowhere"));
    assert_eq!(session.remount(Some(wrong)).await, Ok(false));
    assert_eq!(step(&mut session, sh("cat one file; echo 2 > two")).await, Ok(Exit::SUCCESS));
    assert_eq!(names(&bench, "upper"), ["one", "two"]);
    assert_eq!(session.remount(Some(new_top(&bench, &first, 2))).await, Ok(true));
    assert_eq!(step(&mut session, sh("cat two")).await, Ok(Exit::SUCCESS));
    assert_eq!(session.close().await, Ok(()));
    assert_eq!(text(&bench.log()), "1\nlower\n2\n");
}

async fn what_is_mounted_in_the_workspace_comes_back(bench: Bench<HostExecutor>) {
    let Some(first) = overlay(&bench).await else { return };
    for folder in ["cached", "cache-upper", "cache-work"] {
        std::fs::create_dir(bench.path(folder)).unwrap();
    }
    std::fs::write(bench.path("cached/old"), "old\n").unwrap();
    let cache = Mount {
        lowers: vec![bench.path("cached")],
        upper: bench.path("cache-upper"),
        work: bench.path("cache-work"),
        at: bench.path("at/sub"),
        user: first.user,
    };
    let mut session = bench
        .open_with(|spec| {
            on(first.clone())(spec);
            spec.further = vec![cache];
        })
        .await;
    assert_eq!(step(&mut session, sh("echo new > sub/new; echo 1 > one")).await, Ok(Exit::SUCCESS));
    assert_eq!(session.remount(Some(new_top(&bench, &first, 1))).await, Ok(true));
    assert_eq!(
        step(&mut session, sh("cat one sub/old sub/new; rm sub/new")).await,
        Ok(Exit::SUCCESS)
    );
    assert_eq!(session.close().await, Ok(()));
    assert_eq!(text(&bench.log()), "1\nold\nnew\n");
    assert_eq!(names(&bench, "cache-upper"), Vec::<String>::new());
}

async fn a_new_owner_hears_how_the_workspace_is_mounted(bench: Bench<HostExecutor>) {
    let Some(first) = overlay(&bench).await else { return };
    let mut session = bench
        .open_with(|spec| {
            on(first.clone())(spec);
            spec.orphan_for = Duration::from_secs(1000);
        })
        .await;
    assert_eq!(step(&mut session, sh("echo 1 > one")).await, Ok(Exit::SUCCESS));
    let second = new_top(&bench, &first, 1);
    assert_eq!(session.remount(Some(second.clone())).await, Ok(true));
    drop(session);
    let found = bench.executor.attach(&bench.path("attempt")).await.unwrap();
    let mut found = found.expect("it waits");
    assert_eq!(found.mount, Some(second.clone()));
    assert_eq!(step(&mut found.session, sh("echo 2 > two")).await, Ok(Exit::SUCCESS));
    assert_eq!(found.session.remount(Some(new_top(&bench, &second, 2))).await, Ok(true));
    assert_eq!(step(&mut found.session, sh("cat one two")).await, Ok(Exit::SUCCESS));
    assert_eq!(found.session.close().await, Ok(()));
    assert_eq!(text(&bench.log()), "1\n2\n");
}

async fn a_session_without_a_mount_says_whether_it_is_quiet(bench: Bench<HostExecutor>) {
    let mut session = bench.open_with(|spec| spec.grace = Duration::ZERO).await;
    assert_eq!(session.remount(None).await, Ok(true));
    assert_eq!(step(&mut session, sh("sleep 1000 &")).await, Ok(Exit::SUCCESS));
    assert_eq!(session.remount(None).await, Ok(false));
    assert_eq!(session.close().await, Ok(()));
    assert!(session.remount(None).await.is_err());
}
