//! Taking away what is no longer wanted: layers by run, sources by tree, and what can be made again.
//!
//! ```text
//! look who uses what ──▶ rename to `.tmp-…` ──▶ (others go on) ──▶ remove
//! └────────── gc.lock, alone ─────────────┘
//! ```
//!
//! Always: what is left is whole; a crash leaves names that begin with `.tmp-`, which are garbage;
//! nothing is written, so that it works on a disk without a free byte. What an attempt or a shell
//! uses stays, and so do the folders that a layer which stays is made of.
//!
//! Elsewhere: which runs may lose their layers (`server`, which knows their rows).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kiln_model::RunId;
use kiln_model::layer::{Collected, LayerKind};
use kiln_stdx::Timestamp;
use kiln_stdx::fs::FsError;

use crate::hold::{Alone, mark_of};
use crate::source::is_name;
use crate::{WorkspaceError, Workspaces, damage, image, pieces, size, tree};

/// Folders whose names do not say of which run they are, or that are somebody else's to clear.
const NOT_BY_RUN: [&str; 10] = [
    "sources",
    "attempts",
    "places",
    "masks",
    "empty",
    "visits",
    "caches",
    "cached",
    damage::FOLDER,
    image::FOLDER,
];
/// Folders in which things are made under a temporary name.
const TEMPORARY: &str = ".tmp-";
const OVER: &str = ".over";
const LIST: &str = ".own.json";
const MERGED: &str = "merged-";

/// A source that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub tree: String,
    /// When a job last began on it.
    pub used_at: Timestamp,
}

/// Folders and files on their way out. They have no name any more by which anybody could find them;
/// [`Victims::remove`] gives their space back.
#[derive(Debug, Default)]
pub struct Victims {
    gone: Vec<(LayerKind, Option<RunId>, PathBuf)>,
    /// Named only: nothing is to be taken away.
    dry: bool,
}

impl Victims {
    /// Nothing is renamed or removed; sizes are told all the same.
    pub fn dry() -> Self {
        Self { gone: Vec::new(), dry: true }
    }

    pub fn is_empty(&self) -> bool {
        self.gone.is_empty()
    }

    /// Gives a path another name, at which nobody looks. One that is gone already is no error.
    pub(crate) fn take(&mut self, kind: LayerKind, run: Option<RunId>, path: PathBuf) {
        let name = match self.dry {
            true => path,
            false => {
                let name = tree::temporary_in(path.parent().unwrap_or(Path::new("/")));
                if fs::rename(&path, &name).is_err() {
                    return;
                }
                name
            }
        };
        self.gone.push((kind, run, name));
    }

    /// Removes everything, and says what it was. Trouble with one does not keep the others; the first
    /// is told at the end.
    pub fn remove(self) -> (Vec<Collected>, Result<(), WorkspaceError>) {
        let mut all = Vec::with_capacity(self.gone.len());
        let mut trouble = Ok(());
        for (kind, run, path) in self.gone {
            let n_bytes = size::on_disk(&path);
            let removed = if self.dry { Ok(()) } else { tree::remove(&path) };
            match removed {
                Ok(()) => all.push(Collected { kind, run, n_bytes }),
                Err(error) if trouble.is_ok() => trouble = Err(error.into()),
                Err(_) => {}
            }
        }
        (all, trouble)
    }
}

impl Workspaces {
    /// Runs of which anything is kept here, with the time of its newest layer.
    pub fn runs_kept(&self) -> Result<BTreeMap<RunId, Timestamp>, WorkspaceError> {
        let mut runs = BTreeMap::new();
        for folder in self.by_run()? {
            for (path, meta) in tree::entries(&folder)? {
                let Some(run) = run_of(&path) else { continue };
                let at = runs.entry(run).or_insert(Timestamp::EPOCH);
                *at = changed_at(&meta).max(*at);
            }
        }
        Ok(runs)
    }

    /// Takes the layers of these runs away, and whatever else belongs to their workspaces.
    pub fn take_runs(
        &self,
        _alone: &Alone,
        runs: &BTreeSet<RunId>,
        victims: &mut Victims,
    ) -> Result<(), WorkspaceError> {
        let held = self.held(runs)?;
        for folder in self.by_run()? {
            let entries = tree::entries(&folder)?;
            let all: HashSet<&Path> = entries.iter().map(|(path, _)| path.as_path()).collect();
            for (path, _) in &entries {
                let Some(run) = run_of(path).filter(|run| runs.contains(run)) else { continue };
                // Its list, its record and its marks are for the folder that they are named after.
                let of = base_of(path);
                let of_held = all.contains(&*of) && held.contains(&*of);
                if !held.contains(path) && !of_held {
                    victims.take(LayerKind::Layers, Some(run), path.clone());
                }
            }
        }
        Ok(())
    }

