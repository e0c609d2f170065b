use std::path::{Path, PathBuf};

use kiln_git::{Head, Location, Mirror};

use crate::repository::{Repository, git_in};

/// A checkout with its `.git`, as a job gets it.
struct Workspace {
    place: tempfile::TempDir,
    mirror: Mirror,
}

impl Workspace {
    fn of(source: &Repository, commit: &str, branch: Option<&str>) -> Self {
        let place = tempfile::tempdir().unwrap();
        let location = Location::Path(source.path().to_owned());
        let mirror = Mirror::open(&place.path().join("mirror"), &location).unwrap();
        let new = Self { place, mirror };
        let (files, index) = (new.files(), new.place.path().join("index"));
        std::fs::create_dir(&files).unwrap();
        let tree = new.mirror.commit(commit).unwrap().tree;
        new.mirror.checkout(&tree, &files, &index).unwrap();
        new.mirror.lend(Head { commit, branch }, Some(&index), &files).unwrap();
        new
    }

    fn files(&self) -> PathBuf {
        self.place.path().join("files")
    }

    fn git(&self, args: &[&str]) -> String {
        git_in(&self.files(), args)
    }

    /// Names and contents of everything in the mirror.
    fn mirror_bytes(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        read_all(&self.mirror.at, &mut found);
        found.sort();
        found
    }
}

fn read_all(folder: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => read_all(&entry.path(), found),
            false => found.push((entry.path(), std::fs::read(entry.path()).unwrap())),
        }
    }
}

#[test]
fn git_answers_as_in_a_clone() {
    let source = Repository::new();
    source.write("a", "one");
    source.commit("first");
    source.git(&["tag", "-a", "v1.0", "-m", "with a message"]);
    source.git(&["branch", "other"]);
    source.git(&["pack-refs", "--all"]);
    source.write("d/b", "two");
    let second = source.commit("second");
    source.git(&["tag", "light"]);
    source.write("later", "");
    source.commit("after the push");

    let workspace = Workspace::of(&source, &second, Some("main"));
    assert_eq!(workspace.git(&["status", "--porcelain", "--ignored"]), "");
    assert_eq!(workspace.git(&["describe"]), format!("v1.0-1-g{}", &second[..7]));
    assert_eq!(workspace.git(&["describe", "--tags", "--dirty"]), "light");
    assert_eq!(workspace.git(&["log", "--format=%s"]), "second\nfirst");
    assert_eq!(workspace.git(&["rev-parse", "HEAD"]), second);
    assert_eq!(workspace.git(&["rev-parse", "--abbrev-ref", "HEAD"]), "main");
    assert_eq!(workspace.git(&["rev-list", "--count", "HEAD..origin/main"]), "1");
    assert_eq!(workspace.git(&["diff", "--name-only", "origin/other"]), "d/b");
    assert_eq!(workspace.git(&["remote", "get-url", "origin"]), source.path().to_str().unwrap());
    assert_eq!(
        workspace.git(&["rev-parse", "main@{upstream}"]),
        source.git(&["rev-parse", "main"])
    );
    assert_eq!(workspace.git(&["fsck", "--strict", "--no-dangling"]), "");
}

#[test]
fn without_a_branch_head_is_the_commit() {
    let source = Repository::new();
    let commit = source.commit("first");
    for branch in [None, Some("../../owned"), Some("a b"), Some("x.lock")] {
        let workspace = Workspace::of(&source, &commit, branch);
        assert_eq!(workspace.git(&["rev-parse", "--abbrev-ref", "HEAD"]), "HEAD", "{branch:?}");
        assert_eq!(workspace.git(&["rev-parse", "HEAD"]), commit);
    }
}

#[test]
fn odd_names_of_branches_are_only_names() {
    let source = Repository::new();
    let commit = source.commit("first");
    for branch in ["a\"b", "$(x)", "ø/]", "a;b#c", "-c", "a'b"] {
        let workspace = Workspace::of(&source, &commit, Some(branch));
        assert_eq!(workspace.git(&["symbolic-ref", "--short", "HEAD"]), branch);
        let key = format!("branch.{branch}.merge");
        assert_eq!(workspace.git(&["config", "--get", &key]), format!("refs/heads/{branch}"));
    }
}

#[test]
fn what_a_job_does_stays_in_its_workspace() {
    let source = Repository::new();
    source.write("a", "one");
    let commit = source.commit("first");
    let workspace = Workspace::of(&source, &commit, Some("main"));
    workspace.mirror.fetch().unwrap();
    let before = workspace.mirror_bytes();
    std::fs::write(workspace.files().join("a"), "changed").unwrap();
    assert_eq!(workspace.git(&["status", "--porcelain"]), "M a");
    workspace.git(&["commit", "--quiet", "--all", "-m", "mine"]);
    workspace.git(&["tag", "mine"]);
    workspace.git(&["update-ref", "-d", "refs/remotes/origin/main"]);
    workspace.git(&["reflog", "expire", "--expire=now", "--all"]);
    workspace.git(&["gc", "--quiet", "--prune=now", "--aggressive"]);
    workspace.git(&["repack", "-a", "-d", "-f", "--quiet"]);
    assert_eq!(workspace.git(&["log", "--format=%s"]), "mine\nfirst");
    assert!(workspace.mirror_bytes() == before, "the mirror has changed");
    assert_eq!(source.git(&["rev-parse", "main"]), commit);
}

