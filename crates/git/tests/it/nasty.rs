//! Trees as nobody writes them, and machines as nobody should configure them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use kiln_git::{GitError, Location, Mirror};

use crate::checkout::{listing, same_as_git};
use crate::repository::{Repository, git_in};

/// Whatever attributes ask for is done as git does it when nobody has configured anything: filters that
/// are not installed (Git LFS) leave the file as it is.
#[test]
fn attributes_are_followed_as_by_a_git_that_nobody_configured() {
    let source = Repository::new();
    source.write(
        ".gitattributes",
        "*.txt text eol=crlf\n*.id ident\n*.bin filter=lfs diff=lfs merge=lfs -text\n*.u16 text \
         working-tree-encoding=UTF-16LE eol=lf\n[attr]windows text eol=crlf\n*.bat windows\n*.sub \
         export-subst\n*.auto text=auto\n*.png binary\n\"with space.x\" eol=crlf\n",
    );
    source.write("sub/.gitattributes", "*.txt -text\n*.id -ident\n");
    for folder in ["", "sub/"] {
        for name in ["a.txt", "a.bat", "a.auto", "a.png", "with space.x"] {
            source.write(&format!("{folder}{name}"), "one\ntwo\n");
        }
        source.write(&format!("{folder}a.id"), "$Id$\n");
        source.write(&format!("{folder}a.sub"), "$Format:%H$\n");
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n";
        source.write(&format!("{folder}a.bin"), pointer);
        let utf16: Vec<u8> = "ø\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        std::fs::write(source.path().join(format!("{folder}a.u16")), utf16).unwrap();
    }
    let small = source.commit("small");
    same_as_git(&source, &small);
    for n in 0..600 {
        source.write(&format!("many/{n}.txt"), "one\n");
    }
    let large = source.commit("large");
    same_as_git(&source, &large);
}

/// `.git/info/attributes` of a repository on this machine are its person's own.
#[test]
fn what_a_person_configured_in_the_repository_changes_no_checkout() {
    let source = Repository::new();
    for n in 0..600 {
        source.write(&format!("{n}.txt"), "one\n");
    }
    let commit = source.commit("files");
    source.write(".git/info/attributes", "* text eol=crlf\n");
    source.git(&["config", "core.autocrlf", "true"]);
    source.git(&["config", "core.symlinks", "false"]);
    same_as_git(&source, &commit);
}

#[test]
fn type_changes_and_names_of_one_letter_in_two_cases_are_exact() {
    let source = Repository::new();
    source.write("a/b", "1");
    source.write("README", "1");
    source.write("readme", "2");
    let first = source.commit("one");
    std::fs::remove_dir_all(source.path().join("a")).unwrap();
    symlink("README", source.path().join("a")).unwrap();
    source.git(&["mv", "readme", "ReadMe"]);
    let second = source.commit("two");
    for commit in [first, second] {
        same_as_git(&source, &commit);
    }
}

fn checked_out(source: &Repository, tree: &str) -> (tempfile::TempDir, Result<(), GitError>) {
    let place = tempfile::tempdir().unwrap();
    let into = place.path().join("into");
    std::fs::create_dir(&into).unwrap();
    let of = Location::Path(source.path().to_owned());
    let mirror = Mirror::open(&place.path().join("mirror"), &of).unwrap();
    let done = mirror.checkout(tree, &into, &place.path().join("index"));
    (place, done)
}

fn entry(mode: &str, name: &[u8], id: &str) -> Vec<u8> {
    let digits = id.as_bytes().chunks(2);
    let id: Vec<u8> = digits
        .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
        .collect();
    [mode.as_bytes(), b" ", name, b"\0", &id].concat()
}

