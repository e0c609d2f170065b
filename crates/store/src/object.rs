//! Objects named by digest, as files: `<root>/ab/cdef…`.
//!
//! Always: a file under its digest's name is complete; it came there by a rename.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use kiln_model::layer::Digest;
use sha2::{Digest as _, Sha256};

/// Bytes read at a time: enough to keep hashing busy, little to hold.
const CHUNK_BYTES: usize = 64 << 10;

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
        if path.try_exists()? {
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
