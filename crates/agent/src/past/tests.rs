//! Random edits between a run and its rerun: the rerun's files are those of the run.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastrand::Rng;
use kiln_git::WorkingTree;
use kiln_model::layer::Source;
use kiln_model::{AttemptId, JobIndex, RunId, Trigger, TriggerKind};
use kiln_stdx::process;
use kiln_workspace::{Driver, Workspaces};

use super::Looked;
use crate::Bases;

struct Lab {
    folder: tempfile::TempDir,
    workspaces: Arc<Workspaces>,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Copies: what a job would see is then a plain folder.
        let layers = folder.path().join("layers");
        let workspaces = Arc::new(Workspaces::open(&layers, Some(Driver::Copy)).unwrap());
        fs::create_dir(folder.path().join("tree")).unwrap();
        let lab = Self { folder, workspaces };
        lab.git(&["init", "-q", "-b", "main"]);
        lab
    }

    /// The tree becomes a linked one of a repository that is elsewhere.
    fn link(&self) {
        let (main, linked) = (self.folder.path().join("main"), self.folder.path().join("linked"));
        self.git(&["worktree", "add", "-q", "-b", "side", linked.to_str().unwrap()]);
        fs::rename(self.root(), &main).unwrap();
        git_in(&main, &["worktree", "repair", linked.to_str().unwrap()]);
        fs::rename(&linked, self.root()).unwrap();
        git_in(&main, &["worktree", "repair", self.root().to_str().unwrap()]);
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    fn git(&self, args: &[&str]) {
        git_in(&self.root(), args);
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn commit(&self) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "change"]);
    }

    /// A run begins. What could not be kept.
    fn begin(&self, run: i64, all: bool) -> Option<String> {
        let tree = WorkingTree::discover(&self.root()).unwrap();
        let begun = Looked::at(tree, all).unwrap().begin(self.workspaces.clone(), RunId(run));
        begun.unwrap().keeping.join().unwrap()
    }

    /// The files that a job of an earlier run gets, in a folder.
    fn again(&self, run: i64, attempt: u32) -> Result<PathBuf, String> {
        let trigger = Trigger::new(TriggerKind::Local, "");
        let source = Source::WorkingTree { path: self.root() };
        let bases = Bases::new(self.workspaces.clone());
        let base = bases.of_run(RunId(run), &trigger, &source, None)?;
        let attempt = AttemptId { run: RunId(run), job: JobIndex(0), attempt };
        let prepared = self.workspaces.prepare(attempt, "place", &base, &[], &[]);
        Ok(prepared.map_err(|error| super::told(&error))?.directory)
    }
}

fn git_in(folder: &Path, args: &[&str]) -> String {
    let mut git = process::command("git");
    git.current_dir(folder)
        .args(["-c", "user.name=A", "-c", "user.email=a@b"])
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1");
    String::from_utf8_lossy(&process::output(&mut git).unwrap()).into_owned()
}

/// Files and links below a folder, with mode, time and content; without `.git` and what is ignored.
fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let (path, meta) = (entry.path(), entry.metadata().unwrap());
            let name = path.strip_prefix(root).unwrap().to_owned();
            let ignored = name.extension().is_some_and(|extension| extension == "o");
            if name == Path::new(".git") || ignored {
                continue;
            }
            let told = if meta.is_dir() {
                folders.push(path);
                continue;
            } else if meta.is_symlink() {
                format!("{:?}", fs::read_link(&path).unwrap())
            } else {
                let content = fs::read_to_string(&path).unwrap();
                format!("{:o} {}.{} {content}", meta.mode(), meta.mtime(), meta.mtime_nsec())
            };
            found.insert(name, told);
        }
    }
    found
}

const NAMES: &[&str] = &["a", "b", "A", "d", "e f", "x.o", "-c", "ö"];

