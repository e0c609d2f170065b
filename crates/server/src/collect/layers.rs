//! Layers of runs, sources, caches, and what can be made again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kiln_api::layers::{Held, Kept, Layers, Unwanted};
use kiln_model::layer::{Collected, LayerKind};
use kiln_model::{ProjectId, RunId};
use kiln_stdx::Timestamp;
use kiln_store::KeepRow;

use super::policy::Keep;
use super::{Collector, Pass, tree_of};

/// What can be made again stays a little, for the next job that wants the same.
const DERIVED_FOR: Duration = Duration::from_secs(3600);
/// What is damaged stays for somebody to look at.
const DAMAGED_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

impl Pass<'_> {
    /// By the rules of their projects. Layers of runs that have no row any more go with them.
    pub(super) async fn layers(&mut self) {
        let Some(unwanted) = self.old_layers().await else { return };
        let runs = unwanted.into_iter().collect();
        self.take(Unwanted { runs, ..Unwanted::default() }).await;
    }

    async fn old_layers(&mut self) -> Option<Vec<RunId>> {
        let layers = self.collector.layers.clone();
        let kept = self.blocking("cannot list the layers", move || layers.runs()).await?;
        let ids = kept.iter().map(|kept| kept.what).collect();
        let rows = self.store().keep_rows(ids).await;
        let rows = rows.map_err(|error| self.tally.trouble("cannot read runs", &error)).ok()?;
        let rows: HashMap<RunId, KeepRow> = rows.into_iter().map(|row| (row.id, row)).collect();
        let mut rules: HashMap<ProjectId, Keep> = HashMap::new();
        let mut old = Vec::new();
        for Kept { what: run, used_at } in kept {
            let Some(row) = rows.get(&run) else {
                old.push(run);
                continue;
            };
            let rule = rules.entry(row.project).or_insert_with(|| {
                self.policy.of(&self.name_of(row.project).unwrap_or_default()).layers
            });
            if row.state.is_over() && row.pinned_at.is_none() && self.is_old(row, used_at, rule) {
                old.push(run);
            }
        }
        Some(old)
    }

    fn is_old(&self, row: &KeepRow, used_at: Timestamp, rule: &Keep) -> bool {
        let newest = |n: u32| row.number.0 > row.last_number.0 - i64::from(n);
        if rule.at_most.is_some_and(|n| !newest(n)) {
            return true;
        }
        let last = row.finished_at.unwrap_or(used_at).max(used_at);
        rule.within.is_some_and(|within| self.now.since(last) > within)
            && !rule.at_least.is_some_and(newest)
    }

    /// Those that nobody has begun on for long, but for the newest of each project: the next one is
    /// made from it.
    pub(super) async fn sources(&mut self) {
        let Some(within) = self.policy.sources_within() else { return };
        let layers = self.collector.layers.clone();
        let listed = self.blocking("cannot list the sources", move || layers.sources()).await;
        let Some(sources) = listed else { return };
        let newest = self.newest_trees();
        let old = |source: &Kept<String>| {
            self.now.since(source.used_at) > within && !newest.contains(&source.what)
        };
        let trees = sources.into_iter().filter(old).map(|source| source.what).collect();
        self.take(Unwanted { trees, ..Unwanted::default() }).await;
    }

    pub(super) fn newest_trees(&self) -> BTreeSet<String> {
        self.projects.iter().flat_map(|(_, runs)| runs).filter_map(tree_of).collect()
    }

    /// By age and size. Those of projects that are gone go with them.
    pub(super) async fn caches(&mut self) {
        let layers = self.collector.layers.clone();
        let listed = self.blocking("cannot list the caches", move || layers.caches()).await;
        let Some(mut entries) = listed else { return };
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.used_at));
        let mut sums: BTreeMap<ProjectId, (u64, u32)> = BTreeMap::new();
        let mut unwanted = BTreeSet::new();
        for Kept { what: entry, used_at } in entries {
            let Some(name) = self.name_of(entry.project) else {
                unwanted.insert(entry.name);
                continue;
            };
            let rule = self.policy.of(&name).caches;
            let (n_bytes, n) = sums.entry(entry.project).or_default();
            *n_bytes += entry.n_bytes;
            *n += 1;
            let too_old = rule.within.is_some_and(|within| self.now.since(used_at) > within)
                && rule.at_least.is_none_or(|least| *n > least);
            let too_many = rule.at_most.is_some_and(|most| *n > most);
            if too_old || too_many || rule.bytes.is_some_and(|most| *n_bytes > most) {
                *n_bytes -= entry.n_bytes;
                *n -= 1;
                unwanted.insert(entry.name);
            }
        }
        self.take(Unwanted { caches: unwanted, ..Unwanted::default() }).await;
    }

    /// Layers of images, which are of no project: by last use and size.
    pub(super) async fn images(&mut self) {
        let layers = self.collector.layers.clone();
        let listed = self.blocking("cannot list the images", move || layers.images()).await;
        let Some(mut images) = listed else { return };
        images.sort_by_key(|image| std::cmp::Reverse(image.used_at));
        let rule = self.policy.images();
        let mut n_bytes = 0;
        let mut unwanted = BTreeMap::new();
        for Kept { what: layer, used_at } in images {
            let too_old = rule.within.is_some_and(|within| self.now.since(used_at) > within);
            let too_many = rule.at_most == Some(0)
                || rule.bytes.is_some_and(|most| n_bytes + layer.n_bytes > most);
            if too_old || too_many {
                unwanted.insert(layer.name, used_at);
            } else {
                n_bytes += layer.n_bytes;
            }
        }
        self.take(Unwanted { images: unwanted, ..Unwanted::default() }).await;
    }

    pub(super) async fn rest_of_layers(&mut self) {
        let before = |span: Duration| {
            let ms = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
            Some(Timestamp::from_millis(self.now.as_millis() - ms))
        };
        let (derived_before, damaged_before) = (before(DERIVED_FOR), before(DAMAGED_FOR));
        self.take(Unwanted { derived_before, damaged_before, ..Unwanted::default() }).await;
    }

    /// Takes away what rows do not hold, and counts it. How much that was.
    pub(super) async fn take(&mut self, unwanted: Unwanted) -> u64 {
        let runs: Vec<RunId> = unwanted.runs.iter().copied().collect();
        let projects = match self.store().keep_rows(runs).await {
            Ok(rows) => rows.into_iter().map(|row| (row.id, row.project)).collect(),
            Err(_) => HashMap::new(),
        };
        let (removed, trouble) = take(self.collector, unwanted, self.dry).await;
        if let Some(trouble) = trouble {
            self.tally.say(format!("cannot collect layers: {trouble}"));
        }
        let mut total = 0;
        let mut counted = BTreeSet::new();
        for Collected { kind, run, n_bytes } in removed {
            total += n_bytes;
            let project = run.and_then(|run| projects.get(&run)).and_then(|id| self.name_of(*id));
            // A run's layers count as one, however many jobs it had.
            let n = match run {
                Some(run) => u64::from(counted.insert((kind, run))),
                // Files beside a folder are no thing of their own.
                None => match kind {
                    LayerKind::Sources | LayerKind::Images => u64::from(n_bytes > 0),
                    _ => 1,
                },
            };
            self.tally.add(kind.as_str(), project, n, n_bytes);
        }
        total
    }
}

pub(super) async fn take(
    collector: &Collector,
    unwanted: Unwanted,
    dry: bool,
) -> (Vec<Collected>, Option<String>) {
    let collector = collector.clone();
    let runtime = tokio::runtime::Handle::current();
    let taken = tokio::task::spawn_blocking(move || {
        let stays = || -> Result<Held, String> {
            runtime.block_on(collector.held()).map_err(|error| error.to_string())
        };
        let layers: &Arc<dyn Layers> = &collector.layers;
        layers.collect(&unwanted, &stays, dry)
    });
    taken.await.unwrap_or_else(|panic| (Vec::new(), Some(panic.to_string())))
}
