//! What is kept: collecting, use of the disk, pins.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use kiln_api::user::{AskGc, GcReport, RunDetail, Usage};

use super::Error;
use super::extract::{self, Asker, At, Given};
use crate::collect::{Collector, Policy, PolicyError};
use crate::state::App;
use crate::view;

/// Collect what is no longer wanted, now. With `dry_run` nothing is removed, and the answer says what
/// would be. `keep` says for this once what of a kind is kept.
///
/// Errors: `bad_keep`, `not_here`.
pub async fn collect(
    State(app): State<App>,
    Given(asked): Given<AskGc>,
) -> Result<Json<GcReport>, Error> {
    let collector = collector(&app)?;
    let wrong = |error: PolicyError| {
        Error::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_keep", crate::report::whole(&error))
    };
    let mut policy = Policy::of_server().read(&app.options.config_file()).map_err(wrong)?;
    for (kind, text) in &asked.keep {
        policy.ask(kind, text).map_err(wrong)?;
    }
    Ok(Json(collector.answer(&policy, &asked).await))
}

/// What is there, by kind and project, and what it takes on disk.
///
/// Errors: `not_here`.
pub async fn usage(State(app): State<App>) -> Result<Json<Usage>, Error> {
    Ok(Json(collector(&app)?.usage().await?))
}

/// Keep a run with all that it has, whatever its age.
pub async fn pin(
    State(app): State<App>,
    At((project, number)): At<(String, String)>,
    asker: Asker,
) -> Result<Json<RunDetail>, Error> {
    let row = extract::run(&app, &project, &number).await?;
    app.runs.pin(row.id, Some(asker.by())).await?;
    Ok(Json(view::run(&app.runs, row.id).await?))
}

/// Let go of a run that was kept.
pub async fn unpin(
    State(app): State<App>,
    At((project, number)): At<(String, String)>,
) -> Result<Json<RunDetail>, Error> {
    let row = extract::run(&app, &project, &number).await?;
    app.runs.pin(row.id, None).await?;
    Ok(Json(view::run(&app.runs, row.id).await?))
}

fn collector(app: &App) -> Result<&Collector, Error> {
    app.collector.get().ok_or_else(|| {
        let message = "this server has just been started and does not know its layers yet";
        Error::new(StatusCode::SERVICE_UNAVAILABLE, "not_here", message)
    })
}
