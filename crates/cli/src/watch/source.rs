//! Where a watched run is: driven by this process, driven by another one, or at a server.

use std::collections::HashMap;
use std::io;

use kiln_api::user;
use kiln_model::{AttemptId, EventKind, JobIndex, JobState, RunId};
use kiln_server::runs::{News, Runs};
use kiln_stdx::Timestamp;
use kiln_store::log::Logs;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::inotify::Growth;
use super::{OnInterrupt, Picture};
use crate::client::Client;
use crate::client::stream::Stream;
use crate::error::{Blame, Failure, Result};
use crate::interrupt::Interrupt;
use crate::local::{Local, Owner, cancel_elsewhere};

pub enum Watched {
    /// Driven by this process, which holds its mark.
    Here {
        runs: Runs,
        run: RunId,
        news: broadcast::Receiver<News>,
        owner: Owner,
        /// When the rerun that is watched was asked for.
        began_at: Option<Timestamp>,
    },
    /// Driven by another process of this machine.
    Elsewhere { local: Local, run: RunId, growth: Growth },
    Server {
        client: Client,
        project: String,
        number: i64,
        live: Option<Box<Stream>>,
        began_at: Option<Timestamp>,
    },
}

impl Watched {
    /// A run that this process drives.
    pub fn here(runs: &Runs, run: RunId, owner: Owner, began_at: Option<Timestamp>) -> Self {
        Self::Here { runs: runs.clone(), run, news: runs.news(), owner, began_at }
    }

    /// A local run, whoever drives it. It is looked at; an interrupt does not touch it.
    pub fn elsewhere(local: Local, run: RunId) -> Result<Self> {
        let places = local.data.local();
        // Every event of a run is a commit, and every commit is written there. Logs grow in the
        // run's folder, which may appear after us.
        let journal = places.data.join("kiln.db-wal");
        let logs = places.logs().join(run.to_string());
        let growth = Growth::of(&[&journal, &logs, &places.logs()]);
        Ok(Self::Elsewhere {
            local,
            run,
            growth: growth.elsewhere("cannot watch the run's files")?,
        })
    }

    /// `began_at`: when the rerun that is watched was asked for.
    pub fn server(
        client: Client,
        project: String,
        number: i64,
        began_at: Option<Timestamp>,
    ) -> Self {
        Self::Server { client, project, number, live: None, began_at }
    }

    /// What an interrupt of the watching process means.
    pub fn on_interrupt(&self) -> OnInterrupt {
        match self {
            Self::Here { .. } => OnInterrupt::Cancel,
            Self::Elsewhere { .. } | Self::Server { .. } => OnInterrupt::Leave,
        }
    }

    /// Who is behind an interrupt, for the run's history.
    pub fn by(&self, interrupt: Interrupt) -> String {
        match self {
            Self::Here { owner, .. } if interrupt == Interrupt::Term => {
                owner.cancel_wish().unwrap_or_else(|| interrupt.by())
            }
            _ => interrupt.by(),
        }
    }

    pub async fn picture(&mut self) -> Result<Picture> {
        match self {
            Self::Here { runs, run, began_at, .. } => {
                let (row, run) = runs.view(*run).await?;
                let picture = Picture::of_local(&row, &run);
                Ok(Picture { began_at: began_at.unwrap_or(picture.began_at), ..picture })
            }
            Self::Elsewhere { local, run, .. } => {
                let (row, run) = local.runs().await?.view(*run).await?;
                Ok(Picture::of_local(&row, &run))
            }
            Self::Server { client, project, number, live, began_at } => {
                if live.is_none() {
                    // Before looking, so that nothing falls in between.
                    *live = client.run_live(project, *number).await.ok().map(Box::new);
                }
                let detail = client.run(project, *number).await?;
                let details = running_jobs(client, project, *number, &detail).await;
                let picture = Picture::of_server(detail, details);
                Ok(Picture { began_at: began_at.unwrap_or(picture.began_at), ..picture })
            }
        }
    }

