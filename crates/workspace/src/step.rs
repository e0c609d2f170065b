//! The files of an attempt as each of its steps found them: the boundaries of its steps.
//!
//! Where trees are stacked, a boundary costs no copy: what was written so far stays where it is and
//! becomes a layer, and the next steps write into a new top above it. Where they are not, the
//! difference so far is copied.
//!
//! ```text
//! attempts/<attempt>/upper       what was written before the first boundary that found anything
//!                    upper.<n>   what was written from the step at position n on
//!                    step.<n>    that the files before the step at n are kept: those below a top
//!                    at.<n>      the difference so far, of a copy
//! sealed/<attempt>.<n>           a top of several
//!        <attempt>.at-<n>        a difference of several
//!        <attempt>.steps.json    which folders each step found, and the outputs given so far
//! ```
//!
//! Always: what is below the present top never changes. A boundary is known only when nothing can be
//! written into it any more. Marks are not synced: after a loss of power nothing of the attempt counts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kiln_model::AttemptId;
use kiln_model::layer::LayerId;
use kiln_stdx::fs::{FsError, Named};
use kiln_stdx::overlay::Mount;
use serde::{Deserialize, Serialize};

use crate::workspaces::{RECORD, TREE, UPPER, WORK};
use crate::{WorkspaceError, Workspaces, copy, flatten, pieces, record, tree};

/// Names in an attempt's folder that are about boundaries begin so.
const MARK: &str = "step.";
const COPY: &str = "at.";

/// More folders than this below a living top are merged. The kernel stacks 500.
const LIVING_MAX: usize = 480;

/// Says that the files before a step are kept.
#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    /// They are what lies below this top, by its position.
    top: u32,
    /// They are a difference of their own.
    #[serde(default)]
    copied: bool,
    /// What the steps before had given as outputs; absent: as at the boundary before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output: Option<String>,
}

/// The boundaries of a sealed attempt.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Steps {
    /// Relative to the root of all layers, lowest first.
    folders: Vec<String>,
    steps: Vec<Step>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Step {
    step: u32,
    /// A range of `folders`.
    from: usize,
    to: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output: Option<String>,
}

impl Workspaces {
    /// The workspace of a living attempt with what was written so far as a layer below a new, empty
    /// top, for the step at this position to write into; to be mounted in the place of `mount`. `None`
    /// when nothing was written since the last boundary, which is then this one's too.
    pub fn new_top(
        &self,
        attempt: AttemptId,
        step: u32,
        mount: &Mount,
    ) -> Result<Option<Mount>, WorkspaceError> {
        if tree::is_empty(&mount.upper)? {
            return Ok(None);
        }
        let dir = self.attempt_dir(attempt);
        let (upper, work) =
            (dir.join(format!("{UPPER}.{step}")), dir.join(format!("{WORK}.{step}")));
        for folder in [&upper, &work] {
            // Of a try before a restart.
            tree::remove(folder)?;
            fs::create_dir(folder).named("create", folder)?;
        }
        // The top's attributes are what the job sees of its own root.
        let looks = fs::metadata(&mount.upper).named("read", &mount.upper)?;
        tree::set_attributes(&upper, &looks)?;
        let mut lowers = Vec::with_capacity(mount.lowers.len() + 1);
        lowers.push(mount.upper.clone());
        lowers.extend(mount.lowers.iter().cloned());
        if lowers.len() > LIVING_MAX {
            lowers = fewer(&dir, step, lowers, mount.user)?;
        }
        Ok(Some(Mount { lowers, upper, work, at: mount.at.clone(), user: mount.user }))
    }

    /// Notes that what the step at this position finds is kept. `mount`: how the workspace is mounted
    /// now, its top empty; without one the difference so far is copied. `output`: what the steps before
    /// have given, when that is not what was noted last.
    pub fn keep_step(
        &self,
        attempt: AttemptId,
        step: u32,
        mount: Option<&Mount>,
        output: Option<String>,
    ) -> Result<(), WorkspaceError> {
        let dir = self.attempt_dir(attempt);
        let mark = match mount {
            Some(mount) => Mark { top: position(&mount.upper), copied: false, output },
            None => Mark { top: 0, copied: copy_so_far(&dir, step)?, output },
        };
        let text = serde_json::to_vec(&mark).unwrap_or_default();
        Ok(write_unsynced(&dir.join(format!("{MARK}{step}")), &text)?)
    }