/// The same names that git refuses, whether or not the file system here would be fooled.
#[test]
fn names_that_some_file_system_takes_for_git_are_refused() {
    let source = Repository::new();
    source.write("x", "hostile");
    source.commit("one");
    let blob = source.git(&["rev-parse", "HEAD:x"]);
    for name in [
        &b".git."[..],
        b".git ",
        b".GIT. .",
        b".git::$INDEX_ALLOCATION",
        b"GIT~1",
        b"git~1.",
        b"a\\.git",
        b".git\\x",
    ] {
        let tree = source.raw_tree(&entry("100644", name, &blob));
        let (place, done) = checked_out(&source, &tree);
        let name = String::from_utf8_lossy(name).into_owned();
        assert!(matches!(done, Err(GitError::HostileTree { .. })), "{name}: {done:?}");
        assert_eq!(listing(&place.path().join("into")), [], "{name}");
    }
    let tree = source.raw_tree(&entry("120000", b".GitModules", &blob));
    assert!(matches!(checked_out(&source, &tree).1, Err(GitError::HostileTree { .. })));
    for name in [&b".gitignore"[..], b".gita", b"git~2", b"a.git", b".git.x"] {
        let tree = source.raw_tree(&entry("100644", name, &blob));
        let (place, done) = checked_out(&source, &tree);
        done.unwrap();
        assert_eq!(
            std::fs::read(place.path().join("into").join(OsStr::from_bytes(name))).unwrap(),
            b"hostile"
        );
    }
}

/// Old tools wrote modes with a leading zero, group-writable files, and folders in a wrong order.
#[test]
fn trees_that_fsck_complains_of_are_checked_out_all_the_same() {
    let source = Repository::new();
    source.write("x", "content");
    source.commit("one");
    let blob = source.git(&["rev-parse", "HEAD:x"]);
    let inner = source.raw_tree(&entry("100664", b"x", &blob));
    let mut files = Vec::new();
    for n in (0..700).rev() {
        files.extend(entry("100644", format!("f{n:03}").as_bytes(), &blob));
    }
    for bytes in [
        [entry("040000", b"a", &inner), entry("100644", b"a.b", &blob)].concat(),
        [entry("100644", b"b", &blob), entry("100755", b"a", &blob)].concat(),
        files,
    ] {
        let n = bytes.windows(21).filter(|w| w[0] == 0).count();
        let (place, done) = checked_out(&source, &source.raw_tree(&bytes));
        done.unwrap();
        let found = listing(&place.path().join("into"));
        let contents = found.iter().filter(|(_, kind, ..)| *kind == 'f');
        assert!(contents.clone().all(|(.., text)| text == b"content"));
        assert!(contents.count() >= 2 && found.len() >= n.min(2));
    }
}

#[test]
fn what_no_file_system_takes_is_an_error_that_names_it() {
    let source = Repository::new();
    source.write("x", "content");
    source.commit("one");
    let blob = source.git(&["rev-parse", "HEAD:x"]);
    // A path of 5,000 bytes; a name of 300.
    let mut deep = source.raw_tree(&entry("100644", b"x", &blob));
    for _ in 0..25 {
        deep = source.raw_tree(&entry("40000", &[b'd'; 200], &deep));
    }
    let long = source.raw_tree(&entry("100644", &[b'n'; 300], &blob));
    for tree in [deep, long] {
        let (_place, done) = checked_out(&source, &tree);
        assert!(matches!(done, Err(GitError::File(_))), "{done:?}");
    }
}

/// A symlink, and in the next tree a folder in its place: nothing is written through the link.
#[test]
fn a_link_is_never_written_through() {
    let source = Repository::new();
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), source.path().join("a")).unwrap();
    for n in 0..60 {
        source.write(&format!("f{n}"), "x");
    }
    let first = source.commit("a link");
    std::fs::remove_file(source.path().join("a")).unwrap();
    source.write("a/passwd", "hostile");
    let second = source.commit("a folder");
    let place = tempfile::tempdir().unwrap();
    let mirror = Mirror::open(&place.path().join("mirror"), &Location::Path(source.path().into()));
    let mirror = mirror.unwrap();
    let tree = |commit: &str| mirror.commit(commit).unwrap().tree;
    let (into, index) = (place.path().join("into"), place.path().join("index"));
    std::fs::create_dir(&into).unwrap();
    mirror.checkout(&tree(&first), &into, &index).unwrap();
    let update = place.path().join("update");
    std::fs::create_dir(&update).unwrap();
    let to_index = place.path().join("next");
    let done = mirror.update((&tree(&first), &index), &tree(&second), &update, &to_index).unwrap();
    assert!(done.unwrap().gone.is_empty());
    assert_eq!(std::fs::read(update.join("a/passwd")).unwrap(), b"hostile");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

