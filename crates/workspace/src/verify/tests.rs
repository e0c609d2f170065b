//! Folders of layers that somebody has changed behind our back.

use std::fs;
use std::os::unix::fs::MetadataExt;

use kiln_model::layer::Digest;
use kiln_model::{JobIndex, RunId};

use super::*;
use crate::{Base, Driver, Removed};

struct Lab {
    workspaces: Workspaces,
    folder: tempfile::TempDir,
}

fn lab() -> Lab {
    let folder = tempfile::tempdir().unwrap();
    let workspaces = Workspaces::open(folder.path(), Some(Driver::Overlay)).unwrap();
    Lab { workspaces, folder }
}

fn attempt(run: i64) -> AttemptId {
    AttemptId { run: RunId(run), job: JobIndex(0), attempt: 1 }
}

fn layer(run: i64) -> LayerId {
    LayerId::Attempt(attempt(run).to_string())
}

impl Lab {
    fn source(&self, tree: &str) {
        let fill = |into: &Path, index: &Path| {
            fs::create_dir(into.join("deep")).map_err(|e| e.to_string())?;
            fs::write(into.join("deep/file"), tree).map_err(|e| e.to_string())?;
            fs::write(index, tree).map_err(|e| e.to_string())
        };
        self.workspaces.make_source(tree, fill).unwrap();
    }

    fn over(&self, near: &str, tree: &str) -> bool {
        let fill = |_: (&str, &Path), into: &Path, index: &Path| {
            fs::write(into.join("more"), tree).map_err(|e| e.to_string())?;
            fs::write(index, tree).map_err(|e| e.to_string())?;
            Ok(Some(Removed::default()))
        };
        self.workspaces.make_source_from(near, tree, fill).unwrap().is_some()
    }

    fn attempt(&self, run: i64, text: &str, own: &[LayerId]) {
        self.workspaces.prepare(attempt(run), "project", &Base::Nothing, &[], own).unwrap();
        let upper = self.workspaces.attempt_dir(attempt(run)).join("upper");
        fs::create_dir(upper.join("deep")).unwrap();
        fs::write(upper.join("deep/file"), text).unwrap();
        self.workspaces.seal(attempt(run)).unwrap().unwrap();
    }

    fn verify(&self) -> Verified {
        self.workspaces.verify(|_, _, _| None).unwrap()
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }
}

#[test]
fn what_was_changed_is_set_aside_and_the_rest_stays() {
    let lab = lab();
    lab.source("a");
    for run in 1..4 {
        lab.attempt(run, "written", &[]);
    }
    assert_eq!(lab.verify(), Verified { n_layers: 4, n_new: 4, damaged: vec![] });
    assert_eq!(lab.verify(), Verified { n_layers: 4, n_new: 0, damaged: vec![] });

    // Truncated, and a mode.
    fs::write(lab.at("sealed/1-0-1/deep/file"), "").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(lab.at("sealed/2-0-1/deep/file"), mode).unwrap();
    let verified = lab.verify();
    let found: Vec<_> =
        verified.damaged.iter().map(|damage| (damage.kind, damage.attempt)).collect();
    assert_eq!(
        found,
        [(LayerKind::Layers, Some(attempt(1))), (LayerKind::Layers, Some(attempt(2)))]
    );
    assert_eq!(verified.damaged[0].aside, lab.at("damaged/sealed-1-0-1.1"));
    assert!(lab.at("damaged/sealed-1-0-1.1/deep/file").exists());
    let note = fs::read_to_string(lab.at("damaged/sealed-1-0-1.1.txt")).unwrap();
    assert!(note.contains("not what they were"), "{note}");
    assert!(lab.workspaces.layer_paths(&layer(1)).is_none());
    assert!(lab.workspaces.layer_paths(&layer(3)).is_some());
    assert_eq!(lab.workspaces.aside(&layer(1)), Some(lab.at("damaged/sealed-1-0-1.1")));
    // Run again, it is a new layer, and the old one is nobody's.
    lab.attempt(1, "written", &[]);
    assert_eq!(lab.verify(), Verified { n_layers: 3, n_new: 1, damaged: vec![] });
}

/// A lease that was lost, and the job ran once more under the same attempt.
#[test]
fn another_try_of_an_attempt_is_not_taken_for_damage() {
    let lab = lab();
    lab.attempt(1, "first", &[]);
    lab.verify();
    lab.attempt(1, "second", &[]);
    assert_eq!(lab.verify(), Verified { n_layers: 1, n_new: 1, damaged: vec![] });
}

#[test]
fn a_layer_whose_list_is_damaged_is_set_aside_with_it() {
    let lab = lab();
    lab.attempt(1, "below", &[]);
    lab.attempt(2, "above", &[layer(1)]);
    lab.verify();
    fs::write(lab.at("sealed/2-0-1.own.json"), "[\"sealed/1-").unwrap();
    let damaged = lab.verify().damaged;
    assert_eq!(damaged.iter().map(|damage| damage.attempt).collect::<Vec<_>>(), [Some(attempt(2))]);
    assert!(!lab.at("sealed/2-0-1").exists() && !lab.at("sealed/2-0-1.own.json").exists());
    assert!(lab.workspaces.layer_paths(&layer(1)).is_some());
}

