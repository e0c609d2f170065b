//! Random histories: each source is made from the one before, and each is as git checks it out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use fastrand::Rng;
use kiln_git::{Head, Location, Mirror};
use kiln_workspace::{Base, Driver, Removed, Workspaces};

use crate::lab::{Lab, shell_in};

/// More than the longest chain.
const N_COMMITS: usize = 20;

/// Whatever the person who tests has configured.
const OWN_GIT: &str = "export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null";

const LFS: &str = "*.bin filter=lfs diff=lfs merge=lfs -text\n*.x text=auto\n";
const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n";

/// Small trees are always made in full.
const N_FILES_MIN: usize = 100;

/// Everything about the files, whatever bytes are in their names, and what git says of them.
const SHOW: &str = "find . -mindepth 1 -name .git -prune -o -printf '%p %y %m %l\\n' | sort | cat -v; \
                    find . -name .git -prune -o -type f -print0 | sort -z | xargs -0 sha256sum | cat -v; \
                    git status --porcelain --ignored; git diff --cached --name-only; git write-tree";

pub async fn a_source_made_from_another_is_as_git_checks_it_out(mut lab: Lab) {
    // Large changes make a full source of it past the longest chain, small ones a new chain.
    for (seed, n_changes) in [(0, 12), (1, 3)] {
        let driver = lab.workspaces.driver();
        let (n_from_others, last) = history(&lab, seed, n_changes).await;
        eprintln!("seed {seed}: {n_from_others} of {N_COMMITS} were made from others");
        match driver {
            Driver::Overlay | Driver::OverlayUser => assert!(n_from_others >= 15),
            Driver::Reflink | Driver::Copy => assert_eq!(n_from_others, 0),
        }
        let Some((base, expected)) = last else { continue };
        // What was stacked can be copied too, where stacking is not possible any more.
        let root = lab.path("layers");
        lab.workspaces = Workspaces::open(&root, Some(Driver::Copy)).unwrap();
        let (seen, _) = lab.job(&base, &[], SHOW).await;
        assert_eq!(seen, expected, "seed {seed}, copied");
        lab.workspaces = Workspaces::open(&root, Some(driver)).unwrap();
    }
}

/// How many sources were made from others, and the last of them with what a job sees of it.
async fn history(lab: &Lab, seed: u64, n_changes: usize) -> (usize, Option<(Base, String)>) {
    let mut random = Rng::with_seed(seed);
    let folder = lab.path(&format!("history-{seed}"));
    let files = folder.join("files");
    std::fs::create_dir_all(&files).unwrap();
    shell_in(&files, "git init -q -b main").unwrap();
    let mirror = Mirror::open(&folder.join("mirror"), &Location::Path(files.clone())).unwrap();
    let (mut near, mut n_from_others, mut last) = (None::<String>, 0, None);
    for n in 0..N_COMMITS {
        let submodule = if n == 0 { None } else { change(&files, &mut random, n_changes) };
        while paths(&files).0.len() < N_FILES_MIN {
            add(&files, &mut random);
        }
        // It may have been changed again since.
        let submodule = submodule.filter(|path| is_empty_folder(&files, path));
        // Of repositories with Git LFS, too, each source is made from another.
        if n == 1 {
            std::fs::write(files.join(".gitattributes"), LFS).unwrap();
            std::fs::write(files.join("large.bin"), POINTER).unwrap();
        }
        if n == N_COMMITS - 2 {
            std::fs::write(files.join(".gitattributes"), "* ident\n").unwrap();
        }
        let submodule = submodule.as_ref().and_then(|path| path.strip_prefix(&files).ok());
        let commit = commit(&files, submodule);
        let tree = mirror.commit(&commit).unwrap().tree;
        let (layer, from_other) = made(lab, &mirror, near.as_deref(), &tree);
        n_from_others += usize::from(from_other);
        let head = Head { commit: &commit, branch: Some("main") };
        let git = lab.workspaces.make_git(&commit, &tree, |into, index| {
            mirror.lend(head, index, into).map_err(|error| error.to_string())
        });
        let base = Base::Source { layer, git: Some(git.unwrap()) };
        let (seen, _) = lab.job(&base, &[], SHOW).await;
        assert!(!seen.is_empty());
        assert_eq!(seen, checked_out(&folder, &commit), "seed {seed}, commit {n}");
        last = if from_other { Some((base, seen)) } else { last };
        near = Some(tree);
    }
    (n_from_others, last)
}

/// What git's own checkout looks like.
fn checked_out(folder: &Path, commit: &str) -> String {
    let script = format!(
        "{OWN_GIT}; rm -rf fresh shown; git clone -q --shared --no-checkout files fresh; cd fresh; \
         git checkout -q --detach {commit}; ({SHOW}) > ../shown"
    );
    shell_in(folder, &script).unwrap();
    std::fs::read_to_string(folder.join("shown")).unwrap()
}

