//! That something has changed, over server-sent events. Never what: the reader asks again for what
//! it shows, so a missed event costs nothing once the next one comes.

use std::collections::BTreeSet;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use kiln_model::RunId;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::extract::{self, At};
use super::{Error, sse};
use crate::runs::News;
use crate::state::App;

/// `event: changed`, `data: {"seq":N}` for a run: at once, and after each change.
///
/// Errors: `project_not_found`, `run_not_found`.
pub async fn run(
    State(app): State<App>,
    At((project, number)): At<(String, String)>,
) -> Result<Response, Error> {
    let news = app.runs.news();
    let id = extract::run(&app, &project, &number).await?.id;
    let watch = Watch { app, news, only: Some(id), pending: vec![id], pause: false };
    Ok(stream(watch))
}

/// `event: changed`, `data: {"project":"…","number":N}` for each run that changes; `data: {}` when
/// so much has changed that everything should be asked for again.
pub async fn lists(State(app): State<App>) -> Response {
    let news = app.runs.news();
    stream(Watch { app, news, only: None, pending: Vec::new(), pause: false })
}

fn stream(watch: Watch) -> Response {
    sse::answer(futures_util::stream::unfold(watch, |mut watch| async {
        watch.next().await.map(|event| (event, watch))
    }))
}

struct Watch {
    app: App,
    news: Receiver<News>,
    only: Option<RunId>,
    /// Changed, and not told yet.
    pending: Vec<RunId>,
    /// Something was told just now.
    pause: bool,
}

enum Heard {
    Runs(BTreeSet<RunId>),
    TooMuch,
    Closed,
}

impl Watch {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            while let Some(run) = self.pending.pop() {
                if let Some(event) = self.tell(run).await {
                    return Some(event);
                }
            }
            let stopping = self.app.stopping.clone();
            let heard = tokio::select! {
                heard = tokio::time::timeout(sse::KEEP_ALIVE, self.hear()) => heard,
                () = stopping.cancelled() => return None,
            };
            match heard {
                Ok(Heard::Runs(runs)) => self.pending = runs.into_iter().rev().collect(),
                Ok(Heard::TooMuch) => match self.only {
                    Some(run) => self.pending = vec![run],
                    None => return Some(sse::event("changed", None, "{}")),
                },
                Ok(Heard::Closed) => return None,
                Err(_) => return Some(Bytes::from_static(sse::COMMENT)),
            }
        }
    }

    async fn tell(&mut self, run: RunId) -> Option<Bytes> {
        // Removed meanwhile: nobody can look at it any more.
        let (row, folded) = self.app.runs.view(run).await.ok()?;
        let data = match self.only {
            Some(_) => serde_json::json!({ "seq": folded.seq }),
            None => serde_json::json!({ "project": row.project_name, "number": row.number }),
        };
        self.pause = true;
        Some(sse::event("changed", None, &data.to_string()))
    }

    /// Runs that changed. The first after a silence is told at once, a burst once.
    async fn hear(&mut self) -> Heard {
        let mut runs = BTreeSet::new();
        while runs.is_empty() {
            match self.news.recv().await {
                Ok(News::Run { run, .. }) => self.note(&mut runs, run),
                Ok(News::Log { .. }) => {}
                Err(RecvError::Lagged(_)) => return Heard::TooMuch,
                Err(RecvError::Closed) => return Heard::Closed,
            }
        }
        if std::mem::take(&mut self.pause) {
            tokio::time::sleep(sse::COALESCE).await;
        }
        loop {
            match self.news.try_recv() {
                Ok(News::Run { run, .. }) => self.note(&mut runs, run),
                Ok(News::Log { .. }) => {}
                Err(TryRecvError::Lagged(_)) => return Heard::TooMuch,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return Heard::Runs(runs),
            }
        }
    }

    fn note(&self, runs: &mut BTreeSet<RunId>, run: RunId) {
        if self.only.is_none_or(|only| only == run) {
            runs.insert(run);
        }
    }
}
