//! Whether layers are what they were, down to the last byte.
//!
//! A layer never changes, so its digest is compared with the one that was kept when somebody last asked
//! for it; one that nobody has asked for yet is noted now and compared the next time. Reading
//! everything takes as long as the disk is slow, so it is done when a person asks.
//!
//! Always: what is found to be damaged is set aside (`damage`), and nothing else is changed. A layer is
//! held while it is read.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::path::{Path, PathBuf};

use kiln_model::AttemptId;
use kiln_model::layer::{Damage, LayerId, LayerKind, Verified};
use kiln_stdx::fs::FsError;

use crate::collect::is_temporary;
use crate::view::{View, What};
use crate::{WorkspaceError, Workspaces, digest, image, pieces, tree};

/// What is said of a layer that has another digest than it had.
pub(crate) const CHANGED: &str = "its files are not what they were when they were last read";

/// What a look at one layer has found.
enum Found {
    Whole,
    New,
    Damaged(String),
    /// It went while we looked for it, or is not for us to read.
    Gone,
}

/// One layer, or what should be one.
struct Suspect {
    kind: LayerKind,
    name: String,
    /// Under which its digest is kept.
    key: String,
    /// What is moved away when it is damaged: folders and the files beside them.
    own: Vec<PathBuf>,
}

impl Workspaces {
    /// Reads every layer. `differs(tree, index, files)` names a file of a source that is not as git's
    /// index says that it was checked out.
    ///
    /// Blocking: reads everything once.
    pub fn verify(
        &self,
        differs: impl Fn(&str, &Path, &[(PathBuf, Metadata)]) -> Option<PathBuf>,
    ) -> Result<Verified, WorkspaceError> {
        let mut verified = Verified::default();
        for suspect in self.suspects()? {
            match self.look_at(&suspect, &differs)? {
                Found::Whole => verified.n_layers += 1,
                Found::New => {
                    verified.n_layers += 1;
                    verified.n_new += 1;
                }
                Found::Gone => {}
                Found::Damaged(why) => {
                    verified.n_layers += 1;
                    verified.damaged.push(self.part_with(suspect, why)?);
                }
            }
        }
        Ok(verified)
    }

    /// Lowest first. `None`: it cannot be found as a whole, although something of it is there.
    fn folders_of(&self, suspect: &Suspect) -> Option<Vec<PathBuf>> {
        match suspect.kind {
            LayerKind::Sources => self.source_paths(&suspect.name),
            LayerKind::Layers => self.layer_paths(&LayerId::Attempt(suspect.name.clone())),
            _ => Some(suspect.own.clone()),
        }
    }

    /// Sources that others stand on come before those.
    fn suspects(&self) -> Result<Vec<Suspect>, WorkspaceError> {
        let mut all = self.suspect_sources()?;
        all.extend(self.suspect_attempts()?);
        for folder in self.cache_pieces()? {
            all.push(Suspect::of_folder(LayerKind::Caches, "cache", folder));
        }
        for (folder, meta) in tree::entries(&self.root().join(image::FOLDER))? {
            if meta.is_dir() && !is_temporary(&folder) {
                all.push(Suspect::of_folder(LayerKind::Images, "image", folder));
            }
        }
        Ok(all)
    }

    fn suspect_sources(&self) -> Result<Vec<Suspect>, WorkspaceError> {
        let kept = self.sources_kept()?;
        let mut all: Vec<Suspect> = kept
            .into_iter()
            .map(|kept| {
                let own = self.own_of_source(&kept.tree);
                let key = format!("source-{}", kept.tree);
                Suspect { kind: LayerKind::Sources, name: kept.tree, key, own }
            })
            .collect();
        all.sort_by_key(|source| self.n_sources(&source.name));
        Ok(all)
    }

    fn suspect_attempts(&self) -> Result<Vec<Suspect>, WorkspaceError> {
        let entries = tree::entries(&self.sealed())?;
        let attempt = |path: &Path| {
            let name = path.file_name()?.to_str()?;
            let attempt = name.split('.').next()?;
            attempt.parse::<AttemptId>().ok()?;
            Some(attempt.to_owned())
        };
        let names: BTreeSet<String> =
            entries.iter().filter_map(|(path, _)| attempt(path)).collect();
        let of = |name: String| {
            let own: Vec<_> = entries
                .iter()
                .filter(|(path, _)| attempt(path).as_ref() == Some(&name))
                .map(|(path, _)| path.clone())
                .collect();
            // One that wrote nothing has at most a list of its steps.
            let has_files = own.iter().any(|path| path.is_dir() || pieces::is_list(path));
            let key = format!("attempt-{name}");
            has_files.then_some(Suspect { kind: LayerKind::Layers, name, key, own })
        };
        Ok(names.into_iter().filter_map(of).collect())
    }

