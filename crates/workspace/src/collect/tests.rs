//! What goes and what stays, over random folders of layers.

use std::os::unix::fs::PermissionsExt;

use kiln_model::layer::LayerId;
use kiln_model::{AttemptId, JobIndex};

use super::*;
use crate::{Base, Driver, Removed, Using};

const FAR: Timestamp = Timestamp::from_millis(i64::MAX);

struct Lab {
    workspaces: Workspaces,
    folder: tempfile::TempDir,
}

fn lab() -> Lab {
    let folder = tempfile::tempdir().unwrap();
    let workspaces = Workspaces::open(folder.path(), Some(Driver::Overlay)).unwrap();
    Lab { workspaces, folder }
}

fn attempt(run: i64, job: u32) -> AttemptId {
    AttemptId { run: RunId(run), job: JobIndex(job), attempt: 1 }
}

fn layer(run: i64, job: u32) -> LayerId {
    LayerId::Attempt(attempt(run, job).to_string())
}

impl Lab {
    fn source(&self, tree: &str) {
        let fill = |into: &Path, index: &Path| {
            fs::write(into.join("file"), tree).map_err(|e| e.to_string())?;
            fs::write(index, tree).map_err(|e| e.to_string())
        };
        self.workspaces.make_source(tree, fill).unwrap();
    }

    fn over(&self, near: &str, tree: &str) {
        let fill = |_: (&str, &Path), into: &Path, index: &Path| {
            fs::write(into.join("file"), tree).map_err(|e| e.to_string())?;
            fs::write(index, tree).map_err(|e| e.to_string())?;
            Ok(Some(Removed::default()))
        };
        self.workspaces.make_source_from(near, tree, fill).unwrap().unwrap();
    }

    /// A job that begins on these layers, and goes on.
    fn begin(&self, attempt: AttemptId, layers: &[LayerId], own: &[LayerId]) {
        let layer = LayerId::Source("a".to_owned());
        let base = Base::Source { layer, git: None };
        self.workspaces.prepare(attempt, "project", &base, layers, own).unwrap();
    }

    fn end(&self, attempt: AttemptId) {
        let upper = self.workspaces.attempt_dir(attempt).join("upper");
        fs::write(upper.join(attempt.to_string()), "written").unwrap();
        self.workspaces.seal(attempt).unwrap().unwrap();
    }

    fn collect(&self, runs: &[i64]) -> Vec<Collected> {
        let runs = runs.iter().copied().map(RunId).collect();
        let mut victims = Victims::default();
        let alone = self.workspaces.alone().unwrap();
        self.workspaces.take_runs(&alone, &runs, &mut victims).unwrap();
        drop(alone);
        let (collected, trouble) = victims.remove();
        trouble.unwrap();
        collected
    }

    fn collect_sources(&self, trees: &[&str]) {
        let trees = trees.iter().map(|tree| (*tree).to_owned()).collect();
        let mut victims = Victims::default();
        let alone = self.workspaces.alone().unwrap();
        self.workspaces.take_sources(&alone, &trees, &mut victims).unwrap();
        drop(alone);
        victims.remove().1.unwrap();
    }

    fn is_there(&self, run: i64, job: u32) -> bool {
        self.workspaces.layer_paths(&layer(run, job)).is_some()
    }
}

#[test]
fn names_say_of_which_run_a_thing_is() {
    for name in ["7", "7-0-1", "7-0-1.own.json", "7-0-1.2", "7-abc", "attempt-7-0-1", "7.used"] {
        assert_eq!(run_of(Path::new(name)), Some(RunId(7)), "{name}");
    }
    for name in ["", "x7", "7abc", "merged-7", ".tmp-7-0", "source-7", "objects-7", "-7"] {
        assert_eq!(run_of(Path::new(name)), None, "{name}");
    }
}

#[test]
fn what_a_living_attempt_uses_stays() {
    let lab = lab();
    lab.source("a");
    lab.begin(attempt(1, 0), &[], &[]);
    lab.end(attempt(1, 0));
    lab.begin(attempt(2, 0), &[layer(1, 0)], &[]);
    assert_eq!(lab.collect(&[1]), []);
    lab.collect_sources(&["a"]);
    assert!(lab.is_there(1, 0) && lab.workspaces.has_source("a"));
    lab.end(attempt(2, 0));
    assert_eq!(
        lab.collect(&[1]).iter().map(|gone| gone.run).collect::<BTreeSet<_>>(),
        [Some(RunId(1))].into()
    );
    lab.collect_sources(&["a"]);
    assert!(!lab.is_there(1, 0) && !lab.workspaces.has_source("a"));
    assert!(lab.is_there(2, 0));
}

