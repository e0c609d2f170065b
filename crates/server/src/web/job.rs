//! `/p/{project}/{number}/{job}`: one job: its attempts, its steps, why it is so, its log.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use kiln_api::user::{ArtifactRow, Attempt, JobDetail, Run, Service, Step, Why};
use kiln_model::artifact::Artifact;
use kiln_model::{AttemptId, JobIndex, JobState, ServiceState};
use kiln_stdx::Timestamp;
use serde::Deserialize;

use super::artifact::Shelf;
use super::error::PageError;
use super::extract::{Question, Segments};
use super::log::{self, Tail};
use super::page::{self, Crumb, Frame, link};
use super::run;
use super::show;
use crate::state::App;

/// Warnings that are open from the start.
const WARNINGS_OPEN: usize = 3;

#[derive(Debug, Default, Deserialize)]
pub struct Asked {
    attempt: Option<u32>,
    /// Whose log is shown; the job's own when absent.
    service: Option<String>,
}

#[derive(Template)]
#[template(path = "job.html")]
struct JobPage<'a> {
    frame: Frame,
    run: &'a Run,
    detail: &'a JobDetail,
    /// The attempt that is shown; none has been made yet when absent.
    attempt: Option<&'a Attempt>,
    /// The service of it whose log is shown.
    service: Option<&'a Service>,
    why: &'a Why,
    tail: Tail,
    shelf: Option<Shelf>,
    /// Names of the jobs before and after it in the plan.
    around: (Option<&'a str>, Option<&'a str>),
}

/// `GET /p/{project}/{number}/{job}`.
pub async fn show(
    State(app): State<App>,
    Segments((project, number, job)): Segments<(String, String, String)>,
    Question(asked): Question<Asked>,
) -> Result<Response, PageError> {
    let row = run::find(&app, &project, &number).await?;
    let whole = crate::view::run(&app.runs, row.id).await?;
    let missing = |what: &str| PageError::Missing(format!("{project}#{number} has no {what}."));
    let at = whole.jobs.iter().position(|row| row.job == job);
    let at = at.ok_or_else(|| missing(&format!("job “{job}”")))?;
    let index = JobIndex(u32::try_from(at).unwrap_or(u32::MAX));
    let detail = crate::view::job(&app.runs, row.id, index).await?;
    let why = crate::view::why(&app.runs, row.id, Some(index)).await?;
    let attempt = match asked.attempt {
        None => detail.attempts.last(),
        Some(n) => {
            let found = detail.attempts.iter().find(|attempt| attempt.attempt == n);
            Some(found.ok_or_else(|| missing(&format!("attempt {n} of “{job}”")))?)
        }
    };
    let service = match (attempt, &asked.service) {
        (Some(attempt), Some(name)) => {
            let found = attempt.services.iter().find(|service| service.service == *name);
            Some(found.ok_or_else(|| missing(&format!("service “{name}” of “{job}”")))?)
        }
        _ => None,
    };
    let tail = match attempt {
        None => Tail::default(),
        Some(attempt) => {
            let id = AttemptId { run: row.id, job: index, attempt: attempt.attempt };
            let logs = app.runs.logs();
            let (logs, steps) = match service {
                None => (logs.clone(), attempt.steps.clone()),
                Some(service) => (logs.of_service(&service.service), Vec::new()),
            };
            tokio::task::spawn_blocking(move || log::tail(&logs, id, &steps))
                .await
                .map_err(|error| PageError::Ours(error.to_string()))?
                .map_err(|error| PageError::Ours(format!("The log cannot be read: {error}.")))?
        }
    };
    let around = (
        at.checked_sub(1).map(|before| whole.jobs[before].job.as_str()),
        whole.jobs.get(at + 1).map(|after| after.job.as_str()),
    );
    let shown = (attempt, service);
    let page = build(&whole.run, &detail, shown, &why, tail, around, app.clock.now());
    Ok(page::send(StatusCode::OK, &page))
}

