//! What is there, by kind and project, and what it takes on disk.

use std::collections::HashMap;
use std::time::Duration;

use kiln_api::user::{GcReport, Usage};
use kiln_store::StoreError;

use super::Collector;
use super::disk::Space;
use super::sweep::on_disk;
use super::tally::Tally;

/// How long may be counted what nobody has counted yet.
const COUNT_WITHIN: Duration = Duration::from_secs(2);

impl Collector {
    /// Fast: from rows and from what was counted before.
    pub async fn usage(&self) -> Result<Usage, StoreError> {
        let mut tally = Tally::default();
        let projects = self.store.usage().await?;
        for project in &projects {
            let name = || Some(project.name.to_string());
            tally.add("runs", name(), project.n_runs, 0);
            if project.n_pinned > 0 {
                tally.add("pinned runs", name(), project.n_pinned, 0);
            }
            tally.add("logs", name(), project.n_runs, project.log_bytes);
            let artifacts = project.artifacts;
            tally.add("artifacts", name(), artifacts.n_objects, artifacts.n_bytes);
        }
        let is_partial = self.layers_usage(&projects, &mut tally).await?;
        let data = self.places.data.clone();
        let rest = tokio::task::spawn_blocking(move || {
            let size = |name: &str| on_disk(&data.join(name));
            let mirrors: Vec<(String, u64)> = std::fs::read_dir(data.join("mirrors"))
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| {
                    (entry.file_name().to_string_lossy().into_owned(), on_disk(&entry.path()))
                })
                .collect();
            let database = ["kiln.db", "kiln.db-wal", "kiln.db-shm"].map(size).iter().sum::<u64>();
            (mirrors, database, size("inbox"), Space::at(&data))
        });
        let (mirrors, database, inbox, space) = rest
            .await
            .map_err(|panic| StoreError::Other(format!("cannot look at the disk: {panic}")))?;
        for (id, n_bytes) in mirrors {
            let found = projects.iter().find(|project| project.project.to_string() == id);
            tally.add("mirrors", found.map(|project| project.name.to_string()), 1, n_bytes);
        }
        tally.add("database", None, 1, database);
        if inbox > 0 {
            tally.add("inbox", None, 1, inbox);
        }
        let GcReport { collected: kept, n_bytes, .. } = tally.report(true);
        let space = space.unwrap_or(Space { free: 0, total: 0 });
        let (free_bytes, total_bytes) = (space.free, space.total);
        Ok(Usage { kept, n_bytes, free_bytes, total_bytes, is_partial })
    }

    async fn layers_usage(
        &self,
        projects: &[kiln_store::ProjectUsage],
        tally: &mut Tally,
    ) -> Result<bool, StoreError> {
        let layers = self.layers.clone();
        let counted = tokio::task::spawn_blocking(move || layers.usage(COUNT_WITHIN)).await;
        let counted = counted.unwrap_or_else(|panic| Err(panic.to_string()));
        let usage =
            counted.map_err(|e| StoreError::Other(format!("cannot look at layers: {e}")))?;
        let ids = usage.runs.iter().map(|(run, _)| *run).collect();
        let of: HashMap<_, _> = self.store.projects_of(ids).await?;
        for (run, n_bytes) in usage.runs {
            let project = of.get(&run).and_then(|id| projects.iter().find(|p| p.project == *id));
            tally.add("layers", project.map(|project| project.name.to_string()), 1, n_bytes);
        }
        tally.add("sources", None, 1, usage.sources);
        tally.add("caches", None, 1, usage.caches);
        if usage.images > 0 {
            tally.add("images", None, 1, usage.images);
        }
        tally.add("other layers", None, 1, usage.rest);
        Ok(usage.is_partial)
    }
}
