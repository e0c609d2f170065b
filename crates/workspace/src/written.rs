//! What a layer says about the paths below it, folder by folder.

use std::path::{Path, PathBuf};

use kiln_model::layer::LayerId;

use crate::view::{View, What};
use crate::{WorkspaceError, Workspaces};

/// What is at a path of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// A folder that was there before, or is new; what is in it counts by itself.
    Folder,
    /// A folder without anything of what was there before.
    NewFolder,
    /// A file, a link, or something else that hides what was there before.
    File,
    /// What was there before is gone.
    Gone,
}

impl Workspaces {
    /// Visits what is in a layer, a folder before what is in it; a folder for which `visit` gives false
    /// is not entered. Blocking: lists each folder that is entered.
    pub fn written(
        &self,
        layer: &LayerId,
        mut visit: impl FnMut(&Path, Written) -> bool,
    ) -> Result<(), WorkspaceError> {
        let folders =
            self.layer_paths(layer).ok_or_else(|| WorkspaceError::Missing(vec![layer.clone()]))?;
        let view = View::of(folders)?;
        let all: Vec<usize> = (0..view.pieces.len()).rev().collect();
        let mut todo = vec![(PathBuf::new(), all)];
        while let Some((folder, pieces)) = todo.pop() {
            for found in view.list(&folder, &pieces)? {
                let written = match found.entry.what {
                    What::WhiteOut => Written::Gone,
                    What::Folder { opaque: true, .. } => Written::NewFolder,
                    What::Folder { .. } => Written::Folder,
                    What::Leaf { .. } => Written::File,
                };
                let enter = visit(&found.entry.path, written);
                if enter && matches!(written, Written::Folder | Written::NewFolder) {
                    todo.push((found.entry.path, found.pieces));
                }
            }
        }
        Ok(())
    }
}