fn commit(files: &Path, submodule: Option<&Path>) -> String {
    let mut script = format!("{OWN_GIT}; git add -A; ");
    if let Some(submodule) = submodule {
        std::fs::write(files.join(".git/submodule"), submodule.as_os_str().as_bytes()).unwrap();
        script += "s=$(cat .git/submodule); git rm -r -q --cached --ignore-unmatch -- \"$s\"; \
                   git update-index --add --cacheinfo 160000 $(git rev-parse HEAD) \"$s\"; ";
    }
    script += "git -c user.name=a -c user.email=a@b commit -q --allow-empty -m change; \
               git rev-parse HEAD > .git/committed";
    shell_in(files, &script).unwrap();
    std::fs::read_to_string(files.join(".git/committed")).unwrap().trim().to_owned()
}

/// A few changes of every kind. The folder of a submodule, when there is a new one.
fn change(files: &Path, random: &mut Rng, n_max: usize) -> Option<PathBuf> {
    let mut submodule = None;
    for _ in 0..random.usize(1..=n_max) {
        let (all_files, mut all_folders) = paths(files);
        // More would leave too little in common with the tree before.
        all_folders.retain(|folder| paths(folder).0.len() <= 10);
        let any = |random: &mut Rng, paths: &[PathBuf]| {
            (!paths.is_empty()).then(|| paths[random.usize(..paths.len())].clone())
        };
        let (file, folder) = (any(random, &all_files), any(random, &all_folders));
        match (random.u8(..11), file, folder) {
            (0 | 1, ..) => add(files, random),
            (2 | 3, Some(file), _) => write(&file, random),
            (4, Some(file), _) => std::fs::remove_file(file).unwrap(),
            (5, _, Some(folder)) => std::fs::remove_dir_all(folder).unwrap(),
            // A file becomes a folder.
            (6, Some(file), _) => {
                std::fs::remove_file(&file).unwrap();
                std::fs::create_dir(&file).unwrap();
                write(&file.join("inside"), random);
            }
            // A folder becomes a file or a link.
            (7, _, Some(folder)) => {
                std::fs::remove_dir_all(&folder).unwrap();
                write(&folder, random);
            }
            // Only the case of a name changes.
            (8, Some(file), _) => {
                let name = file.file_name().unwrap().as_bytes().to_ascii_uppercase();
                std::fs::rename(&file, file.with_file_name(OsStr::from_bytes(&name))).unwrap();
            }
            (9, Some(file), _) if !file.is_symlink() => {
                let mode = if random.bool() { 0o755 } else { 0o644 };
                std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
            }
            // Never below another, which git refuses.
            (10, _, Some(folder)) if submodule.is_none() && folder.parent() == Some(files) => {
                std::fs::remove_dir_all(&folder).unwrap();
                std::fs::create_dir(&folder).unwrap();
                submodule = Some(folder);
            }
            _ => {}
        }
    }
    submodule
}

/// Whether a folder with nothing in it is there, and no link leads to it.
fn is_empty_folder(files: &Path, path: &Path) -> bool {
    let real = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
    let above = path.ancestors().take_while(|path| *path != files);
    above.into_iter().all(real) && std::fs::read_dir(path).is_ok_and(|mut all| all.next().is_none())
}

fn add(files: &Path, random: &mut Rng) {
    let (_, folders) = paths(files);
    let mut folder = files.to_owned();
    if !folders.is_empty() && random.u8(..4) > 0 {
        folder = folders[random.usize(..folders.len())].clone();
    }
    if random.u8(..4) == 0 {
        folder = folder.join(["d", "D", "deep", "a-b", "a"][random.usize(..5)]);
        let _ = std::fs::create_dir(&folder);
    }
    if folder.is_dir() && !folder.is_symlink() {
        let odd: &[u8] = [&b""[..], b"\xff", b" ", b"-c", b"\\", b".x"][random.usize(..6)];
        let name = [&[b'a' + random.u8(..26), b'a' + random.u8(..4)], odd].concat();
        let path = folder.join(OsStr::from_bytes(&name));
        if !path.is_dir() || path.is_symlink() {
            write(&path, random);
        }
    }
}

fn write(path: &Path, random: &mut Rng) {
    let _ = std::fs::remove_file(path);
    if random.u8(..5) == 0 {
        return symlink(["a", "..", "/nowhere", "d/x"][random.usize(..4)], path).unwrap();
    }
    let text: Vec<u8> =
        (0..random.usize(..40)).map(|_| b"\r\n\0ab$Id$"[random.usize(..9)]).collect();
    std::fs::write(path, text).unwrap();
}

/// Files (links too) and folders below, without `.git`.
fn paths(root: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    let mut todo = vec![root.to_owned()];
    while let Some(folder) = todo.pop() {
        let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(Result::unwrap).collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries.into_iter().filter(|entry| entry.file_name() != ".git") {
            match entry.file_type().unwrap().is_dir() {
                true => {
                    folders.push(entry.path());
                    todo.push(entry.path());
                }
                false => files.push(entry.path()),
            }
        }
    }
    (files, folders)
}