/// One thing that a person does.
fn edit(lab: &Lab, random: &mut Rng) {
    let mut path = lab.root();
    for _ in 0..random.usize(1..4) {
        path.push(NAMES[random.usize(..NAMES.len())]);
        if path.is_symlink() || path.is_file() {
            break;
        }
    }
    let there = path.symlink_metadata();
    match (random.u8(..11), there) {
        (0 | 1, Ok(meta)) if meta.is_dir() => fs::remove_dir_all(&path).unwrap(),
        (0 | 1, Ok(_)) => fs::remove_file(&path).unwrap(),
        // A file becomes a folder.
        (10, Ok(meta)) if !meta.is_dir() => {
            fs::remove_file(&path).unwrap();
            for name in ["a", "x.o", "d/b"] {
                fs::create_dir_all(path.join(name).parent().unwrap()).unwrap();
                fs::write(path.join(name), random.u32(..).to_string()).unwrap();
            }
        }
        (2, Ok(meta)) if meta.is_file() => {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        (3, Err(_)) => {
            let _ = fs::create_dir_all(path.parent().unwrap());
            let _ = symlink(NAMES[random.usize(..3)], &path);
        }
        (4, _) => lab.git(&["add", "-A"]),
        (5, _) if random.bool() => lab.commit(),
        (_, Ok(meta)) if !meta.is_file() => {}
        _ => {
            let _ = fs::create_dir_all(path.parent().unwrap());
            let _ = fs::write(&path, random.u32(..).to_string());
        }
    }
}

#[test]
fn the_files_of_a_run_come_back_whatever_was_edited_since() {
    for seed in 0..12 {
        let lab = Lab::new();
        let mut random = Rng::with_seed(seed);
        lab.write(".gitignore", "*.o\n");
        let mut runs: Vec<(BTreeMap<PathBuf, String>, String)> = Vec::new();
        for round in 0..5 {
            (0..random.usize(1..12)).for_each(|_| edit(&lab, &mut random));
            if round == 0 {
                lab.commit();
            }
            assert_eq!(lab.begin(round, false), None, "seed {seed}");
            let status = git_in(&lab.root(), &["status", "--porcelain"]);
            runs.push((listing(&lab.root()), status));
            let mine = listing(&lab.root());
            for (run, (files, status)) in runs.iter().enumerate() {
                let attempt = u32::try_from(round + 1).unwrap();
                let directory = lab.again(i64::try_from(run).unwrap(), attempt).unwrap();
                assert_eq!(&listing(&directory), files, "seed {seed}, run {run}, round {round}");
                assert_eq!(&git_in(&directory, &["status", "--porcelain"]), status, "seed {seed}");
            }
            assert_eq!(listing(&lab.root()), mine, "the tree is never written");
        }
    }
}

/// Objects that only the run's index named were gone after `git gc`.
#[test]
fn what_was_staged_or_amended_away_is_still_there_after_a_collection() {
    let lab = Lab::new();
    lab.write("a", "one");
    lab.commit();
    lab.write("b", "staged");
    lab.git(&["add", "b"]);
    lab.begin(1, false);
    let files = listing(&lab.root());
    lab.write("a", "two");
    lab.write("b", "another");
    lab.git(&["add", "-A"]);
    lab.git(&["commit", "-q", "--amend", "-m", "amended"]);
    lab.git(&["reflog", "expire", "--expire=now", "--all"]);
    lab.git(&["gc", "-q", "--prune=now"]);
    let directory = lab.again(1, 1).unwrap();
    assert_eq!(listing(&directory), files);
    assert_eq!(git_in(&directory, &["log", "--format=%s"]), "change\n");
    assert_eq!(git_in(&directory, &["status", "--porcelain"]), "A  b\n");
    git_in(&directory, &["fsck", "--strict"]);
    // What the job does there stays there.
    git_in(&directory, &["commit", "-q", "-m", "of the job"]);
    assert_eq!(git_in(&lab.root(), &["log", "--format=%s"]), "amended\n");
}

#[test]
fn a_linked_tree_comes_back_too() {
    let lab = Lab::new();
    lab.write("a", "one");
    lab.commit();
    lab.link();
    lab.write("new", "untracked");
    assert_eq!(lab.begin(1, false), None);
    let files = listing(&lab.root());
    lab.write("a", "two");
    lab.commit();
    let directory = lab.again(1, 1).unwrap();
    assert_eq!(listing(&directory), files);
    assert_eq!(git_in(&directory, &["status", "--porcelain", "-b"]), "## side\n?? new\n");
}

/// In a rerun, and in each run of a linked tree, `git status` failed: the repository of the submodule
/// was not where its files said.
#[test]
fn git_answers_in_a_tree_with_submodules_and_each_has_a_repository_of_its_own() {
    for linked in [false, true] {
        let lab = Lab::new();
        let inner = lab.folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("x"), "1").unwrap();
        for args in [&["init", "-q"][..], &["add", "x"], &["commit", "-q", "-m", "inner"]] {
            git_in(&inner, args);
        }
        let files = ["-c", "protocol.file.allow=always"];
        let add = ["submodule", "--quiet", "add", inner.to_str().unwrap()];
        lab.git(&[&files[..], &add, &["deep/sub"]].concat());
        lab.commit();
        if linked {
            lab.link();
            lab.git(&[&files[..], &["submodule", "--quiet", "update", "--init"]].concat());
        }
        assert_eq!(lab.begin(1, false), None);
        lab.write(".gitignore", "later\n");
        let directory = lab.again(1, 1).unwrap();
        assert_eq!(git_in(&directory, &["status", "--porcelain"]), "", "{linked}");
        let sub = directory.join("deep/sub");
        let top = git_in(&sub, &["rev-parse", "--show-toplevel"]);
        assert_eq!(Path::new(top.trim_end()), sub.canonicalize().unwrap());
        fs::write(sub.join("x"), "2").unwrap();
        assert_eq!(git_in(&directory, &["status", "--porcelain"]), " M deep/sub\n");
        git_in(&sub, &["commit", "-q", "-a", "-m", "of the job"]);
        let mine = lab.root().join("deep/sub");
        assert_eq!(git_in(&mine, &["log", "--format=%s"]), "inner\n");
        assert_eq!(git_in(&mine, &["status", "--porcelain"]), "");
    }
}

