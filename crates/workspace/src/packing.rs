//! Layers that leave this machine, and those that come from another.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use kiln_model::layer::LayerId;
use kiln_stdx::fs::{Named, write_atomic};

use crate::archive::{self, Bounds, Marks, PackError, Packed, UnpackError, Unpacked};
use crate::source::is_name;
use crate::view::{Piece, View};
use crate::workspaces::DOT_GIT;
use crate::{Base, Driver, WorkspaceError, Workspaces, copy, pieces, tree};

/// Why a layer did not become an archive, or an archive a layer.
#[derive(Debug, thiserror::Error)]
pub enum PackingError {
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
}

impl Workspaces {
    /// Packs what layers (lowest first) change: a tar compressed by zstd, with marks for what is gone.
    ///
    /// In bounded memory. The same layers give the same bytes.
    pub fn pack(&self, layers: &[LayerId], to: impl Write) -> Result<Packed, PackingError> {
        let _using = self.using()?;
        let missing = |layer: &LayerId| WorkspaceError::Missing(vec![layer.clone()]);
        let mut folders: Vec<PathBuf> = Vec::new();
        for layer in layers {
            for folder in self.layer_paths(layer).ok_or_else(|| missing(layer))? {
                if !folders.contains(&folder) {
                    folders.push(folder);
                }
            }
        }
        let mut view = View::of(folders).map_err(WorkspaceError::from)?;
        view.complete = matches!(layers.first(), Some(LayerId::Source(_)));
        Ok(archive::pack(&view, to)?)
    }

    /// Packs all that a job sees of layers (lowest first) over a base.
    pub fn pack_view(
        &self,
        base: &Base,
        layers: &[LayerId],
        to: impl Write,
    ) -> Result<Packed, PackingError> {
        let _using = self.using()?;
        Ok(archive::pack(&self.whole_view(base, layers)?, to)?)
    }

    /// Everything that a job sees, as one tree.
    fn whole_view(&self, base: &Base, layers: &[LayerId]) -> Result<View, WorkspaceError> {
        let stack = self.stack(base, layers, &[])?;
        let mut hidden = stack.hidden;
        // Never the layers themselves, nor a `.git` that another takes the place of.
        hidden.extend(self.root().strip_prefix(&stack.base).ok().map(Into::into));
        hidden.extend(stack.git.is_some().then(|| DOT_GIT.into()));
        let mut pieces = vec![Piece::plain(stack.base, hidden)];
        for folder in stack.over {
            pieces.push(Piece::of(folder)?);
        }
        pieces.extend(stack.git.map(|git| Piece::plain(git, BTreeSet::new())));
        for (_, folder) in stack.layers {
            pieces.push(Piece::of(folder)?);
        }
        Ok(View { pieces, complete: true })
    }

    /// Makes the layer of an attempt from an archive, in the form of this machine. Appears whole or
    /// not at all, and takes the place of one that is there.
    pub fn unpack(
        &self,
        layer: &LayerId,
        from: impl Read + Send,
        bounds: &Bounds,
    ) -> Result<Unpacked, PackingError> {
        let name = match layer {
            LayerId::Attempt(name) if is_name(name) => name,
            LayerId::Attempt(name)
            | LayerId::Source(name)
            | LayerId::Boundary(name)
            | LayerId::Cache(name) => return Err(WorkspaceError::Name(name.clone()).into()),
        };
        let temporary = tree::temporary_in(&self.sealed());
        let unpacked = self.unpack_to(&temporary, name, from, bounds);
        if unpacked.is_err() {
            // The first error is the one to tell.
            let _ = tree::remove(&temporary);
            let _ = tree::remove(&copy::gone_file(&temporary));
        }
        unpacked
    }

    fn unpack_to(
        &self,
        temporary: &Path,
        name: &str,
        from: impl Read + Send,
        bounds: &Bounds,
    ) -> Result<Unpacked, PackingError> {
        let fs_error = |error| PackingError::Workspace(WorkspaceError::Fs(error));
        fs::create_dir(temporary).named("create", temporary).map_err(fs_error)?;
        let marks = match self.driver() {
            Driver::Overlay => Marks::Overlay { user: false },
            Driver::OverlayUser => Marks::Overlay { user: true },
            Driver::Reflink | Driver::Copy => Marks::Record,
        };
        let (unpacked, gone) = archive::unpack_as(from, temporary, marks, bounds)?;
        let sealed = self.sealed().join(name);
        let record = copy::gone_file(&sealed);
        let placed = match marks {
            // What is gone first: a layer without that would show too much.
            Marks::Record => serde_json::to_vec(&gone)
                .map_err(std::io::Error::other)
                .named("write", &record)
                .and_then(|text| write_atomic(&record, &text)),
            Marks::Apply | Marks::Overlay { .. } | Marks::Image { .. } => tree::remove(&record),
        };
        // Its own folders and its digest, when another had this name.
        let placed = placed.and_then(|()| pieces::forget(&sealed));
        let placed = placed.and_then(|()| self.forget_digest(&LayerId::Attempt(name.to_owned())));
        placed.and_then(|()| self.replace(temporary, &sealed)).map_err(fs_error)?;
        Ok(unpacked)
    }
}
