//! Artifacts, logs and runs: first their rows say that they are gone, then they are.

use std::collections::{HashMap, HashSet};

use kiln_model::layer::Digest;
use kiln_model::{ProjectId, RunId, RunNumber};
use kiln_stdx::Timestamp;
use kiln_store::{KeepRow, OldKind, OldRuns, StoreError};

use super::Pass;
use super::policy::{Keep, Rules};

/// Runs that are looked at in one go.
const PAGE: u32 = 200;

impl Pass<'_> {
    pub(super) async fn artifacts(&mut self) {
        let mut old: Vec<(ProjectId, RunId)> = Vec::new();
        for (project, rules) in self.rules() {
            let rule = &rules.artifacts;
            let mut found = self.old(project, rule, OldKind::Artifacts).await;
            if let Some(most) = rule.bytes {
                found.extend(self.beyond(project, most, &found).await);
            }
            old.extend(found.into_iter().map(|run| (project, run)));
        }
        match self.dry {
            true => self.would_free(&old).await,
            false => self.free(old).await,
        }
    }

    async fn free(&mut self, old: Vec<(ProjectId, RunId)>) {
        let fresh_since = self.fresh_since().await;
        for (project, run) in old {
            let freed = match self.store().collect_artifacts(run, self.now).await {
                Ok(freed) => freed,
                Err(error) => return self.tally.trouble("cannot collect artifacts", &error),
            };
            let n = freed.len() as u64;
            let n_bytes = self.remove_objects(freed, fresh_since).await;
            self.tally.add("artifacts", self.name_of(project), n, n_bytes);
        }
    }

    /// Objects that only these runs name.
    async fn would_free(&mut self, old: &[(ProjectId, RunId)]) {
        let mut named: HashMap<Digest, (ProjectId, u64)> = HashMap::new();
        let going: HashSet<RunId> = old.iter().map(|(_, run)| *run).collect();
        for (project, run) in old {
            match self.store().kept_artifacts(*run).await {
                Ok(all) => named
                    .extend(all.into_iter().map(|(digest, n_bytes)| (digest, (*project, n_bytes)))),
                Err(error) => return self.tally.trouble("cannot read artifacts", &error),
            }
        }
        let digests = named.keys().cloned().collect();
        let others = self.store().named_by_others(digests, going).await;
        let others = match others {
            Ok(others) => others,
            Err(error) => return self.tally.trouble("cannot read artifacts", &error),
        };
        for (digest, (project, n_bytes)) in named {
            if !others.contains(&digest) {
                self.tally.add("artifacts", self.name_of(project), 1, n_bytes);
            }
        }
    }

    /// Older runs whose artifacts are more than fits, beside those that go already.
    async fn beyond(&mut self, project: ProjectId, most: u64, gone: &[RunId]) -> Vec<RunId> {
        let all = self.everything(project, OldKind::Artifacts).await;
        let mut sum = 0_u64;
        let mut beyond = Vec::new();
        let mut seen = HashSet::new();
        for run in all.into_iter().rev().filter(|run| !gone.contains(run)) {
            let Ok(artifacts) = self.store().kept_artifacts(run).await else { continue };
            // What two runs name is there once.
            let new = artifacts.into_iter().filter(|(digest, _)| seen.insert(digest.clone()));
            sum += new.map(|(_, n_bytes)| n_bytes).sum::<u64>();
            if sum > most {
                beyond.push(run);
            }
        }
        beyond
    }

    pub(super) async fn logs(&mut self) {
        for (project, rules) in self.rules() {
            for run in self.old(project, &rules.logs, OldKind::Logs).await {
                let logs = self.collector.logs.clone();
                let n_bytes = match self.dry {
                    true => {
                        self.blocking("cannot read logs", move || text(logs.bytes_of_run(run)))
                            .await
                    }
                    false => match self.store().collect_logs(run, self.now).await {
                        Ok(true) => self.remove_logs(run).await,
                        Ok(false) => continue,
                        Err(error) => return self.tally.trouble("cannot collect logs", &error),
                    },
                };
                let n_bytes = n_bytes.unwrap_or(0);
                self.tally.add("logs", self.name_of(project), 1, n_bytes);
            }
        }
    }

    async fn remove_logs(&mut self, run: RunId) -> Option<u64> {
        let logs = self.collector.logs.clone();
        self.blocking("cannot remove logs", move || text(logs.remove_run(run))).await
    }

    pub(super) async fn runs(&mut self) {
        for (project, rules) in self.rules() {
            let name = self.name_of(project);
            for run in self.old(project, &rules.runs, OldKind::Rows).await {
                if self.dry {
                    let logs = self.collector.logs.clone();
                    let bytes = move || text(logs.bytes_of_run(run));
                    let n_bytes = self.blocking("cannot read logs", bytes).await.unwrap_or(0);
                    self.tally.add("runs", name.clone(), 1, n_bytes);
                    continue;
                }
                match self.store().hide_run(run, self.now).await {
                    Ok(true) => self.collector.runs.drop_over(run),
                    Ok(false) => continue,
                    Err(error) => return self.tally.trouble("cannot collect runs", &error),
                }
                let n_bytes = self.remove_run(run).await;
                self.tally.add("runs", name.clone(), 1, n_bytes);
            }
        }
        if !self.dry {
            self.finish_removals().await;
        }
    }

    /// What a crash has interrupted.
    async fn finish_removals(&mut self) {
        match self.store().hidden_runs().await {
            Ok(hidden) => {
                for run in hidden {
                    let n_bytes = self.remove_run(run).await;
                    self.tally.add("runs", None, 1, n_bytes);
                }
            }
            Err(error) => self.tally.trouble("cannot read runs", &error),
        }
    }

    /// The files of a hidden run, then its rows: they lead here again after a crash. Its layers are
    /// nobody's from now on; the next pass takes them.
    async fn remove_run(&mut self, run: RunId) -> u64 {
        let Some(mut n_bytes) = self.remove_logs(run).await else { return 0 };
        let fresh_since = self.fresh_since().await;
        loop {
            match self.store().remove_hidden(run).await {
                Ok((done, freed)) => {
                    n_bytes += self.remove_objects(freed, fresh_since).await;
                    if done {
                        return n_bytes;
                    }
                }
                Err(error) => {
                    self.tally.trouble("cannot remove a run", &error);
                    return n_bytes;
                }
            }
        }
    }

    /// Objects older than this have their rows, or will have none.
    pub(super) async fn fresh_since(&mut self) -> Timestamp {
        match self.store().active_since().await {
            Ok(Some(since)) => since.min(self.now),
            Ok(None) => self.now,
            Err(error) => {
                self.tally.trouble("cannot read runs", &error);
                Timestamp::EPOCH
            }
        }
    }

    pub(super) async fn remove_objects(&mut self, all: Vec<Digest>, fresh_since: Timestamp) -> u64 {
        if all.is_empty() {
            return 0;
        }
        let objects = self.collector.objects.clone();
        let remove = move || {
            let sizes = all.iter().map(|digest| objects.collect(digest, fresh_since));
            text(sizes.sum::<std::io::Result<u64>>())
        };
        self.blocking("cannot remove artifacts", remove).await.unwrap_or(0)
    }

    fn rules(&self) -> Vec<(ProjectId, Rules)> {
        let rules =
            |project: &kiln_store::ProjectRow| (project.id, self.policy.of(project.name.as_str()));
        self.projects.iter().map(|(project, _)| rules(project)).collect()
    }

    /// Runs of a project that are beyond a rule by age or number, the oldest first.
    async fn old(&mut self, project: ProjectId, rule: &Keep, kind: OldKind) -> Vec<RunId> {
        let up_to = |n: Option<u32>, none: i64| match (n, self.last_number(project)) {
            (Some(n), last) => last - i64::from(n),
            (None, _) => none,
        };
        let ms = |span: std::time::Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let before = rule.within.map_or(i64::MIN, |within| self.now.as_millis() - ms(within));
        let which = OldRuns {
            project,
            after: RunNumber(0),
            before: Timestamp::from_millis(before),
            age_up_to: RunNumber(up_to(rule.at_least, i64::MAX)),
            up_to: RunNumber(up_to(rule.at_most, 0)),
            kind,
            limit: PAGE,
        };
        self.every_page(which).await
    }

    async fn everything(&mut self, project: ProjectId, kind: OldKind) -> Vec<RunId> {
        let which = OldRuns {
            project,
            after: RunNumber(0),
            before: Timestamp::EPOCH,
            age_up_to: RunNumber(0),
            up_to: RunNumber(i64::MAX),
            kind,
            limit: PAGE,
        };
        self.every_page(which).await
    }

    async fn every_page(&mut self, mut which: OldRuns) -> Vec<RunId> {
        let mut found = Vec::new();
        loop {
            let page: Result<Vec<KeepRow>, StoreError> = self.store().old_runs(which.clone()).await;
            match page {
                Ok(page) => {
                    found.extend(page.iter().map(|row| row.id));
                    match page.last() {
                        Some(last) if page.len() >= PAGE as usize => which.after = last.number,
                        _ => return found,
                    }
                }
                Err(error) => {
                    self.tally.trouble("cannot read runs", &error);
                    return found;
                }
            }
        }
    }

    /// Of a project's newest run; numbers have no gaps but for what was collected.
    fn last_number(&self, project: ProjectId) -> i64 {
        let runs = self.projects.iter().find(|(row, _)| row.id == project).map(|(_, runs)| runs);
        runs.and_then(|runs| runs.first()).map_or(0, |run| run.number.0)
    }

    pub(super) async fn give_back_pages(&mut self) {
        loop {
            match self.store().give_back_pages().await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    return self.tally.trouble("cannot make the database smaller", &error);
                }
            }
        }
    }
}

pub(super) fn text<T>(done: std::io::Result<T>) -> Result<T, String> {
    done.map_err(|error| error.to_string())
}