    /// Folders that must stay when these runs go: those in use, and the pieces of layers that stay.
    fn held(&self, runs: &BTreeSet<RunId>) -> Result<HashSet<PathBuf>, WorkspaceError> {
        let mut held = self.in_use()?;
        for (path, _) in tree::entries(&self.root().join("sealed"))? {
            let stays = run_of(&path).is_some_and(|run| !runs.contains(&run))
                || held.contains(&*base_of(&path));
            if stays && path.to_string_lossy().ends_with(LIST) {
                held.extend(pieces::read(self.root(), &path).unwrap_or_default());
            }
        }
        Ok(held)
    }

    /// Folders that attempts and shells use.
    pub(crate) fn in_use(&self) -> Result<HashSet<PathBuf>, WorkspaceError> {
        let mut used = self.used()?;
        for layer in self.visited()? {
            used.extend(self.layer_paths(&layer).unwrap_or_default());
        }
        // Of `trees/7/files`, `trees/7` as well: what belongs to the files lies there.
        let own =
            |path: &PathBuf| path.parent().is_some_and(|above| above.parent() != Some(self.root()));
        let above: Vec<_> = used
            .iter()
            .filter(|path| own(path))
            .filter_map(|path| path.parent().map(Path::to_owned))
            .collect();
        used.extend(above);
        Ok(used)
    }

    /// Takes caches away, by their names, and every folder of one that nothing names any more. Dry,
    /// only folders that nothing names by now are told.
    pub fn take_caches_of(
        &self,
        _alone: &Alone,
        names: &BTreeSet<String>,
        victims: &mut Victims,
    ) -> Result<(), WorkspaceError> {
        let mut named = self.held(&BTreeSet::new())?;
        for name in names.iter().filter(|_| !victims.dry) {
            self.remove_cache(name)?;
        }
        named.extend(self.cache_pieces_in_use()?);
        for piece in self.cache_pieces()?.into_iter().filter(|piece| !named.contains(piece)) {
            victims.take(LayerKind::Caches, None, piece);
        }
        Ok(())
    }

