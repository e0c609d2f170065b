//! What a job's layers stand on: the files of a commit, or a working tree as it is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kiln_api::agent::Assignment;
use kiln_git::{CommitInfo, Head, Mirror};
use kiln_model::layer::{LayerId, Source};
use kiln_model::plan::View;
use kiln_model::{RunId, Trigger, TriggerKind};
use kiln_workspace::{Base, Removed, Workspaces};

use crate::flatten::Flattener;
use crate::named;
use crate::past::{self, told};

/// Working trees whose hidden paths are remembered: those of the runs that go on now.
const REMEMBERED_MAX: usize = 16;

/// So far back a source is looked for. Each step is two exchanges with git's pipe, 0.05 ms.
const ANCESTORS_MAX: usize = 16;

/// Finds and makes bases. What was made only to come back to a working tree goes with it.
#[derive(Debug)]
pub struct Bases {
    workspaces: Arc<Workspaces>,
    mirrors: Mutex<HashMap<PathBuf, Arc<Mirror>>>,
    /// The last tree that was asked for of each mirror.
    latest: Mutex<HashMap<PathBuf, String>>,
    /// Trees that are being made.
    turns: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    flattener: Flattener,
    /// One look at the tree serves all jobs of a run.
    trees: Mutex<Vec<(RunId, Base)>>,
    /// Folders over working trees that nobody finds again.
    passing: Mutex<Vec<PathBuf>>,
}

impl Drop for Bases {
    fn drop(&mut self) {
        for folder in lock(&self.passing).drain(..) {
            // What stays is removed by the next process, as after a crash.
            let _ = self.workspaces.remove_temporary(&folder);
        }
    }
}

impl Bases {
    pub fn new(workspaces: Arc<Workspaces>) -> Self {
        Self::with(workspaces, None)
    }

    /// With the base of a run that begins.
    pub(crate) fn with(workspaces: Arc<Workspaces>, begins: Option<(RunId, Base)>) -> Self {
        Self {
            workspaces,
            mirrors: Mutex::default(),
            latest: Mutex::default(),
            turns: Mutex::default(),
            flattener: Flattener::default(),
            trees: Mutex::new(begins.into_iter().collect()),
            passing: Mutex::default(),
        }
    }

    /// The base of an assignment, made if it is not there. Blocking.
    pub fn of(&self, assignment: &Assignment) -> Result<Base, String> {
        if assignment.job.workspace == View::Nothing {
            return Ok(Base::Nothing);
        }
        let run = assignment.lease.attempt.run;
        let mirror = assignment.mirror.as_deref();
        let base = self.of_run(run, &assignment.trigger, &assignment.source, mirror)?;
        Ok(if named::sees_git(&assignment.job) { base } else { without_git(base) })
    }

    /// The base of a run: the files of its commit, or those of the working tree when the run began.
    /// Blocking.
    pub fn of_run(
        &self,
        run: RunId,
        trigger: &Trigger,
        source: &Source,
        mirror: Option<&Path>,
    ) -> Result<Base, String> {
        match source {
            Source::Git { commit, tree } => {
                let mirror = mirror.ok_or("the job has a commit and no mirror")?;
                self.of_tree(run, trigger, mirror, (commit, tree))
            }
            Source::WorkingTree { path } => self.of_working_tree(run, path),
        }
    }

    fn of_tree(
        &self,
        run: RunId,
        trigger: &Trigger,
        path: &Path,
        (commit, tree): (&str, &str),
    ) -> Result<Base, String> {
        let mirror = self.mirror(path)?;
        let turn = self.turn(tree);
        let _alone = lock(&turn);
        let layer = match self.by_difference(&mirror, trigger, commit, tree) {
            Some(layer) => {
                self.flattener.look_at(&self.workspaces, &mirror, tree);
                layer
            }
            None => {
                let fill = |into: &Path, index: &Path| {
                    mirror
                        .checkout(tree, into, index)
                        .map_err(|error| format!("cannot check out {commit}: {}", told(&error)))
                };
                self.workspaces.make_source(tree, fill).map_err(|error| told(&error))?
            }
        };
        lock(&self.latest).insert(mirror.at.clone(), tree.to_owned());
        // Named by the run, not by the commit: tags come and branches move between two runs, and
        // within one run, its reruns included, all jobs see the same.
        let name = format!("{}-{commit}", run.0);
        let head = Head { commit, branch: branch(trigger) };
        let lend = |into: &Path, index: Option<&Path>| {
            mirror.lend(head, index, into).map_err(|error| told(&error))
        };
        let git = self.workspaces.make_git(&name, tree, lend).map_err(|error| told(&error))?;
        Ok(Base::Source { layer, git: Some(git) })
    }

