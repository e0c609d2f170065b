//! The working tree of a local run: looked at when the run begins, and come back to later.
//!
//! ```text
//! kiln run:    look ─▶ base: the tree as it is ─▶ jobs
//!                └──▶ kept beside: index, differing files, `.git`, second names of objects
//! kiln rerun:  kept ─▶ look again ─▶ base: the tree, and over it whatever has changed since
//! ```
//!
//! Coming back costs a look and what changed between then and now, never the size of the tree.

use std::collections::HashSet;
use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use kiln_git::{Look, WorkingTree};
use kiln_model::RunId;
use kiln_stdx::fs::Named;
use kiln_stdx::{Clock, SystemClock};
use kiln_workspace::{Base, GitLayer, KeptTree, Workspaces};

/// A working tree, looked at.
#[derive(Debug)]
pub struct Looked {
    tree: WorkingTree,
    index: Option<File>,
    look: Look,
    /// Jobs see what git ignores, too.
    all: bool,
}

/// Keeps the files of a run. Gives why that could not be done, if so.
pub type Keeping = JoinHandle<Option<String>>;

/// A run that begins in this process: its base, and who is keeping it.
#[derive(Debug)]
pub struct Begun {
    pub run: RunId,
    pub base: Base,
    pub keeping: Keeping,
}

impl Looked {
    /// One question to git, as long as its `git status` takes. Blocking.
    pub fn at(tree: WorkingTree, all: bool) -> Result<Self, String> {
        // The index first: what is staged a moment later is then a difference and kept as a file.
        let index = tree.open_index().map_err(|error| told(&error))?;
        let look = tree.look_now(index.as_ref()).map_err(|error| told(&error))?;
        Ok(Self { tree, index, look, all })
    }

    /// The run's base, and what makes it possible to come back to it, kept beside the run.
    pub fn begin(self, workspaces: Arc<Workspaces>, run: RunId) -> Result<Begun, String> {
        let git = match self.tree.is_linked() {
            true => Some(self.keep_git(&workspaces, &format!("{}-then", run.0))?),
            false => None,
        };
        let hidden = if self.all { Vec::new() } else { self.look.ignored.clone() };
        let root = self.tree.root.clone();
        let base = Base::WorkingTree { root, hidden, git: git.clone(), over: Vec::new() };
        let keeping = std::thread::spawn(move || match self.keep(&workspaces, run, git) {
            Ok(kept) => kept.lack,
            Err(message) => Some(message),
        });
        Ok(Begun { run, base, keeping })
    }

    fn keep(
        self,
        workspaces: &Workspaces,
        run: RunId,
        git: Option<GitLayer>,
    ) -> Result<KeptTree, String> {
        let git = match git {
            Some(git) => git,
            None => self.keep_git(workspaces, &format!("{}-then", run.0))?,
        };
        if let Some(objects) = self.tree.objects() {
            let pinned = workspaces.pinned(&objects).map_err(|error| told(&error))?;
            // Where that cannot be, the repository itself is asked later.
            self.tree.pin_objects(&pinned).map_err(|error| told(&error))?;
        }
        let wanted = [&self.look.changed[..], &self.look.untracked].concat();
        let record = KeptTree {
            all: self.all,
            deleted: self.look.deleted,
            git: Some(git),
            ..KeptTree::default()
        };
        let files = (&wanted[..], &self.look.ignored[..]);
        let (root, index) = (&self.tree.root, self.index.as_ref());
        workspaces.keep_tree(run, root, files, index, record).map_err(|error| told(&error))
    }

    fn keep_git(&self, workspaces: &Workspaces, name: &str) -> Result<GitLayer, String> {
        let objects = self.tree.objects().ok_or("the repository has no objects")?;
        let pinned = workspaces.pinned(&objects).map_err(|error| told(&error))?;
        let fill = |into: &Path, _: Option<&Path>| {
            let written = self.tree.keep_git(self.index.as_ref(), &pinned, into);
            written.map_err(|error| told(&error))?;
            // Beside a `.git` that was a file lie those of submodules, in folders of the tree.
            let looked_like = match self.tree.is_linked() {
                true => workspaces.look_like(&self.tree.root, into),
                false => Ok(()),
            };
            looked_like.map_err(|error| told(&error))
        };
        workspaces.make_git(name, name, fill).map_err(|error| told(&error))
    }
}

/// The working tree of an earlier run as it was then, or as it is now when nothing was kept.
pub(crate) fn come_back(workspaces: &Workspaces, run: RunId, path: &Path) -> Result<Base, String> {
    let tree = WorkingTree::discover(path).map_err(|error| told(&error))?;
    let kept = workspaces.kept_tree(run).map_err(|error| told(&error))?;
    match kept {
        Some(kept) if kept.lack.is_none() => restore(workspaces, run, &tree, kept).map_err(|why| {
            format!("the files cannot be made again as they were when the run began: {why}")
        }),
        _ => as_it_is(workspaces, run, tree, kept.is_some_and(|kept| kept.all)),
    }
}

fn as_it_is(
    workspaces: &Workspaces,
    run: RunId,
    tree: WorkingTree,
    all: bool,
) -> Result<Base, String> {
    let looked = Looked::at(tree, all)?;
    let git = match looked.tree.is_linked() {
        true => Some(
            looked
                .keep_git(workspaces, &format!("{}-at-{}", run.0, SystemClock.now().as_millis()))?,
        ),
        false => None,
    };
    let hidden = if all { Vec::new() } else { looked.look.ignored };
    Ok(Base::WorkingTree { root: looked.tree.root, hidden, git, over: Vec::new() })
}

fn restore(
    workspaces: &Workspaces,
    run: RunId,
    tree: &WorkingTree,
    kept: KeptTree,
) -> Result<Base, String> {
    let index = workspaces.kept_index(run);
    let now = tree.look(&index).map_err(|error| told(&error))?;
    let hidden = hidden_now(&now, &kept);
    let known: HashSet<&PathBuf> = kept.files.iter().chain(&kept.deleted).collect();
    let mut again = [now.changed, now.deleted].concat();
    again.retain(|path| !known.contains(path));
    let mut over = Vec::new();
    if !again.is_empty() {
        let objects = tree.objects().ok_or("the repository has no objects")?;
        let pinned = workspaces.pinned(&objects).map_err(|error| told(&error))?;
        let layer = workspaces.temporary().map_err(|error| told(&error))?;
        tree.write_files(&index, &again, &pinned, &layer).map_err(|error| told(&error))?;
        workspaces.look_like(&tree.root, &layer).map_err(|error| told(&error))?;
        over.push(layer);
    }
    if !kept.files.is_empty() {
        let files = workspaces.kept_files(run);
        std::fs::metadata(&files).named("read", &files).map_err(|error| told(&error))?;
        over.push(files);
    }
    Ok(Base::WorkingTree { root: tree.root.clone(), hidden, git: kept.git, over })
}

/// What must not be seen: what has come since, what was deleted then, and the `.git` of now, in whose
/// place the one of then is.
fn hidden_now(now: &Look, kept: &KeptTree) -> Vec<PathBuf> {
    let mut hidden = [&now.untracked[..], &kept.deleted].concat();
    if !kept.all {
        hidden.extend_from_slice(&now.ignored);
    }
    if kept.git.is_some() {
        hidden.push(".git".into());
    }
    hidden
}

/// An error with its causes, on one line.
pub(crate) fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        text = format!("{text}: {deeper}");
        cause = deeper.source();
    }
    text
}

#[cfg(test)]
mod tests;
