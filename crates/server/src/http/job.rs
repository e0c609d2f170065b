//! Jobs of a run.

use axum::Json;
use axum::extract::State;
use kiln_api::user::{JobDetail, Why};

use super::Error;
use super::extract::{self, At};
use crate::state::App;
use crate::{ask, view};

/// A job with its attempts and their steps.
///
/// Errors: `project_not_found`, `run_not_found`, `job_not_found`.
pub async fn show(
    State(app): State<App>,
    At((project, number, job)): At<(String, String, String)>,
) -> Result<Json<JobDetail>, Error> {
    let row = extract::run(&app, &project, &number).await?;
    let job = ask::job_of(&app, &row, &job).await?;
    Ok(Json(view::job(&app.runs, row.id, job).await?))
}

/// Why the job ran, waits, was skipped, failed or was cancelled.
///
/// Errors: `project_not_found`, `run_not_found`, `job_not_found`.
pub async fn why(
    State(app): State<App>,
    At((project, number, job)): At<(String, String, String)>,
) -> Result<Json<Why>, Error> {
    let row = extract::run(&app, &project, &number).await?;
    let job = ask::job_of(&app, &row, &job).await?;
    Ok(Json(view::why(&app.runs, row.id, Some(job)).await?))
}
