//! This machine's layers, for who collects them.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kiln_api::layers::{CacheEntry, ImageLayer, Kept, LayerUsage, Layers, Stays, Unwanted};
use kiln_model::RunId;
use kiln_model::layer::{Collected, LayerId, LayerKind, Verified};
use kiln_workspace::{Victims, WorkspaceError, Workspaces};

/// Runs whose layers are taken away under one lock: renaming one takes microseconds, and who begins a
/// job waits for all of them.
const RUNS_AT_ONCE: usize = 100;

/// The layers under one folder. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MachineLayers(Arc<Workspaces>);

impl MachineLayers {
    pub fn new(workspaces: Arc<Workspaces>) -> Self {
        Self(workspaces)
    }

    fn take(
        &self,
        unwanted: &Unwanted,
        runs: &[RunId],
        stays: Stays<'_>,
        dry: bool,
    ) -> Result<Victims, String> {
        let mut victims = if dry { Victims::dry() } else { Victims::default() };
        let alone = self.0.alone().map_err(text)?;
        // Asked now, when nobody can change it.
        let held = stays()?;
        let runs = runs.iter().filter(|run| !held.runs.contains(run)).copied().collect();
        self.0.take_runs(&alone, &runs, &mut victims).map_err(text)?;
        let trees = unwanted.trees.difference(&held.trees).cloned().collect();
        self.0.take_sources(&alone, &trees, &mut victims).map_err(text)?;
        self.0.take_caches_of(&alone, &unwanted.caches, &mut victims).map_err(text)?;
        self.0.take_images(&alone, &unwanted.images, &mut victims).map_err(text)?;
        if let Some(before) = unwanted.derived_before {
            self.0.take_derived(&alone, before, &mut victims).map_err(text)?;
        }
        if let Some(before) = unwanted.damaged_before {
            self.0.take_damaged(before, &mut victims).map_err(text)?;
            self.0.take_leftovers(&mut victims).map_err(text)?;
        }
        Ok(victims)
    }

    fn sizes_of(&self, caches: &BTreeSet<String>) -> Vec<Collected> {
        let all = self.0.caches().unwrap_or_default().into_iter();
        all.filter(|entry| caches.contains(&entry.name))
            .map(|entry| Collected { kind: LayerKind::Caches, run: None, n_bytes: entry.n_bytes })
            .collect()
    }
}

impl Layers for MachineLayers {
    fn runs(&self) -> Result<Vec<Kept<RunId>>, String> {
        let runs = self.0.runs_kept().map_err(text)?;
        Ok(runs.into_iter().map(|(what, used_at)| Kept { what, used_at }).collect())
    }

    fn sources(&self) -> Result<Vec<Kept<String>>, String> {
        let sources = self.0.sources_kept().map_err(text)?;
        let kept =
            |source: kiln_workspace::Source| Kept { what: source.tree, used_at: source.used_at };
        Ok(sources.into_iter().map(kept).collect())
    }

    fn caches(&self) -> Result<Vec<Kept<CacheEntry>>, String> {
        let caches = self.0.caches().map_err(text)?;
        let kept = |entry: kiln_workspace::CacheEntry| Kept {
            used_at: entry.used_at,
            what: CacheEntry { name: entry.name, project: entry.project, n_bytes: entry.n_bytes },
        };
        Ok(caches.into_iter().map(kept).collect())
    }

    fn images(&self) -> Result<Vec<Kept<ImageLayer>>, String> {
        let images = self.0.images_kept().map_err(text)?;
        let kept = |layer: kiln_workspace::ImageLayer| Kept {
            used_at: layer.used_at,
            what: ImageLayer { name: layer.name, n_bytes: layer.n_bytes },
        };
        Ok(images.into_iter().map(kept).collect())
    }

    fn collect(
        &self,
        unwanted: &Unwanted,
        stays: Stays<'_>,
        dry: bool,
    ) -> (Vec<Collected>, Option<String>) {
        let runs: Vec<RunId> = unwanted.runs.iter().copied().collect();
        let mut removed = Vec::new();
        let mut trouble = None;
        let mut rest = unwanted;
        let nothing = Unwanted::default();
        let mut batches = runs.chunks(RUNS_AT_ONCE);
        loop {
            let batch = batches.next();
            if batch.is_none() && std::ptr::eq(rest, &nothing) {
                break;
            }
            match self.take(rest, batch.unwrap_or_default(), stays, dry) {
                Ok(victims) => {
                    let (collected, done) = victims.remove();
                    removed.extend(collected);
                    trouble = trouble.or_else(|| done.err().map(text));
                }
                Err(error) => {
                    trouble = trouble.or(Some(error));
                    break;
                }
            }
            if dry && !rest.caches.is_empty() {
                removed.extend(self.sizes_of(&rest.caches));
            }
            // The rest has gone with the first.
            rest = &nothing;
        }
        (removed, trouble)
    }

    fn has(&self, layer: &LayerId) -> bool {
        self.0.layer_paths(layer).is_some()
    }

    fn verify(&self) -> Result<Verified, String> {
        let differs = |tree: &str, index: &Path, files: &[(PathBuf, Metadata)]| {
            kiln_git::unlike(index, tree.len() / 2, files)
        };
        self.0.verify(differs).map_err(text)
    }

    fn hold(&self) -> Result<Box<dyn Send>, String> {
        Ok(Box::new(self.0.using().map_err(text)?))
    }

    fn usage(&self, within: Duration) -> Result<LayerUsage, String> {
        let usage = self.0.usage(within).map_err(text)?;
        Ok(LayerUsage {
            runs: usage.runs.into_iter().collect(),
            sources: usage.sources,
            caches: usage.caches,
            images: usage.images,
            rest: usage.rest,
            is_partial: usage.is_partial,
        })
    }
}

fn text(error: WorkspaceError) -> String {
    let mut all = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        all.push_str(": ");
        all.push_str(&next.to_string());
        cause = next.source();
    }
    all
}
