//! Logs: whole, by lines, searched.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use kiln_api::user::{LogHit, LogLine, LogWindow};
use kiln_model::{AttemptId, JobState};
use kiln_store::log::Logs;
use serde::Deserialize;

use super::Error;
use super::extract::{self, Asked, At};
use super::file::{self, Part};
use crate::state::App;
use crate::{ask, view};

/// Lines of one window.
const LINES: u32 = 200;
const LINES_MAX: u32 = 10_000;
/// Longest line of a window; the rest of it is had by offset.
const LINE_BYTES_MAX: usize = 16 << 10;
/// Found lines of one search.
const HITS: u32 = 1_000;

/// Whose log a path names.
#[derive(Deserialize)]
pub struct Of {
    project: String,
    number: String,
    job: String,
    /// Of this service of the job, and not of the job itself.
    #[serde(default)]
    service: Option<String>,
}

/// An attempt whose log, or a service's of which, is asked for.
pub struct Target {
    pub id: AttemptId,
    pub service: Option<String>,
    /// Where it is read.
    pub logs: Logs,
    /// No more bytes will come.
    pub is_over: bool,
    /// There was one, and it is gone.
    is_collected: bool,
    /// `project-12-test.log`.
    pub file_name: String,
}

/// The attempt of a job that is asked for; without a number, its newest. A job that has none yet
/// has an empty log that may still come.
pub async fn target(app: &App, of: Of, attempt: Option<u32>) -> Result<Target, Error> {
    let Of { project, number, job, service } = &of;
    let row = extract::run(app, project, number).await?;
    let job_index = ask::job_of(app, &row, job).await?;
    let (_, run) = app.runs.view(row.id).await?;
    let folded = &run.jobs[job_index.at()];
    let newest = folded.attempts.last().map_or(1, |attempt| attempt.id.attempt);
    let wanted = attempt.unwrap_or(newest);
    if wanted == 0 || wanted > newest {
        return Err(Error::not_found("attempt"));
    }
    let found = folded.attempts.iter().find(|attempt| attempt.id.attempt == wanted);
    let state: JobState = found.map_or(folded.state, |attempt| attempt.state);
    let name = format!("{}-{}-{job}", row.project_name, row.number);
    let id = AttemptId { run: row.id, job: job_index, attempt: wanted };
    let mut target = Target {
        id,
        service: None,
        logs: app.runs.logs().clone(),
        is_over: state.is_over(),
        is_collected: found
            .is_some_and(|found| view::log_is_collected(&app.runs, found, state.is_over())),
        file_name: format!("{name}.log"),
    };
    if let Some(service) = service {
        let planned = run.plan.as_ref().map(|plan| &plan.job(job_index).services);
        if !planned.is_some_and(|services| services.contains_key(service)) {
            return Err(Error::not_found("service"));
        }
        target.logs = target.logs.of_service(service);
        let known = found.and_then(|found| found.services.get(service));
        let has_log = known.is_some_and(|known| known.log_bytes > 0);
        target.is_collected = target.is_over && has_log && !target.logs.is_there(id);
        target.is_over |= known.is_some_and(|known| known.end.is_some());
        target.file_name = format!("{name}-{service}.log");
        target.service = Some(service.clone());
    }
    Ok(target)
}

impl Target {
    /// A log that was collected is not an empty one.
    pub fn there(self) -> Result<Self, Error> {
        match self.is_collected {
            true => Err(Error::new(
                StatusCode::GONE,
                "log_collected",
                "the log was collected: it is older than what is kept",
            )),
            false => Ok(self),
        }
    }
}

#[derive(Deserialize)]
pub struct Whole {
    attempt: Option<u32>,
    download: Option<String>,
}

