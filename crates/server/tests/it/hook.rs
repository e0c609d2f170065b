use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kiln_model::ProjectName;
use kiln_server::hook::{self, HookError};

use crate::world::{MANIFEST, Repository, World, git};

/// A program in kiln's place: it notes how it was called and what it read.
fn stand_in(place: &Path) -> std::path::PathBuf {
    let path = place.join("kiln's stand-in");
    let notes = place.join("notes");
    executable(&path, &format!("#!/bin/sh\necho \"$@\" >>'{0}'\ncat >>'{0}'\n", notes.display()));
    path
}

fn executable(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn pushed(place: &Path, prepare: impl FnOnce(&Repository)) -> (Repository, String) {
    let repository = Repository::new(place, "app");
    prepare(&repository);
    let project = ProjectName::new("app").unwrap();
    for _ in 0..2 {
        hook::install(&repository.bare, &stand_in(place), place, &project).unwrap();
    }
    repository.write(".kiln.yml", MANIFEST);
    let commit = repository.commit("one");
    let lines = repository.push(&["main"]);
    assert!(lines.contains(&commit));
    let notes = std::fs::read_to_string(place.join("notes")).unwrap_or_default();
    let called = format!("hook-post-receive --data {} --project app", place.display());
    assert_eq!(notes, format!("{called}\n{lines}"));
    (repository, lines)
}

#[test]
fn git_calls_the_hook_with_what_was_pushed() {
    let place = tempfile::tempdir().unwrap();
    pushed(place.path(), |_| ());
}

#[test]
fn a_hook_that_was_there_goes_first_and_reads_the_same() {
    let place = tempfile::tempdir().unwrap();
    let seen = place.path().join("seen");
    let (repository, lines) = pushed(place.path(), |repository| {
        let text = format!("#!/bin/sh\ncat >'{}'\nexit 3\n", seen.display());
        executable(&repository.bare.join("hooks/post-receive"), &text);
    });
    assert_eq!(std::fs::read_to_string(&seen).unwrap(), lines);
    let kept = repository.bare.join("hooks/post-receive.before-kiln");
    assert!(std::fs::read_to_string(&kept).unwrap().contains("exit 3"));
    let mut ours = kiln_stdx::process::command(repository.bare.join("hooks/post-receive"));
    ours.current_dir(&repository.bare);
    let done = kiln_stdx::process::any_output(&mut ours).unwrap();
    assert_eq!(done.status.code(), Some(3));
}

#[test]
fn hooks_are_put_where_git_looks_for_them() {
    let place = tempfile::tempdir().unwrap();
    let elsewhere = place.path().join("elsewhere");
    pushed(place.path(), |repository| {
        git(&repository.bare, &["config", "core.hooksPath", elsewhere.to_str().unwrap()]);
    });
    assert!(elsewhere.join("post-receive").exists());
}

#[test]
fn a_folder_without_a_repository_gets_no_hook() {
    let place = tempfile::tempdir().unwrap();
    let project = ProjectName::new("app").unwrap();
    for folder in [place.path().to_owned(), place.path().join("missing")] {
        let refused = hook::install(&folder, Path::new("/kiln"), place.path(), &project);
        assert!(matches!(refused, Err(HookError::NotARepository(_))), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_lines_are_nothing_and_the_push_stands() {
    let world = World::new().await;
    world.project("app").await;
    let one = "1".repeat(40);
    for lines in ["", "\n", "x", "a b", "\u{1b}[2J x y\n", "0 0 0\n"] {
        let said = world.tell("app", lines).await;
        assert!(!said.contains('\u{1b}'), "{said:?}");
    }
    let said =
        world.tell("app", &format!("{one} {one} refs/heads/--upload-pack=x\u{1b}[2J\n")).await;
    assert!(said.contains("no run for") && !said.contains('\u{1b}'), "{said:?}");
    assert_eq!(world.runs("app").await, [""; 0]);
}
