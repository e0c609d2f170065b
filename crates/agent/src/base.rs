//! What a job's layers stand on: the files of a commit, or a working tree as it is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kiln_api::agent::Assignment;
use kiln_git::{CommitInfo, Head, Mirror, WorkingTree};
use kiln_model::layer::{LayerId, Source};
use kiln_model::{RunId, Trigger, TriggerKind};
use kiln_stdx::{Clock, SystemClock};
use kiln_workspace::{Base, GitLayer, Removed, Workspaces};

/// Working trees whose hidden paths are remembered: those of the runs that go on now.
const REMEMBERED_MAX: usize = 16;

/// So far back a source is looked for. Each step is two exchanges with git's pipe, 0.05 ms.
const ANCESTORS_MAX: usize = 16;

pub(crate) struct Bases {
    workspaces: Arc<Workspaces>,
    mirrors: Mutex<HashMap<PathBuf, Arc<Mirror>>>,
    /// The last tree that was asked for of each mirror.
    latest: Mutex<HashMap<PathBuf, String>>,
    /// Trees that are being made.
    turns: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    /// One look at what git ignores serves all jobs of a run.
    trees: Mutex<Vec<(RunId, Base)>>,
}

impl Bases {
    pub fn new(workspaces: Arc<Workspaces>) -> Self {
        Self {
            workspaces,
            mirrors: Mutex::default(),
            latest: Mutex::default(),
            turns: Mutex::default(),
            trees: Mutex::default(),
        }
    }

    /// The base of an assignment, made if it is not there. Blocking.
    pub fn of(&self, assignment: &Assignment) -> Result<Base, String> {
        match &assignment.source {
            Source::Git { commit, tree } => self.of_tree(assignment, commit, tree),
            Source::WorkingTree { path } => {
                self.of_working_tree(assignment.lease.attempt.run, path)
            }
        }
    }

    fn of_tree(&self, assignment: &Assignment, commit: &str, tree: &str) -> Result<Base, String> {
        let path = assignment.mirror.as_deref().ok_or("the job has a commit and no mirror")?;
        let mirror = self.mirror(path)?;
        let turn = self.turn(tree);
        let _alone = lock(&turn);
        let layer = match self.by_difference(&mirror, assignment, commit, tree) {
            Some(layer) => layer,
            None => {
                let fill = |into: &Path, index: &Path| {
                    mirror
                        .checkout(tree, into, index)
                        .map_err(|error| format!("cannot check out {commit}: {error}"))
                };
                self.workspaces.make_source(tree, fill).map_err(|error| error.to_string())?
            }
        };
        lock(&self.latest).insert(mirror.at.clone(), tree.to_owned());
        // Named by the run, not by the commit: tags come and branches move between two runs, and
        // within one run, its reruns included, all jobs see the same.
        let name = format!("{}-{commit}", assignment.lease.attempt.run.0);
        let head = Head { commit, branch: branch(&assignment.trigger) };
        let lend = |into: &Path, index: Option<&Path>| {
            mirror.lend(head, index, into).map_err(|error| error.to_string())
        };
        let git = self.workspaces.make_git(&name, tree, lend).map_err(|error| error.to_string())?;
        Ok(Base::Source { layer, git: Some(git) })
    }

    /// The source by what differs from one that is there. Whatever goes wrong with that goes wrong
    /// again with a full checkout, which then says what, or does not matter.
    fn by_difference(
        &self,
        mirror: &Mirror,
        assignment: &Assignment,
        commit: &str,
        tree: &str,
    ) -> Option<LayerId> {
        if self.workspaces.has_source(tree) {
            return Some(LayerId::Source(tree.to_owned()));
        }
        let near = self.near(mirror, assignment, commit)?;
        let made = self.workspaces.make_source_from(&near, tree, |from, into, index| {
            let update =
                mirror.update(from, tree, into, index).map_err(|error| error.to_string())?;
            Ok(update.map(|update| Removed { gone: update.gone, emptied: update.emptied }))
        });
        made.ok().flatten()
    }

    /// A tree that is there and probably differs little: of the commit before the push, of a recent
    /// ancestor, or the last one of this repository.
    fn near(&self, mirror: &Mirror, assignment: &Assignment, commit: &str) -> Option<String> {
        let there = |tree: &String| self.workspaces.has_source(tree);
        let parent = |commit: &CommitInfo| mirror.commit(commit.parents.first()?).ok();
        let before = assignment.trigger.before.as_deref();
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

    fn mirror(&self, path: &Path) -> Result<Arc<Mirror>, String> {
        let mut mirrors = self.mirrors.lock().expect("no holder of this lock panics");
        if let Some(mirror) = mirrors.get(path) {
            return Ok(mirror.clone());
        }
        // The server has made the mirror before it planned the run; here it is only read.
        let mirror = Mirror::existing(path).map_err(|error| error.to_string())?;
        let mirror = Arc::new(mirror);
        mirrors.insert(path.to_owned(), mirror.clone());
        Ok(mirror)
    }

    /// A `.git` for a tree whose own is elsewhere. Made anew by every process: between a run and its
    /// rerun a person commits.
    fn lend(&self, run: RunId, tree: &WorkingTree) -> Result<GitLayer, String> {
        let name = format!("{}-at-{}", run.0, SystemClock.now().as_millis());
        let fill = |into: &Path, _: Option<&Path>| tree.lend(into).map_err(|e| e.to_string());
        self.workspaces.make_git(&name, &name, fill).map_err(|error| error.to_string())
    }

    fn of_working_tree(&self, run: RunId, path: &Path) -> Result<Base, String> {
        let mut trees = self.trees.lock().expect("no holder of this lock panics");
        if let Some((_, base)) = trees.iter().find(|(of, _)| *of == run) {
            return Ok(base.clone());
        }
        let tree = WorkingTree::discover(path).map_err(|error| error.to_string())?;
        let hidden = tree.ignored().map_err(|error| error.to_string())?;
        let git = match tree.is_linked() {
            true => Some(self.lend(run, &tree)?),
            false => None,
        };
        let base = Base::WorkingTree { root: tree.root, hidden, git };
        if trees.len() >= REMEMBERED_MAX {
            trees.remove(0);
        }
        trees.push((run, base.clone()));
        Ok(base)
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
