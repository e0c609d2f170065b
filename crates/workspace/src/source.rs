//! Source layers: the files of a git tree, made once.

use std::fs;
use std::path::{Component, Path};

use kiln_model::layer::LayerId;
use kiln_stdx::fs::Named;

use crate::{WorkspaceError, Workspaces, tree};

impl Workspaces {
    pub fn has_source(&self, tree: &str) -> bool {
        is_name(tree) && self.sources().join(tree).is_dir()
    }

    /// Makes a source layer by filling an empty folder; appears whole or not at all; two makers at
    /// once are harmless.
    pub fn make_source(
        &self,
        tree: &str,
        fill: impl FnOnce(&Path) -> Result<(), String>,
    ) -> Result<LayerId, WorkspaceError> {
        checked_name(tree)?;
        let layer = LayerId::Source(tree.to_owned());
        let finished = self.sources().join(tree);
        if finished.is_dir() {
            return Ok(layer);
        }
        let temporary = tree::temporary_in(&self.sources());
        fs::create_dir(&temporary).named("create", &temporary)?;
        let filled = fill(&temporary)
            .map_err(|message| WorkspaceError::Fill { tree: tree.to_owned(), message });
        let made = filled.and_then(|()| match fs::rename(&temporary, &finished) {
            // Another maker was quicker; both filled in the same files.
            Err(_) if finished.is_dir() => tree::remove(&temporary).map_err(Into::into),
            other => other.named("create", &finished).map_err(Into::into),
        });
        if made.is_err() {
            // The first error is the one to tell.
            let _ = tree::remove(&temporary);
        }
        made.map(|()| layer)
    }
}

/// One plain name: no separator, not `.` or `..`, not one of the temporary ones.
pub(crate) fn is_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let plain = matches!(parts.next(), Some(Component::Normal(part)) if part == name);
    plain && parts.next().is_none() && !name.starts_with('.') && !name.contains('\0')
}

pub(crate) fn checked_name(name: &str) -> Result<&str, WorkspaceError> {
    if is_name(name) { Ok(name) } else { Err(WorkspaceError::Name(name.to_owned())) }
}
