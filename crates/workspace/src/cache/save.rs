//! What a job leaves in its caches, kept for the next.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kiln_model::layer::LayerId;
use kiln_model::plan::CacheRule;
use kiln_model::{AttemptId, ProjectId};
use kiln_stdx::Timestamp;
use kiln_stdx::fs::{FsError, Named};

use super::entry::{Entry, Piece, name_of};
use super::outside::FOLDER;
use super::part::{At, Part, at, piece_name, prefix, size};
use super::{Held, Plan, shown};
use crate::workspaces::UPPER;
use crate::{WorkspaceError, Workspaces, copy, flatten, tree};

/// So many pieces are merged into one. More make finding slower, fewer make keeping slower.
const PIECES_MAX: usize = 12;

/// What was taken out of an attempt's folder, before that is gone.
#[derive(Debug, Default)]
pub struct Taken {
    plan: Plan,
    /// By the number of the mount.
    tops: HashMap<usize, Part>,
}

impl Workspaces {
    /// Takes what a job has written to its caches outside the workspace. After unmount, before
    /// [`Workspaces::seal`].
    pub fn take_caches(&self, attempt: AttemptId) -> Result<Taken, WorkspaceError> {
        let Some(mut plan) = self.cache_plan(attempt)? else { return Ok(Taken::default()) };
        let mut taken = Taken::default();
        if plan.scope.is_none() {
            plan.held.clear();
        }
        for held in &plan.held {
            let Some(outside) = &held.outside else { continue };
            let top =
                self.attempt_dir(attempt).join(FOLDER).join(outside.n.to_string()).join(UPPER);
            if tree::is_empty(&top)? {
                continue;
            }
            let number = fs::metadata(&top).named("read", &top)?.ino();
            let from = [attempt.to_string().into_bytes(), number.to_le_bytes().to_vec()];
            let name = piece_name(&held.rule.path, &[&from[0], &from[1]]);
            let to = self.piece_dir(&name);
            fs::rename(&top, &to).named("create", &to)?;
            taken.tops.insert(outside.n, Part { name, n_bytes: None });
        }
        taken.plan = plan;
        Ok(taken)
    }

    /// Keeps what a job has left: of a cache that it has not changed, nothing. After
    /// [`Workspaces::seal`], whose answer is `layer`, and with [`Workspaces::using`] held since
    /// [`Workspaces::take_caches`].
    ///
    /// Gives what could not be kept, and why.
    pub fn save_caches(
        &self,
        taken: Taken,
        layer: Option<&LayerId>,
        now: Timestamp,
    ) -> Vec<String> {
        let sealed = layer.and_then(|layer| self.layer_paths(layer)).unwrap_or_default();
        let mut unkept = Vec::new();
        let Some(scope) = taken.plan.scope.clone() else { return unkept };
        let Taken { plan, mut tops } = taken;
        for held in &plan.held {
            let chain = match &held.outside {
                Some(outside) => Ok(tops.remove(&outside.n).map(|top| after(held, top))),
                None => self.chain(&plan, held, &sealed),
            };
            let kept = chain.and_then(|chain| {
                chain.map_or(Ok(()), |chain| self.keep(&plan, &scope, held, chain, now))
            });
            if let Err(error) = kept {
                let (what, cause) = (shown(&held.rule), &error.cause);
                unkept.push(format!("{what} was not kept: {error}: {cause}"));
            }
        }
        unkept
    }

    /// Merges the pieces of a project's caches in a scope that have many. Not urgent, and not part of a
    /// job's time.
    pub fn tidy_caches(
        &self,
        project: ProjectId,
        scope: &str,
        rules: &[CacheRule],
    ) -> Result<(), WorkspaceError> {
        for rule in rules {
            let name = name_of(project, scope, rule);
            let Ok(Some(entry)) = self.cache_entry(&name) else { continue };
            if entry.pieces.len() > PIECES_MAX {
                self.merge(&name, entry)?;
            }
        }
        Ok(())
    }

    fn merge(&self, name: &str, entry: Entry) -> Result<(), WorkspaceError> {
        let _using = self.using()?;
        let from: Vec<&[u8]> = entry.pieces.iter().map(|piece| piece.name.as_bytes()).collect();
        let merged = self.make_piece(piece_name(&entry.path, &from), |into| {
            for piece in &entry.pieces {
                flatten::merge(&self.piece_dir(&piece.name), into, self.is_user())?;
            }
            size(into)
        })?;
        // Another job may have kept something meanwhile; then that one's maker does it.
        if self.cache_entry(name).is_ok_and(|now| now.as_ref() == Some(&entry)) {
            let pieces = vec![self.sized(merged, &[])?];
            self.write_entry(&Entry { pieces, ..entry })?;
        }
        Ok(())
    }

