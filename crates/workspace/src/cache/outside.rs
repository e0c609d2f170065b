//! Caches outside the workspace: mounts over the real folders, which the job does not write.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kiln_model::AttemptId;
use kiln_model::plan::CacheRule;
use kiln_stdx::fs::{FsError, Named, create_private_dir, write_atomic};
use kiln_stdx::overlay::Mount;

use super::{CacheWish, Caches, Held, Plan, shown};
use crate::workspaces::{UPPER, WORK};
use crate::{Prepared, WorkspaceError, Workspaces, flatten, tree};

/// In an attempt's folder: tops and works of mounts outside the workspace.
pub(super) const FOLDER: &str = "caches";
/// In an attempt's folder: the plan.
const PLAN: &str = "caches.json";

impl Workspaces {
    /// Writes down what a job has found and will keep, and adds what is to be mounted besides its
    /// workspace and said in its log.
    pub fn lay_caches(
        &self,
        attempt: AttemptId,
        caches: Caches,
        prepared: &mut Prepared,
    ) -> Result<(), WorkspaceError> {
        let dir = self.attempt_dir(attempt);
        let mut mounts = Vec::new();
        let Caches { mut plan, mut lines, .. } = caches;
        plan.held.retain(|held| {
            let laid = self.lay(&dir, held, prepared.mount.as_ref());
            match laid {
                Ok(mount) => mounts.extend(mount),
                Err(ref why) => lines.push(format!("{}: {why}", shown(&held.rule))),
            }
            laid_or_inside(held, &mounts)
        });
        let lowers: Vec<PathBuf> = mounts.iter().flat_map(|mount| mount.lowers.clone()).collect();
        self.uses(attempt, &lowers)?;
        if !plan.held.is_empty() {
            let file = dir.join(PLAN);
            let text = serde_json::to_vec(&plan).unwrap_or_default();
            write_atomic(&file, &text)?;
        }
        prepared.further = mounts;
        prepared.lines.append(&mut lines);
        Ok(())
    }

    /// The mount of a cache outside the workspace; none for others.
    fn lay(
        &self,
        dir: &Path,
        held: &Held,
        workspace: Option<&Mount>,
    ) -> Result<Option<Mount>, String> {
        let Some(outside) = &held.outside else { return Ok(None) };
        let Some(workspace) = workspace else {
            return Err("not used: this machine cannot mount it, and the job gets the real folder"
                .to_owned());
        };
        let said = |error: FsError| format!("not used: {error}: {}", error.cause);
        fs::create_dir_all(&outside.at).named("create", &outside.at).map_err(said)?;
        let top = dir.join(FOLDER).join(outside.n.to_string());
        let (upper, work) = (top.join(UPPER), top.join(WORK));
        for folder in [&upper, &work] {
            create_private_dir(folder).map_err(said)?;
        }
        let looks = fs::metadata(&outside.at).named("read", &outside.at).map_err(said)?;
        tree::set_attributes(&upper, &looks).map_err(said)?;
        let pieces = held.began.iter().map(|piece| self.piece_dir(&piece.name)).collect();
        let mut lowers =
            flatten::flatten(&self.cached_dir(), pieces, workspace.user).map_err(said)?;
        lowers.reverse();
        lowers.push(outside.at.clone());
        Ok(Some(Mount { lowers, upper, work, at: outside.at.clone(), user: workspace.user }))
    }

    /// The plan of an attempt; `None` when it keeps nothing.
    pub(super) fn cache_plan(&self, attempt: AttemptId) -> Result<Option<Plan>, FsError> {
        let file = self.attempt_dir(attempt).join(PLAN);
        let text = match fs::read(&file) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.named("read", &file)?,
        };
        serde_json::from_slice(&text).map(Some).map_err(io::Error::other).named("read", &file)
    }

    /// The folder that a path outside the workspace is, which may not be there yet.
    pub(super) fn real_folder(
        &self,
        wish: &CacheWish,
        rule: &CacheRule,
        others: &[Held],
    ) -> Result<PathBuf, String> {
        let named = match rule.path.strip_prefix("~/") {
            Some(below) => {
                let home = wish.home.as_ref().filter(|home| home.is_absolute());
                home.ok_or("not used: the job has no home folder (`HOME`)")?.join(below)
            }
            None => PathBuf::from(&rule.path),
        };
        let real = real(&named).map_err(|error| format!("not used: {error}: {}", error.cause))?;
        if real.exists() && !real.is_dir() {
            return Err(
                "not used: outside the workspace a cache is a folder, and this is a file; \
                        name the folder that it lies in"
                    .to_owned(),
            );
        }
        let meets = |other: &Path| other.starts_with(&real) || real.starts_with(other);
        if meets(self.root()) || wish.taken.iter().any(|taken| meets(taken)) {
            return Err("not used: kiln's own files lie there".to_owned());
        }
        let outsides = others.iter().filter_map(|held| Some((&held.rule, held.outside.as_ref()?)));
        for (other, outside) in outsides {
            if meets(&outside.at) {
                return Err(format!("not used: it is the same place as `{}`", other.path));
            }
        }
        let kernel = ["/proc", "/sys", "/dev"].iter().any(|kernel| real.starts_with(kernel));
        match kernel || real == Path::new("/") {
            true => Err("not used: that place is the kernel's".to_owned()),
            false => Ok(real),
        }
    }
}

fn laid_or_inside(held: &Held, mounts: &[Mount]) -> bool {
    held.outside.as_ref().is_none_or(|outside| mounts.iter().any(|mount| mount.at == outside.at))
}

/// The path without links in it. Its last parts need not be there.
fn real(path: &Path) -> Result<PathBuf, FsError> {
    for above in path.ancestors() {
        match above.canonicalize() {
            Ok(real) => {
                let rest = path.strip_prefix(above).unwrap_or(Path::new(""));
                // Not by `join` alone, which would leave a slash after a path that is there.
                return Ok(rest.components().fold(real, |real, part| real.join(part)));
            }
            Err(cause) if tree::is_absent(&cause) => {
                // A link that leads nowhere: a folder cannot be made in its place.
                if above.is_symlink() {
                    return Err(cause).named("follow", above);
                }
            }
            Err(cause) => return Err(cause).named("read", above),
        }
    }
    Ok(path.to_owned())
}
