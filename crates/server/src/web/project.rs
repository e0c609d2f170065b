//! `/`: every project, with how its last run went and how the runs before it went.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use kiln_api::user::{Project, Run};
use kiln_stdx::Timestamp;

use super::error::PageError;
use super::page::{self, Frame, link};
use super::show;
use crate::state::App;

/// How many runs a strip shows.
const STRIP_RUNS: usize = 20;
/// Size of a strip's bars, in pixels.
const BAR_WIDTH: i64 = 9;
const STRIP_HEIGHT: i64 = 28;

#[derive(Template)]
#[template(path = "projects.html")]
struct ProjectsPage<'a> {
    frame: Frame,
    projects: &'a [Project],
    url: &'a str,
}

/// `GET /`.
pub async fn list(State(app): State<App>) -> Result<Response, PageError> {
    let projects = crate::view::projects(&app).await?;
    Ok(page::send(StatusCode::OK, &build(&projects, &app.url, app.clock.now())))
}

fn build<'a>(projects: &'a [Project], url: &'a str, now: Timestamp) -> ProjectsPage<'a> {
    let mut frame = Frame::new("Projects", now);
    frame.twin = Some("/api/v1/projects".to_owned());
    frame.events = Some("/api/v1/live".to_owned());
    frame.live = projects.iter().flat_map(|p| &p.runs).any(|run| !run.state.is_over());
    ProjectsPage { frame, projects, url }
}

impl ProjectsPage<'_> {
    fn strip<'a>(&self, project: &'a Project) -> Vec<StripBar<'a>> {
        strip(&project.runs, self.frame.now)
    }
}

/// One bar of a strip.
struct StripBar<'a> {
    run: &'a Run,
    x: i64,
    y: i64,
    height: i64,
    label: String,
}

/// Bars from old to new, as high as their runs were long beside the longest.
fn strip(runs: &[Run], now: Timestamp) -> Vec<StripBar<'_>> {
    let shown = &runs[..runs.len().min(STRIP_RUNS)];
    let took = |run: &Run| {
        let from = run.started_at?;
        Some(run.finished_at.unwrap_or(now).since(from))
    };
    let longest = shown.iter().filter_map(took).max().unwrap_or_default().as_millis().max(1);
    let bar = |(at, run): (usize, &'_ Run)| {
        let ms = took(run).unwrap_or_default().as_millis();
        let height = 5 + i64::try_from(ms * (STRIP_HEIGHT as u128 - 5) / longest).unwrap_or(0);
        let height = height.min(STRIP_HEIGHT);
        let place = i64::try_from(STRIP_RUNS - shown.len() + at).unwrap_or(0);
        let took = took(run).map(|t| format!(", {}", show::length(t))).unwrap_or_default();
        let label = format!("#{} {}{took}", run.number, run.state);
        (place, height, label)
    };
    let mut bars: Vec<StripBar<'_>> = Vec::with_capacity(shown.len());
    for (at, run) in shown.iter().rev().enumerate() {
        let (place, height, label) = bar((at, run));
        bars.push(StripBar { run, x: place * BAR_WIDTH, y: STRIP_HEIGHT - height, height, label });
    }
    bars
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::sample;

    #[test]
    fn a_hostile_branch_is_text() {
        let mut project = sample::project();
        project.runs[0].branch = Some("<script>alert(1)</script>".into());
        project.runs[0].title = "\u{202e}evil \"quoted\" <b>".into();
        let html = build(&[project], "http://x", sample::NOW).render().unwrap();
        assert!(!html.contains("<script>alert"));
        assert!(html.contains("&#60;script&#62;alert(1)"), "{html}");
        assert!(html.contains("<bdi>\u{202e}evil &#34;quoted&#34; &#60;b&#62;</bdi>"));
    }

    #[test]
    fn without_projects_the_page_says_how_to_add_one() {
        let html = build(&[], "http://127.0.0.1:7411", sample::NOW).render().unwrap();
        assert!(html.contains("kiln project add"));
        assert!(html.contains("kiln project hook"));
    }

    #[test]
    fn a_strip_goes_from_old_to_new_and_the_longest_is_highest() {
        let project = sample::project();
        let bars = strip(&project.runs, sample::NOW);
        assert!(bars.is_sorted_by_key(|bar| bar.run.number));
        assert_eq!(bars.last().unwrap().x, (STRIP_RUNS as i64 - 1) * BAR_WIDTH);
        assert_eq!(bars.iter().map(|bar| bar.height).max(), Some(STRIP_HEIGHT));
    }
}