    /// Points the cache's name to these pieces.
    fn keep(
        &self,
        plan: &Plan,
        scope: &str,
        held: &Held,
        chain: Vec<Part>,
        now: Timestamp,
    ) -> Result<(), FsError> {
        let project = ProjectId(plan.project);
        if chain.is_empty() {
            // The job has removed it.
            tree::remove(&self.cache_file(&name_of(project, scope, &held.rule)))?;
            return Ok(());
        }
        let pieces = chain.into_iter().map(|part| self.sized(part, &held.began));
        let entry = Entry {
            project: plan.project,
            scope: scope.to_owned(),
            path: held.rule.path.clone(),
            key: held.rule.key.clone(),
            run: plan.number,
            saved_at: now,
            pieces: pieces.collect::<Result<_, _>>()?,
        };
        self.write_entry(&entry)
    }

    fn sized(&self, part: Part, known: &[Piece]) -> Result<Piece, FsError> {
        let before = known.iter().find(|piece| piece.name == part.name);
        let n_bytes = match part.n_bytes.or(before.map(|piece| piece.n_bytes)) {
            Some(n_bytes) => n_bytes,
            None => size(&self.piece_dir(&part.name))?,
        };
        Ok(Piece { name: part.name, n_bytes })
    }

    /// What a cache in the workspace is now: everything above the source. `None`: the job has not
    /// changed it.
    fn chain(
        &self,
        plan: &Plan,
        held: &Held,
        sealed: &[PathBuf],
    ) -> Result<Option<Vec<Part>>, FsError> {
        let path = Path::new(&held.rule.path);
        let cached = self.cached_dir();
        let is_copy = sealed.iter().any(|folder| copy::gone_file(folder).exists());
        // A copy in which nothing is left of what was found.
        let mut changed = sealed.is_empty() && !held.began.is_empty();
        let mut chain: Vec<Part> = Vec::new();
        let layers = plan.layers.iter().map(|name| (self.root().join(name), false));
        for (folder, is_own) in layers.chain(sealed.iter().map(|own| (own.clone(), true))) {
            let is_piece = folder.starts_with(&cached);
            match at(&folder, path)? {
                // In this form a folder has all that was found, unless the job removed it.
                At::Nothing if is_copy && is_own && !held.began.is_empty() => {
                    changed = true;
                    chain.clear();
                }
                At::Nothing => {}
                At::Gone => {
                    changed |= is_own && !is_piece;
                    chain.clear();
                }
                At::There { opaque, .. } => {
                    changed |= is_own && !is_piece;
                    if opaque {
                        chain.clear();
                    }
                    let part = self.piece_or_part(&folder, &held.rule.path, opaque)?;
                    // What was noted lower is covered by the same higher up.
                    chain.retain(|other| other.name != part.name);
                    chain.push(part);
                }
            }
        }
        if is_copy && changed && !self.differ(path, &held.began, &chain)? {
            return Ok(None);
        }
        Ok(changed.then_some(chain))
    }

    /// The part of a folder at a path; a piece of this very path is that already.
    fn piece_or_part(&self, folder: &Path, path: &str, opaque: bool) -> Result<Part, FsError> {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        if folder.starts_with(self.cached_dir()) && name.starts_with(&prefix(path)) {
            return Ok(Part { name: name.into_owned(), n_bytes: None });
        }
        self.part(folder, path, opaque)
    }

    /// Whether two chains have other files, by what can be seen without reading them.
    fn differ(&self, path: &Path, before: &[Piece], after: &[Part]) -> Result<bool, FsError> {
        let seen = |names: Vec<&String>| {
            let mut seen = BTreeMap::new();
            for name in names {
                see(&self.piece_dir(name).join(path), Path::new(""), &mut seen)?;
            }
            Ok::<_, FsError>(seen)
        };
        let before = seen(before.iter().map(|piece| &piece.name).collect())?;
        Ok(before != seen(after.iter().map(|part| &part.name).collect())?)
    }
}

/// What is kept of a cache outside the workspace: all that was there, and the new top.
fn after(held: &Held, top: Part) -> Vec<Part> {
    let began = held.began.iter();
    let parts = began.map(|piece| Part { name: piece.name.clone(), n_bytes: Some(piece.n_bytes) });
    parts.chain([top]).collect()
}

type Looks = (u32, u64, i64, i64);

/// Lays what is at `path` over what was seen.
fn see(path: &Path, name: &Path, seen: &mut BTreeMap<PathBuf, Looks>) -> Result<(), FsError> {
    let meta = match fs::symlink_metadata(path) {
        Err(cause) if tree::is_absent(&cause) => return Ok(()),
        other => other.named("read", path)?,
    };
    let forget = |seen: &mut BTreeMap<PathBuf, Looks>| {
        seen.retain(|other, _| !other.starts_with(name));
    };
    if !meta.is_dir() {
        forget(seen);
        if !tree::is_white_out(&meta) {
            seen.insert(name.to_owned(), looks(&meta));
        }
        return Ok(());
    }
    if tree::is_opaque(path) {
        forget(seen);
    }
    seen.insert(name.to_owned(), (meta.mode(), 0, 0, 0));
    for (below, _) in tree::entries(path)? {
        see(&below, &name.join(below.file_name().unwrap_or_default()), seen)?;
    }
    Ok(())
}

fn looks(meta: &Metadata) -> Looks {
    (meta.mode(), meta.size(), meta.mtime(), meta.mtime_nsec())
}
