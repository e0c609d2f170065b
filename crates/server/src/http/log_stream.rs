//! A log as it is written, over server-sent events.
//!
//! `event: log`, `id: <byte offset after the chunk>`, `data: <base64>`; `event: end` when no more
//! will come. A reader that reconnects sends its last id, and goes on there without a byte lost or
//! twice.
//!
//! Nothing is polled and nothing is kept: the stream sleeps until it hears that the log grew, and
//! reads the file at the pace of its reader.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use kiln_model::AttemptId;
use kiln_store::log::Logs;
use serde::Deserialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::extract::{Asked, At};
use super::{Error, log, sse};
use crate::report;
use crate::runs::News;
use crate::state::App;

/// Most bytes of one event.
const CHUNK_BYTES: usize = 64 << 10;

#[derive(Deserialize)]
pub struct Where {
    attempt: Option<u32>,
    from: Option<u64>,
}

/// Follow a log from byte `from` (or `Last-Event-ID`) to its end.
///
/// Errors: `job_not_found`, `attempt_not_found`.
pub async fn stream(
    State(app): State<App>,
    At(of): At<log::Of>,
    Asked(asked): Asked<Where>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    // Heard from now on, looked at after: what happens in between is not missed.
    let news = app.runs.news();
    let target = log::target(&app, of, asked.attempt).await?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let follow = Follow {
        at: last.or(asked.from).unwrap_or(0),
        attempt: target.id,
        service: target.service,
        logs: target.logs,
        is_over: target.is_over,
        has_ended: false,
        news,
        app,
    };
    Ok(sse::answer(futures_util::stream::unfold(follow, |mut follow| async {
        follow.next().await.map(|event| (event, follow))
    })))
}

struct Follow {
    app: App,
    attempt: AttemptId,
    /// Whose log it is, if not the attempt's own.
    service: Option<String>,
    logs: Logs,
    /// Bytes sent so far.
    at: u64,
    /// No more will be written. Known before the file is read for the last time.
    is_over: bool,
    has_ended: bool,
    news: Receiver<News>,
}

impl Follow {
    /// The next event; `None` when the stream is over.
    async fn next(&mut self) -> Option<Bytes> {
        if self.has_ended {
            return None;
        }
        loop {
            let was_over = self.is_over;
            match self.read().await {
                Ok(bytes) if !bytes.is_empty() => {
                    self.at += bytes.len() as u64;
                    return Some(sse::event("log", Some(self.at), &sse::base64(&bytes)));
                }
                Ok(_) if was_over => {
                    self.has_ended = true;
                    return Some(sse::event("end", Some(self.at), ""));
                }
                Ok(_) => {}
                Err(error) => {
                    // The reader comes back and asks again from here.
                    report::say(&format!("log of {}: {error}", self.attempt));
                    return None;
                }
            }
            let stopping = self.app.stopping.clone();
            tokio::select! {
                heard = tokio::time::timeout(sse::KEEP_ALIVE, self.hear()) => match heard {
                    Ok(true) => {}
                    Ok(false) => return None,
                    Err(_) => return Some(Bytes::from_static(sse::COMMENT)),
                },
                () = stopping.cancelled() => return None,
            }
        }
    }

    /// A log that grows is in the page cache, and a read of that is quicker than to ask another
    /// thread for it. One that is over may have to be unpacked.
    async fn read(&self) -> std::io::Result<Vec<u8>> {
        let (logs, attempt, at) = (&self.logs, self.attempt, self.at);
        if !self.is_over {
            return logs.read(attempt, at, CHUNK_BYTES);
        }
        let logs = logs.clone();
        tokio::task::spawn_blocking(move || logs.read(attempt, at, CHUNK_BYTES))
            .await
            .unwrap_or_else(|panic| Err(std::io::Error::other(panic)))
    }

    /// Waits for news of this log; false when there will be none.
    async fn hear(&mut self) -> bool {
        loop {
            match self.news.recv().await {
                Ok(News::Log { attempt, service, n_bytes })
                    if attempt == self.attempt && service == self.service =>
                {
                    if n_bytes > self.at {
                        return true;
                    }
                    // Said again at the end, when the length is old news.
                    self.look().await;
                    if self.is_over {
                        return true;
                    }
                }
                Ok(News::Run { run, .. }) if run == self.attempt.run => {
                    self.look().await;
                    if self.is_over {
                        return true;
                    }
                }
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => {
                    self.look().await;
                    return true;
                }
                Err(RecvError::Closed) => return false,
            }
        }
    }

    /// Whether the attempt is over by now.
    async fn look(&mut self) {
        let Ok((_, run)) = self.app.runs.view(self.attempt.run).await else {
            // Removed, with its project.
            self.is_over = true;
            return;
        };
        let job = run.jobs.get(self.attempt.job.at());
        self.is_over = job.is_none_or(|job| {
            let mut attempts = job.attempts.iter();
            let attempt = attempts.find(|attempt| attempt.id == self.attempt);
            let service = self.service.as_ref().zip(attempt);
            let service = service.and_then(|(name, attempt)| attempt.services.get(name));
            service.is_some_and(|service| service.end.is_some())
                || attempt.map_or(job.state, |attempt| attempt.state).is_over()
        });
    }
}
