//! Projects.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use kiln_api::user::{AddProject, Project, TriggerRun};
use kiln_manifest::Input;
use serde::Deserialize;

use super::Error;
use super::extract::{self, Asked, At, Given};
use crate::state::App;
use crate::{ask, view};

/// Every project with its newest runs, by name.
pub async fn list(State(app): State<App>) -> Result<Json<Vec<Project>>, Error> {
    Ok(Json(view::projects(&app).await?))
}

/// One project with its newest runs.
///
/// Errors: `project_not_found`.
pub async fn show(State(app): State<App>, At(name): At<String>) -> Result<Json<Project>, Error> {
    let row = extract::project(&app, &name).await?;
    Ok(Json(view::project(&app, row).await?))
}

/// Add a project. Its repository must be readable; what it has now starts no run.
///
/// Errors: `bad_name`, `bad_repository`, `bad_interval`, `project_exists`.
pub async fn add(
    State(app): State<App>,
    Given(asked): Given<AddProject>,
) -> Result<(StatusCode, Json<Project>), Error> {
    let row = ask::add_project(&app, asked).await?;
    Ok((StatusCode::CREATED, Json(view::project(&app, row).await?)))
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
pub struct WhichCommit {
    branch: Option<String>,
    tag: Option<String>,
    commit: Option<String>,
}

/// The inputs that the manifest of a commit, a tag or a branch declares; without any, of the default
/// branch.
///
/// Errors: `project_not_found`, `commit_not_found`, `bad_commit`.
pub async fn inputs(
    State(app): State<App>,
    At(name): At<String>,
    Asked(asked): Asked<WhichCommit>,
) -> Result<Json<Vec<Input>>, Error> {
    let row = extract::project(&app, &name).await?;
    let WhichCommit { branch, tag, commit } = asked;
    let asked = TriggerRun { branch, tag, commit, ..TriggerRun::default() };
    Ok(Json(ask::inputs(&app, &row, asked).await?))
}