/// `text=auto` and the like: the index is made by git then, and by hand otherwise.
#[test]
fn nothing_is_changed_in_a_fresh_workspace() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    for (n_files, rules) in [(3, ""), (3, "*.txt eol=crlf\n"), (700, "")] {
        let source = Repository::new();
        (0..n_files).for_each(|n| source.write(&format!("d{}/f{n}.txt", n % 7), "a\nb\n"));
        source.write("d1.x", "sorts between a folder's name and its slash");
        source.write("long", "");
        std::fs::rename(source.path().join("long"), source.path().join("n".repeat(250))).unwrap();
        source.write("run", "#!/bin/sh\n");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(source.path().join("run"), executable).unwrap();
        symlink("d1", source.path().join("link")).unwrap();
        source.write(".gitattributes", rules);
        let first = source.commit("first");
        let entry = format!("160000,{first},lib/sub");
        source.git(&["update-index", "--add", "--cacheinfo", &entry]);
        source.git(&["commit", "--quiet", "--message", "with a submodule"]);
        let commit = source.git(&["rev-parse", "HEAD"]);
        let workspace = Workspace::of(&source, &commit, None);
        assert_eq!(workspace.git(&["status", "--porcelain"]), "");
        assert_eq!(workspace.git(&["diff-files"]), "");
        // Every file still looks as the index says: nothing is left to be read again.
        assert_eq!(workspace.git(&["diff", "--cached"]), "");
        assert_eq!(workspace.git(&["write-tree"]), source.git(&["rev-parse", "HEAD^{tree}"]));
        workspace.git(&["fsck", "--no-dangling"]);
    }
}

#[test]
fn sha_256_and_shallow_repositories_are_lent_too() {
    let source = Repository::with(&["init", "-q", "--object-format=sha256", "-b", "main"]);
    source.write("a", "one");
    let commit = source.commit("first");
    let workspace = Workspace::of(&source, &commit, Some("main"));
    assert_eq!(workspace.git(&["status", "--porcelain"]), "");
    assert_eq!(workspace.git(&["rev-parse", "HEAD"]), commit);
    workspace.git(&["fsck"]);

    let source = Repository::new();
    source.commit("first");
    source.commit("second");
    let place = tempfile::tempdir().unwrap();
    let url = format!("file://{}", source.path().display());
    git_in(place.path(), &["clone", "--quiet", "--depth=1", &url, "shallow"]);
    let shallow = Repository { folder: place };
    let inner = shallow.path().join("shallow");
    let commit = git_in(&inner, &["rev-parse", "HEAD"]);
    let mirror =
        Mirror::open(&shallow.path().join("mirror"), &Location::Path(inner.clone())).unwrap();
    let files = shallow.path().join("files");
    std::fs::create_dir(&files).unwrap();
    mirror.lend(Head { commit: &commit, branch: None }, None, &files).unwrap();
    assert_eq!(git_in(&files, &["log", "--format=%s"]), "second");
    // Without an index of the checkout git makes one.
    assert_eq!(git_in(&files, &["status", "--porcelain"]), "");
}

#[test]
fn a_lender_that_borrows_itself_is_followed() {
    let origin = Repository::new();
    origin.write("a", "one");
    let commit = origin.commit("first");
    let place = tempfile::tempdir().unwrap();
    let from = origin.path().to_str().unwrap();
    git_in(place.path(), &["clone", "--quiet", "--shared", "--bare", from, "shared"]);
    let shared = Repository { folder: place };
    let bare = shared.path().join("shared");
    let mirror = Mirror::open(&shared.path().join("mirror"), &Location::Path(bare)).unwrap();
    let (files, index) = (shared.path().join("files"), shared.path().join("index"));
    std::fs::create_dir(&files).unwrap();
    mirror.checkout(&mirror.commit(&commit).unwrap().tree, &files, &index).unwrap();
    mirror.lend(Head { commit: &commit, branch: None }, Some(&index), &files).unwrap();
    assert_eq!(git_in(&files, &["status", "--porcelain"]), "");
    assert_eq!(git_in(&files, &["show", "HEAD:a"]), "one");
}

#[test]
fn a_source_that_is_gone_is_lent_from_what_was_copied() {
    let source = Repository::new();
    source.write("a", "one");
    let commit = source.commit("first");
    source.git(&["tag", "v1"]);
    let place = tempfile::tempdir().unwrap();
    let location = Location::Path(source.path().to_owned());
    let mirror = Mirror::open(&place.path().join("mirror"), &location).unwrap();
    mirror.fetch().unwrap();
    drop(source);
    let files = place.path().join("files");
    std::fs::create_dir(&files).unwrap();
    mirror.lend(Head { commit: &commit, branch: Some("main") }, None, &files).unwrap();
    assert_eq!(git_in(&files, &["describe", "--tags"]), "v1");
}