    /// Resolves when there may be something new. May resolve for nothing.
    pub async fn changed(&mut self) {
        match self {
            Self::Here { run, news, .. } => loop {
                match news.recv().await {
                    Ok(News::Run { run: of, .. }) if of == *run => return,
                    Ok(News::Log { attempt, .. }) if attempt.run == *run => return,
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => return,
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            },
            Self::Elsewhere { growth, .. } => {
                // Looking means to read the run's events again; so often is enough for eyes.
                const REST: std::time::Duration = std::time::Duration::from_millis(50);
                let _ = growth.next().await;
                tokio::time::sleep(REST).await;
            }
            Self::Server { live, .. } => {
                // Logs grow without news of the run, so it is also looked at from time to time.
                const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(250);
                let ended = match live {
                    Some(stream) => {
                        tokio::select! {
                            event = stream.next() => !matches!(event, Ok(Some(_))),
                            () = tokio::time::sleep(LOOK_EVERY) => false,
                        }
                    }
                    None => {
                        tokio::time::sleep(LOOK_EVERY).await;
                        false
                    }
                };
                if ended {
                    *live = None;
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        }
    }

    /// Resolves when the run is over, where that can be told without a look at it.
    pub async fn over(&mut self) {
        let Self::Here { runs, run, news, .. } = self else { return std::future::pending().await };
        while !runs.is_over(*run) {
            if let Err(RecvError::Closed) = news.recv().await {
                return std::future::pending().await;
            }
        }
    }

    /// Bytes of an attempt's log; empty: no more yet.
    pub async fn log(
        &self,
        picture: &Picture,
        job: usize,
        attempt: u32,
        offset: u64,
        max: usize,
    ) -> Result<Vec<u8>> {
        if let Self::Server { client, project, number, .. } = self {
            let range = format!("bytes={offset}-{}", offset + max as u64 - 1);
            return client.log_range(project, *number, name(picture, job), attempt, &range).await;
        }
        let (logs, run) = self.logs();
        let read = logs.read(attempt_id(run, job, attempt), offset, max);
        absent_is_empty(read).elsewhere(format!("cannot read the log of `{}`", name(picture, job)))
    }

    /// As [`Watched::log`], of a service of a job of a local run.
    pub fn service_log(
        &self,
        (job, service): (usize, &str),
        attempt: u32,
        offset: u64,
        max: usize,
    ) -> Result<Vec<u8>> {
        let (logs, run) = self.logs();
        let read = logs.of_service(service).read(attempt_id(run, job, attempt), offset, max);
        absent_is_empty(read).elsewhere(format!("cannot read the log of the service `{service}`"))
    }

    /// The last bytes of an attempt's log.
    pub async fn tail(
        &self,
        picture: &Picture,
        job: usize,
        attempt: u32,
        max: usize,
    ) -> Result<Vec<u8>> {
        if let Self::Server { client, project, number, .. } = self {
            let range = format!("bytes=-{max}");
            return client.log_range(project, *number, name(picture, job), attempt, &range).await;
        }
        let (logs, run) = self.logs();
        let id = attempt_id(run, job, attempt);
        let length = absent_is_empty(logs.len(id));
        let tail = length.and_then(|length| {
            absent_is_empty(logs.read(id, length.saturating_sub(max as u64), max))
        });
        tail.elsewhere(format!("cannot read the log of `{}`", name(picture, job)))
    }

    /// The files of a local run's logs.
    fn logs(&self) -> (Logs, RunId) {
        match self {
            Self::Here { runs, run, .. } => (runs.logs().clone(), *run),
            Self::Elsewhere { local, run, .. } => (Logs::new(&local.data.local().logs()), *run),
            Self::Server { .. } => unreachable!("a server's logs are asked for, not read"),
        }
    }

    /// Asks for the run to be cancelled. That it is over already is no error.
    pub async fn cancel(&self, by: &str) -> Result<()> {
        match self {
            Self::Here { runs, run, .. } => {
                use kiln_server::runs::ApplyError;
                match runs.apply(*run, EventKind::CancelAsked { by: by.to_owned() }).await {
                    Ok(()) | Err(ApplyError::Refused(_)) => Ok(()),
                    Err(ApplyError::Store(error)) => Err(Failure::from(error)),
                }
            }
            Self::Elsewhere { local, run, .. } => cancel_elsewhere(&local.data, *run, by).map(drop),
            Self::Server { client, project, number, .. } => client.cancel(project, *number).await,
        }
    }
}

fn name(picture: &Picture, job: usize) -> &str {
    &picture.jobs[job].name
}

fn attempt_id(run: RunId, job: usize, attempt: u32) -> AttemptId {
    AttemptId { run, job: JobIndex(u32::try_from(job).unwrap_or(u32::MAX)), attempt }
}

/// A job that has not printed has no log file.
fn absent_is_empty<T: Default>(read: io::Result<T>) -> io::Result<T> {
    match read {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        answer => answer,
    }
}

async fn running_jobs(
    client: &Client,
    project: &str,
    number: i64,
    detail: &user::RunDetail,
) -> HashMap<String, user::JobDetail> {
    let mut details = HashMap::new();
    for job in detail.jobs.iter().filter(|job| job.state == JobState::Running) {
        // Steps are an extra: without them the job is shown all the same.
        if let Ok(found) = client.job(project, number, &job.job).await {
            details.insert(job.job.clone(), found);
        }
    }
    details
}