    fn look_at(
        &self,
        suspect: &Suspect,
        differs: &impl Fn(&str, &Path, &[(PathBuf, Metadata)]) -> Option<PathBuf>,
    ) -> Result<Found, WorkspaceError> {
        let _using = self.using()?;
        if !suspect.own.iter().any(|path| path.exists()) {
            return Ok(Found::Gone);
        }
        let Some(folders) = self.folders_of(suspect) else {
            return Ok(match suspect.kind {
                // The one that it stands on was collected or is damaged: it is nobody's, and goes with time.
                LayerKind::Sources => Found::Gone,
                _ => {
                    Found::Damaged("a part of it is missing, or its list cannot be read".to_owned())
                }
            });
        };
        let view = match View::of(folders.clone()) {
            Ok(view) => View { complete: suspect.kind == LayerKind::Sources, ..view },
            Err(error) => return Ok(Found::Damaged(with_cause(&error))),
        };
        if suspect.kind == LayerKind::Sources
            && let Some(index) = self.index(&suspect.name)
            && let Some(path) = differs(&suspect.name, &index, &files_of(&view)?)
        {
            let path = path.display();
            return Ok(Found::Damaged(format!("`{path}` is not as it was checked out")));
        }
        let now = match digest::of_view(&view) {
            Ok(now) => now,
            Err(error) if is_of_disk(&error) => return Ok(Found::Damaged(with_cause(&error))),
            // Another try of the same attempt has just been sealed in its place.
            Err(error) if tree::is_absent(&error.cause) => return Ok(Found::Gone),
            // Of another user of an image, or closed by a job: nothing to compare, and no reason to stop.
            Err(error) if error.cause.kind() == std::io::ErrorKind::PermissionDenied => {
                return Ok(Found::Gone);
            }
            Err(error) => return Err(error.into()),
        };
        Ok(match self.digest_noted(&suspect.key) {
            Some(then) if then == now => Found::Whole,
            Some(_) => Found::Damaged(CHANGED.to_owned()),
            None => {
                self.note_digest(&suspect.key, &folders, &now)?;
                Found::New
            }
        })
    }

    /// Sets an attempt's files aside that were found to be damaged.
    pub(crate) fn part_with_attempt(&self, name: &str, why: &str) -> Result<(), WorkspaceError> {
        let found = self.suspect_attempts()?.into_iter().find(|suspect| suspect.name == name);
        found.map_or(Ok(()), |suspect| self.part_with(suspect, why.to_owned()).map(drop))
    }

    /// Without a lock: whoever has found it just now fails at its mount, and that is as it should be.
    fn part_with(&self, suspect: Suspect, why: String) -> Result<Damage, WorkspaceError> {
        let mut aside = None;
        for path in &suspect.own {
            let to = self.set_aside(path, &why)?;
            // The folder is what a person looks for.
            if aside.is_none() || to.is_dir() {
                aside = Some(to);
            }
        }
        tree::remove(&self.digests().join(&suspect.key))?;
        let Suspect { kind, name, .. } = suspect;
        let attempt = name.parse().ok().filter(|_| kind == LayerKind::Layers);
        Ok(Damage { kind, attempt, name, why, aside: aside.unwrap_or_default() })
    }
}

impl Suspect {
    fn of_folder(kind: LayerKind, key: &str, folder: PathBuf) -> Self {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let key = format!("{key}-{name}");
        Self { kind, name, key, own: vec![folder] }
    }
}

/// Files and links, with how they look.
fn files_of(view: &View) -> Result<Vec<(PathBuf, Metadata)>, FsError> {
    let mut files = Vec::new();
    view.walk(|entry| {
        if let What::Leaf { meta, .. } = entry.what {
            files.push((entry.path, meta));
        }
        Ok::<(), FsError>(())
    })?;
    Ok(files)
}

/// A disk that cannot read what was written on it.
fn is_of_disk(error: &FsError) -> bool {
    matches!(
        rustix::io::Errno::from_io_error(&error.cause),
        Some(rustix::io::Errno::IO | rustix::io::Errno::UCLEAN | rustix::io::Errno::BADMSG)
    )
}

fn with_cause(error: &FsError) -> String {
    format!("{error}: {}", error.cause)
}

#[cfg(test)]
mod tests;