/// In a shell that was open, the `.git` of an old local run went away.
#[test]
fn what_a_person_looks_at_stays() {
    let (lab, tree) = (lab(), tempfile::tempdir().unwrap());
    let files = lab.workspaces.kept_files(RunId(7));
    fs::create_dir_all(&files).unwrap();
    let git = Some(lab.workspaces.make_git("7-then", "7-then", |_, _| Ok(())).unwrap());
    let (root, hidden) = (tree.path().to_owned(), Vec::new());
    let base = Base::WorkingTree { root, hidden, git, over: vec![files.clone()] };
    let visit = lab.workspaces.visit("project", &base, &[]).unwrap();
    assert_eq!(lab.collect(&[7]), []);
    visit.end().unwrap();
    assert_eq!(lab.collect(&[7]).len(), 2);
    assert!(!files.exists());
}

#[test]
fn a_layer_that_another_is_made_of_stays_with_it() {
    let lab = lab();
    lab.source("a");
    lab.begin(attempt(1, 0), &[], &[]);
    lab.end(attempt(1, 0));
    lab.begin(attempt(2, 0), &[], &[layer(1, 0)]);
    lab.end(attempt(2, 0));
    lab.collect(&[1]);
    assert!(lab.is_there(2, 0));
    assert_eq!(lab.workspaces.layer_paths(&layer(2, 0)).unwrap().len(), 2);
    lab.collect(&[1, 2]);
    assert!(!lab.is_there(1, 0) && !lab.is_there(2, 0));
}

#[test]
fn a_source_stays_while_another_stands_on_it() {
    let lab = lab();
    lab.source("a");
    lab.over("a", "b");
    lab.over("b", "c");
    lab.collect_sources(&["a", "b"]);
    assert!(lab.workspaces.has_source("c"));
    lab.collect_sources(&["c", "b"]);
    assert!(lab.workspaces.has_source("a"));
    assert!(!lab.workspaces.has_source("b") && !lab.workspaces.has_source("c"));
    lab.over("a", "c");
    assert!(lab.workspaces.has_source("c"));
}

/// A job's container stands on its image's layers; a job that has just asked for one is about to.
#[test]
fn layers_of_images_go_when_nobody_uses_them() {
    let lab = lab();
    let workspaces = &lab.workspaces;
    let tar = vec![0; 1024];
    let digests = [1, 2, 3].map(|n| kiln_model::layer::Digest::from_bytes([n; 32]));
    for digest in &digests {
        workspaces.make_image_layer(digest, &tar[..]).unwrap();
    }
    lab.source("a");
    lab.begin(attempt(1, 0), &[], &[]);
    workspaces.prepare_root(&workspaces.attempt_dir(attempt(1, 0)), &digests[..1]).unwrap();
    let listed = workspaces.images_kept().unwrap();
    let unused = listed.iter().map(|layer| (layer.name.clone(), layer.used_at)).collect();
    // Between the list and the taking.
    let later = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1 << 33);
    std::fs::File::open(lab.folder.path().join(format!("images/{}-root.used", digests[1])))
        .and_then(|mark| mark.set_modified(later))
        .unwrap();
    // Builders that have added nothing write the same empty layer again; the kernel takes each once.
    lab.begin(attempt(2, 0), &[], &[]);
    let twice = [digests[0].clone(), digests[1].clone(), digests[0].clone()];
    let root = workspaces.prepare_root(&workspaces.attempt_dir(attempt(2, 0)), &twice).unwrap();
    let of = |at: usize| workspaces.image_layer(&digests[at]).unwrap();
    assert_eq!(root.lowers, [of(0), of(1)]);
    workspaces.discard(attempt(2, 0)).unwrap();
    let mut victims = Victims::default();
    workspaces.take_images(&workspaces.alone().unwrap(), &unused, &mut victims).unwrap();
    let (taken, trouble) = victims.remove();
    trouble.unwrap();
    assert!(taken.iter().all(|one| one.kind == LayerKind::Images), "{taken:?}");
    let there = digests.each_ref().map(|digest| workspaces.image_layer(digest).is_some());
    assert_eq!(there, [true, true, false]);
    assert_eq!(workspaces.images_kept().unwrap().len(), 2);
    assert!(workspaces.usage(std::time::Duration::from_secs(60)).unwrap().images > 0);
}

#[test]
fn nothing_is_taken_while_somebody_looks_for_layers() {
    let lab = lab();
    let using: Using = lab.workspaces.using().unwrap();
    let workspaces = &lab.workspaces;
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| workspaces.alone().map(drop));
        assert!(!waits.is_finished());
        drop(using);
        waits.join().unwrap().unwrap();
    });
}