/// The log as the steps wrote it, byte for byte. `Range` gives a part; a log that still grows is
/// sent as far as it has come. `download` asks for a file.
///
/// Errors: `job_not_found`, `attempt_not_found`, `service_not_found`, `log_collected`.
pub async fn whole(
    State(app): State<App>,
    At(of): At<Of>,
    Asked(asked): Asked<Whole>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let target = target(&app, of, asked.attempt).await?.there()?;
    let logs = target.logs.clone();
    let n_bytes = logs.len(target.id)?;
    let part = file::part(&headers, n_bytes, None);
    let (status, mut answer, range) = file::head(&part, n_bytes);
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if asked.download.is_some() {
        answer.insert(header::CONTENT_DISPOSITION, attachment(&target.file_name));
    }
    let id = target.id;
    let body = file::body(move || logs.reader(id, range.start), range.end - range.start);
    match part {
        Part::Outside => Ok((StatusCode::RANGE_NOT_SATISFIABLE, answer).into_response()),
        Part::Whole | Part::Some(_) => Ok((status, answer, body).into_response()),
    }
}

#[derive(Deserialize)]
pub struct Lines {
    #[serde(default)]
    from: u64,
    n: Option<u32>,
    attempt: Option<u32>,
}

/// A window of `n` lines from line `from`, counted from 0. Invalid UTF-8 is replaced, and long lines
/// are cut.
///
/// Errors: `job_not_found`, `attempt_not_found`, `log_collected`.
pub async fn lines(
    State(app): State<App>,
    At(of): At<Of>,
    Asked(asked): Asked<Lines>,
) -> Result<Json<LogWindow>, Error> {
    let target = target(&app, of, asked.attempt).await?.there()?;
    let (logs, n) = (target.logs, asked.n.unwrap_or(LINES).min(LINES_MAX));
    let window = blocking(move || logs.lines(target.id, asked.from, n, LINE_BYTES_MAX)).await?;
    let ends = window.starts.iter().copied().skip(1).chain([window.end]);
    let spans = window.starts.iter().copied().zip(ends);
    let texts = window.bytes.split_inclusive(|byte| *byte == b'\n');
    let line = |((offset, end), text): ((u64, u64), &[u8])| {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let n_bytes = end - offset;
        // One byte more is its newline.
        let cut = n_bytes > text.len() as u64 + 1;
        let text = String::from_utf8_lossy(text).into_owned();
        LogLine { offset, text, cut_from: cut.then_some(n_bytes.saturating_sub(1)) }
    };
    Ok(Json(LogWindow {
        first: window.first,
        n_lines: window.n_lines,
        n_bytes: window.n_bytes,
        over: target.is_over,
        lines: spans.zip(texts).map(line).collect(),
    }))
}

#[derive(Deserialize)]
pub struct Search {
    #[serde(default)]
    q: String,
    #[serde(default)]
    from: u64,
    limit: Option<u32>,
    attempt: Option<u32>,
}

/// Lines that contain `q` (ASCII letters in either case), from line `from`.
///
/// Errors: `job_not_found`, `attempt_not_found`, `log_collected`.
pub async fn search(
    State(app): State<App>,
    At(of): At<Of>,
    Asked(asked): Asked<Search>,
) -> Result<Json<Vec<LogHit>>, Error> {
    let target = target(&app, of, asked.attempt).await?.there()?;
    let (logs, limit) = (target.logs, asked.limit.unwrap_or(HITS).min(HITS));
    let hits = blocking(move || logs.search(target.id, &asked.q, asked.from, limit)).await?;
    Ok(Json(hits.into_iter().map(|(line, offset)| LogHit { line, offset }).collect()))
}

/// Says to a browser that this is a file to keep. The name has no byte that a header gives meaning.
pub fn attachment(name: &str) -> HeaderValue {
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
        .collect();
    let encoded: String = name
        .bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                char::from(b).to_string()
            }
            _ => format!("%{b:02X}"),
        })
        .collect();
    let value = format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}");
    value.parse().unwrap_or(HeaderValue::from_static("attachment"))
}

/// Disk work on a thread that may wait.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(panic) => Err(Error::ours(&panic)),
    }
}
