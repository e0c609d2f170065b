//! Layers of container images: unpacked once, under a name that is their content, and stacked as the
//! root of a job's container.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use kiln_model::layer::Digest;
use kiln_stdx::fs::Named;
use kiln_stdx::overlay::Mount;

use crate::archive::{Bounds, Marks, unpack_as};
use crate::{Driver, WorkspaceError, Workspaces, tree};

const FOLDER: &str = "images";
/// In an attempt's folder: what its container writes outside the workspace, the kernel's own folder, and
/// where both are mounted.
const ROOT: [&str; 3] = ["root-upper", "root-work", "root"];

/// One layer of the largest images known has 20 GB and half a million files.
const BOUNDS: Bounds = Bounds { bytes: 64 << 30, entries: 4_000_000, depth: 512 };

impl Workspaces {
    /// Where a layer of an image is, if it is there. `diff_id` is the digest of its uncompressed tar.
    pub fn image_layer(&self, diff_id: &Digest) -> Option<PathBuf> {
        Some(self.image_folder(diff_id)?).filter(|folder| folder.is_dir())
    }

    /// White-outs of root's overlays mean nothing in a user's, and the other way round.
    fn image_folder(&self, diff_id: &Digest) -> Option<PathBuf> {
        let form = match self.driver() {
            Driver::Overlay => "root",
            Driver::OverlayUser => "user",
            Driver::Reflink | Driver::Copy => return None,
        };
        Some(self.root().join(FOLDER).join(format!("{diff_id}-{form}")))
    }

    /// Unpacks a layer. It appears whole or not at all; two makers at once are harmless. The caller checks
    /// that the archive is the right one by an error at its end.
    pub fn make_image_layer(
        &self,
        diff_id: &Digest,
        archive: impl Read + Send,
    ) -> Result<(), WorkspaceError> {
        let finished = self.image_folder(diff_id).ok_or(WorkspaceError::NoOverlay)?;
        if finished.is_dir() {
            return Ok(());
        }
        let folder = self.root().join(FOLDER);
        kiln_stdx::fs::create_private_dir(&folder)?;
        let temporary = tree::temporary_in(&folder);
        fs::create_dir(&temporary).named("create", &temporary)?;
        let marks = Marks::Image { user: self.driver() == Driver::OverlayUser };
        let made = unpack_as(archive, &temporary, marks, &BOUNDS)
            .map_err(|error| WorkspaceError::Other(error.to_string()))
            .and_then(|_| match fs::rename(&temporary, &finished) {
                Err(_) if finished.is_dir() => Ok(tree::remove(&temporary)?),
                other => Ok(other.named("create", &finished)?),
            });
        if made.is_err() {
            let _ = tree::remove(&temporary);
        }
        made
    }

    /// The root of a container: an empty top over these layers, lowest first. `folder` is that of an
    /// attempt or a visit; the root is made in it, and is gone with it.
    pub fn prepare_root(&self, folder: &Path, layers: &[Digest]) -> Result<Mount, WorkspaceError> {
        let find = |layer: &Digest| {
            self.image_layer(layer).ok_or_else(|| {
                WorkspaceError::Other(format!("the layer sha256:{layer} of its image is gone"))
            })
        };
        let mut lowers = layers.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        lowers.reverse();
        let [upper, work, at] = ROOT.map(|name| folder.join(name));
        for folder in [&upper, &work, &at] {
            fs::create_dir(folder).named("create", folder)?;
        }
        if lowers.is_empty() {
            // An image of nothing; the kernel wants one layer all the same.
            lowers.push(at.clone());
        }
        let looks = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&upper, looks).named("change the mode of", &upper)?;
        Ok(Mount { lowers, upper, work, at, user: self.driver() == Driver::OverlayUser })
    }
}
