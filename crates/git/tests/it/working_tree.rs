use std::path::PathBuf;

use kiln_git::{GitError, Look, WorkingTree};

use crate::repository::{Repository, git_in};

#[test]
fn a_repository_is_found_from_a_folder_below_and_a_linked_tree() {
    let repository = Repository::new();
    repository.write("a/b/c", "x");
    let commit = repository.commit("one");
    let root = repository.path().canonicalize().unwrap();
    let tree = WorkingTree::discover(&root.join("a/b")).unwrap();
    assert_eq!((tree.root.clone(), tree.git_dir.clone()), (root.clone(), root.join(".git")));
    let (head, branch) = tree.head().unwrap();
    assert_eq!((head.unwrap().commit, branch.as_deref()), (commit.clone(), Some("main")));

    let place = tempfile::tempdir().unwrap();
    let linked = place.path().canonicalize().unwrap().join("linked");
    repository.git(&["worktree", "add", "--quiet", "--detach", linked.to_str().unwrap()]);
    let tree = WorkingTree::discover(&linked).unwrap();
    assert_eq!(tree.root, linked);
    let (head, branch) = tree.head().unwrap();
    assert_eq!((head.unwrap().commit, branch), (commit, None));
}

#[test]
fn a_repository_without_commits_has_a_branch_and_no_head() {
    let repository = Repository::new();
    let (head, branch) = WorkingTree::discover(repository.path()).unwrap().head().unwrap();
    assert_eq!((head, branch.as_deref()), (None, Some("main")));
}

#[test]
fn what_is_no_working_tree_is_said_to_be_none() {
    let bare = Repository::bare();
    assert!(matches!(WorkingTree::discover(bare.path()), Err(GitError::Bare(_))));
    let place = tempfile::tempdir().unwrap();
    let error = WorkingTree::discover(place.path()).unwrap_err();
    assert!(matches!(error, GitError::NoRepositoryAround(_)), "{error}");
    assert!(WorkingTree::discover(&place.path().join("missing")).is_err());
    let inside = Repository::new();
    let error = WorkingTree::discover(&inside.path().join(".git/refs")).unwrap_err();
    assert!(matches!(error, GitError::InGitFolder(_)), "{error}");
}

#[test]
fn ignored_and_dirty_paths_are_listed_and_nothing_is_written() {
    let repository = Repository::new();
    repository.write(".gitignore", "target/\n*.o\n");
    repository.write("kept", "x");
    repository.write("old name", "some text that is long enough to be found again\n");
    repository.commit("one");
    repository.write("target/deep/x", "x");
    repository.write("src/a.o", "x");
    repository.write("src/new", "x");
    repository.write("kept", "changed");
    repository.git(&["mv", "old name", "new name"]);
    let index = repository.path().join(".git/index");
    let before = (std::fs::read(&index).unwrap(), index.metadata().unwrap().modified().unwrap());
    let tree = WorkingTree::discover(repository.path()).unwrap();
    let mut ignored = tree.ignored().unwrap();
    ignored.sort();
    assert_eq!(ignored, [PathBuf::from("src/a.o"), PathBuf::from("target/")]);
    assert_eq!(tree.dirty().unwrap(), ["kept", "new name", "old name", "src/new"]);
    let after = (std::fs::read(&index).unwrap(), index.metadata().unwrap().modified().unwrap());
    assert!(before == after);
}

/// Everything of a repository that a job could change for its person.
fn state(repository: &Repository) -> [String; 3] {
    [&["for-each-ref"][..], &["status", "--porcelain"], &["reflog"]]
        .map(|args| repository.git(args))
}

/// A commit in the workspace of a linked working tree was a commit in the person's repository.
#[test]
fn a_copy_of_a_linked_tree_has_a_repository_of_its_own() {
    let repository = Repository::new();
    repository.write("a", "one");
    repository.commit("first");
    repository.git(&["tag", "v1"]);
    repository.git(&["config", "user.signingkey", "a \"quoted\" one"]);
    let place = tempfile::tempdir().unwrap();
    let linked = place.path().join("linked");
    repository.git(&["worktree", "add", "-q", "-b", "side", linked.to_str().unwrap()]);
    std::fs::write(linked.join("staged"), "two").unwrap();
    git_in(&linked, &["add", "staged"]);
    let before = (state(&repository), git_in(&linked, &["status", "--porcelain"]));

    let tree = WorkingTree::discover(&linked).unwrap();
    assert!(tree.is_linked() && !WorkingTree::discover(repository.path()).unwrap().is_linked());
    let copy = place.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for name in ["a", "staged"] {
        std::fs::copy(linked.join(name), copy.join(name)).unwrap();
    }
    tree.lend(&copy).unwrap();
    assert_eq!(git_in(&copy, &["status", "--porcelain", "--branch"]), "## side\nA  staged");
    assert_eq!(git_in(&copy, &["describe", "--tags"]), git_in(&linked, &["describe", "--tags"]));
    assert_eq!(git_in(&copy, &["config", "user.signingkey"]), "a \"quoted\" one");
    git_in(&copy, &["commit", "-q", "-m", "of the job"]);
    git_in(&copy, &["tag", "of-the-job"]);
    git_in(&copy, &["gc", "-q", "--prune=now"]);
    assert_eq!(git_in(&copy, &["log", "--format=%s"]), "of the job\nfirst");
    git_in(&copy, &["fsck", "--strict"]);
    assert_eq!((state(&repository), git_in(&linked, &["status", "--porcelain"])), before);
}