    /// The source by what differs from one that is there. Whatever goes wrong with that goes wrong
    /// again with a full checkout, which then says what, or does not matter.
    fn by_difference(
        &self,
        mirror: &Mirror,
        trigger: &Trigger,
        commit: &str,
        tree: &str,
    ) -> Option<LayerId> {
        if self.workspaces.has_sound_source(tree) {
            return Some(LayerId::Source(tree.to_owned()));
        }
        let near = self.near(mirror, trigger, commit)?;
        let made = self.workspaces.make_source_from(&near, tree, |from, into, index| {
            let update = mirror.update(from, tree, into, index).map_err(|error| told(&error))?;
            Ok(update.map(|update| Removed { gone: update.gone, emptied: update.emptied }))
        });
        made.ok().flatten()
    }

    /// A tree that is there and probably differs little: of the commit before the push, of a recent
    /// ancestor, or the last one of this repository.
    fn near(&self, mirror: &Mirror, trigger: &Trigger, commit: &str) -> Option<String> {
        let there = |tree: &String| self.workspaces.has_sound_source(tree);
        let parent = |commit: &CommitInfo| mirror.commit(commit.parents.first()?).ok();
        let before = trigger.before.as_deref();
        let before = before.and_then(|commit| mirror.commit(commit).ok());
        let ancestors = std::iter::successors(mirror.commit(commit).ok(), parent).skip(1);
        let candidates = before.into_iter().chain(ancestors.take(ANCESTORS_MAX));
        let mut trees = candidates.map(|commit| commit.tree);
        trees.find(there).or_else(|| lock(&self.latest).get(&mirror.at).cloned().filter(there))
    }

    /// Held while a tree is made: a second maker would only do the same work twice.
    fn turn(&self, tree: &str) -> Arc<Mutex<()>> {
        let mut turns = lock(&self.turns);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(tree.to_owned()).or_default().clone()
    }

    pub(crate) fn mirror(&self, path: &Path) -> Result<Arc<Mirror>, String> {
        let mut mirrors = self.mirrors.lock().expect("no holder of this lock panics");
        if let Some(mirror) = mirrors.get(path) {
            return Ok(mirror.clone());
        }
        // The server has made the mirror before it planned the run; here it is only read.
        let mirror = Mirror::existing(path).map_err(|error| {
            format!("{}; the next push or `kiln trigger` makes the mirror again", told(&error))
        })?;
        let mirror = Arc::new(mirror);
        mirrors.insert(path.to_owned(), mirror.clone());
        Ok(mirror)
    }

    fn of_working_tree(&self, run: RunId, path: &Path) -> Result<Base, String> {
        let mut trees = lock(&self.trees);
        if let Some((_, base)) = trees.iter().find(|(of, _)| *of == run) {
            return Ok(base.clone());
        }
        let base = past::come_back(&self.workspaces, run, path)?;
        if let Base::WorkingTree { over, .. } = &base {
            lock(&self.passing).extend_from_slice(over);
        }
        if trees.len() >= REMEMBERED_MAX {
            trees.remove(0);
        }
        trees.push((run, base.clone()));
        Ok(base)
    }
}

fn without_git(base: Base) -> Base {
    match base {
        Base::Source { layer, .. } => Base::Source { layer, git: None },
        Base::WorkingTree { root, mut hidden, over, .. } => {
            hidden.push(".git".into());
            Base::WorkingTree { root, hidden, git: None, over }
        }
        Base::Nothing => Base::Nothing,
    }
}

/// The branch that HEAD is. The one of a pull request may be in another repository.
fn branch(trigger: &Trigger) -> Option<&str> {
    trigger.branch.as_deref().filter(|_| trigger.kind != TriggerKind::PullRequest)
}

/// Nothing half done is left by a panic in a holder of one of these.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
