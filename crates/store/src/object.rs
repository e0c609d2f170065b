//! Objects named by digest, as files: `<root>/ab/cdef…`.
//!
//! Always: a file under its digest's name is complete; it came there by a rename.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kiln_model::layer::Digest;
use kiln_stdx::Timestamp;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};
use sha2::{Digest as _, Sha256};

/// Bytes read at a time: enough to keep hashing busy, little to hold.
const CHUNK_BYTES: usize = 64 << 10;

/// Good enough for text that is read once in a while.
const LEVEL: i32 = 3;

/// Text as it is kept when it is long.
pub fn packed(bytes: &[u8]) -> io::Result<Vec<u8>> {
    zstd::bulk::compress(bytes, LEVEL)
}

/// What was packed. Refuses what would take more than `max` bytes.
pub fn unpacked(from: impl Read, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    zstd::Decoder::new(from)?.take(max + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > max {
        true => Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than it may be")),
        false => Ok(bytes),
    }
}

#[derive(Clone, Debug)]
pub struct Objects {
    root: PathBuf,
}

impl Objects {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn path(&self, digest: &Digest) -> PathBuf {
        let (folder, name) = digest.as_str().split_at(2);
        self.root.join(folder).join(name)
    }

    pub fn open(&self, digest: &Digest) -> io::Result<File> {
        File::open(self.path(digest))
    }

    /// What these bytes are called when they are kept.
    pub fn name(bytes: &[u8]) -> Digest {
        Digest::from_bytes(Sha256::digest(bytes).into())
    }

    /// Keeps what `from` gives; its name and its length. On disk when this returns, and either
    /// whole or not there at all. What is there already is kept once.
    pub fn put(&self, mut from: impl Read) -> io::Result<(Digest, u64)> {
        fs::create_dir_all(&self.root)?;
        let temporary = self.root.join(format!(".{:016x}.tmp", fastrand::u64(..)));
        let done = self.write(&mut from, &temporary);
        if done.is_err() {
            // The first error is the one to tell; the name is unique, so a left-over is harmless.
            let _ = fs::remove_file(&temporary);
        }
        done
    }

    /// Whether there was one.
    pub fn remove(&self, digest: &Digest) -> io::Result<bool> {
        match fs::remove_file(self.path(digest)) {
            Ok(()) => Ok(true),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(cause) => Err(cause),
        }
    }

    /// Removes an object that no row names, unless somebody has put it again since `fresh_since`, and
    /// gives its size on disk; 0 when it stays. Whoever puts an object freshens one that is there and
    /// writes its row later, so that freshness tells what rows cannot.
    pub fn collect(&self, digest: &Digest, fresh_since: Timestamp) -> io::Result<u64> {
        let path = self.path(digest);
        let Some(n_bytes) = stale(&path, fresh_since)? else { return Ok(0) };
        // Under another name nobody freshens it. Looked at again there: who was faster has it back.
        let aside = self.root.join(format!(".{:016x}.tmp", fastrand::u64(..)));
        match fs::rename(&path, &aside) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(0),
            done => done?,
        }
        if stale(&aside, fresh_since)?.is_some() {
            fs::remove_file(&aside)?;
            return Ok(n_bytes);
        }
        // A link and not a rename: what was put there meanwhile is the same, and stays.
        let back = fs::hard_link(&aside, &path);
        fs::remove_file(&aside)?;
        match back {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => Err(cause),
            _ => Ok(0),
        }
    }

    /// Objects whose names begin with this byte, with their sizes on disk.
    pub fn of_folder(&self, first: u8) -> io::Result<Vec<(Digest, u64)>> {
        let folder = self.root.join(format!("{first:02x}"));
        let entries = match fs::read_dir(&folder) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let digest =
                name.to_str().and_then(|rest| Digest::new(format!("{first:02x}{rest}")).ok());
            if let (Some(digest), Ok(meta)) = (digest, entry.metadata()) {
                found.push((digest, meta.blocks() * 512));
            }
        }
        Ok(found)
    }

    /// Temporary files that nobody has written to since `fresh_since`: left by processes that died.
    pub fn leftovers(&self, fresh_since: Timestamp) -> io::Result<Vec<(PathBuf, u64)>> {
        let entries = match fs::read_dir(&self.root) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !(name.starts_with('.') && name.ends_with(".tmp")) {
                continue;
            }
            if let Some(n_bytes) = stale(&path, fresh_since)? {
                found.push((path, n_bytes));
            }
        }
        Ok(found)
    }

    fn write(&self, from: &mut impl Read, temporary: &Path) -> io::Result<(Digest, u64)> {
        let mut file = File::create_new(temporary)?;
        let mut hash = Sha256::new();
        let mut n_bytes = 0;
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let n = match from.read(&mut buffer) {
                Ok(0) => break,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                n => n?,
            };
            hash.update(&buffer[..n]);
            file.write_all(&buffer[..n])?;
            n_bytes += n as u64;
        }
        let digest = Digest::from_bytes(hash.finalize().into());
        let path = self.path(&digest);
        // Fresh from now on: who collects leaves it alone (see `collect`).
        if freshen(&path)? {
            fs::remove_file(temporary)?;
            return Ok((digest, n_bytes));
        }
        file.sync_all()?;
        let folder = self.root.join(&digest.as_str()[..2]);
        if !folder.try_exists()? {
            fs::create_dir_all(&folder)?;
            File::open(&self.root)?.sync_all()?;
        }
        fs::rename(temporary, &path)?;
        File::open(&folder)?.sync_all()?;
        Ok((digest, n_bytes))
    }
}

/// A file's time is a clock tick old when it is written: at most 10 ms, at 100 ticks in a second.
const TICK_MS: i64 = 20;

/// Some file systems keep whole seconds, or every other one.
const WHOLE_TICK_MS: i64 = 2_000;

/// Gives a file the present time; false when there is none.
fn freshen(path: &Path) -> io::Result<bool> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let now = Timestamps { last_access: now, last_modification: now };
    match rustix::fs::utimensat(CWD, path, &now, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(cause) => Err(cause.into()),
    }
}

/// The size on disk of a file that is older than `fresh_since`.
fn stale(path: &Path, fresh_since: Timestamp) -> io::Result<Option<u64>> {
    match fs::symlink_metadata(path) {
        Ok(meta) => {
            let at_ms = meta.mtime() * 1_000 + meta.mtime_nsec() / 1_000_000;
            let tick_ms = if meta.mtime_nsec() == 0 { WHOLE_TICK_MS } else { TICK_MS };
            let old = at_ms + tick_ms < fresh_since.as_millis();
            Ok(old.then_some(meta.blocks() * 512))
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(cause),
    }
}
