//! Arguments of requests. What cannot be read is an [`Error`], never a bare line of text.

use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use kiln_model::{ProjectName, RunNumber};
use kiln_store::{ProjectRow, RunRow, StoreError};
use serde::de::DeserializeOwned;

use super::Error;
use crate::state::App;

/// Parts of the path, decoded.
pub struct At<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = Error;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            // A name that is not even text names nothing.
            Err(PathRejection::FailedToDeserializePathParams(_)) => {
                Err(Error::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path"))
            }
            Err(error) => Err(Error::bad_request(error.body_text())),
        }
    }
}

/// The query.
pub struct Asked<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Error;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(error) => Err(Error::bad_request(format!(
                "the query is not as expected: {}",
                deepest(&error)
            ))),
        }
    }
}

/// The cause under a library's own sentence, which speaks of its types.
fn deepest(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => deepest(cause),
        None => error.to_string(),
    }
}

/// A JSON body; an empty one is `{}`.
pub struct Given<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Given<T> {
    type Rejection = Error;
    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|error| Error::bad_request(error.body_text()))?;
        let text: &[u8] = if bytes.trim_ascii().is_empty() { b"{}" } else { &bytes };
        // Elsewhere a list would do for its fields in order, which nobody means.
        if text.trim_ascii_start().first() != Some(&b'{') {
            return Err(Error::bad_request("the body is not as expected: it is no JSON object"));
        }
        serde_json::from_slice(text)
            .map(Self)
            .map_err(|error| Error::bad_request(format!("the body is not as expected: {error}")))
    }
}

/// Who asks, as they say. Nobody can log in yet, so it is a courtesy and no proof.
pub struct Asker(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for Asker {
    type Rejection = Error;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        const NAME_CHARS_MAX: usize = 100;
        let given = parts.headers.get("kiln-user").and_then(|name| name.to_str().ok());
        let shown = given.map(|name| name.chars().filter(|c| !c.is_control()));
        let name = shown.map(|name| name.take(NAME_CHARS_MAX).collect::<String>());
        Ok(Self(name.filter(|name| !name.trim().is_empty())))
    }
}

impl Asker {
    /// For a history that says who.
    pub fn by(self) -> String {
        self.0.unwrap_or_else(|| "somebody".to_owned())
    }
}

pub async fn project(app: &App, name: &str) -> Result<ProjectRow, Error> {
    let missing = || Error::missing("project", name);
    let known = ProjectName::new(name).map_err(|_| missing())?;
    named(app.runs.store().project(&known).await, missing)
}

pub async fn run(app: &App, project_name: &str, number: &str) -> Result<RunRow, Error> {
    let project = project(app, project_name).await?;
    let missing = || Error::missing("run", &format!("{project_name}#{number}"));
    let number = RunNumber(number.parse().map_err(|_| missing())?);
    let found = app.runs.store().run_by_number(project.id, number).await;
    if let Err(StoreError::NotFound(_)) = &found
        && app.runs.store().has_had_run(project.id, number).await?
    {
        let message =
            format!("{project_name}#{number} was collected: it is older than what is kept");
        return Err(Error::new(StatusCode::GONE, "run_collected", message));
    }
    named(found, missing)
}

/// The store says that there is no such thing; whoever asked wants to hear which.
fn named<T>(answer: Result<T, StoreError>, missing: impl Fn() -> Error) -> Result<T, Error> {
    answer.map_err(|error| match error {
        StoreError::NotFound(_) => missing(),
        error => error.into(),
    })
}