    /// Makes the boundaries of an attempt that wrote no file known, and forgets them in its folder.
    pub fn keep_steps_of_nothing(&self, attempt: AttemptId) -> Result<(), WorkspaceError> {
        let dir = self.attempt_dir(attempt);
        let marks = marks(&dir)?;
        write_steps(self, attempt, &[], &marks, &[])?;
        for (step, _) in marks {
            tree::remove(&dir.join(format!("{MARK}{step}")))?;
        }
        Ok(())
    }

    /// Positions of the steps of a sealed attempt whose files are kept.
    pub fn steps_kept(&self, attempt: AttemptId) -> Vec<u32> {
        let steps = read_steps(&self.steps_file(&attempt.to_string())).unwrap_or_default();
        steps.steps.into_iter().map(|step| step.step).collect()
    }

    /// What the steps before a boundary had given as outputs; `None`: nothing, or it is not there.
    pub fn output_before(&self, boundary: &LayerId) -> Option<String> {
        let LayerId::Boundary(name) = boundary else { return None };
        let (attempt, step) = parts(name)?;
        let steps = read_steps(&self.steps_file(attempt)).ok()?;
        let before = steps.steps.into_iter().filter(|known| known.step <= step);
        before.filter_map(|known| known.output).next_back()
    }

    /// The folders of a boundary, lowest first; `None` when it, or one of them, is not there.
    pub(crate) fn boundary_paths(&self, name: &str) -> Option<Vec<PathBuf>> {
        let (attempt, step) = parts(name)?;
        let steps = read_steps(&self.steps_file(attempt)).ok()?;
        let known = steps.steps.iter().find(|known| known.step == step)?;
        let names = steps.folders.get(known.from..known.to)?;
        let folders: Vec<_> = names.iter().map(|name| self.root().join(name)).collect();
        folders.iter().all(|folder| folder.is_dir()).then_some(folders)
    }

    fn steps_file(&self, attempt: &str) -> PathBuf {
        self.sealed().join(format!("{attempt}.steps.json"))
    }

    /// All tops of an attempt become its layer. Whether there is one.
    pub(crate) fn seal_tops(&self, attempt: AttemptId) -> Result<bool, WorkspaceError> {
        let (dir, sealed) = (self.attempt_dir(attempt), self.sealed().join(attempt.to_string()));
        let own = pieces::read(self.root(), &dir.join(pieces::OWN))?;
        let tops = tops(&dir)?;
        let alone = tops.iter().all(|(position, _)| *position == 0);
        let to = |position: u32| match alone {
            true => sealed.clone(),
            false => with_end(&sealed, &format!(".{position}")),
        };
        let tops: Vec<_> = tops.into_iter().map(|(at, from)| (at, from, to(at))).collect();
        let layers: Vec<_> = tops.iter().map(|(at, _, to)| (*at, to.clone())).collect();
        write_steps(self, attempt, &own, &marks(&dir)?, &layers)?;
        // What an older try of the same attempt may have left. The list before the tops: without it
        // they would be too little, and until all of them are there it names what is not.
        tree::remove(&sealed)?;
        let mut list = own.clone();
        if !alone {
            list.extend(layers.into_iter().map(|(_, to)| to));
        }
        pieces::write_of(self.root(), &sealed, &list)?;
        for (_, from, to) in &tops {
            tree::remove(&copy::gone_file(to))?;
            self.replace(from, to)?;
        }
        Ok(!tops.is_empty() || !own.is_empty())
    }

    /// The boundaries of a copied workspace become layers.
    pub(crate) fn seal_copied_steps(&self, attempt: AttemptId) -> Result<(), WorkspaceError> {
        let (dir, sealed) = (self.attempt_dir(attempt), self.sealed().join(attempt.to_string()));
        let marks = marks(&dir)?;
        let mut layers = Vec::new();
        for (step, _) in marks.iter().filter(|(_, mark)| mark.copied) {
            let from = dir.join(format!("{COPY}{step}"));
            let to = with_end(&sealed, &format!(".at-{step}"));
            let gone = copy::gone_file(&to);
            fs::rename(copy::gone_file(&from), &gone).named("create", &gone)?;
            self.replace(&from, &to)?;
            layers.push((*step, to));
        }
        Ok(write_steps(self, attempt, &[], &marks, &layers)?)
    }
}

/// Whether a name in an attempt's folder is a mark. It tells nothing that was written.
pub(crate) fn is_mark(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(MARK))
}

/// Removes the marks of an attempt whose folder goes to another.
pub(crate) fn forget(dir: &Path) -> Result<(), FsError> {
    for (step, _) in marks(dir)? {
        tree::remove(&dir.join(format!("{MARK}{step}")))?;
    }
    Ok(())
}

