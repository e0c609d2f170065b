//! Who uses which folders, so that none of them is collected.
//!
//! An attempt's folder names every folder that its workspace is stacked from. Whoever finds layers
//! and then says that it uses them holds `gc.lock` shared meanwhile ([`Workspaces::using`]); whoever
//! collects holds it alone while it looks who uses what and takes folders away. The kernel lets go of
//! the lock with the process, however that ends.
//!
//! Always: between the finding of a layer and the note that it is used, nobody collects.
//! Elsewhere: what may go (`server`); taking it away (`collect`).

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use kiln_model::AttemptId;
use kiln_model::layer::LayerId;
use kiln_stdx::fs::{FsError, Named};
use rustix::fs::{AtFlags, CWD, FlockOperation, Timestamps, UTIME_NOW, flock, utimensat};

use crate::{Base, WorkspaceError, Workspaces, pieces, tree};

const LOCK: &str = "gc.lock";

/// In an attempt's folder: a list of folders, as in `pieces`.
const USES: &str = "uses.json";

/// Nobody collects while this is there.
#[derive(Debug)]
pub struct Using(#[expect(dead_code, reason = "holds the lock")] File);

/// Nobody else collects, prepares or pins while this is there.
#[derive(Debug)]
pub struct Alone(#[expect(dead_code, reason = "holds the lock")] File);

impl Workspaces {
    /// To be held from the look at a layer to the note that it is used. Blocking: a collector takes
    /// folders away for a few milliseconds at a time.
    pub fn using(&self) -> Result<Using, WorkspaceError> {
        Ok(Using(self.locked(FlockOperation::LockShared)?))
    }

    /// For who collects. Blocking: a workspace is made in milliseconds, but the first one of a large
    /// repository is copied where this machine cannot stack trees.
    pub fn alone(&self) -> Result<Alone, WorkspaceError> {
        Ok(Alone(self.locked(FlockOperation::LockExclusive)?))
    }

    fn locked(&self, how: FlockOperation) -> Result<File, FsError> {
        let path = self.root().join(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).named("open", &path)?;
        loop {
            match flock(&file, how) {
                Err(rustix::io::Errno::INTR) => {}
                done => break done.map_err(io::Error::from).named("lock", &path)?,
            }
        }
        Ok(file)
    }

    /// Notes folders below the root that an attempt uses, beside those that it used already. Its
    /// folder must be there, and [`Workspaces::using`] held since the folders were found.
    pub fn uses(&self, attempt: AttemptId, folders: &[PathBuf]) -> Result<(), WorkspaceError> {
        Ok(note(self.root(), &self.attempt_dir(attempt), folders)?)
    }

    /// Folders that an attempt, living or not yet cleared away, or a person in a shell looks at.
    pub(crate) fn used(&self) -> Result<HashSet<PathBuf>, WorkspaceError> {
        let mut used = HashSet::new();
        for folder in ["attempts", "visits"] {
            for (user, _) in tree::entries(&self.root().join(folder))? {
                // A list that cannot be read was never finished: its workspace was never mounted.
                used.extend(pieces::read(self.root(), &user.join(USES)).unwrap_or_default());
                used.extend(pieces::read(self.root(), &user.join(pieces::OWN)).unwrap_or_default());
            }
        }
        Ok(used)
    }

    /// Says that a layer is of use still, as when its job need not run: what was used longest ago is
    /// collected first.
    pub fn used_again(&self, layer: &LayerId) {
        match layer {
            LayerId::Source(tree) => {
                let whole = self.sources().join(tree);
                let over = self.sources().join(format!("{tree}.over"));
                self.touch(if whole.is_dir() { &whole } else { &over });
            }
            layer => {
                self.layer_paths(layer).iter().flatten().for_each(|folder| self.touch(folder));
            }
        }
    }

    /// What an attempt begins on, but for the layers of its own run: those are as young as it is.
    pub(crate) fn touch_used(&self, attempt: AttemptId, base: &Base, layers: &[LayerId]) {
        if let Base::Source { layer, .. } = base {
            self.used_again(layer);
        }
        let own = format!("{}-", attempt.run);
        let foreign =
            |layer: &&LayerId| matches!(layer, LayerId::Attempt(id) if !id.starts_with(&own));
        layers.iter().filter(foreign).for_each(|layer| self.used_again(layer));
    }

    pub(crate) fn touch(&self, folder: &Path) {
        let mark = mark_of(folder);
        let now = now_as_times();
        // Best effort: a mark that is missing makes a layer look older than it is, and nothing else.
        if utimensat(CWD, &mark, &now, AtFlags::empty()).is_err() {
            let _ = File::create(&mark);
        }
    }
}

/// Writes which folders an attempt's workspace is stacked from. Not synced: after a loss of power
/// nothing is mounted.
pub(crate) fn note(root: &Path, attempt: &Path, folders: &[PathBuf]) -> Result<(), FsError> {
    let list = attempt.join(USES);
    let mut all = pieces::read(root, &list).unwrap_or_default();
    all.extend(folders.iter().filter(|folder| folder.starts_with(root)).cloned());
    let names: Vec<_> = all
        .iter()
        .map(|folder| folder.strip_prefix(root).unwrap_or(folder).to_string_lossy())
        .collect();
    fs::write(&list, serde_json::to_vec(&names).unwrap_or_default()).named("write", &list)
}

/// The file whose time is that of the last use of a folder.
pub(crate) fn mark_of(folder: &Path) -> PathBuf {
    let mut path = folder.as_os_str().to_owned();
    path.push(".used");
    path.into()
}

fn now_as_times() -> Timestamps {
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    Timestamps { last_access: now, last_modification: now }
}
