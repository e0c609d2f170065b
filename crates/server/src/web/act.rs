//! What the buttons do in a browser without scripts: the form is posted here, and the browser is
//! sent on to the run. With scripts, `static/action.js` and `static/inputs.js` ask `/api/v1`.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use kiln_api::user::{Rerun, TriggerRun};
use serde::Deserialize;

use super::error::PageError;
use super::extract::{Fields, Segments};
use super::page::link;
use super::{run, run_list, start};
use crate::ask::{self, AskError};
use crate::state::App;

/// Who asked, until people can log in.
const SOMEBODY: &str = "somebody";

/// `POST /p/{project}/run`: fields `branch`, `tag`, `commit`, and `input.NAME` for each input.
pub async fn trigger(
    State(app): State<App>,
    Segments(project): Segments<String>,
    Fields(fields): Fields<Vec<(String, String)>>,
) -> Result<Response, PageError> {
    let row = run_list::find(&app, &project).await?;
    let asked = wanted(fields);
    match ask::trigger(&app, &row, asked.clone(), None).await {
        Ok(run) => Ok(on_to(&link::run(&project, run.number.0))),
        // The form once more, with what was typed and what is wrong with it.
        Err(AskError::Wrong { message, .. } | AskError::NotFound { message, .. }) => {
            start::form(&app, &project, &asked, Some(message)).await
        }
        Err(error) => Err(error.into()),
    }
}

/// `POST /p/{project}/{number}/cancel`.
pub async fn cancel(
    State(app): State<App>,
    Segments((project, number)): Segments<(String, String)>,
) -> Result<Response, PageError> {
    let row = run::find(&app, &project, &number).await?;
    ask::cancel(&app, &row, SOMEBODY.to_owned()).await?;
    Ok(on_to(&link::run(&project, row.number.0)))
}

/// `POST /p/{project}/{number}/rerun`, with `failed=true`, with `job=NAME`, or with neither.
pub async fn rerun(
    State(app): State<App>,
    Segments((project, number)): Segments<(String, String)>,
    Fields(asked): Fields<Rerun>,
) -> Result<Response, PageError> {
    let row = run::find(&app, &project, &number).await?;
    ask::rerun(&app, &row, asked, SOMEBODY.to_owned()).await?;
    Ok(on_to(&link::run(&project, row.number.0)))
}

#[derive(Debug, Default, Deserialize)]
pub struct Pin {
    /// Given and not empty: keep it; else let it go.
    #[serde(default)]
    keep: String,
}

/// `POST /p/{project}/{number}/pin`.
pub async fn pin(
    State(app): State<App>,
    Segments((project, number)): Segments<(String, String)>,
    Fields(asked): Fields<Pin>,
) -> Result<Response, PageError> {
    let row = run::find(&app, &project, &number).await?;
    let by = (!asked.keep.is_empty()).then(|| SOMEBODY.to_owned());
    app.runs.pin(row.id, by).await?;
    Ok(on_to(&link::run(&project, row.number.0)))
}

/// Empty fields are as if not given.
pub(super) fn wanted(fields: Vec<(String, String)>) -> TriggerRun {
    let mut asked = TriggerRun::default();
    for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
        match name.as_str() {
            "branch" => asked.branch = Some(value),
            "tag" => asked.tag = Some(value),
            "commit" => asked.commit = Some(value),
            "no_cache" => asked.no_cache = true,
            other => {
                if let Some(input) = other.strip_prefix("input.") {
                    asked.inputs.insert(input.to_owned(), value);
                }
            }
        }
    }
    asked
}

/// The browser asks for the page anew; going back does not post again.
fn on_to(link: &str) -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, link.to_owned())]).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_asks_for_the_same_run_as_the_json() {
        let fields = [("branch", "main"), ("tag", ""), ("input.target", "staging"), ("x", "y")];
        let asked = wanted(fields.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec());
        assert_eq!(asked.branch.as_deref(), Some("main"));
        assert_eq!((asked.tag, asked.commit), (None, None));
        assert_eq!(
            asked.inputs.into_iter().collect::<Vec<_>>(),
            [("target".into(), "staging".into())]
        );
    }

    #[test]
    fn after_a_post_the_browser_goes_to_the_run() {
        let response = on_to("/p/glaze/8");
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        assert_eq!(response.headers()[header::LOCATION], "/p/glaze/8");
    }
}
