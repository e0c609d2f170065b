//! What is not as it was made: set aside under `damaged/`, with a note beside it that says why, so that
//! nobody stands on it.
//!
//! Sources, the `.git` over them, white-outs, merged layers, caches and layers of images are made again
//! by whoever wants them next. What an attempt wrote is not: the job that needs it says what must run
//! again.
//!
//! Elsewhere: looking for it (`verify`); how long it stays (`collect`).

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kiln_model::layer::LayerId;
use kiln_stdx::fs::{FsError, Named, create_private_dir};

use crate::Workspaces;

pub(crate) const FOLDER: &str = "damaged";

impl Workspaces {
    /// Moves something out of the way. Gives where it is now. One that is gone already is no error.
    pub(crate) fn set_aside(&self, path: &Path, why: &str) -> Result<PathBuf, FsError> {
        let damaged = self.root().join(FOLDER);
        create_private_dir(&damaged)?;
        let short = path.strip_prefix(self.root()).unwrap_or(path);
        let name = short.to_string_lossy().replace('/', "-");
        let free = |n: u32| damaged.join(format!("{name}.{n}"));
        let to = (1..).map(free).find(|to| fs::symlink_metadata(to).is_err());
        let to = to.unwrap_or_else(|| free(0));
        match fs::rename(path, &to) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
            other => other.named("set aside", path)?,
        }
        let mut note = to.as_os_str().to_owned();
        note.push(".txt");
        // Best effort: on a full disk the thing itself is out of the way all the same.
        let _ = fs::write(note, format!("{}: {why}\n", path.display()));
        Ok(to)
    }
}

impl Workspaces {
    /// Where the files of an attempt are that were set aside last.
    pub fn aside(&self, layer: &LayerId) -> Option<PathBuf> {
        let LayerId::Attempt(name) = layer else { return None };
        let folder = |n: u32| self.root().join(FOLDER).join(format!("sealed-{name}.{n}"));
        (1..).map(folder).take_while(|at| at.exists()).last()
    }
}

/// How a folder looks from outside: what is made or removed in it changes the time, and a rename of the
/// folder does not.
pub(crate) fn looks(meta: &Metadata) -> String {
    format!("{}.{:09}", meta.mtime(), meta.mtime_nsec())
}
