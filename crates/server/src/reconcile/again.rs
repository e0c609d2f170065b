//! Projects of which a push could not be taken because the store was in trouble: a full disk, a
//! database that is away.
//!
//! The hook was told so and has left the push in the inbox, if there was room. So, as soon as the
//! store is well again, the inbox is read, and then the repository itself is looked at: what is
//! found in neither was never there.

use std::collections::BTreeSet;
use std::time::Duration;

use kiln_model::ProjectName;
use kiln_store::StoreError;

use super::{inbox, lock, poll};
use crate::report;
use crate::state::App;

const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Sees to it that the project is looked at when the store is well.
pub(crate) fn soon(app: &App, project: &str) {
    lock(&app.reconcilers.inner.untaken).insert(project.to_owned());
    app.reconcilers.inner.again.notify_one();
}

/// Sleeps while there is no such project.
pub(crate) async fn run(app: &App) {
    let mut pause = PAUSE_MIN;
    loop {
        let waiting = lock(&app.reconcilers.inner.untaken).clone();
        if waiting.is_empty() {
            pause = PAUSE_MIN;
            app.reconcilers.inner.again.notified().await;
            continue;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
        pass(app, waiting).await;
    }
}

async fn pass(app: &App, waiting: BTreeSet<String>) {
    inbox::read(app).await;
    for name in waiting {
        // Taken out first: a push that fails from now on puts it in again.
        lock(&app.reconcilers.inner.untaken).remove(&name);
        match look(app, &name).await {
            Ok(()) => report::say(&format!("project {name}: looked at again")),
            // It has been told; more often would only fill the report.
            Err(_) => drop(lock(&app.reconcilers.inner.untaken).insert(name)),
        }
    }
}

async fn look(app: &App, name: &str) -> Result<(), String> {
    // A name that nobody may have, or has any more.
    let Ok(name) = ProjectName::new(name) else { return Ok(()) };
    match app.runs.store().project(&name).await {
        Ok(project) => poll::look(app, &project).await.map(drop),
        Err(StoreError::NotFound(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
