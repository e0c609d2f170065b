use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use kiln_git::{GitError, Location, Mirror};

use crate::repository::{Repository, git_in};

fn mirror_of(source: &Repository, place: &Path) -> Mirror {
    Mirror::open(&place.join("mirror"), &Location::Path(source.path().to_owned())).unwrap()
}

/// Every entry below a folder: path, kind, executable bit, content or target. Without `.git`.
pub fn listing(folder: &Path) -> Vec<(Vec<u8>, char, bool, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let name = path.strip_prefix(folder).unwrap().as_os_str().as_bytes().to_vec();
            if name == b".git" {
                continue;
            }
            let meta = entry.metadata().unwrap();
            let executable = meta.is_file() && meta.permissions().mode() & 0o100 != 0;
            let (kind, content) = if meta.is_symlink() {
                ('l', std::fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec())
            } else if meta.is_dir() {
                folders.push(path);
                ('d', Vec::new())
            } else {
                ('f', std::fs::read(&path).unwrap())
            };
            found.push((name, kind, executable, content));
        }
    }
    found.sort();
    found
}

/// Checks out by kiln and by `git`, and compares what is there.
pub fn same_as_git(source: &Repository, commit: &str) {
    let place = tempfile::tempdir().unwrap();
    let (ours, theirs) = (place.path().join("ours"), place.path().join("theirs"));
    std::fs::create_dir(&ours).unwrap();
    let mirror = mirror_of(source, place.path());
    let index = place.path().join("index");
    mirror.checkout(&mirror.commit(commit).unwrap().tree, &ours, &index).unwrap();
    let (from, to) = (source.path().to_str().unwrap(), theirs.to_str().unwrap());
    git_in(place.path(), &["clone", "--quiet", "--no-checkout", from, to]);
    git_in(&theirs, &["checkout", "--quiet", "--detach", commit]);
    assert_eq!(listing(&ours), listing(&theirs));
}

#[test]
fn random_trees_are_as_git_checks_them_out() {
    for seed in 0..25 {
        let mut random = fastrand::Rng::with_seed(seed);
        let source = Repository::new();
        let mut folders = vec![source.path().to_owned()];
        for n in 0..random.usize(1..60) {
            let folder = folders[random.usize(..folders.len())].clone();
            let mut name = format!("{n}").into_bytes();
            let odd: &[u8] = [&b"\xff\xfe"[..], b" x", b"\n", b"\\", b"*?", "ø".as_bytes(), b"-c"]
                [random.usize(..7)];
            if random.bool() {
                name.splice(..0, odd.iter().copied());
            }
            let path = folder.join(OsStr::from_bytes(&name));
            match random.u8(..5) {
                0 => {
                    std::fs::create_dir(&path).unwrap();
                    folders.push(path);
                }
                1 => symlink(["../../etc", "nowhere", "/abs", "1"][random.usize(..4)], &path)
                    .unwrap(),
                kind => {
                    let bytes: Vec<u8> = (0..random.usize(..300))
                        .map(|_| b"\r\n\0ab$Id$"[random.usize(..9)])
                        .collect();
                    let bytes = if random.u8(..9) == 0 { bytes.repeat(2_000) } else { bytes };
                    std::fs::write(&path, bytes).unwrap();
                    let mode = if kind == 2 { 0o755 } else { 0o644 };
                    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
                }
            }
        }
        if random.bool() {
            let rules = ["* text=auto\n", "*1* eol=crlf\n", "* ident\n", "*.png binary\n"];
            source.write(".gitattributes", rules[random.usize(..4)]);
        }
        let commit = source.commit("random");
        eprintln!("seed {seed}");
        same_as_git(&source, &commit);
    }
}

#[test]
fn a_tree_of_many_files_is_as_git_checks_it_out() {
    let source = Repository::new();
    for n in 0..1_200 {
        source.write(&format!("d{}/f{n}", n % 50), &format!("{n}\n"));
    }
    symlink("d1", source.path().join("link")).unwrap();
    let commit = source.commit("many");
    same_as_git(&source, &commit);
}

#[test]
fn a_submodule_is_an_empty_folder_and_an_empty_tree_is_nothing() {
    let source = Repository::new();
    source.write("a", "x");
    let head = source.commit("one");
    source.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{head},lib/sub")]);
    source.git(&["commit", "--quiet", "--message", "with a submodule"]);
    same_as_git(&source, &source.git(&["rev-parse", "HEAD"]));
    let empty = source.raw_tree(b"");
    let place = tempfile::tempdir().unwrap();
    let index = place.path().join("index");
    let mirror = mirror_of(&source, place.path());
    mirror.checkout(&empty, &place.path().join("none"), &index).unwrap();
}

#[test]
fn a_hostile_tree_is_refused_without_a_file() {
    let source = Repository::new();
    source.write("x", "hostile");
    source.commit("one");
    let blob = hex(&source.git(&["rev-parse", "HEAD:x"]));
    let link = {
        std::fs::write(source.path().join("t"), "/tmp").unwrap();
        hex(&source.git(&["hash-object", "-w", "t"]))
    };
    let entry =
        |mode: &str, name: &[u8], id: &[u8]| [mode.as_bytes(), b" ", name, b"\0", id].concat();
    let inner = hex(&source.raw_tree(&entry("100644", b"x", &blob)));
    let git = hex(&source.raw_tree(&entry("100644", b"config", &blob)));
    let below = hex(&source.raw_tree(&entry("40000", b".git", &git)));
    let hostile = [
        entry("100644", b"..", &blob),
        entry("40000", b"..", &inner),
        entry("100644", b".", &blob),
        entry("100644", b"", &blob),
        entry("100644", b"../x", &blob),
        entry("100644", b"/tmp/x", &blob),
        entry("100644", b"a/b", &blob),
        entry("40000", b".git", &git),
        entry("40000", b".GiT", &git),
        entry("40000", b"git~1", &git),
        entry("40000", b"sub", &below),
        [entry("120000", b"a", &link), entry("40000", b"a", &inner)].concat(),
        [entry("40000", b"a", &inner), entry("120000", b"a", &link)].concat(),
        [entry("100644", b"a", &blob), entry("100644", b"a", &blob)].concat(),
    ];
    for bytes in hostile {
        let place = tempfile::tempdir().unwrap();
        let into = place.path().join("into");
        std::fs::create_dir(&into).unwrap();
        let tree = source.raw_tree(&bytes);
        let done =
            mirror_of(&source, place.path()).checkout(&tree, &into, &place.path().join("index"));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(matches!(done, Err(GitError::HostileTree { .. })), "{text:?}: {done:?}");
        assert_eq!(listing(&into), [], "{text:?}");
        let beside = std::fs::read_dir(place.path()).unwrap().count();
        assert_eq!(beside, 2, "{text:?}");
    }
}

#[test]
fn a_damaged_tree_is_an_error_and_no_panic() {
    let source = Repository::new();
    source.commit("one");
    for bytes in [&b"100644"[..], b"100644 x", b"100644 x\0abc", b"999 x\0", b" \0\0\0", b"zz y\0"]
    {
        let place = tempfile::tempdir().unwrap();
        let tree = source.raw_tree(bytes);
        let (into, index) = (place.path().join("into"), place.path().join("index"));
        let done = mirror_of(&source, place.path()).checkout(&tree, &into, &index);
        assert!(matches!(done, Err(GitError::Failed { .. })), "{bytes:?}: {done:?}");
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}