#[test]
fn who_asks_for_a_digest_hears_that_the_layer_was_changed() {
    let lab = lab();
    lab.attempt(1, "written", &[]);
    let digest = lab.workspaces.digest(&layer(1)).unwrap();
    // As a tool does that writes a new file and renames it.
    fs::write(lab.at("sealed/1-0-1/new"), "other").unwrap();
    let error = lab.workspaces.digest(&layer(1)).unwrap_err();
    assert!(matches!(error, WorkspaceError::Missing(_)), "{error}");
    lab.attempt(1, "written", &[]);
    assert_eq!(lab.workspaces.digest(&layer(1)).unwrap(), digest);
}

#[test]
fn a_source_whose_folder_was_changed_is_made_again() {
    let lab = lab();
    lab.source("a");
    assert!(lab.over("a", "b"));
    fs::remove_dir_all(lab.at("sources/a/deep")).unwrap();
    assert!(!lab.workspaces.has_sound_source("b"));
    assert!(!lab.workspaces.has_source("a"));
    lab.source("a");
    assert!(lab.at("sources/a/deep/file").exists());
    assert!(lab.workspaces.has_sound_source("b"));
    fs::write(lab.at("sources/b.over/files/extra"), "").unwrap();
    assert!(!lab.workspaces.has_sound_source("b"));
    assert!(lab.workspaces.has_sound_source("a"));
    assert!(lab.over("a", "b") && lab.workspaces.has_sound_source("b"));
}

#[test]
fn a_source_that_is_not_as_its_index_says_is_set_aside() {
    let lab = lab();
    lab.source("a");
    assert!(lab.over("a", "b"));
    let long = |tree: &str, index: &Path, files: &[(PathBuf, Metadata)]| {
        assert_eq!(fs::read_to_string(index).unwrap(), tree);
        let found = files.iter().find(|(_, meta)| meta.size() > 1);
        found.map(|(path, _)| path.clone())
    };
    assert_eq!(lab.workspaces.verify(long).unwrap().damaged, []);
    fs::write(lab.at("sources/a/deep/file"), "longer").unwrap();
    let damaged = lab.workspaces.verify(long).unwrap().damaged;
    assert_eq!(damaged.len(), 1);
    assert!(damaged[0].why.contains("`deep/file` is not as it was checked out"), "{damaged:?}");
    // The one that stood on it goes on as soon as it is there again.
    assert!(!lab.workspaces.has_source("b"));
    lab.source("a");
    assert!(lab.workspaces.has_sound_source("b"));
}

#[test]
fn a_git_folder_that_borrows_from_nobody_is_made_again() {
    let lab = lab();
    let lender = lab.at("lender\"of\nobjects");
    let fill = |into: &Path, _: Option<&Path>| {
        let git = into.join(".git/objects/info");
        fs::create_dir_all(&git).map_err(|e| e.to_string())?;
        fs::write(into.join(".git/HEAD"), "ref: refs/heads/main\n").map_err(|e| e.to_string())?;
        let line = format!(
            "\"{}\"\n",
            lender.display().to_string().replace('"', "\\\"").replace('\n', "\\n")
        );
        fs::write(git.join("alternates"), line).map_err(|e| e.to_string())
    };
    let made = |lab: &Lab| {
        let before = fs::metadata(lab.at("gits/1-c")).map(|meta| meta.ino()).ok();
        lab.workspaces.make_git("1-c", "a", fill).unwrap();
        before != fs::metadata(lab.at("gits/1-c")).map(|meta| meta.ino()).ok()
    };
    fs::create_dir(&lender).unwrap();
    assert!(made(&lab) && !made(&lab));
    fs::write(lab.at("gits/1-c/.git/objects/info/alternates"), "").unwrap();
    assert!(made(&lab) && !made(&lab));
    fs::write(lab.at("gits/1-c/.git/HEAD"), "").unwrap();
    assert!(made(&lab) && !made(&lab));
    assert!(lab.at("damaged/gits-1-c.2").is_dir());
}

#[test]
fn caches_and_layers_of_images_are_compared_too() {
    let lab = lab();
    let digest = Digest::from_bytes([7; 32]);
    lab.workspaces.make_image_layer(&digest, &vec![0; 1024][..]).unwrap();
    fs::create_dir(lab.at("cached/piece")).unwrap();
    assert_eq!(lab.verify().n_new, 2);
    fs::write(lab.at("cached/piece/file"), "").unwrap();
    fs::write(lab.at(&format!("images/{digest}-root/file")), "").unwrap();
    let kinds: Vec<_> = lab.verify().damaged.iter().map(|damage| damage.kind).collect();
    assert_eq!(kinds, [LayerKind::Caches, LayerKind::Images]);
    assert!(lab.workspaces.image_layer(&digest).is_none());
}

/// A shell whose pin cannot be read holds everything, and keeps nobody from opening the folder.
#[test]
fn a_damaged_pin_stops_collecting_and_nothing_else() {
    let lab = lab();
    lab.attempt(1, "written", &[]);
    let visit = lab.workspaces.visit("project", &Base::Nothing, &[layer(1)]).unwrap();
    fs::write(visit.folder().join("pin.json"), "{").unwrap();
    Workspaces::open(lab.folder.path(), None).unwrap();
    let alone = lab.workspaces.alone().unwrap();
    let mut victims = crate::Victims::default();
    assert!(lab.workspaces.take_runs(&alone, &[RunId(1)].into(), &mut victims).is_err());
    assert!(victims.is_empty() && lab.workspaces.layer_paths(&layer(1)).is_some());
    visit.end().unwrap();
    lab.workspaces.take_runs(&alone, &[RunId(1)].into(), &mut victims).unwrap();
    assert!(!victims.is_empty());
}
