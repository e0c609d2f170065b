//! When a server collects: a little after runs end, and now and then.
//!
//! Asleep in between: a run that ends wakes it, a result that finds no room on the disk, and a clock that
//! ticks a few times a day.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;

use super::disk::Space;
use super::{Collector, Depth, Policy};
use crate::report;
use crate::runs::News;
use crate::state::App;

/// Runs that end close to each other are looked at together, and their people first.
const AFTER: Duration = Duration::from_secs(20);
/// Rules count days: a pass every few minutes is soon enough, unless the disk is full.
const PAUSE: Duration = Duration::from_secs(600);
/// Without any run that ends.
const AT_LATEST: Duration = Duration::from_secs(6 * 3600);
/// Files without rows come from crashes only.
const SWEEP_EVERY: Duration = Duration::from_secs(24 * 3600);

/// The loop of one server.
pub struct Background {
    pub collector: Collector,
    /// What is kept; read again before each pass.
    pub config: PathBuf,
    policy: Policy,
}

impl Background {
    pub fn new(collector: Collector, config: PathBuf, policy: Policy) -> Self {
        Self { collector, config, policy }
    }

    /// Until the server stops.
    pub async fn run(mut self, app: App) {
        let stopping = app.stopping.clone();
        tokio::select! {
            () = self.work(app) => {}
            () = stopping.cancelled() => {}
        }
    }

    async fn work(&mut self, app: App) {
        let clock = self.collector.clock.clone();
        let mut last: Option<Duration> = None;
        let mut swept: Option<Duration> = None;
        // Whoever started it is answered first.
        tokio::time::sleep(AFTER).await;
        loop {
            let pack_again = self.collector.pack().await;
            self.tidy_mirrors(&app).await;
            let now = clock.monotonic();
            let due = last.is_none_or(|last| now.saturating_sub(last) >= PAUSE);
            if due || self.is_nearly_full() {
                let sweep = swept.is_none_or(|swept| now.saturating_sub(swept) >= SWEEP_EVERY);
                self.pass(if sweep { Depth::Sweep } else { Depth::Usual }).await;
                last = Some(clock.monotonic());
                swept = if sweep { last } else { swept };
            }
            let wait = pack_again.unwrap_or(AT_LATEST).min(AT_LATEST);
            tokio::select! {
                () = self.run_over(&app) => tokio::time::sleep(AFTER).await,
                () = app.runs.disk_filled() => {
                    // At once, unless that has just been tried.
                    let since = last.map(|last| clock.monotonic().saturating_sub(last));
                    let since = since.unwrap_or(AFTER);
                    tokio::time::sleep(AFTER.saturating_sub(since)).await;
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn pass(&mut self, depth: Depth) {
        self.read_policy();
        let report = self.collector.collect(&self.policy, false, depth).await;
        for trouble in report.trouble.into_iter().chain(report.warnings) {
            report::say(&format!("collecting: {trouble}"));
        }
    }

    /// A file that cannot be read changes nothing, and somebody is told.
    fn read_policy(&mut self) {
        match Policy::of_server().read(&self.config) {
            Ok(policy) => self.policy = policy,
            Err(error) => {
                report::say(&format!("{}; what was read before holds", report::whole(&error)))
            }
        }
    }

    fn is_nearly_full(&self) -> bool {
        let space = Space::at(&self.collector.places.data);
        space.is_some_and(|space| space.used() > self.policy.disk.above)
    }

    async fn run_over(&self, app: &App) {
        let mut news = app.runs.news();
        loop {
            match news.recv().await {
                Ok(News::Run { run, .. }) if app.runs.is_over(run) => return,
                Ok(_) => {}
                // So much has happened that some run will have ended.
                Err(RecvError::Lagged(_)) => return,
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    /// Joins the packs of mirrors, one mirror after another.
    async fn tidy_mirrors(&self, app: &App) {
        let Ok(projects) = self.collector.store.projects(0).await else { return };
        for (project, _) in projects {
            let tidied = app.mirrors.with(&project, |mirror| mirror.tidy()).await;
            if let Err(error) = tidied {
                report::say(&format!("project {}: {}", project.name, report::whole(&error)));
            }
        }
    }
}
