//! What somebody needs who looks at a past job from within, on this machine.

use axum::Json;
use axum::extract::State;
use kiln_api::scene::{Enter, Scene};

use super::Error;
use super::extract::{self, Given};
use crate::state::App;

/// A job at a moment. Over the socket in the data folder only: it may hold secrets.
///
/// Errors: `project_not_found`, `run_not_found`, `job_not_found`, `which_job`, `no_plan`,
/// `no_attempt`, `no_step`, `not_kept`, `job_running`, `files_lost`.
pub async fn show(
    State(app): State<App>,
    Given(enter): Given<Enter>,
) -> Result<Json<Scene>, Error> {
    let row = extract::run(&app, &enter.project, &enter.number.to_string()).await?;
    Ok(Json(crate::scene::scene(&app.runs, row, &enter).await?))
}
