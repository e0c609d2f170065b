use std::path::PathBuf;

use kiln_git::{GitError, WorkingTree};

use crate::repository::Repository;

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
