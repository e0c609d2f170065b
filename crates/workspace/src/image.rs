//! Layers of container images: unpacked once, under a name that is their content, and stacked as the
//! root of a job's container.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use kiln_model::layer::{Digest, LayerKind};
use kiln_stdx::fs::Named;
use kiln_stdx::overlay::Mount;
use kiln_stdx::{Subordinate, Timestamp};

use crate::archive::{Bounds, Marks, unpack_image};
use crate::collect::{is_temporary, used_at};
use crate::hold::{self, Alone, mark_of};
use crate::{Driver, Victims, WorkspaceError, Workspaces, size, tree};

pub(crate) const FOLDER: &str = "images";
/// In an attempt's folder: what its container writes outside the workspace, the kernel's own folder, and
/// where both are mounted.
const ROOT: [&str; 3] = ["root-upper", "root-work", "root"];

/// One layer of the largest images known has 20 GB and half a million files.
const BOUNDS: Bounds = Bounds { bytes: 64 << 30, entries: 4_000_000, depth: 512 };

/// A layer of an image that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageLayer {
    /// Among all of them.
    pub name: String,
    /// When a job last asked for it.
    pub used_at: Timestamp,
    /// On disk.
    pub n_bytes: u64,
}

impl Workspaces {
    /// Whether a layer of an image is there. Who asks is about to use it: it counts as used now.
    pub fn has_image_layer(&self, diff_id: &Digest) -> bool {
        let layer = self.image_layer(diff_id);
        layer.iter().for_each(|folder| self.touch(folder));
        layer.is_some()
    }

    /// Where a layer of an image is, if it is there. `diff_id` is the digest of its uncompressed tar.
    pub fn image_layer(&self, diff_id: &Digest) -> Option<PathBuf> {
        Some(self.image_folder(diff_id)?).filter(|folder| folder.is_dir())
    }

    /// The users besides root that containers have here, when kiln is an ordinary user. Blocking for
    /// milliseconds the first time.
    pub fn users(&self) -> Option<Subordinate> {
        match self.driver() {
            Driver::OverlayUser => Subordinate::of_this_user().ok().cloned(),
            Driver::Overlay | Driver::Reflink | Driver::Copy => None,
        }
    }

    /// White-outs of root's overlays mean nothing in a user's, and the other way round.
    fn image_folder(&self, diff_id: &Digest) -> Option<PathBuf> {
        let form = match self.driver() {
            Driver::Overlay => "root".to_owned(),
            Driver::OverlayUser => match self.users() {
                // Whose they are is of the layer: other numbers, another layer.
                Some(users) => format!("users-{}-{}", users.uids.first, users.gids.first),
                None => "user".to_owned(),
            },
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
        let archive = Room { inner: archive, folder: &folder, n_unlooked: LOOK_EVERY_BYTES };
        let users = self.users();
        let made = unpack_image(archive, &temporary, marks, &BOUNDS)
            .map_err(|error| WorkspaceError::Other(error.to_string()))
            .and_then(|owned| match &users {
                // As we unpack it, all of it is ours.
                Some(users) => Ok(users.give(&temporary, owned).named("give", &temporary)?),
                None => Ok(()),
            })
            .and_then(|()| match fs::rename(&temporary, &finished) {
                Err(_) if finished.is_dir() => Ok(tree::remove(&temporary)?),
                other => Ok(other.named("create", &finished)?),
            });
        match &made {
            Ok(()) => self.touch(&finished),
            Err(_) => drop(tree::remove(&temporary)),
        }
        made
    }

    /// Every layer of an image, of whichever driver. Blocking: what was never counted is counted.
    pub fn images_kept(&self) -> Result<Vec<ImageLayer>, WorkspaceError> {
        let all = tree::entries(&self.root().join(FOLDER))?;
        let all: Vec<_> =
            all.into_iter().filter(|(path, meta)| meta.is_dir() && !is_temporary(path)).collect();
        let sizes = size::of_all(self.root(), all.iter().map(|(path, _)| path.as_path()));
        let kept = all.into_iter().zip(sizes).map(|((path, meta), n_bytes)| ImageLayer {
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            used_at: used_at(&path, &meta),
            n_bytes,
        });
        Ok(kept.collect())
    }

    /// Takes layers of images away, but for those in use, and those that were used since the time that
    /// stands beside their name: a job that has found all layers of its image is about to mount them.
    pub fn take_images(
        &self,
        _alone: &Alone,
        unused_since: &BTreeMap<String, Timestamp>,
        victims: &mut Victims,
    ) -> Result<(), WorkspaceError> {
        if unused_since.is_empty() {
            return Ok(());
        }
        let used = self.in_use()?;
        for (path, meta) in tree::entries(&self.root().join(FOLDER))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let last = unused_since.get(&*name);
            let unused = last.is_some_and(|last| used_at(&path, &meta) <= *last);
            if !unused || !meta.is_dir() || used.contains(&path) {
                continue;
            }
            let mark = mark_of(&path);
            victims.take(LayerKind::Images, None, path);
            if mark.exists() {
                victims.take(LayerKind::Images, None, mark);
            }
        }
        Ok(())
    }

    /// The root of a container: an empty top over these layers, lowest first. `folder` is that of an
    /// attempt or a visit; the root is made in it, and is gone with it.
    pub fn prepare_root(&self, folder: &Path, layers: &[Digest]) -> Result<Mount, WorkspaceError> {
        // Until it is noted that they are used, below.
        let _using = self.using()?;
        let find = |layer: &Digest| {
            self.image_layer(layer).ok_or_else(|| {
                WorkspaceError::Other(format!("the layer sha256:{layer} of its image is gone"))
            })
        };
        let mut lowers = layers.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        // The kernel asks folders for this mark, and roots of layers not.
        if let Some(opaque) = lowers.iter().rposition(|lower| tree::is_opaque(lower)) {
            lowers.drain(..opaque);
        }
        lowers.reverse();
        // The kernel refuses a layer twice, as builders write it that have added nothing. Its highest place
        // says all that its lower ones do.
        let mut seen = HashSet::new();
        lowers.retain(|lower| seen.insert(lower.clone()));
        hold::note(self.root(), folder, &lowers)?;
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

/// How much of an archive is read between two looks at the disk.
const LOOK_EVERY_BYTES: u64 = 32 << 20;
/// What a layer leaves of the disk: with it, runs can still end and say why.
const RESERVE_BYTES: u64 = 256 << 20;

/// An archive that ends with an error when the disk is about to be full: a layer of a few megabytes may
/// unpack to more than there is room for, and others need some, too.
struct Room<'a, R> {
    inner: R,
    folder: &'a Path,
    n_unlooked: u64,
}

impl<R: Read> Read for Room<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.n_unlooked >= LOOK_EVERY_BYTES {
            self.n_unlooked = 0;
            let disk = rustix::fs::statvfs(self.folder)?;
            if disk.f_bavail.saturating_mul(disk.f_frsize) < RESERVE_BYTES {
                return Err(rustix::io::Errno::NOSPC.into());
            }
        }
        let n = self.inner.read(into)?;
        self.n_unlooked += n as u64;
        Ok(n)
    }
}