/// Commits of kiln itself, where the tests run in a checkout of it, from one to the next in any order:
/// real trees, and differences of all sizes.
pub async fn the_history_of_a_real_repository_is_as_git_checks_it_out(lab: Lab) {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if !checkout.join(".git").exists() {
        println!("these sources are in no repository");
        return;
    }
    let folder = lab.path("real");
    std::fs::create_dir(&folder).unwrap();
    // Where the repository is, in a name of its own: it may not be this user's.
    let script = format!(
        "{OWN_GIT}; git clone -q --no-checkout \"$(cd {checkout:?} && pwd)\" files && cd files && \
         git rev-list --max-count=40 HEAD > ../commits"
    );
    if shell_in(&folder, &script).is_err() {
        println!("the repository of these sources is not ours to read");
        return;
    }
    let text = std::fs::read_to_string(folder.join("commits")).unwrap();
    let mut commits: Vec<&str> = text.lines().collect();
    let mut random = Rng::with_seed(7);
    random.shuffle(&mut commits);
    let files = folder.join("files");
    let mirror = Mirror::open(&folder.join("mirror"), &Location::Path(files)).unwrap();
    let (mut there, mut n_from_others) = (Vec::<String>::new(), 0);
    for commit in commits {
        let tree = mirror.commit(commit).unwrap().tree;
        let near = (!there.is_empty()).then(|| there[random.usize(..there.len())].clone());
        let (layer, from_other) = made(&lab, &mirror, near.as_deref(), &tree);
        n_from_others += usize::from(from_other);
        let head = Head { commit, branch: None };
        let git = lab.workspaces.make_git(commit, &tree, |into, index| {
            mirror.lend(head, index, into).map_err(|error| error.to_string())
        });
        let base = Base::Source { layer, git: Some(git.unwrap()) };
        let (seen, _) = lab.job(&base, &[], SHOW).await;
        assert_eq!(seen, checked_out(&folder, commit), "{commit}");
        there.push(tree);
    }
    eprintln!("{n_from_others} of {} were made from others", there.len());
}

/// The source of a tree, from another where that can be; and whether it was.
fn made(
    lab: &Lab,
    mirror: &Mirror,
    near: Option<&str>,
    tree: &str,
) -> (kiln_model::layer::LayerId, bool) {
    let made = near.and_then(|near| {
        let made = lab.workspaces.make_source_from(near, tree, |from, into, index| {
            let update = mirror.update(from, tree, into, index);
            let update = update.map_err(|error| error.to_string())?;
            Ok(update.map(|update| Removed { gone: update.gone, emptied: update.emptied }))
        });
        made.unwrap()
    });
    if let Some(layer) = made {
        return (layer, true);
    }
    let fill = |into: &Path, index: &Path| {
        mirror.checkout(tree, into, index).map_err(|error| error.to_string())
    };
    (lab.workspaces.make_source(tree, fill).unwrap(), false)
}

/// Flattened in the background: what lies over the chain stays as it is, what comes next stands on the
/// full source.
pub async fn a_full_source_takes_the_place_of_a_chain(lab: Lab) {
    let files = lab.path("files");
    std::fs::create_dir(&files).unwrap();
    let script =
        format!("{OWN_GIT}; git init -q -b main; for i in $(seq 200); do echo $i > f$i; done");
    shell_in(&files, &script).unwrap();
    let mirror = Mirror::open(&lab.path("mirror"), &Location::Path(files.clone())).unwrap();
    let mut trees = Vec::<String>::new();
    let mut layers = Vec::new();
    for n in 0..4 {
        std::fs::write(files.join("f1"), format!("change {n}\n")).unwrap();
        let tree = mirror.commit(&commit(&files, None)).unwrap().tree;
        layers.push(made(&lab, &mirror, trees.last().map(String::as_str), &tree).0);
        trees.push(tree);
    }
    let base = |n: usize| Base::Source { layer: layers[n].clone(), git: None };
    let show = "cat f1 f2; ls | wc -l";
    let (over_chain, _) = lab.job(&base(3), &[], show).await;
    let n_before = lab.workspaces.n_sources(&trees[2]);
    lab.workspaces
        .make_full_source(&trees[2], |into, index| {
            mirror.checkout(&trees[2], into, index).map_err(|error| error.to_string())
        })
        .unwrap();
    let n_after = lab.workspaces.n_sources(&trees[2]);
    let expected = if lab.workspaces.driver().mounts() { (3, 1) } else { (1, 1) };
    assert_eq!((n_before, n_after), expected);
    assert_eq!(lab.job(&base(3), &[], show).await.0, over_chain);
    let (flat, _) = lab.job(&base(2), &[], show).await;
    assert_eq!(flat, "change 2\n2\n200\n");
    std::fs::write(files.join("f1"), "the next\n").unwrap();
    let tree = mirror.commit(&commit(&files, None)).unwrap().tree;
    let (layer, _) = made(&lab, &mirror, Some(&trees[2]), &tree);
    assert!(lab.workspaces.n_sources(&tree) <= 2);
    let (next, _) = lab.job(&Base::Source { layer, git: None }, &[], show).await;
    assert_eq!(next, "the next\n2\n200\n");
}
