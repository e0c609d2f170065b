//! Runs.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use kiln_api::user::{Rerun, Run, RunDetail, TriggerRun, Why};
use kiln_model::{Event, Plan, RunId, RunNumber};
use kiln_store::RunFilter;
use serde::Deserialize;

use super::Error;
use super::extract::{self, Asked, Asker, At, Given};
use crate::state::App;
use crate::{ask, view};

const LIMIT: u32 = 50;
const LIMIT_MAX: u32 = 1_000;

/// Which runs of a list.
#[derive(Deserialize)]
pub struct Which {
    branch: Option<String>,
    state: Option<String>,
    /// Older than this number.
    before: Option<i64>,
    /// Across projects: older than this run, `project/number`.
    before_run: Option<String>,
    limit: Option<u32>,
}

impl Which {
    fn filter(self) -> Result<RunFilter, Error> {
        let state = self.state.filter(|state| !state.is_empty()).map(|state| state.parse());
        let state = state.transpose().map_err(|error: kiln_model::state::UnknownState| {
            Error::bad_request(error.to_string())
        })?;
        Ok(RunFilter {
            branch: self.branch.filter(|branch| !branch.is_empty()),
            state,
            before: self.before.map(RunNumber),
            limit: self.limit.unwrap_or(LIMIT).clamp(1, LIMIT_MAX),
            ..RunFilter::default()
        })
    }
}

/// Runs of every project, newest first. `before_run=project/number` gives the next page.
///
/// Errors: `bad_request`, `run_not_found`.
pub async fn every(
    State(app): State<App>,
    Asked(which): Asked<Which>,
) -> Result<Json<Vec<Run>>, Error> {
    let before: Option<RunId> = match &which.before_run {
        Some(of) => {
            let (project, number) = of.split_once('/').ok_or_else(|| Error::not_found("run"))?;
            Some(extract::run(&app, project, number).await?.id)
        }
        None => None,
    };
    let filter = RunFilter { before_id: before, before: None, ..which.filter()? };
    Ok(Json(view::run_list(&app.runs, filter).await?))
}

/// Runs of a project, newest first.
///
/// Errors: `project_not_found`, `bad_request`.
pub async fn list(
    State(app): State<App>,
    At(project): At<String>,
    Asked(which): Asked<Which>,
) -> Result<Json<Vec<Run>>, Error> {
    let project = extract::project(&app, &project).await?.id;
    let filter = RunFilter { project: Some(project), ..which.filter()? };
    Ok(Json(view::run_list(&app.runs, filter).await?))
}

/// Start a run of a branch, a tag or a commit; without any, of the default branch.
///
/// Errors: `project_not_found`, `commit_not_found`, `bad_commit`, `bad_manifest`, `no_run`.
pub async fn trigger(
    State(app): State<App>,
    At(project): At<String>,
    asker: Asker,
    Given(asked): Given<TriggerRun>,
) -> Result<(StatusCode, Json<Run>), Error> {
    let project = extract::project(&app, &project).await?;
    let row = ask::trigger(&app, &project, asked, asker.0).await?;
    Ok((StatusCode::CREATED, Json(view::run_row(row))))
}

/// A run with its jobs.
///
/// Errors: `project_not_found`, `run_not_found`, as everything below it.
pub async fn show(
    State(app): State<App>,
    At((project, number)): At<(String, String)>,
) -> Result<Json<RunDetail>, Error> {
    let row = extract::run(&app, &project, &number).await?;
    Ok(Json(view::run(&app.runs, row.id).await?))
}

/// The frozen plan.
///
/// Errors: `no_plan`.
pub async fn plan(
    State(app): State<App>,
    At((project, number)): At<(String, String)>,
) -> Result<Json<Plan>, Error> {
    let row = extract::run(&app, &project, &number).await?;
    let plan = app.runs.store().plan(row.id).await?;
    plan.map(Json).ok_or_else(|| {
        Error::new(
            StatusCode::NOT_FOUND,
            "no_plan",
            "the run has no plan: its manifest was refused",
        )
    })
}

#[derive(Deserialize)]
pub struct After {
    #[serde(default)]
    after: u64,
}

/// Everything that happened to a run, oldest first; with `after`, what came later than that.
pub async fn events(
    State(app): State<App>,
    At((project, number)): At<(String, String)>,
    Asked(After { after }): Asked<After>,
) -> Result<Json<Vec<Event>>, Error> {
    let row = extract::run(&app, &project, &number).await?;
    Ok(Json(app.runs.store().events(row.id, after).await?))
}

/// Why the run is as it is.
pub async fn why(
    State(app): State<App>,
    At((project, number)): At<(String, String)>,
) -> Result<Json<Why>, Error> {
    let row = extract::run(&app, &project, &number).await?;
    Ok(Json(view::why(&app.runs, row.id, None).await?))
}

/// Cancel a run. Running jobs are told to stop and get their grace period; asking twice is harmless.
///
/// Errors: `run_over`.
pub async fn cancel(
    State(app): State<App>,
    At((project, number)): At<(String, String)>,
    asker: Asker,
) -> Result<(StatusCode, Json<RunDetail>), Error> {
    let row = extract::run(&app, &project, &number).await?;
    ask::cancel(&app, &row, asker.by()).await?;
    Ok((StatusCode::ACCEPTED, Json(view::run(&app.runs, row.id).await?)))
}

/// Run jobs again: all, those that failed, or one and what needs it, also from one of its steps.
///
/// Errors: `no_plan`, `nothing_failed`, `job_not_found`, `bad_step`, `not_kept`, `refused`.
pub async fn rerun(
    State(app): State<App>,
    At((project, number)): At<(String, String)>,
    asker: Asker,
    Given(asked): Given<Rerun>,
) -> Result<(StatusCode, Json<RunDetail>), Error> {
    let row = extract::run(&app, &project, &number).await?;
    ask::rerun(&app, &row, asked, asker.by()).await?;
    Ok((StatusCode::ACCEPTED, Json(view::run(&app.runs, row.id).await?)))
}
