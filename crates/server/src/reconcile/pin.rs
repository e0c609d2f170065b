//! Objects that are only borrowed are copied into the mirror a little after a push.
//!
//! Later, not at once: the push's own jobs have the machine first, and pushes that follow closely
//! are copied together. Missing it (a crash) costs nothing: the next one copies more.

use std::time::Duration;

use kiln_git::Location;
use kiln_store::ProjectRow;

use super::lock;
use crate::report;
use crate::state::App;

const AFTER: Duration = Duration::from_secs(5);

pub(crate) fn soon(app: &App, project: &ProjectRow) {
    if !matches!(Location::parse(&project.repo), Ok(Location::Path(_))) {
        return;
    }
    if !lock(&app.reconcilers.inner.pins).insert(project.id) {
        return;
    }
    let (app, project) = (app.clone(), project.clone());
    app.tasks.clone().spawn(async move {
        tokio::select! {
            () = tokio::time::sleep(AFTER) => {}
            () = app.stopping.cancelled() => return,
        }
        lock(&app.reconcilers.inner.pins).remove(&project.id);
        // Gone meanwhile: a mirror must not be made again.
        if app.runs.store().project_by_id(project.id).await.is_err() {
            return;
        }
        if let Err(error) = app.mirrors.with(&project, |mirror| mirror.fetch()).await {
            report::say(&format!("project {}: {}", project.name, report::whole(&error)));
        }
    });
}