#[test]
fn a_copy_of_a_submodule_has_a_repository_of_its_own() {
    let inner = Repository::new();
    inner.write("a", "one");
    inner.commit("first");
    let outer = Repository::new();
    let from = inner.path().to_str().unwrap();
    outer.git(&["submodule", "--quiet", "add", from, "inner"]);
    let tree = WorkingTree::discover(&outer.path().join("inner")).unwrap();
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(tree.root.join("a"), copy.path().join("a")).unwrap();
    tree.lend(copy.path()).unwrap();
    assert_eq!(git_in(copy.path(), &["status", "--porcelain"]), "");
    let top = git_in(copy.path(), &["rev-parse", "--show-toplevel"]);
    assert_eq!(PathBuf::from(top), copy.path().canonicalize().unwrap());
}

/// What is found at a glance, and what git says of the same tree. With an index beside which every file
/// is young, git is asked about everything.
fn looked_both_ways(repository: &Repository) -> (Look, Look) {
    let tree = WorkingTree::discover(repository.path()).unwrap();
    let index = tree.git_dir.join("index");
    let written = std::fs::metadata(&index).unwrap().modified().unwrap();
    let set = |time| std::fs::File::options().append(true).open(&index).unwrap().set_modified(time);
    let hour = std::time::Duration::from_hours(1);
    set(written + hour).unwrap();
    let glance = tree.look(&index).unwrap();
    set(written - hour).unwrap();
    let git = tree.look(&index).unwrap();
    set(written).unwrap();
    (glance, git)
}

fn sorted(mut look: Look) -> Look {
    for paths in [&mut look.changed, &mut look.deleted, &mut look.untracked, &mut look.ignored] {
        paths.sort();
    }
    look
}

#[test]
fn a_glance_finds_what_git_would_say() {
    let repository = Repository::new();
    let root = repository.path();
    for path in ["a", "a-b", "a.d/x", "a/b", "deep/er/file", "empty", "mixed/kept"] {
        if path != "a" {
            repository.write(path, if path == "empty" { "" } else { path });
        }
    }
    repository.write(".gitignore", "target\n*.log\n");
    std::os::unix::fs::symlink("nowhere", root.join("link")).unwrap();
    repository.commit("one");
    let same = |what: &str| {
        let (glance, git) = looked_both_ways(&repository);
        assert_eq!(sorted(glance.clone()), sorted(git), "{what}");
        glance
    };
    assert_eq!(same("as committed"), Look::default());
    repository.write("target/debug/x", "x");
    repository.write("mixed/a.log", "x");
    repository.write("only/b.log", "x");
    repository.write("new/one", "x");
    repository.write("new/c.log", "x");
    repository.write("odd *name", "x");
    std::fs::create_dir(root.join("nothing")).unwrap();
    std::fs::create_dir(root.join("nested")).unwrap();
    git_in(&root.join("nested"), &["init", "--quiet"]);
    let strange = same("with strangers");
    assert!(strange.untracked.contains(&PathBuf::from("new/")), "{strange:?}");
    assert!(strange.ignored.contains(&PathBuf::from("target/")), "{strange:?}");
    for n in 0..200 {
        repository.write(&format!("many/{n}.log"), "x");
        repository.write(&format!("{n}.txt"), "x");
    }
    same("with very many");

    // Of another length: with an index that seems to be of a later second, git believes the rest.
    repository.write("a/b", "longer");
    assert_eq!(same("changed").changed, [PathBuf::from("a/b")]);
    std::fs::remove_file(root.join("a-b")).unwrap();
    assert_eq!(same("deleted").deleted, [PathBuf::from("a-b")]);
    std::fs::remove_dir_all(root.join("deep")).unwrap();
    std::os::unix::fs::symlink("a", root.join("deep")).unwrap();
    same("a link in the place of a folder");
}

#[test]
fn what_git_was_told_to_take_for_granted_is_git_s_to_say() {
    let repository = Repository::new();
    repository.write("granted", "x");
    repository.write("other", "x");
    repository.commit("one");
    repository.git(&["update-index", "--assume-unchanged", "granted"]);
    repository.write("granted", "quite another");
    let (glance, git) = looked_both_ways(&repository);
    assert_eq!((&glance, &glance), (&git, &Look::default()));
    repository.git(&["update-index", "--no-assume-unchanged", "granted"]);
    for version in ["4", "2"] {
        repository.git(&["update-index", "--index-version", version]);
        let (glance, git) = looked_both_ways(&repository);
        assert_eq!((&glance, &glance.changed), (&git, &vec![PathBuf::from("granted")]));
    }
    repository.git(&["update-index", "--split-index"]);
    let (glance, git) = looked_both_ways(&repository);
    assert_eq!((&glance, &glance.changed), (&git, &vec![PathBuf::from("granted")]));
}