/// Two branches whose names decode to the same text stopped every fetch.
#[test]
fn refs_and_repositories_may_have_names_that_are_not_utf_8() {
    let source = Repository::new();
    source.write("x", "1");
    let commit = source.commit("one");
    let refs = format!("{commit} refs/heads/b\u{0}");
    for odd in [b'\xfe', b'\xff'] {
        let mut name = refs.trim_end_matches('\0').as_bytes()[41..].to_vec();
        name.push(odd);
        std::fs::write(
            source.path().join(".git").join(OsStr::from_bytes(&name)),
            format!("{commit}\n"),
        )
        .unwrap();
    }
    source.git(&["pack-refs", "--all"]);
    let place = tempfile::tempdir().unwrap();
    let odd = place.path().join(OsStr::from_bytes(b"repo\xff"));
    std::fs::rename(source.path(), &odd).unwrap();
    let mirror = Mirror::open(&place.path().join("mirror"), &Location::Path(odd.clone())).unwrap();
    mirror.fetch().unwrap();
    assert_eq!(mirror.remote_refs().unwrap(), [("refs/heads/main".to_owned(), commit.clone())]);
    let into = place.path().join("into");
    std::fs::create_dir(&into).unwrap();
    mirror.checkout(&mirror.commit(&commit).unwrap().tree, &into, &place.path().join("i")).unwrap();
    assert_eq!(std::fs::read(into.join("x")).unwrap(), b"1");
    let head = kiln_git::Head { commit: &commit, branch: Some("main") };
    mirror.lend(head, Some(&place.path().join("i")), &into).unwrap();
    assert_eq!(git_in(&into, &["status", "--porcelain", "--branch"]), "## main...origin/main");
    std::fs::rename(&odd, source.path()).unwrap();
}

fn loose(git_dir: &Path, id: &str) -> std::path::PathBuf {
    git_dir.join("objects").join(&id[..2]).join(&id[2..])
}

fn damage(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let half = bytes.len() / 2;
    bytes[half..].fill(0);
    std::fs::remove_file(file).unwrap();
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn an_object_that_is_gone_or_damaged_is_named_with_the_way_out() {
    for n_files in [3, 600] {
        for damaged in [false, true] {
            let source = Repository::new();
            for n in 0..n_files {
                source.write(&format!("f{n}"), &format!("content {n}").repeat(50));
            }
            let commit = source.commit("one");
            let id = source.git(&["rev-parse", "HEAD:f1"]);
            let tree = source.git(&["rev-parse", "HEAD^{tree}"]);
            let file = loose(&source.path().join(".git"), &id);
            if damaged {
                damage(&file)
            } else {
                std::fs::remove_file(&file).unwrap()
            }
            let (_place, done) = checked_out(&source, &tree);
            let error = done.unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, GitError::Damaged { .. }), "{text}");
            assert!(text.contains(&id) && text.contains("git fsck"), "{text}");
            assert!(!commit.is_empty());
        }
    }
}

#[test]
fn what_is_damaged_in_a_mirror_is_read_from_its_source() {
    for n_files in [3, 600] {
        let source = Repository::new();
        for n in 0..n_files {
            source.write(&format!("f{n}"), &format!("content {n}").repeat(50));
        }
        let commit = source.commit("one");
        let place = tempfile::tempdir().unwrap();
        let of = Location::Path(source.path().to_owned());
        let mirror = Mirror::open(&place.path().join("mirror"), &of).unwrap();
        mirror.fetch().unwrap();
        let pack = std::fs::read_dir(mirror.at.join("objects/pack")).unwrap().map(Result::unwrap);
        let packs: Vec<_> = pack.map(|entry| entry.path()).collect();
        let into = place.path().join("into");
        std::fs::create_dir(&into).unwrap();
        let tree = mirror.commit(&commit).unwrap().tree;
        mirror.rest();
        for pack in packs.iter().filter(|pack| pack.extension().is_some_and(|e| e == "pack")) {
            let mut bytes = std::fs::read(pack).unwrap();
            std::fs::remove_file(pack).unwrap();
            // The commit and its tree come first and stay.
            let (keep, end) = (bytes.len() - bytes.len() / 4, bytes.len() - 20);
            bytes[keep..end].fill(0xff);
            std::fs::write(pack, bytes).unwrap();
        }
        mirror.checkout(&tree, &into, &place.path().join("index")).unwrap();
        assert_eq!(listing(&into).len(), n_files);
    }
}
