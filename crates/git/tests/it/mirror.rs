use kiln_git::{GitError, Location, Mirror};

use crate::repository::{Repository, git_in};

fn mirror_of(source: &Repository, place: &tempfile::TempDir) -> Mirror {
    let of = Location::Path(source.path().to_owned());
    Mirror::open(&place.path().join("m/1"), &of).unwrap()
}

#[test]
fn a_pushed_commit_is_read_without_a_fetch() {
    let (bare, work, place) = (Repository::bare(), Repository::new(), tempfile::tempdir().unwrap());
    let mirror = mirror_of(&bare, &place);
    for n in 0..3 {
        work.write(".kiln.yml", &format!("n: {n}\n"));
        let commit = work.commit(&format!("number {n}\n\nbody"));
        work.git(&["push", "--quiet", bare.path().to_str().unwrap(), "main"]);
        // The reading process was started before the later pushes.
        let info = mirror.commit(&commit).unwrap();
        assert_eq!(
            (info.title.as_str(), info.author.as_str()),
            (&*format!("number {n}"), "A <a@b>")
        );
        let file = mirror.file(&commit, ".kiln.yml", 100).unwrap();
        assert_eq!(file.as_deref(), Some(format!("n: {n}\n").as_bytes()));
        bare.git(&["gc", "--quiet"]);
    }
}

#[test]
fn a_commit_outlives_a_force_push_and_garbage_collection() {
    let (source, place) = (Repository::new(), tempfile::tempdir().unwrap());
    source.write("a", "first");
    let first = source.commit("first");
    let mirror = mirror_of(&source, &place);
    mirror.fetch().unwrap();
    source.write("a", "second");
    source.git(&["checkout", "--quiet", "--orphan", "other"]);
    let second = source.commit("second");
    source.git(&["branch", "--quiet", "-D", "main"]);
    mirror.fetch().unwrap();
    source.git(&["reflog", "expire", "--expire=now", "--all"]);
    source.git(&["gc", "--quiet", "--prune=now"]);
    assert!(source.path().join(".git").exists());
    mirror.rest();
    for (commit, text) in [(&first, "first"), (&second, "second")] {
        let file = mirror.file(commit, "a", 100).unwrap();
        assert_eq!(file.as_deref(), Some(text.as_bytes()));
    }
    // Also when the source is gone altogether.
    std::fs::remove_dir_all(source.path().join(".git/objects")).unwrap();
    mirror.rest();
    assert_eq!(mirror.commit(&second).unwrap().title, "second");
    let refs = git_in(&place.path().join("m/1"), &["for-each-ref", "--format=%(refname)"]);
    assert_eq!(refs, "refs/heads/other");
}

/// Each push leaves a small pack. One branch is pushed over by force, so that nothing reaches its old
/// commit any more.
#[test]
fn many_small_packs_are_joined_and_every_commit_stays() {
    let (source, place) = (Repository::new(), tempfile::tempdir().unwrap());
    let mirror = mirror_of(&source, &place);
    let mut commits = Vec::new();
    for n in 0..60 {
        source.write("file", &format!("{n}"));
        commits.push(source.commit(&format!("number {n}")));
        mirror.fetch().unwrap();
        if n == 30 {
            source.git(&["reset", "--quiet", "--hard", "HEAD~3"]);
        }
    }
    std::fs::remove_dir_all(source.path().join(".git/objects")).unwrap();
    let n_packs = || {
        let names = std::fs::read_dir(mirror.at.join("objects/pack")).unwrap();
        names.filter(|name| name.as_ref().unwrap().path().extension().unwrap() == "pack").count()
    };
    mirror.tidy().unwrap();
    assert!(n_packs() <= 50, "{}", n_packs());
    // By the process that was reading before, and by a new one.
    for _ in 0..2 {
        for (n, commit) in commits.iter().enumerate() {
            let file = mirror.file(commit, "file", 100);
            let file = file.unwrap_or_else(|error| panic!("number {n}: {error}"));
            assert_eq!(file.as_deref(), Some(n.to_string().as_bytes()), "number {n}");
        }
        mirror.rest();
    }
}