fn build<'a>(
    run: &'a Run,
    detail: &'a JobDetail,
    (attempt, service): (Option<&'a Attempt>, Option<&'a Service>),
    why: &'a Why,
    tail: Tail,
    around: (Option<&'a str>, Option<&'a str>),
    now: Timestamp,
) -> JobPage<'a> {
    let mut frame = run::frame(run, now);
    let job = &detail.row.job;
    frame.title = format!("{job} · {}#{}", run.project, run.number);
    frame.trail.push(Crumb { text: job.clone(), link: link::job(&run.project, run.number, job) });
    frame.twin = Some(link::api_job(&run.project, run.number, job));
    frame.live = !detail.row.state.is_over() || !run.state.is_over();
    let row = |attempt: &Attempt, artifact: &Artifact| ArtifactRow {
        job: job.clone(),
        attempt: attempt.attempt,
        artifact: artifact.clone(),
        collected_at: gone(attempt, "artifacts").then_some(now),
    };
    let rows: Vec<ArtifactRow> = attempt
        .map(|attempt| attempt.artifacts.iter().map(|artifact| row(attempt, artifact)).collect())
        .unwrap_or_default();
    let shelf = Shelf::of_attempt(run, &rows);
    let mut page = JobPage { frame, run, detail, attempt, service, why, tail, shelf, around };
    page.frame.state = Some(page.state().as_str());
    page
}

/// Steps that took less processor time say nothing of it: most are such, and nobody asks.
const USED_SHOWN_US: u64 = 50_000;

/// A service's state as the mark of a job's.
fn mark(service: &Service) -> &'static str {
    match service.state {
        ServiceState::Starting => "running",
        ServiceState::Stopped if service.ready_at.is_none() => "cancelled",
        ServiceState::Ready | ServiceState::Stopped => "success",
        ServiceState::Ended => "warning",
        ServiceState::Failed => "failed",
    }
}

/// What has become of a service, in a few words.
fn so_far(service: &Service) -> String {
    let after = service.ready_at.map(|at| show::length(at.since(service.started_at)));
    match (service.state, after) {
        (ServiceState::Ready, Some(after)) => format!("ready after {after}"),
        (state, _) => state.to_string(),
    }
}

/// What a step used: in a few words, and all of it.
fn used(step: &Step) -> Option<(String, String)> {
    let usage = step.usage.as_ref().filter(|usage| usage.cpu_us() >= Some(USED_SHOWN_US))?;
    let words = usage.words();
    Some((words.iter().take(2).cloned().collect::<Vec<_>>().join(" · "), words.join(", ")))
}

/// Something that an attempt had was collected.
fn gone(attempt: &Attempt, what: &str) -> bool {
    attempt.collected.iter().any(|collected| collected == what)
}

/// A person's shell reaches its files: those that it left, and while it runs those on its agent's machine.
fn can_be_entered(attempt: &Attempt) -> bool {
    let is_far = attempt.surroundings.as_ref().is_some_and(|around| around.host.is_some());
    attempt.state.is_over() || !is_far
}

