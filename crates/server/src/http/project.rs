//! Projects.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use kiln_api::user::{AddProject, Project};
use kiln_manifest::Input;
use kiln_store::{ProjectRow, RunFilter};
use serde::Deserialize;

use super::Error;
use super::extract::{self, Asked, At, Given};
use crate::state::App;
use crate::{ask, view};

/// Runs shown of one project.
const RUNS: u32 = 20;

/// Every project with its newest runs, by name.
pub async fn list(State(app): State<App>) -> Result<Json<Vec<Project>>, Error> {
    let mut projects = view::projects(&app.runs).await?;
    let rows = app.runs.store().projects(0).await?;
    for project in &mut projects {
        let row = rows.iter().find(|(row, _)| row.name.as_str() == project.project);
        project.problem = row.and_then(|(row, _)| app.reconcilers.problem(row.id));
    }
    Ok(Json(projects))
}

/// One project with its newest runs.
///
/// Errors: `project_not_found`.
pub async fn show(State(app): State<App>, At(name): At<String>) -> Result<Json<Project>, Error> {
    let row = extract::project(&app, &name).await?;
    shown(&app, row).await
}

/// Add a project. Its repository must be readable; what it has now starts no run.
///
/// Errors: `bad_name`, `bad_repository`, `bad_interval`, `project_exists`.
pub async fn add(
    State(app): State<App>,
    Given(asked): Given<AddProject>,
) -> Result<(StatusCode, Json<Project>), Error> {
    let row = ask::add_project(&app, asked).await?;
    Ok((StatusCode::CREATED, shown(&app, row).await?))
}

/// Remove a project with its runs and logs. The repository is not touched.
///
/// Errors: `project_not_found`, `project_busy`.
pub async fn remove(State(app): State<App>, At(name): At<String>) -> Result<StatusCode, Error> {
    let row = extract::project(&app, &name).await?;
    ask::remove_project(&app, &row).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
pub struct WhichBranch {
    branch: Option<String>,
}

/// The inputs that the manifest of a branch declares; without one, of the default branch.
///
/// Errors: `project_not_found`, `commit_not_found`.
pub async fn inputs(
    State(app): State<App>,
    At(name): At<String>,
    Asked(asked): Asked<WhichBranch>,
) -> Result<Json<Vec<Input>>, Error> {
    let row = extract::project(&app, &name).await?;
    Ok(Json(ask::inputs(&app, &row, asked.branch).await?))
}

async fn shown(app: &App, row: ProjectRow) -> Result<Json<Project>, Error> {
    let filter = RunFilter { project: Some(row.id), limit: RUNS, ..RunFilter::default() };
    let runs = app.runs.store().runs(filter).await?;
    let problem = app.reconcilers.problem(row.id);
    let mut project = view::project_with(row, runs);
    project.problem = problem;
    Ok(Json(project))
}