    /// Every source, whole ones and those that stand on others.
    pub fn sources_kept(&self) -> Result<Vec<Source>, WorkspaceError> {
        let mut sources = Vec::new();
        for (path, meta) in tree::entries(&self.sources())? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let tree = name.strip_suffix(OVER).unwrap_or(&name);
            if meta.is_dir() && is_name(tree) {
                let used_at = used_at(&path, &meta);
                sources.push(Source { tree: tree.to_owned(), used_at });
            }
        }
        sources.sort_unstable_by_key(|source| source.used_at);
        sources.dedup_by(|a, b| a.tree == b.tree);
        Ok(sources)
    }

    /// Takes sources away, but for those that are used and those that others stand on.
    pub fn take_sources(
        &self,
        _alone: &Alone,
        trees: &BTreeSet<String>,
        victims: &mut Victims,
    ) -> Result<(), WorkspaceError> {
        let mut held = self.in_use()?;
        for source in self.sources_kept()?.iter().filter(|source| !trees.contains(&source.tree)) {
            held.extend(self.source_paths(&source.tree).unwrap_or_default());
        }
        // A chain of which one part is used is used as a whole.
        for tree in trees {
            let paths = self.source_paths(tree).unwrap_or_default();
            if paths.last().is_some_and(|top| held.contains(top)) {
                held.extend(paths);
            }
        }
        // Those that stand on others first: after a crash in between, no chain lacks its foot.
        for over in [true, false] {
            for tree in trees.iter().filter(|tree| is_name(tree)) {
                self.take_source(tree, over, &held, victims);
            }
        }
        Ok(())
    }

    fn take_source(&self, tree: &str, over: bool, held: &HashSet<PathBuf>, victims: &mut Victims) {
        let path = match over {
            true => self.sources().join(format!("{tree}{OVER}")),
            false => self.sources().join(tree),
        };
        if !path.is_dir() || held.iter().any(|folder| folder.starts_with(&path)) {
            return;
        }
        let beside = match over {
            true => vec![mark_of(&path)],
            false => ["used", "index", "looks"]
                .map(|end| self.sources().join(format!("{tree}.{end}")))
                .into(),
        };
        victims.take(LayerKind::Sources, None, path);
        for path in beside.into_iter().filter(|path| path.exists()) {
            victims.take(LayerKind::Sources, None, path);
        }
    }

    /// Takes away what nobody uses, what is made again when it is wanted, and what was left half done
    /// by processes that are gone. `before`: only what is older.
    pub fn take_derived(
        &self,
        _alone: &Alone,
        before: Timestamp,
        victims: &mut Victims,
    ) -> Result<(), WorkspaceError> {
        let used = self.in_use()?;
        let old = |meta: &Metadata| changed_at(meta) < before;
        for (path, meta) in tree::entries(&self.root().join("masks"))? {
            if old(&meta) && !used.contains(&path) && !is_temporary(&path) {
                victims.take(LayerKind::Derived, None, path);
            }
        }
        for (path, meta) in tree::entries(&self.root().join("sealed"))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(MERGED) && old(&meta) && !used.contains(&path) {
                victims.take(LayerKind::Derived, None, path);
            }
        }
        self.take_digests(victims)?;
        self.take_objects(before, victims)
    }

    /// Digests of layers that are gone.
    fn take_digests(&self, victims: &mut Victims) -> Result<(), WorkspaceError> {
        for (path, _) in tree::entries(&self.digests())? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_there = match name.split_once('-') {
                Some(("source", tree)) => !is_name(tree) || self.has_source(tree),
                Some(("cache", piece)) => self.cached_dir().join(piece).exists(),
                Some(("image", layer)) => self.root().join(image::FOLDER).join(layer).exists(),
                // Those of runs go with them.
                _ => true,
            };
            if !is_there {
                victims.take(LayerKind::Derived, None, path);
            }
        }
        Ok(())
    }

    /// Links to the objects of a repository that no run names any more (`kept`).
    fn take_objects(&self, before: Timestamp, victims: &mut Victims) -> Result<(), WorkspaceError> {
        let entries = tree::entries_of(&self.root().join("trees"))?;
        let named: HashSet<String> = entries
            .iter()
            .filter_map(|(path, _)| fs::read_to_string(path.join("objects")).ok())
            .map(|name| name.trim().to_owned())
            .collect();
        for (path, meta) in entries {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let objects = name.starts_with("objects-");
            if objects && changed_at(&meta) < before && !named.contains(&name) {
                victims.take(LayerKind::Derived, None, path);
            }
        }
        Ok(())
    }

    /// What was set aside because it was damaged, `before` that time.
    pub fn take_damaged(
        &self,
        before: Timestamp,
        victims: &mut Victims,
    ) -> Result<(), WorkspaceError> {
        for (path, meta) in tree::entries_of(&self.root().join(damage::FOLDER))? {
            if changed_at(&meta) < before && !is_temporary(&path) {
                victims.take(LayerKind::Damaged, None, path);
            }
        }
        Ok(())
    }

    /// What processes that are gone have left half made, or half removed. No lock is needed: nobody
    /// can find it.
    pub fn take_leftovers(&self, victims: &mut Victims) -> Result<(), WorkspaceError> {
        let folders = tree::entries(self.root())?.into_iter().filter(|(_, meta)| meta.is_dir());
        for folder in folders.map(|(path, _)| path).chain([self.root().to_owned()]) {
            for (path, _) in tree::entries(&folder)? {
                if tree::is_stale(&path) {
                    victims.gone.push((LayerKind::Leftovers, None, path));
                }
            }
        }
        Ok(())
    }

    /// Every folder of the root in which names say of which run a thing is.
    fn by_run(&self) -> Result<Vec<PathBuf>, FsError> {
        let named = |path: &Path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| !NOT_BY_RUN.contains(&name) && !name.starts_with(TEMPORARY))
        };
        let mut folders: Vec<_> = tree::entries(self.root())?
            .into_iter()
            .filter(|(path, meta)| meta.is_dir() && named(path))
            .map(|(path, _)| path)
            .collect();
        // What is layered first: the rest is worth nothing without it.
        folders.sort_by_key(|path| !path.ends_with("sealed"));
        Ok(folders)
    }
}

/// `7-0-1`, `7-0-1.own.json`, `7-<commit>`, `7`, `attempt-7-0-1`: all of run 7.
pub(crate) fn run_of(path: &Path) -> Option<RunId> {
    let name = path.file_name()?.to_str()?;
    let name =
        ["attempt-", "boundary-"].iter().find_map(|kind| name.strip_prefix(kind)).unwrap_or(name);
    let digits = name.bytes().take_while(u8::is_ascii_digit).count();
    let ends = matches!(name.as_bytes().get(digits), None | Some(b'-' | b'.'));
    name[..digits].parse().ok().filter(|_| ends).map(RunId)
}

/// The folder that a file beside it is named after: all up to the first dot.
fn base_of(path: &Path) -> std::borrow::Cow<'_, Path> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match name.split_once('.') {
        Some((base, _)) if !base.is_empty() => path.with_file_name(base).into(),
        _ => path.into(),
    }
}

pub(crate) fn is_temporary(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TEMPORARY))
}

/// When its name, its mode or its entries last changed: a time that nobody can set.
fn changed_at(meta: &Metadata) -> Timestamp {
    Timestamp::from_millis(meta.ctime() * 1_000 + meta.ctime_nsec() / 1_000_000)
}

/// When a folder was last of use, by its mark; else when it was made.
pub(crate) fn used_at(folder: &Path, meta: &Metadata) -> Timestamp {
    let mark = fs::metadata(mark_of(folder)).ok();
    mark.map_or(Timestamp::EPOCH, |mark| {
        Timestamp::from_millis(mark.mtime() * 1_000 + mark.mtime_nsec() / 1_000_000)
    })
    .max(changed_at(meta))
}

#[cfg(test)]
mod tests;