#[test]
fn refs_are_listed_with_annotated_tags_peeled() {
    let (source, place) = (Repository::new(), tempfile::tempdir().unwrap());
    let mirror = mirror_of(&source, &place);
    assert_eq!(mirror.remote_refs().unwrap(), []);
    let commit = source.commit("one");
    source.git(&["tag", "light"]);
    source.git(&["tag", "--annotate", "--message", "x", "heavy"]);
    source.git(&["tag", "--annotate", "--message", "y", "double", "heavy"]);
    source.git(&["update-ref", "refs/notes/x", "HEAD"]);
    let names = ["refs/heads/main", "refs/tags/double", "refs/tags/heavy", "refs/tags/light"];
    let mut expected: Vec<_> = names.map(|name| (name.to_owned(), commit.clone())).to_vec();
    // git before 2.45 peels one level only; such a tag is peeled when its commit is read.
    let mut refs = mirror.remote_refs().unwrap();
    for list in [&mut expected, &mut refs] {
        list.retain(|(name, _)| name != "refs/tags/double");
    }
    assert_eq!(refs, expected);
    let heavy = source.git(&["rev-parse", "refs/tags/double"]);
    assert_eq!(mirror.commit(&heavy).unwrap().commit, commit);
    assert_eq!(mirror.remote_head().unwrap().as_deref(), Some("main"));
}

#[test]
fn changed_paths_name_both_sides_of_a_rename() {
    let (source, place) = (Repository::new(), tempfile::tempdir().unwrap());
    for path in ["keep", "src/a", "src/b", "deep/er/x", "swap"] {
        source.write(path, path);
    }
    let first = source.commit("one");
    source.git(&["mv", "src/a", "src/c"]);
    source.git(&["rm", "--quiet", "swap"]);
    source.write("swap/inside", "now a folder");
    source.write("deep/er/x", "other");
    source.git(&["update-index", "--chmod=+x", "src/b"]);
    source.git(&["config", "core.filemode", "false"]);
    let second = source.commit("two");
    let mirror = mirror_of(&source, &place);
    let changed = mirror.changed(&first, &second).unwrap();
    assert_eq!(changed, ["deep/er/x", "src/a", "src/b", "src/c", "swap", "swap/inside"]);
    assert_eq!(mirror.changed(&second, &second).unwrap(), [""; 0]);
}

#[test]
fn files_are_refused_when_too_large_or_not_a_file() {
    let (source, place) = (Repository::new(), tempfile::tempdir().unwrap());
    source.write("big", &"x".repeat(1000));
    source.write("folder/file", "x");
    std::os::unix::fs::symlink("/etc/passwd", source.path().join("link")).unwrap();
    let commit = source.commit("one");
    let mirror = mirror_of(&source, &place);
    let big = mirror.file(&commit, "big", 999);
    assert!(matches!(big, Err(GitError::TooLarge { n_bytes: 1000, max: 999, .. })), "{big:?}");
    for path in ["nothing", "folder/file/x", "a\nb"] {
        assert!(mirror.file(&commit, path, 100).unwrap().is_none(), "{path:?}");
    }
    for path in ["folder", "link", "", "/", "../x"] {
        let refused = mirror.file(&commit, path, 100);
        assert!(matches!(refused, Err(GitError::NotAFile { .. })), "{path:?}: {refused:?}");
    }
    assert_eq!(mirror.file(&commit, "folder/file", 100).unwrap().as_deref(), Some(&b"x"[..]));
}

