//! `/p/{project}`: the runs of a project, newest first, by branch and state.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use kiln_api::user::Run;
use kiln_model::{ProjectName, RunNumber, RunState};
use kiln_stdx::Timestamp;
use kiln_store::{ProjectRow, RunFilter};
use serde::Deserialize;

use super::error::PageError;
use super::extract::{Question, Segments};
use super::page::{self, Crumb, Frame, link};
use super::show::{self, segment};
use crate::state::App;

/// Runs on one page.
const PAGE_RUNS: u32 = 50;

#[derive(Debug, Default, Deserialize)]
pub struct Asked {
    #[serde(default)]
    branch: String,
    #[serde(default)]
    state: String,
    before: Option<i64>,
}

#[derive(Template)]
#[template(path = "run_list.html")]
struct RunListPage<'a> {
    frame: Frame,
    project: &'a str,
    repo: &'a str,
    default_branch: Option<&'a str>,
    poll: Option<String>,
    /// Why the repository cannot be followed at the moment.
    problem: Option<&'a str>,
    runs: &'a [Run],
    asked: &'a Asked,
    /// Address of the runs before these.
    older: Option<String>,
}

/// `GET /p/{project}`.
pub async fn show(
    State(app): State<App>,
    Segments(project): Segments<String>,
    Question(asked): Question<Asked>,
) -> Result<Response, PageError> {
    let project = find(&app, &project).await?;
    let state = match asked.state.as_str() {
        "" => None,
        word => {
            Some(word.parse::<RunState>().map_err(|error| PageError::Bad(format!("{error}.")))?)
        }
    };
    let filter = RunFilter {
        project: Some(project.id),
        branch: Some(asked.branch.clone()).filter(|branch| !branch.is_empty()),
        state,
        before: asked.before.map(RunNumber),
        // One more than is shown tells whether there are older ones.
        limit: PAGE_RUNS + 1,
        ..RunFilter::default()
    };
    let runs = crate::view::run_list(&app.runs, filter).await?;
    let problem = app.reconcilers.problem(project.id);
    let page = build(&project, problem.as_deref(), &runs, &asked, app.clock.now());
    Ok(page::send(StatusCode::OK, &page))
}

/// The project of that name.
pub async fn find(app: &App, project: &str) -> Result<ProjectRow, PageError> {
    let missing = || PageError::Missing(format!("There is no project “{project}”."));
    let name = ProjectName::new(project).map_err(|_| missing())?;
    match app.runs.store().project(&name).await {
        Err(kiln_store::StoreError::NotFound(_)) => Err(missing()),
        other => Ok(other?),
    }
}

fn build<'a>(
    project: &'a ProjectRow,
    problem: Option<&'a str>,
    runs: &'a [Run],
    asked: &'a Asked,
    now: Timestamp,
) -> RunListPage<'a> {
    let name = project.name.as_str();
    let shown = &runs[..runs.len().min(PAGE_RUNS as usize)];
    let mut frame = Frame::new(name, now);
    frame.trail = vec![Crumb { text: name.to_owned(), link: link::project(name) }];
    frame.twin = Some(format!("{}/runs", link::api_project(name)));
    frame.events = Some("/api/v1/live".to_owned());
    frame.live = shown.iter().any(|run| !run.state.is_over());
    let older = (runs.len() > shown.len()).then(|| {
        let before = shown.last().map_or(0, |run| run.number);
        let (branch, state) = (segment(&asked.branch), segment(&asked.state));
        format!("{}?branch={branch}&state={state}&before={before}", link::project(name))
    });
    RunListPage {
        frame,
        project: name,
        repo: &project.repo,
        default_branch: project.default_branch.as_deref(),
        poll: project.poll_every_s.map(|s| show::length(std::time::Duration::from_secs(s.into()))),
        problem,
        runs: shown,
        asked,
        older,
    }
}

impl RunListPage<'_> {
    fn filtered(&self) -> bool {
        !self.asked.branch.is_empty() || !self.asked.state.is_empty()
    }

    fn newest_link(&self) -> String {
        let (branch, state) = (segment(&self.asked.branch), segment(&self.asked.state));
        format!("{}?branch={branch}&state={state}", link::project(self.project))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::sample;

    #[test]
    fn a_full_page_links_to_the_runs_before_it() {
        let project = sample::project_row();
        let runs = sample::runs(PAGE_RUNS as usize + 1);
        let asked = Asked { branch: "a&b".into(), ..Asked::default() };
        let page = build(&project, None, &runs, &asked, sample::NOW);
        let last = page.runs.last().unwrap().number;
        assert_eq!(page.older, Some(format!("/p/glaze?branch=a%26b&state=&before={last}")));
        assert_eq!(page.runs.len(), PAGE_RUNS as usize);
        assert_eq!(build(&project, None, &runs[1..], &asked, sample::NOW).older, None);
    }

    #[test]
    fn a_filter_without_matches_says_so() {
        let project = sample::project_row();
        let asked = Asked { branch: "\"><script>".into(), ..Asked::default() };
        let html = build(&project, None, &[], &asked, sample::NOW).render().unwrap();
        assert!(html.contains("No run matches"));
        assert!(!html.contains("\"><script>"));
    }
    #[test]
    fn a_repository_that_cannot_be_read_is_told_on_its_page() {
        let project = sample::project_row();
        let (asked, problem) = (Asked::default(), "cannot read `https://x/<b>`: no route to host");
        let html = build(&project, Some(problem), &[], &asked, sample::NOW).render().unwrap();
        assert!(html.contains("no route to host"));
        assert!(!html.contains("<b>"));
    }
}