impl JobPage<'_> {
    /// State of what is shown: of an older attempt its own, else of the job, which may wait for its
    /// next attempt.
    fn state(&self) -> JobState {
        match self.attempt {
            Some(attempt) if self.is_old(attempt) => attempt.state,
            _ => self.detail.row.state,
        }
    }

    fn went_well(&self) -> bool {
        matches!(self.detail.row.state, JobState::Success | JobState::Skipped)
    }

    fn reason(&self) -> Option<&str> {
        match self.attempt {
            Some(attempt) if self.is_old(attempt) => attempt.reason.as_deref(),
            _ => self.detail.row.reason.as_deref(),
        }
    }

    fn is_old(&self, attempt: &Attempt) -> bool {
        attempt.attempt != self.detail.row.attempt
    }

    fn log_link(&self) -> String {
        let job = link::api_job(&self.run.project, self.run.number, &self.detail.row.job);
        match self.service {
            None => format!("{job}/log"),
            Some(service) => format!("{job}/services/{}/log", show::segment(&service.service)),
        }
    }

    /// What else than the job's own log can be shown.
    fn services(&self) -> &[Service] {
        self.attempt.map(|attempt| attempt.services.as_slice()).unwrap_or_default()
    }

    fn is_shown(&self, service: &Service) -> bool {
        self.service.is_some_and(|shown| shown.service == service.service)
    }

    /// Where the log of a service, or without one of the job, is shown.
    fn shown_at(&self, service: Option<&Service>) -> String {
        let attempt = self.attempt.filter(|attempt| self.is_old(attempt));
        let attempt = attempt.map(|attempt| format!("attempt={}", attempt.attempt));
        let service = service.map(|service| format!("service={}", show::segment(&service.service)));
        let asked: Vec<String> = attempt.into_iter().chain(service).collect();
        format!("?{}", asked.join("&"))
    }

    /// The job can be done again from a step that the last attempt found its files kept for.
    fn can_begin(&self, step: &Step) -> bool {
        let newest = self.attempt.is_some_and(|attempt| !self.is_old(attempt));
        step.kept && newest && self.run.state.is_over()
    }

    fn some_can_begin(&self, attempt: &Attempt) -> bool {
        attempt.steps.iter().any(|step| self.can_begin(step))
    }

    /// What to type to look at its files.
    fn shell(&self) -> String {
        let runs = self.attempt.is_some_and(|attempt| !attempt.state.is_over());
        let live = if runs { "--live " } else { "" };
        let (project, number) = (&self.run.project, self.run.number);
        format!("kiln shell {live}'{project}#{number}/{}'", self.detail.row.job)
    }

    /// Where the log shows a step, as the number of its first line from 1.
    fn step_line(&self, step: &Step) -> Option<u64> {
        if self.service.is_some() {
            return None;
        }
        let lines = &self.tail.step_lines;
        lines.get(step.step as usize).copied().flatten().map(|line| line + 1)
    }

    fn has_log(&self) -> bool {
        self.attempt.is_some_and(|attempt| {
            attempt.started_at.is_some() || attempt.log_bytes > 0 || self.tail.n_bytes > 0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::sample;

    fn page(lines: &[&str]) -> String {
        let run = sample::diamond().run;
        let detail = sample::job();
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let tail = Tail {
            n_lines: lines.len() as u64,
            n_bytes: 99,
            lines,
            step_lines: vec![Some(0), Some(1)],
            ..Tail::default()
        };
        let why = sample::why();
        let attempt = detail.attempts.last();
        build(&run, &detail, (attempt, None), &why, tail, (Some("lint"), None), sample::NOW)
            .render()
            .unwrap()
    }

    #[test]
    fn the_end_of_the_log_is_readable_without_a_script() {
        let html = page(&["hello", "<img src=x onerror=alert(1)>"]);
        assert!(html.contains("hello"));
        assert!(html.contains("&#60;img src=x"), "{html}");
        assert!(!html.contains("<img src=x"));
    }

    #[test]
    fn steps_say_how_they_ended_and_link_into_the_log() {
        let html = page(&["a", "b"]);
        assert!(html.contains("exit code 101"), "{html}");
        assert!(html.contains("href=\"#L2\""));
        assert!(!html.contains("style="));
    }

    #[test]
    fn the_tab_says_how_the_job_is_and_not_how_its_run_is() {
        let (run, mut detail) = (sample::diamond().run, sample::job());
        detail.row.state = JobState::Lost;
        let why = sample::why();
        let attempt = detail.attempts.last();
        let around = (None, None);
        let shown = (attempt, None);
        let page = build(&run, &detail, shown, &why, Tail::default(), around, sample::NOW);
        assert_eq!(run.state.as_str(), "success");
        assert!(page.render().unwrap().contains("<title>lost · "));
    }

    #[test]
    fn an_older_attempt_can_be_chosen() {
        let html = page(&["a"]);
        assert!(html.contains("?attempt=1"), "{html}");
    }
}