#[test]
fn symlinks_are_followed_inside_the_tree_and_nowhere_else() {
    let (source, place) = (Repository::new(), tempfile::tempdir().unwrap());
    source.write("ci/kiln.yml", "x");
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, source.path().join(name)).unwrap();
    };
    link("ci/kiln.yml", "here");
    link("./ci/../here", "again");
    link("ci", "folder");
    link("../here", "ci/up");
    link("self", "self");
    link("missing", "dangling");
    link("/etc/passwd", "absolute");
    link("../../../../etc/passwd", "outside");
    link("ci/kiln.yml/x", "through");
    let commit = source.commit("one");
    let mirror = mirror_of(&source, &place);
    for path in ["here", "again", "folder/kiln.yml", "ci/up"] {
        assert_eq!(mirror.file(&commit, path, 9).unwrap().as_deref(), Some(&b"x"[..]), "{path}");
    }
    for path in ["folder", "self", "dangling", "absolute", "outside", "through"] {
        let refused = mirror.file(&commit, path, 9);
        assert!(matches!(refused, Err(GitError::NotAFile { .. })), "{path}: {refused:?}");
    }
}

#[test]
fn hostile_revisions_are_refused_and_the_reader_survives() {
    let (source, place) = (Repository::new(), tempfile::tempdir().unwrap());
    let commit = source.commit("one");
    let mirror = mirror_of(&source, &place);
    for bad in ["--upload-pack=x", "main\ncontents HEAD", "", "refs/heads/a b", "HEAD:x", "@{-1}"] {
        assert!(matches!(mirror.commit(bad), Err(GitError::Refused { .. })), "{bad:?}");
    }
    let unknown = mirror.commit(&"ab".repeat(20));
    assert!(matches!(unknown, Err(GitError::NotFound { kind: "commit", .. })), "{unknown:?}");
    assert!(mirror.commit("refs/heads/none").is_err());
    assert_eq!(mirror.commit(&commit).unwrap().commit, commit);
}

#[test]
fn a_repository_of_another_user_is_mirrored() {
    let (source, place) = (Repository::new(), tempfile::tempdir().unwrap());
    source.write("a", "x");
    let commit = source.commit("one");
    // Only root can give files away; others test that reading their own works the same way.
    let mut folders = vec![source.path().to_owned()];
    while let Some(folder) = folders.pop() {
        let _ = std::os::unix::fs::chown(&folder, Some(12_345), Some(12_345));
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => drop(std::os::unix::fs::chown(entry.path(), Some(12_345), Some(12_345))),
            }
        }
    }
    let mirror = mirror_of(&source, &place);
    assert_eq!(mirror.remote_refs().unwrap(), [("refs/heads/main".to_owned(), commit.clone())]);
    mirror.fetch().unwrap();
    assert_eq!(mirror.file(&commit, "a", 10).unwrap().as_deref(), Some(&b"x"[..]));
}

#[test]
fn a_reader_that_was_killed_is_replaced() {
    let (source, place) = (Repository::new(), tempfile::tempdir().unwrap());
    let mirror = mirror_of(&source, &place);
    // A commit that was read is not read again.
    for title in ["one", "two", "three"] {
        let commit = source.commit(title);
        assert_eq!(mirror.commit(&commit).unwrap().title, title);
        let ours = format!("GIT_DIR={}", mirror.at.display());
        let reader = std::fs::read_dir("/proc").unwrap().find_map(|entry| {
            let entry = entry.unwrap();
            let environment = std::fs::read(entry.path().join("environ")).ok()?;
            let is_ours = environment.split(|b| *b == 0).any(|line| line == ours.as_bytes());
            is_ours.then(|| entry.file_name().to_str().unwrap().parse::<i32>().unwrap())
        });
        let reader = rustix::process::Pid::from_raw(reader.unwrap()).unwrap();
        rustix::process::kill_process(reader, rustix::process::Signal::KILL).unwrap();
    }
    assert_eq!(mirror.commit(&source.commit("four")).unwrap().title, "four");
}