#[test]
fn a_dry_look_takes_nothing() {
    let lab = lab();
    lab.source("a");
    lab.begin(attempt(1, 0), &[], &[]);
    lab.end(attempt(1, 0));
    let mut victims = Victims::dry();
    let alone = lab.workspaces.alone().unwrap();
    lab.workspaces.take_runs(&alone, &[RunId(1)].into(), &mut victims).unwrap();
    lab.workspaces.take_sources(&alone, &["a".to_owned()].into(), &mut victims).unwrap();
    let (told, trouble) = victims.remove();
    trouble.unwrap();
    assert!(told.iter().any(|one| one.kind == LayerKind::Layers && one.n_bytes > 0));
    assert!(told.iter().any(|one| one.kind == LayerKind::Sources && one.n_bytes > 0));
    assert!(lab.is_there(1, 0) && lab.workspaces.has_source("a"));
}

/// A process that was killed while it removed: what it had renamed is garbage, what it had not is
/// whole.
#[test]
fn a_crash_while_collecting_leaves_whole_layers_and_garbage() {
    let lab = lab();
    lab.source("a");
    for run in 1..4 {
        lab.begin(attempt(run, 0), &[], &[]);
        lab.end(attempt(run, 0));
    }
    let sealed = lab.folder.path().join("sealed");
    // Of a process that is gone, with a folder that even its owner may not list.
    let half = sealed.join(".tmp-999999999-0");
    fs::rename(sealed.join("1-0-1"), &half).unwrap();
    fs::create_dir(half.join("closed")).unwrap();
    fs::write(half.join("closed/file"), "x").unwrap();
    fs::set_permissions(half.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    let mut victims = Victims::default();
    lab.workspaces.take_leftovers(&mut victims).unwrap();
    victims.remove().1.unwrap();
    assert!(!half.exists());
    assert!(!lab.is_there(1, 0) && lab.is_there(2, 0) && lab.is_there(3, 0));
    assert_eq!(
        lab.workspaces.runs_kept().unwrap().into_keys().collect::<Vec<_>>(),
        [RunId(2), RunId(3)]
    );
}

#[test]
fn sizes_are_counted_once_and_right() {
    let lab = lab();
    lab.source("a");
    lab.begin(attempt(1, 0), &[], &[]);
    let upper = lab.workspaces.attempt_dir(attempt(1, 0)).join("upper");
    fs::write(upper.join("large"), vec![1; 100_000]).unwrap();
    lab.end(attempt(1, 0));
    let within = std::time::Duration::from_secs(60);
    let first = lab.workspaces.usage(within).unwrap();
    assert!(first.runs[&RunId(1)] >= 100_000 && !first.is_partial, "{first:?}");
    assert!(first.sources > 0);
    // Now everything is known: nothing need be counted.
    let again = lab.workspaces.usage(std::time::Duration::ZERO).unwrap();
    assert_eq!(again, first);
}

/// Random runs that use layers of others, some still going, collected at random.
#[test]
fn whatever_is_collected_what_stays_is_whole() {
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let lab = lab();
        lab.source("a");
        let mut uses: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        let mut going = BTreeSet::new();
        for run in 1..random.i64(2..12) {
            let earlier: Vec<i64> = (1..run).filter(|run| lab.is_there(*run, 0)).collect();
            let pick = |random: &mut fastrand::Rng| -> Vec<i64> {
                earlier.iter().copied().filter(|_| random.u8(0..4) == 0).collect()
            };
            let (below, own) = (pick(&mut random), pick(&mut random));
            let layers = |runs: &[i64]| runs.iter().map(|run| layer(*run, 0)).collect::<Vec<_>>();
            lab.begin(attempt(run, 0), &layers(&below), &layers(&own));
            match random.bool() {
                true => {
                    lab.end(attempt(run, 0));
                    uses.insert(run, own);
                }
                false => drop(going.insert(run)),
            }
            if random.bool() {
                let victims: Vec<i64> = (1..=run).filter(|_| random.bool()).collect();
                let folders_before: BTreeMap<i64, _> = uses
                    .keys()
                    .filter_map(|run| Some((*run, lab.workspaces.layer_paths(&layer(*run, 0))?)))
                    .collect();
                lab.collect(&victims);
                for (run, folders) in
                    folders_before.iter().filter(|(run, _)| !victims.contains(run))
                {
                    let now = lab.workspaces.layer_paths(&layer(*run, 0));
                    assert_eq!(now.as_ref(), Some(folders), "seed {seed}, run {run}");
                }
                for run in &going {
                    let dir = lab.workspaces.attempt_dir(attempt(*run, 0));
                    let used = pieces::read(lab.folder.path(), &dir.join("uses.json")).unwrap();
                    assert!(used.iter().all(|folder| folder.is_dir()), "seed {seed}, run {run}");
                }
            }
        }
        for run in going {
            lab.workspaces.discard(attempt(run, 0)).unwrap();
        }
        lab.collect(&(1..20).collect::<Vec<_>>());
        assert!(lab.workspaces.runs_kept().unwrap().is_empty(), "seed {seed}");
        let mut victims = Victims::default();
        let alone = lab.workspaces.alone().unwrap();
        lab.workspaces.take_derived(&alone, FAR, &mut victims).unwrap();
    }
}
