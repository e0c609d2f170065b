//! Loops that make what is recorded agree with what is so. Being told only makes them sooner.
//!
//! Pushes come in three ways (a hook that is answered, a file that a hook left while no server ran,
//! a look at the refs) and go one way: [`delivery`]. It records first and acts after.
//!
//! Always: one delivery of a project at a time; a delivery that fails waits and blocks nobody.

pub mod again;
pub mod delivery;
pub mod inbox;
pub mod pin;
pub mod plan;
pub mod poll;
pub mod retry;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kiln_model::ProjectId;
use tokio::sync::{Notify, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use crate::state::App;

/// What the reconcilers share. Cheap to clone.
#[derive(Clone, Default)]
pub struct Reconcilers {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    turns: Mutex<HashMap<ProjectId, Arc<tokio::sync::Mutex<()>>>>,
    problems: Mutex<HashMap<ProjectId, String>>,
    pins: Mutex<std::collections::HashSet<ProjectId>>,
    /// Some delivery has failed and must be tried again.
    retry: Notify,
    /// Projects of which a push could not be taken, by name: the store could not even be asked for
    /// more.
    untaken: Mutex<std::collections::BTreeSet<String>>,
    again: Notify,
    /// A project was added, removed, or polls at another interval.
    projects_changed: Notify,
    /// What an earlier server left has been taken up.
    caught_up: CancellationToken,
}

impl Reconcilers {
    /// A project's turn: heads are compared and moved by one at a time.
    pub(crate) async fn turn(&self, project: ProjectId) -> OwnedMutexGuard<()> {
        let turn = lock(&self.inner.turns).entry(project).or_default().clone();
        turn.lock_owned().await
    }

    /// Why a project's repository cannot be followed at the moment.
    pub fn problem(&self, project: ProjectId) -> Option<String> {
        lock(&self.inner.problems).get(&project).cloned()
    }

    pub(crate) fn set_problem(&self, project: ProjectId, problem: Option<String>) {
        let mut problems = lock(&self.inner.problems);
        match problem {
            Some(problem) => problems.insert(project, problem),
            None => problems.remove(&project),
        };
    }

    /// The polls are planned anew.
    pub fn projects_changed(&self) {
        self.inner.projects_changed.notify_one();
    }

    pub(crate) fn forget(&self, project: ProjectId) {
        lock(&self.inner.turns).remove(&project);
        self.set_problem(project, None);
        self.projects_changed();
    }
}

/// Runs until the server stops.
pub(crate) async fn run(app: App) {
    let work = async {
        // What was acknowledged comes before what is merely found: then a look at the refs finds
        // nothing that a hook has already told.
        inbox::read(&app).await;
        retry::pass(&app).await;
        poll::missed(&app).await;
        app.reconcilers.inner.caught_up.cancel();
        tokio::join!(retry::run(&app), poll::run(&app), again::run(&app));
    };
    tokio::select! {
        _ = futures_util::future::join(work, app.runs.watch_leases()) => {}
        () = app.stopping.cancelled() => {}
    }
}

/// Waits until all that was left by an earlier server, or found when this one started, is settled
/// or waits for another try.
pub async fn settled(app: &App) {
    app.reconcilers.inner.caught_up.cancelled().await;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
