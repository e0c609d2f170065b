//! What a job's layers stand on: the files of a commit, or a working tree as it is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kiln_api::agent::Assignment;
use kiln_git::{Mirror, WorkingTree};
use kiln_model::RunId;
use kiln_model::layer::{LayerId, Source};
use kiln_workspace::{Base, Workspaces};

/// Working trees whose hidden paths are remembered: those of the runs that go on now.
const REMEMBERED_MAX: usize = 16;

pub(crate) struct Bases {
    workspaces: Arc<Workspaces>,
    mirrors: Mutex<HashMap<PathBuf, Arc<Mirror>>>,
    /// One look at what git ignores serves all jobs of a run.
    trees: Mutex<Vec<(RunId, Base)>>,
}

impl Bases {
    pub fn new(workspaces: Arc<Workspaces>) -> Self {
        Self { workspaces, mirrors: Mutex::default(), trees: Mutex::default() }
    }

    /// The base of an assignment, made if it is not there. Blocking.
    pub fn of(&self, assignment: &Assignment) -> Result<Base, String> {
        match &assignment.source {
            Source::Git { commit, tree } => self.of_tree(assignment, commit, tree),
            Source::WorkingTree { path } => self.of_working_tree(assignment.lease.attempt.run, path),
        }
    }

    fn of_tree(&self, assignment: &Assignment, commit: &str, tree: &str) -> Result<Base, String> {
        if self.workspaces.has_source(tree) {
            return Ok(Base::Source(LayerId::Source(tree.to_owned())));
        }
        let path = assignment.mirror.as_deref().ok_or("the job has a commit and no mirror")?;
        let mirror = self.mirror(path)?;
        let fill = |into: &Path| {
            mirror.checkout(tree, into).map_err(|error| format!("cannot check out {commit}: {error}"))
        };
        let layer = self.workspaces.make_source(tree, fill).map_err(|error| error.to_string())?;
        Ok(Base::Source(layer))
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

    fn of_working_tree(&self, run: RunId, path: &Path) -> Result<Base, String> {
        let mut trees = self.trees.lock().expect("no holder of this lock panics");
        if let Some((_, base)) = trees.iter().find(|(of, _)| *of == run) {
            return Ok(base.clone());
        }
        let tree = WorkingTree::discover(path).map_err(|error| error.to_string())?;
        let hidden = tree.ignored().map_err(|error| error.to_string())?;
        let base = Base::WorkingTree { root: tree.root, hidden };
        if trees.len() >= REMEMBERED_MAX {
            trees.remove(0);
        }
        trees.push((run, base.clone()));
        Ok(base)
    }
}
