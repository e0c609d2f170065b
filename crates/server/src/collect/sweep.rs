//! Files that no row names: what crashes have left, and what belonged to projects that are gone.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use kiln_model::RunId;
use kiln_stdx::Timestamp;

use super::rows::text;
use super::{Collector, Pass};

impl Pass<'_> {
    pub(super) async fn sweep(&mut self) {
        self.sweep_logs().await;
        self.sweep_objects().await;
        self.sweep_mirrors().await;
    }

    /// Logs of runs that have no row, and of those whose logs are collected.
    async fn sweep_logs(&mut self) {
        let logs = self.collector.logs.clone();
        let listed = self.blocking("cannot list the logs", move || text(logs.runs())).await;
        let Some(runs) = listed else { return };
        for run in self.without_logs(runs).await {
            let n_bytes = match self.dry {
                true => {
                    let logs = self.collector.logs.clone();
                    self.blocking("cannot read logs", move || text(logs.bytes_of_run(run))).await
                }
                false => {
                    let logs = self.collector.logs.clone();
                    self.blocking("cannot remove logs", move || text(logs.remove_run(run))).await
                }
            };
            self.tally.add("leftovers", None, 1, n_bytes.unwrap_or(0));
        }
        if !self.dry {
            let logs = self.collector.logs.clone();
            let left =
                self.blocking("cannot remove logs", move || text(logs.remove_leftovers())).await;
            if let Some(n_bytes @ 1..) = left {
                self.tally.add("leftovers", None, 1, n_bytes);
            }
        }
    }

    async fn without_logs(&mut self, runs: Vec<RunId>) -> Vec<RunId> {
        let rows = match self.store().keep_rows(runs.clone()).await {
            Ok(rows) => rows,
            Err(error) => {
                self.tally.trouble("cannot read runs", &error);
                return Vec::new();
            }
        };
        let there: HashSet<RunId> = rows.iter().map(|row| row.id).collect();
        runs.into_iter().filter(|run| !there.contains(run)).collect()
    }

    async fn sweep_objects(&mut self) {
        let fresh_since = self.fresh_since().await;
        for first in 0..=u8::MAX {
            let objects = self.collector.objects.clone();
            let list = move || text(objects.of_folder(first));
            let Some(found) = self.blocking("cannot list the artifacts", list).await else {
                return;
            };
            if found.is_empty() {
                continue;
            }
            let digests = found.iter().map(|(digest, _)| digest.clone()).collect();
            let unnamed = match self.store().unnamed(digests).await {
                Ok(unnamed) => unnamed,
                Err(error) => return self.tally.trouble("cannot read artifacts", &error),
            };
            let n = unnamed.len() as u64;
            let n_bytes = match self.dry {
                true => {
                    let unnamed: HashSet<_> = unnamed.into_iter().collect();
                    let size =
                        |(digest, n): &(_, u64)| if unnamed.contains(digest) { *n } else { 0 };
                    found.iter().map(size).sum()
                }
                false => self.remove_objects(unnamed, fresh_since).await,
            };
            if n_bytes > 0 {
                self.tally.add("leftovers", None, n, n_bytes);
            }
        }
        self.sweep_temporary(fresh_since).await;
    }

    async fn sweep_temporary(&mut self, fresh_since: Timestamp) {
        let (objects, dry) = (self.collector.objects.clone(), self.dry);
        let sweep = move || {
            let mut total = (0, 0);
            for (path, n_bytes) in text(objects.leftovers(fresh_since))? {
                if dry || std::fs::remove_file(path).is_ok() {
                    total = (total.0 + 1, total.1 + n_bytes);
                }
            }
            Ok(total)
        };
        if let Some((n @ 1.., n_bytes)) = self.blocking("cannot list the artifacts", sweep).await {
            self.tally.add("leftovers", None, n, n_bytes);
        }
    }

    /// Mirrors of projects that are gone, and what a look at a repository has left half made.
    async fn sweep_mirrors(&mut self) {
        let known = self.projects.iter().map(|(project, _)| project.id.to_string()).collect();
        let (collector, dry) = (self.collector.clone(), self.dry);
        let sweep = move || Ok(remove_strays(&collector, &known, dry));
        if let Some((n @ 1.., n_bytes)) = self.blocking("cannot list the mirrors", sweep).await {
            self.tally.add("mirrors", None, n, n_bytes);
        }
    }
}

fn remove_strays(collector: &Collector, known: &HashSet<String>, dry: bool) -> (u64, u64) {
    let mut total = (0, 0);
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .map(|entry| (entry.path(), entry.file_name().to_string_lossy().into_owned()))
            .collect::<Vec<(PathBuf, String)>>()
    };
    // Ids of projects are never used again; what has another name is not ours to judge.
    let is_id = |name: &str| name.parse::<u64>().is_ok();
    let mirrors = names(&collector.places.data.join("mirrors")).into_iter();
    for (path, _) in mirrors.filter(|(_, name)| is_id(name) && !known.contains(name)) {
        let n_bytes = on_disk(&path);
        if dry || std::fs::remove_dir_all(&path).is_ok() {
            total = (total.0 + 1, total.1 + n_bytes);
        }
    }
    total
}

/// What a tree takes on disk.
pub(super) fn on_disk(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut total = 0;
    let mut rest = vec![path.to_owned()];
    while let Some(path) = rest.pop() {
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        total += meta.blocks() * 512;
        if meta.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            rest.extend(entries.map(|entry| entry.path()));
        }
    }
    total
}