#[test]
fn what_is_read_ahead_is_what_is_read() {
    let (source, place) = (Repository::new(), tempfile::tempdir().unwrap());
    source.write("a", "first");
    let first = source.commit("one");
    source.write("a", "second");
    source.write("sub/b", "b");
    let second = source.commit("two");
    let (plain, ahead) = (mirror_of(&source, &place), tempfile::tempdir().unwrap());
    let ahead = mirror_of(&source, &ahead);
    let missing = "0123456789012345678901234567890123456789";
    ahead.read_ahead(&[missing], &["a"]);
    ahead.read_ahead(&["refs/heads/main"], &["a"]);
    ahead.read_ahead(&[&second, &first, missing], &["a", "sub", "none"]);
    for mirror in [&plain, &ahead, &ahead] {
        assert_eq!(mirror.commit(&second).unwrap().title, "two");
        assert_eq!(mirror.commit(&first).unwrap().title, "one");
        assert_eq!(mirror.file(&second, "a", 10).unwrap().as_deref(), Some(&b"second"[..]));
        assert_eq!(mirror.file(&first, "a", 10).unwrap().as_deref(), Some(&b"first"[..]));
        assert_eq!(mirror.file(&second, "none", 10).unwrap(), None);
        assert!(matches!(mirror.file(&second, "a", 2), Err(GitError::TooLarge { .. })));
        assert!(matches!(mirror.file(&second, "sub", 10), Err(GitError::NotAFile { .. })));
        assert_eq!(mirror.changed(&first, &second).unwrap(), ["a", "sub/b"]);
        assert!(!mirror.has(missing).unwrap());
    }
}

#[test]
fn a_sha256_repository_is_mirrored() {
    let init = ["init", "--quiet", "--initial-branch=main", "--object-format=sha256"];
    let (source, place) = (Repository::with(&init), tempfile::tempdir().unwrap());
    source.write("a/b", "text");
    let commit = source.commit("one");
    let mirror = mirror_of(&source, &place);
    assert_eq!(mirror.file(&commit, "a/b", 10).unwrap().as_deref(), Some(&b"text"[..]));
    mirror.fetch().unwrap();
    let into = place.path().join("files");
    std::fs::create_dir(&into).unwrap();
    let index = place.path().join("index");
    mirror.checkout(&mirror.commit(&commit).unwrap().tree, &into, &index).unwrap();
    assert_eq!(std::fs::read_to_string(into.join("a/b")).unwrap(), "text");
}

#[test]
fn a_linked_working_tree_can_be_mirrored() {
    let (source, place) = (Repository::new(), tempfile::tempdir().unwrap());
    let commit = source.commit("one");
    let linked = place.path().join("linked");
    source.git(&["worktree", "add", "--quiet", linked.to_str().unwrap()]);
    let mirror = Mirror::open(&place.path().join("m"), &Location::Path(linked)).unwrap();
    assert_eq!(mirror.commit(&commit).unwrap().commit, commit);
    assert_eq!(mirror.remote_head().unwrap().as_deref(), Some("linked"));
}

#[test]
fn what_is_no_repository_is_said_to_be_none() {
    let place = tempfile::tempdir().unwrap();
    for path in [place.path().to_owned(), place.path().join("missing")] {
        let opened = Mirror::open(&place.path().join("m"), &Location::Path(path.clone()));
        assert!(matches!(opened, Err(GitError::NotARepository(p)) if p == path));
    }
    assert!(!place.path().join("m").exists());
}

#[test]
fn a_mirror_of_a_url_that_does_not_answer_says_so() {
    let place = tempfile::tempdir().unwrap();
    // A port that nobody listens on: it was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = Location::parse(&format!("git://127.0.0.1:{port}/x")).unwrap();
    let mirror = Mirror::open(&place.path().join("m"), &url).unwrap();
    let error = mirror.remote_refs().unwrap_err();
    assert!(error.is_elsewhere(), "{error}");
    assert!(mirror.fetch().unwrap_err().is_elsewhere());
}

#[test]
fn a_mirror_is_opened_again_as_what_it_was() {
    let (source, place) = (Repository::new(), tempfile::tempdir().unwrap());
    let commit = source.commit("one");
    let at = mirror_of(&source, &place).at;
    assert_eq!(Mirror::existing(&at).unwrap().commit(&commit).unwrap().commit, commit);
    assert!(Mirror::existing(place.path()).is_err());
}

