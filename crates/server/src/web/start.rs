//! `/p/{project}/run`: the form of a manual run, for a browser without scripts. With them,
//! `static/inputs.js` shows the same form in a dialog.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use kiln_api::user::TriggerRun;
use kiln_manifest::Input;
use kiln_stdx::Timestamp;

use super::act;
use super::error::PageError;
use super::extract::{Question, Segments};
use super::page::{self, Crumb, Frame, link};
use super::run_list;
use super::show;
use crate::ask::{self, AskError};
use crate::state::App;

#[derive(Template)]
#[template(path = "start.html")]
struct StartPage<'a> {
    frame: Frame,
    project: &'a str,
    asked: &'a TriggerRun,
    inputs: &'a [Input],
    /// Why what was asked for before cannot be started.
    problem: Option<&'a str>,
}

/// `GET /p/{project}/run`, with what is known already in the query.
pub async fn show(
    State(app): State<App>,
    Segments(project): Segments<String>,
    Question(fields): Question<Vec<(String, String)>>,
) -> Result<Response, PageError> {
    form(&app, &project, &act::wanted(fields), None).await
}

/// The form, filled in with `asked`; with a problem it is the answer to a wrong request.
pub async fn form(
    app: &App,
    project: &str,
    asked: &TriggerRun,
    problem: Option<String>,
) -> Result<Response, PageError> {
    let row = run_list::find(app, project).await?;
    let (inputs, trouble) = match ask::inputs(app, &row, asked.clone()).await {
        Ok(inputs) => (inputs, None),
        Err(AskError::NotFound { message, .. } | AskError::Wrong { message, .. }) => {
            (Vec::new(), Some(message))
        }
        Err(error) => return Err(error.into()),
    };
    let problem = problem.or(trouble);
    let status = if problem.is_some() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    let page = build(row.name.as_str(), asked, &inputs, problem.as_deref(), app.clock.now());
    Ok(page::send(status, &page))
}

fn build<'a>(
    project: &'a str,
    asked: &'a TriggerRun,
    inputs: &'a [Input],
    problem: Option<&'a str>,
    now: Timestamp,
) -> StartPage<'a> {
    let mut frame = Frame::new(format!("Start a run · {project}"), now);
    let start = format!("{}/run", link::project(project));
    frame.trail = vec![
        Crumb { text: project.to_owned(), link: link::project(project) },
        Crumb { text: "Start a run".to_owned(), link: start },
    ];
    StartPage { frame, project, asked, inputs, problem }
}

impl StartPage<'_> {
    /// What stands in a field: what was given, else the default.
    fn value(&self, input: &Input) -> String {
        let given = self.asked.inputs.get(&input.name).or(input.default.as_ref());
        given.cloned().unwrap_or_default()
    }

    /// What a field offers to choose from; nothing when it is typed.
    fn options(&self, input: &Input) -> Vec<String> {
        match input.kind.as_str() {
            "boolean" => vec!["true".to_owned(), "false".to_owned()],
            _ => input.options.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::sample;

    fn input(name: &str, kind: &str, options: &[&str], default: Option<&str>) -> Input {
        Input {
            name: name.to_owned(),
            kind: kind.to_owned(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            default: default.map(str::to_owned),
            required: name == "count",
            description: Some("<b>what</b> it is".to_owned()),
        }
    }

    #[test]
    fn the_form_has_a_field_for_each_input_and_keeps_what_was_given() {
        let inputs = [
            input("target", "choice", &["staging", "production"], Some("staging")),
            input("dry", "boolean", &[], Some("true")),
            input("count", "number", &[], None),
        ];
        let mut asked = TriggerRun { branch: Some("main".to_owned()), ..TriggerRun::default() };
        asked.inputs.insert("target".to_owned(), "production".to_owned());
        let html = build("glaze", &asked, &inputs, None, sample::NOW).render().unwrap();
        assert!(html.contains("<option value=\"production\" selected>"), "{html}");
        assert!(html.contains("<option value=\"true\" selected>"), "{html}");
        assert!(html.contains("name=\"input.count\""), "{html}");
        assert!(html.contains("name=\"branch\" value=\"main\""), "{html}");
        assert!(!html.contains("<b>what"), "{html}");
    }

    #[test]
    fn what_was_wrong_stands_in_the_form() {
        let problem = "error: `x` is not a value\n --> .kiln.yml:4:1";
        let asked = TriggerRun { commit: Some("0".repeat(40)), ..TriggerRun::default() };
        let html = build("glaze", &asked, &[], Some(problem), sample::NOW).render().unwrap();
        assert!(html.contains("`x` is not a value\n --&#62; .kiln.yml:4:1"), "{html}");
        assert!(html.contains("type=\"hidden\" name=\"commit\""), "{html}");
    }
}