#[test]
fn a_repository_without_a_commit_comes_back() {
    let lab = Lab::new();
    lab.write("a", "one");
    assert_eq!(lab.begin(1, false), None);
    let files = listing(&lab.root());
    lab.write("a", "two");
    lab.write("b", "new");
    lab.commit();
    assert_eq!(listing(&lab.again(1, 1).unwrap()), files);
}

#[test]
fn a_run_that_saw_what_git_ignores_sees_it_again() {
    let lab = Lab::new();
    lab.write(".gitignore", "target\n");
    lab.write("a", "one");
    lab.commit();
    lab.write("target/built", "1");
    assert_eq!(lab.begin(1, true), None);
    assert_eq!(lab.begin(2, false), None);
    lab.write("a", "two");
    let all = lab.again(1, 1).unwrap();
    assert_eq!(fs::read_to_string(all.join("a")).unwrap(), "one");
    assert!(all.join("target/built").exists());
    assert!(!lab.again(2, 1).unwrap().join("target").exists());
}

/// A job must not run on half of what was.
#[test]
fn what_cannot_be_made_again_is_an_error_that_says_so() {
    let lab = Lab::new();
    lab.write("a", "one");
    lab.commit();
    lab.begin(1, false);
    lab.write("a", "two");
    let layers = lab.folder.path().join("layers/trees");
    for entry in fs::read_dir(&layers).unwrap().map(Result::unwrap) {
        if entry.file_name().to_string_lossy().starts_with("objects-") {
            fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    fs::remove_dir_all(lab.root().join(".git/objects")).unwrap();
    fs::create_dir(lab.root().join(".git/objects")).unwrap();
    let error = lab.again(1, 1).unwrap_err();
    assert!(error.contains("as they were when the run began"), "{error}");
}
