//! Collecting what is no longer wanted: runs, logs, artifacts, layers, caches and what crashes leave.
//!
//! ```text
//! what needs no row      layers by age and number ─▶ sources ─▶ caches, images ─▶ by share of the disk
//! rows, then files       artifacts ─▶ logs ─▶ runs
//! files without rows     logs, objects, mirrors and left-overs that nobody names
//! ```
//!
//! Layers have no row that says whether they are there: whoever shows one looks. So they can go on a
//! disk without a free byte, and give the database room for the rest, whose rows say that a thing is
//! gone before it is.
//!
//! Always: nothing is taken from a run that is not over or is pinned; a run's layers are only taken
//! while nobody can begin to use them; after a crash anywhere, what rows promise is there, and the
//! next pass finds what is left over.
//!
//! Elsewhere: when it is done (`background`); taking layers away (`agent`, by way of
//! [`kiln_api::layers`]).

pub(crate) mod policy;
mod tally;
mod layers;
mod rows;
mod sweep;
mod disk;
mod usage;
mod pack;
mod verify;
mod reserve;
mod background;

use std::collections::BTreeSet;
use std::sync::Arc;

use kiln_api::layers::{Held, Layers};
use kiln_api::user::{AskGc, GcReport};
use kiln_model::RunId;
use kiln_model::layer::Source;
use kiln_stdx::{Clock, Timestamp};
use kiln_store::log::Logs;
use kiln_store::object::Objects;
use kiln_store::{ProjectRow, RunRow, Store, StoreError};

pub use background::Background;
pub use policy::{Policy, PolicyError};
pub use reserve::{make as keep_room, spend_if_full as make_room};

use crate::runs::{Places, Runs};
use tally::Tally;

/// How thorough a pass is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What rows and the names of folders tell.
    Usual,
    /// Files that no row names, too: every name of an object is looked at.
    Sweep,
}

/// Collects in one data folder. Cheap to clone.
#[derive(Clone)]
pub struct Collector {
    store: Store,
    logs: Logs,
    objects: Objects,
    places: Places,
    clock: Arc<dyn Clock>,
    layers: Arc<dyn Layers>,
    /// One pass at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// What memory holds of runs that are removed is dropped there.
    runs: Runs,
}

/// What one pass goes by.
struct Pass<'a> {
    collector: &'a Collector,
    policy: &'a Policy,
    projects: Vec<(ProjectRow, Vec<RunRow>)>,
    now: Timestamp,
    dry: bool,
    tally: Tally,
}

impl Collector {
    pub fn new(runs: &Runs, layers: Arc<dyn Layers>) -> Self {
        Self {
            store: runs.store().clone(),
            logs: runs.logs().clone(),
            objects: runs.objects().clone(),
            places: runs.places().clone(),
            clock: runs.clock().clone(),
            layers,
            turn: Arc::default(),
            runs: runs.clone(),
        }
    }

    /// One pass. Trouble with one thing does not keep it from the others, and is in the report.
    pub async fn collect(&self, policy: &Policy, dry: bool, depth: Depth) -> GcReport {
        let _turn = self.turn.lock().await;
        if !dry {
            // Without it, SQLite may not even be able to say what is gone.
            reserve::spend_if_full(&self.places.data);
        }
        let projects = self.store.projects(1).await;
        let mut pass = Pass {
            collector: self,
            policy,
            projects: Vec::new(),
            now: self.clock.now(),
            dry,
            tally: Tally::default(),
        };
        match projects {
            Ok(projects) => {
                pass.projects = projects;
                pass.go(depth).await;
            }
            Err(error) => pass.tally.trouble("cannot read the projects", &error),
        }
        if !dry {
            reserve::make(&self.places.data);
        }
        pass.tally.report(dry)
    }

    /// A pass as somebody asked for it.
    pub async fn answer(&self, policy: &Policy, ask: &AskGc) -> GcReport {
        let verified = match ask.verify && !ask.dry_run {
            true => Some(self.verify().await),
            false => None,
        };
        let mut report = self.collect(policy, ask.dry_run, Depth::Sweep).await;
        match verified {
            Some(Ok(verified)) => report.verified = Some(verified),
            Some(Err(error)) => report.trouble.push(format!("cannot read the layers: {error}")),
            None => {}
        }
        report
    }

    /// What nothing may be taken from, as rows say now.
    async fn held(&self) -> Result<Held, StoreError> {
        let runs: BTreeSet<RunId> = self.store.held_runs().await?.into_iter().collect();
        let mut trees = BTreeSet::new();
        for run in &runs {
            match self.store.run(*run).await {
                Ok(row) => trees.extend(tree_of(&row)),
                Err(StoreError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Held { runs, trees })
    }
}

impl Pass<'_> {
    async fn go(&mut self, depth: Depth) {
        self.layers().await;
        self.sources().await;
        self.caches().await;
        self.images().await;
        self.rest_of_layers().await;
        self.disk().await;
        self.artifacts().await;
        self.logs().await;
        self.runs().await;
        if depth == Depth::Sweep {
            self.sweep().await;
        }
        if !self.dry {
            self.give_back_pages().await;
        }
    }

    fn store(&self) -> &Store {
        &self.collector.store
    }

    /// By id.
    fn name_of(&self, id: kiln_model::ProjectId) -> Option<String> {
        let found = self.projects.iter().find(|(project, _)| project.id == id);
        found.map(|(project, _)| project.name.to_string())
    }

    /// Disk work on a thread that may wait.
    async fn blocking<T: Send + 'static>(
        &mut self,
        doing: &str,
        work: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Option<T> {
        let done = tokio::task::spawn_blocking(work).await;
        let done = done.unwrap_or_else(|panic| Err(panic.to_string()));
        done.map_err(|error| self.tally.say(format!("{doing}: {error}"))).ok()
    }
}

fn tree_of(row: &RunRow) -> Option<String> {
    match &row.source {
        Source::Git { tree, .. } => Some(tree.clone()),
        Source::WorkingTree { .. } => None,
    }
}