#[test]
fn a_url_is_fetched_and_its_old_commits_stay() {
    let (work, place) = (Repository::new(), tempfile::tempdir().unwrap());
    let bare = place.path().join("app.git");
    git_in(place.path(), &["init", "--quiet", "--bare", "--initial-branch=main", "app.git"]);
    let push = |args: &[&str]| {
        work.git(&[&["push", "--quiet", bare.to_str().unwrap()], args].concat());
    };
    let url = serve(place.path());
    let mirror = Mirror::open(&place.path().join("m"), &Location::parse(&url).unwrap()).unwrap();
    work.write("a", "first");
    let first = work.commit("first");
    work.git(&["tag", "--annotate", "--message", "x", "v1"]);
    push(&["main", "v1"]);
    let refs = mirror.remote_refs().unwrap();
    let pair = |name: &str, id: &str| (name.to_owned(), id.to_owned());
    assert_eq!(refs, [pair("refs/heads/main", &first), pair("refs/tags/v1", &first)]);
    assert_eq!(mirror.remote_head().unwrap().as_deref(), Some("main"));
    assert!(!mirror.has(&first).unwrap());
    mirror.fetch().unwrap();
    assert_eq!(mirror.commit("refs/tags/v1").unwrap().commit, first);
    work.git(&["commit", "--quiet", "--amend", "--message", "second"]);
    let second = work.git(&["rev-parse", "HEAD"]);
    push(&["--force", "main"]);
    push(&["--delete", "v1"]);
    mirror.fetch().unwrap();
    assert_eq!(mirror.commit("refs/heads/main").unwrap().commit, second);
    assert!(mirror.commit("refs/tags/v1").is_err());
    assert_eq!(mirror.file(&first, "a", 10).unwrap().as_deref(), Some(&b"first"[..]));
}

#[test]
fn a_sha256_repository_is_fetched_from_a_url() {
    let place = tempfile::tempdir().unwrap();
    let init = ["init", "--quiet", "--initial-branch=main", "--object-format=sha256"];
    let work = Repository::with(&init);
    let commit = work.commit("one");
    let bare = ["clone", "--quiet", "--bare", work.path().to_str().unwrap(), "app.git"];
    git_in(place.path(), &bare);
    let url = Location::parse(&serve(place.path())).unwrap();
    let mirror = Mirror::open(&place.path().join("m"), &url).unwrap();
    mirror.fetch().unwrap();
    assert_eq!(mirror.commit(&commit).unwrap().title, "one");
}

/// Serves `app.git` in a folder over git's own protocol on loopback; gives its URL. One `git daemon`
/// for each connection, until the test's process ends.
fn serve(base: &std::path::Path) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("git://{}/app.git", listener.local_addr().unwrap());
    let base = base.to_owned();
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let mut daemon = kiln_stdx::process::command("git");
            daemon
                .args(["daemon", "--inetd", "--export-all", "--log-destination=none"])
                .arg(format!("--base-path={}", base.display()))
                .stdin(std::os::fd::OwnedFd::from(connection.try_clone().unwrap()))
                .stdout(std::os::fd::OwnedFd::from(connection));
            let Ok(mut child) = daemon.spawn() else { return };
            drop(daemon);
            let _ = child.wait();
        }
    });
    url
}

#[test]
fn a_mirror_of_which_a_part_is_gone_is_made_again() {
    let (source, place) = (Repository::new(), tempfile::tempdir().unwrap());
    let commit = source.commit("one");
    for part in ["refs", "HEAD", "kiln-location", "objects/info/alternates", ""] {
        let mirror = mirror_of(&source, &place);
        assert!(mirror.is_whole(), "{part}");
        let at = mirror.at.join(part);
        let gone = if at.is_dir() { std::fs::remove_dir_all(at) } else { std::fs::remove_file(at) };
        gone.unwrap();
        assert!(!mirror.is_whole(), "{part}");
        mirror.rest();
        let again = mirror_of(&source, &place);
        assert_eq!(again.commit(&commit).unwrap().commit, commit, "{part}");
        again.fetch().unwrap();
        assert_eq!(git_in(&again.at, &["rev-parse", "main"]), commit);
    }
}
