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
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_model::{AttemptId, JobIndex, RunId};

/// All logs under one folder: `<root>/<run>/<job>-<attempt>.log`, beside it `.log.idx`; packed
/// `.log.zst`. Of a service: `<job>-<attempt>.<service>.log`.
#[derive(Clone, Debug)]
pub struct Logs {
    root: PathBuf,
    /// Whose logs are meant: those of attempts, or of their services with this name.
    service: Option<String>,
    /// What was counted in logs whose index says too little.
    counted: Arc<index::Counted>,
}

impl Logs {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), service: None, counted: Arc::default() }
    }

    /// The logs of the attempts' services of this name.
    pub fn of_service(&self, name: &str) -> Self {
        Self { service: Some(name.to_owned()), ..self.clone() }
    }

    /// Where the bytes go.
    pub fn path(&self, attempt: AttemptId) -> PathBuf {
        let AttemptId { run, job, attempt } = attempt;
        let log = self.root.join(run.to_string()).join(format!("{job}-{attempt}.log"));
        match &self.service {
            None => log,
            Some(service) => kiln_model::log::of_service(&log, service),
        }
    }

    /// In bytes; 0 when there is no log (yet).
    pub fn len(&self, attempt: AttemptId) -> io::Result<u64> {
        Ok(self.open(attempt)?.map_or(0, |log| log.len()))
    }

    /// Whether there is a log at all, be it empty or packed.
    pub fn is_there(&self, attempt: AttemptId) -> bool {
        let path = self.path(attempt);
        // In the order in which packing makes the one and removes the other, seen from its end.
        path.exists() || beside(&path, ".zst").exists()
    }

    pub fn is_empty(&self, attempt: AttemptId) -> io::Result<bool> {
        Ok(self.len(attempt)? == 0)
    }

    /// The log of one attempt is that of another, too: the same file under two names, or a copy where
    /// the file system gives a file only one. Both must be over. What `to` had is gone.
    pub fn share(&self, from: AttemptId, to: AttemptId) -> io::Result<()> {
        let (from, to) = (self.path(from), self.path(to));
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        // The packed form is made before the plain one is removed: one of the two is found. The index
        // only saves time.
        for suffix in ["", ".zst", ".idx"] {
            let (from, to) = (beside(&from, suffix), beside(&to, suffix));
            absent_is_fine(fs::remove_file(&to))?;
            absent_is_fine(match fs::hard_link(&from, &to) {
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => Err(cause),
                Err(_) => fs::copy(&from, &to).map(drop),
                Ok(()) => Ok(()),
            })?;
        }
        Ok(())
    }

    /// The logs of a run's attempts are gone when this returns; also when there were none. After a
    /// crash they are all there or none can be found. How much room that gives, in bytes.
    pub fn remove_run(&self, run: RunId) -> io::Result<u64> {
        let aside = self.root.join(format!(".{run}.{:016x}.tmp", fastrand::u64(..)));
        match fs::rename(self.root.join(run.to_string()), &aside) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(0),
            done => done?,
        }
        remove_aside(&aside)
    }

    /// What a run's logs take on disk.
    pub fn bytes_of_run(&self, run: RunId) -> io::Result<u64> {
        on_disk(&self.root.join(run.to_string()))
    }

    /// Runs that have logs here.
    pub fn runs(&self) -> io::Result<Vec<RunId>> {
        let names = names_in(&self.root)?;
        Ok(names.iter().filter_map(|name| name.parse().ok().map(RunId)).collect())
    }

    /// Removes what a crash left of logs that were being removed.
    pub fn remove_leftovers(&self) -> io::Result<u64> {
        let names = names_in(&self.root)?;
        let left = names.iter().filter(|name| name.starts_with('.') && name.ends_with(".tmp"));
        left.map(|name| remove_aside(&self.root.join(name))).sum()
    }

    /// Packs all logs of a run that is over, and gives what they take on disk then.
    pub fn pack_run(&self, run: RunId) -> io::Result<u64> {
        let folder = self.root.join(run.to_string());
        for name in names_in(&folder)? {
            if let Some((job, attempt, service)) = named(&name) {
                let logs = Self { service, ..self.clone() };
                logs.pack(AttemptId { run, job: JobIndex(job), attempt })?;
            }
            // Of a process that died while it packed: nobody else packs this run.
            if name.ends_with(".tmp") {
                absent_is_fine(fs::remove_file(folder.join(name)))?;
            }
        }
        on_disk(&folder)
    }

    fn open(&self, attempt: AttemptId) -> io::Result<Option<bytes::Bytes>> {
        bytes::Bytes::open(&self.path(attempt))
    }
}

/// Of a plain log by its file's name: job, attempt, and whose service.
fn named(file: &str) -> Option<(u32, u32, Option<String>)> {
    let (job, rest) = file.strip_suffix(".log")?.split_once('-')?;
    let (attempt, service) = match rest.split_once('.') {
        Some((attempt, service)) => (attempt, Some(service.to_owned())),
        None => (rest, None),
    };
    Some((job.parse().ok()?, attempt.parse().ok()?, service))
}

/// Names in a folder; none when it is not there.
fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(folder) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => {
            let name = |entry: io::Result<fs::DirEntry>| {
                entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
            };
            entries?.map(name).collect()
        }
    }
}

fn remove_aside(aside: &Path) -> io::Result<u64> {
    let n_bytes = on_disk(aside)?;
    absent_is_fine(fs::remove_dir_all(aside))?;
    Ok(n_bytes)
}

/// Of the files in one folder, but for those that have another name elsewhere.
fn on_disk(folder: &Path) -> io::Result<u64> {
    let mut total = 0;
    for name in names_in(folder)? {
        match fs::symlink_metadata(folder.join(name)) {
            Ok(meta) if meta.nlink() == 1 => total += meta.blocks() * 512,
            Ok(_) => {}
            Err(cause) => absent_is_fine(Err(cause))?,
        }
    }
    Ok(total)
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// `7/0-1.log` and a suffix.
fn beside(log: &Path, suffix: &str) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