/// Highest first, as they are mounted: those that are the attempt's own merged into one.
fn fewer(dir: &Path, step: u32, lowers: Vec<PathBuf>, user: bool) -> Result<Vec<PathBuf>, FsError> {
    let n_own = lowers.iter().take_while(|lower| lower.parent() == Some(dir)).count();
    let merged = dir.join(format!("merged.{step}"));
    tree::remove(&merged)?;
    fs::create_dir(&merged).named("create", &merged)?;
    for own in lowers[..n_own].iter().rev() {
        flatten::merge(own, &merged, user)?;
    }
    Ok([merged].into_iter().chain(lowers.into_iter().skip(n_own)).collect())
}

/// Copies what an attempt has written so far; `false` when that is nothing.
fn copy_so_far(dir: &Path, step: u32) -> Result<bool, FsError> {
    let layer = dir.join(format!("{COPY}{step}"));
    tree::remove(&layer)?;
    tree::remove(&copy::gone_file(&layer))?;
    fs::create_dir(&layer).named("create", &layer)?;
    let before = record::Record::read(&dir.join(RECORD))?;
    copy::copy_difference(&dir.join(TREE), &before, &layer)
}

/// The position from which on a top was written.
fn position(upper: &Path) -> u32 {
    let name = upper.extension().and_then(|end| end.to_str());
    name.and_then(|end| end.parse().ok()).unwrap_or(0)
}

/// The tops of an attempt that hold something, lowest first.
fn tops(dir: &Path) -> Result<Vec<(u32, PathBuf)>, FsError> {
    let mut found = Vec::new();
    for (path, meta) in tree::entries(dir)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let at = match name.strip_prefix(UPPER) {
            Some("") => Some(0),
            Some(rest) => rest.strip_prefix('.').and_then(|at| at.parse().ok()),
            None => None,
        };
        if let Some(at) = at.filter(|_| meta.is_dir())
            && !tree::is_empty(&path)?
        {
            found.push((at, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn marks(dir: &Path) -> Result<Vec<(u32, Mark)>, FsError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).named("list", dir)? {
        let name = entry.named("list", dir)?.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix(MARK)?.parse().ok());
        let Some(step) = step else { continue };
        let path = dir.join(&name);
        let text = fs::read(&path).named("read", &path)?;
        let mark = serde_json::from_slice(&text).map_err(io::Error::other).named("read", &path)?;
        found.push((step, mark));
    }
    found.sort_unstable_by_key(|(step, _)| *step);
    Ok(found)
}

/// Writes what each step found: of `own` folders and of `layers`, each with its position.
fn write_steps(
    workspaces: &Workspaces,
    attempt: AttemptId,
    own: &[PathBuf],
    marks: &[(u32, Mark)],
    layers: &[(u32, PathBuf)],
) -> Result<(), FsError> {
    let file = workspaces.steps_file(&attempt.to_string());
    if marks.is_empty() {
        return tree::remove(&file);
    }
    let root = workspaces.root();
    // All names below the root are kiln's own, and plain text.
    let name = |folder: &PathBuf| {
        folder.strip_prefix(root).unwrap_or(folder).to_string_lossy().into_owned()
    };
    let folders = own.iter().chain(layers.iter().map(|(_, folder)| folder)).map(name).collect();
    let before = |position: u32| own.len() + layers.partition_point(|(at, _)| *at < position);
    let range = |step: u32, mark: &Mark| match mark.copied {
        true => (before(step), before(step) + 1),
        false => (0, before(mark.top)),
    };
    let steps = marks.iter().map(|(step, mark)| {
        let (from, to) = range(*step, mark);
        Step { step: *step, from, to, output: mark.output.clone() }
    });
    let steps = Steps { folders, steps: steps.collect() };
    write_unsynced(&file, &serde_json::to_vec(&steps).unwrap_or_default())
}

fn read_steps(file: &Path) -> io::Result<Steps> {
    Ok(serde_json::from_slice(&fs::read(file)?)?)
}

/// `7-0-1.2` as the attempt and the position.
fn parts(name: &str) -> Option<(&str, u32)> {
    let (attempt, step) = name.split_once('.')?;
    attempt.parse::<AttemptId>().ok()?;
    Some((attempt, step.parse().ok()?))
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(end);
    path.into()
}

/// Whole or not at all after the death of any process.
pub(crate) fn write_unsynced(path: &Path, bytes: &[u8]) -> Result<(), FsError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let temporary = tree::temporary_in(folder);
    fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path)).named("write", path)
}
