//! Logs: bytes and a sparse index on disk, read by line, byte or time.
//!
//! Whoever runs the steps appends to two plain files (see [`kiln_model::log`]); a reader opens them
//! afresh each time and looks at what is there. A finished log may be packed into compressed
//! frames; whoever reads before, during and after gets the same bytes.
//!
//! Always: no reader holds a log, or one line of it, in memory; the bytes are the truth, and an
//! index that is missing, short or torn costs time and never a wrong answer.
//! Elsewhere: writing and masking (`executor`); telling readers that there is more (`server`).

mod bytes;
mod index;
mod pack;
mod read;
mod search;

pub use read::Window;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_model::{AttemptId, RunId};

/// All logs under one folder: `<root>/<run>/<job>-<attempt>.log`, beside it `.log.idx`; packed
/// `.log.zst`.
#[derive(Clone, Debug)]
pub struct Logs {
    root: PathBuf,
    /// What was counted in logs whose index says too little.
    counted: Arc<index::Counted>,
}

impl Logs {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), counted: Arc::default() }
    }

    /// Where the bytes go.
    pub fn path(&self, attempt: AttemptId) -> PathBuf {
        let AttemptId { run, job, attempt } = attempt;
        self.root.join(run.to_string()).join(format!("{job}-{attempt}.log"))
    }

    /// In bytes; 0 when there is no log (yet).
    pub fn len(&self, attempt: AttemptId) -> io::Result<u64> {
        Ok(self.open(attempt)?.map_or(0, |log| log.len()))
    }

    pub fn is_empty(&self, attempt: AttemptId) -> io::Result<bool> {
        Ok(self.len(attempt)? == 0)
    }

    /// The logs of a run's attempts are gone when this returns; also when there were none.
    pub fn remove_run(&self, run: RunId) -> io::Result<()> {
        match fs::remove_dir_all(self.root.join(run.to_string())) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn open(&self, attempt: AttemptId) -> io::Result<Option<bytes::Bytes>> {
        bytes::Bytes::open(&self.path(attempt))
    }
}

/// `7/0-1.log` and a suffix.
fn beside(log: &Path, suffix: &str) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
