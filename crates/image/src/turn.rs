//! Who fetches a layer: one at a time, of all processes that keep images in one folder.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kiln_model::layer::Digest;
use kiln_stdx::fs::{FsError, create_private_dir};
use rustix::fs::{FlockOperation, flock};
use tokio::sync::OwnedMutexGuard;
use tokio::sync::oneshot;

/// The turns of one folder. Its files stay; a few hundred empty ones for all layers that there are.
pub(crate) struct Turns {
    here: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    folder: PathBuf,
}

/// The right to fetch a layer, until it is dropped or its process dies.
pub(crate) struct Turn {
    /// Given back first, so that who waits here finds the file free.
    _everywhere: Option<File>,
    _here: OwnedMutexGuard<()>,
}

impl Turns {
    pub fn open(folder: &Path) -> Result<Self, FsError> {
        create_private_dir(folder)?;
        Ok(Self { here: Mutex::default(), folder: folder.to_owned() })
    }

    pub async fn take(&self, layer: &Digest) -> Turn {
        let turn = {
            let mut turns = self.here.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(layer.clone()).or_default().clone()
        };
        let here = turn.lock_owned().await;
        Turn { _everywhere: self.everywhere(layer).await, _here: here }
    }

    /// `None` where it cannot be had: then two fetch the same, which is only slower.
    async fn everywhere(&self, layer: &Digest) -> Option<File> {
        let file = self.folder.join(&layer.as_str()[..2]);
        let file = File::options().create(true).truncate(false).write(true).open(file).ok()?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Some(file);
        }
        // On a thread of its own: another process may need minutes, and who waits here may leave before.
        let (give, given) = oneshot::channel();
        let wait = move || {
            if flock(&file, FlockOperation::LockExclusive).is_ok() {
                let _ = give.send(file);
            }
        };
        std::thread::Builder::new().name("image-turn".to_owned()).spawn(wait).ok()?;
        given.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_processes_take_turns() {
        let folder = tempfile::tempdir().unwrap();
        // As another process would: descriptors of their own.
        let (one, other) =
            (Turns::open(folder.path()).unwrap(), Turns::open(folder.path()).unwrap());
        let layer = Digest::new("ab".repeat(32)).unwrap();
        let held = one.take(&layer).await;
        let mut waiting = std::pin::pin!(other.take(&layer));
        let early = futures_util::poll!(&mut waiting);
        assert!(early.is_pending());
        drop(held);
        let _now = waiting.await;
    }
}
