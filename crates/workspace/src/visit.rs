//! A look at the layers of a past job: a top of its own over them, thrown away at the end.
//!
//! A visit belongs to a process, and not to the agent: it is no attempt, and nothing of it is sealed.
//! Its folder names the layers that it stands on, in a file that is locked for as long as the visit
//! lasts; the kernel lets go of it however the process ends.
//!
//! Always: what a living visit names is not collected; the folder of a dead one is removed by whoever
//! looks next.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use kiln_model::layer::LayerId;
use kiln_stdx::fs::{Named, create_private_dir};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::source::checked_name;
use crate::{Base, Prepared, WorkspaceError, Workspaces, tree};

/// In a visit's folder: what it stands on. Locked.
const PIN: &str = "pin.json";

#[derive(Serialize, Deserialize)]
struct Pin {
    layers: Vec<LayerId>,
}

/// A throw-away top over layers. Whoever drops it without [`Visit::end`] leaves its folder to the
/// next who looks.
#[derive(Debug)]
pub struct Visit {
    pub prepared: Prepared,
    folder: PathBuf,
    _pin: File,
}

impl Visit {
    /// Its own folder: for sockets and files of whoever visits.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes all that was written. After unmount only.
    pub fn end(self) -> Result<(), WorkspaceError> {
        // While the lock is held, so that nobody else removes it too.
        Ok(tree::remove(&self.folder)?)
    }
}

impl Workspaces {
    /// An empty top over the layers (lowest first) over the base, mounted where the project's jobs
    /// are (`place`).
    pub fn visit(
        &self,
        place: &str,
        base: &Base,
        layers: &[LayerId],
    ) -> Result<Visit, WorkspaceError> {
        checked_name(place)?;
        // Until what is used is pinned and found.
        let _using = self.using()?;
        let (folder, pin) = self.pin(base, layers)?;
        let prepared =
            self.stack(base, layers, &[]).and_then(|stack| self.fill(&folder, place, base, stack));
        match prepared {
            Ok(prepared) => Ok(Visit { prepared, folder, _pin: pin }),
            Err(error) => {
                let _ = tree::remove(&folder);
                Err(error)
            }
        }
    }

    /// The layers that living visits stand on. Removes what dead ones have left.
    pub fn visited(&self) -> Result<Vec<LayerId>, WorkspaceError> {
        self.end_dead_visits()?;
        let mut held = Vec::new();
        for folder in self.visits_made()? {
            if let Some(file) = living(&folder) {
                let pin = serde_json::from_reader::<_, Pin>(&file).map_err(io::Error::from);
                held.extend(pin.named("read", &folder.join(PIN))?.layers);
            }
        }
        Ok(held)
    }

    /// Removes what dead visits have left. A living one whose pin cannot be read is let be.
    pub(crate) fn end_dead_visits(&self) -> Result<(), WorkspaceError> {
        for folder in self.visits_made()? {
            if living(&folder).is_none() {
                tree::remove(&folder)?;
            }
        }
        Ok(())
    }

    fn visits_made(&self) -> Result<Vec<PathBuf>, WorkspaceError> {
        let mut all: Vec<_> =
            tree::entries(&self.visits())?.into_iter().map(|(path, _)| path).collect();
        all.retain(|path| path.file_name().is_some_and(|name| name.as_bytes()[0] != b'.'));
        Ok(all)
    }

    fn visits(&self) -> PathBuf {
        self.root().join("visits")
    }

    /// The folder of a new visit, whose pin is written and locked before anybody can see it.
    fn pin(&self, base: &Base, layers: &[LayerId]) -> Result<(PathBuf, File), WorkspaceError> {
        static N_MADE: AtomicU32 = AtomicU32::new(0);
        let visits = self.visits();
        let temporary = tree::temporary_in(&visits);
        create_private_dir(&temporary)?;
        let path = temporary.join(PIN);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(&path).named("create", &path)?;
        flock(&file, FlockOperation::LockExclusive)
            .map_err(io::Error::from)
            .named("lock", &path)?;
        let source = match base {
            Base::Source { layer, .. } => Some(layer.clone()),
            Base::WorkingTree { .. } | Base::Nothing => None,
        };
        let pin = Pin { layers: source.into_iter().chain(layers.iter().cloned()).collect() };
        let text = serde_json::to_vec(&pin).unwrap_or_default();
        file.write_all(&text).named("write", &path)?;
        let n = N_MADE.fetch_add(1, Ordering::Relaxed);
        let folder = visits.join(format!("{}-{n}", std::process::id()));
        // Of a process that had the same number.
        tree::remove(&folder)?;
        fs::rename(&temporary, &folder).named("create", &folder)?;
        Ok((folder, file))
    }
}

/// The pin of a visit that goes on.
fn living(visit: &Path) -> Option<File> {
    File::open(visit.join(PIN)).ok().filter(is_locked)
}

/// By another holder: a lock of one's own file would be another description's all the same.
fn is_locked(file: &File) -> bool {
    flock(file, FlockOperation::NonBlockingLockShared).is_err()
}
