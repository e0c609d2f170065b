//! Digests of files that were read before, for files that look the same.
//!
//! One file for each working tree. What is in it may be lost at any time; then files are read again.
//! A file that was changed so shortly before it was read that another change might leave no trace is
//! not remembered.

use std::collections::HashMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kiln_stdx::fs::{create_private_dir, write_atomic};
use kiln_stdx::{Clock, SystemClock};

use crate::agent::report;
use crate::input::looks;

/// A file that changed within this time before it was read may change again and look the same. The
/// coarsest file systems count in two seconds.
const RACY_FOR_MS: i64 = 2_500;

/// Files of one tree that are remembered.
const FILES_MAX: usize = 1_000_000;

const HEAD: &[u8] = b"kiln digests 1\n";
const LOOKS_BYTES: usize = 8 * 8;
const DIGEST_BYTES: usize = 32;

type Known = HashMap<PathBuf, ([u64; 8], [u8; DIGEST_BYTES])>;

/// What is known of all working trees.
#[derive(Debug)]
pub(crate) struct Digests {
    folder: PathBuf,
    trees: Mutex<HashMap<PathBuf, Arc<Mutex<Known>>>>,
}

/// Looks at the files of one tree.
pub(crate) struct Reader<'a> {
    root: &'a Path,
    file: PathBuf,
    known: Arc<Mutex<Known>>,
    changed: bool,
    racy_from_ms: i64,
}

impl Digests {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), trees: Mutex::default() }
    }

    pub fn reader<'a>(&self, root: &'a Path) -> Reader<'a> {
        let name = blake3::hash(root.as_os_str().as_bytes()).to_hex();
        let file = self.folder.join(&name[..32]);
        let mut trees = lock(&self.trees);
        let known = trees.entry(root.to_owned()).or_insert_with(|| {
            let bytes = fs::read(&file).unwrap_or_default();
            Arc::new(Mutex::new(parse(&bytes).unwrap_or_default()))
        });
        let racy_from_ms = SystemClock.now().as_millis() - RACY_FOR_MS;
        Reader { root, file, known: known.clone(), changed: false, racy_from_ms }
    }
}

impl Reader<'_> {
    /// The digest of a regular file that looks like `meta`.
    pub fn digest(&mut self, path: &Path, meta: &Metadata) -> io::Result<String> {
        let now = looks(meta);
        let known = lock(&self.known).get(path).filter(|(then, _)| *then == now).map(|(_, d)| *d);
        if let Some(known) = known {
            return Ok(blake3::Hash::from_bytes(known).to_hex().to_string());
        }
        let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(self.root.join(path))?;
        let digest = read(&file)?;
        let changed_ms = |seconds: i64, nanos: i64| seconds * 1_000 + nanos / 1_000_000;
        let latest = changed_ms(meta.mtime(), meta.mtime_nsec())
            .max(changed_ms(meta.ctime(), meta.ctime_nsec()));
        let mut all = lock(&self.known);
        if latest < self.racy_from_ms && all.len() < FILES_MAX && looks(&file.metadata()?) == now {
            all.insert(path.to_owned(), (now, *digest.as_bytes()));
            self.changed = true;
        }
        Ok(digest.to_hex().to_string())
    }

    /// Remembers what was read, for the next process too.
    pub fn keep(self) {
        if !self.changed {
            return;
        }
        let bytes = encoded(&lock(&self.known));
        let folder = self.file.parent().unwrap_or(Path::new("/"));
        if let Err(error) =
            create_private_dir(folder).and_then(|()| write_atomic(&self.file, &bytes))
        {
            report(&format!("digests of inputs are not remembered: {error}"));
        }
    }
}

fn read(mut file: &File) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = [0; 64 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(n_bytes) => hasher.update(&buffer[..n_bytes]),
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(cause),
        };
    }
}

/// Head, entries, and a digest of all that: `n_bytes[4] path looks[64] digest[32]`.
fn encoded(known: &Known) -> Vec<u8> {
    let mut bytes = HEAD.to_vec();
    for (path, (looks, digest)) in known {
        let path = path.as_os_str().as_bytes();
        bytes.extend(u32::try_from(path.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(path);
        looks.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        bytes.extend(digest);
    }
    let end = blake3::hash(&bytes);
    bytes.extend(end.as_bytes());
    bytes
}

/// `None` for what was not written by [`encoded`], or not in full.
fn parse(bytes: &[u8]) -> Option<Known> {
    let (text, end) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST_BYTES)?)?;
    if blake3::hash(text).as_bytes() != end {
        return None;
    }
    let mut rest = text.strip_prefix(HEAD)?;
    let mut known = Known::new();
    while !rest.is_empty() {
        let (n_bytes, after) = rest.split_first_chunk()?;
        let n_bytes = usize::try_from(u32::from_le_bytes(*n_bytes)).ok()?;
        let (path, after) = after.split_at_checked(n_bytes)?;
        let (numbers, after) = after.split_first_chunk::<LOOKS_BYTES>()?;
        let (digest, after) = after.split_first_chunk()?;
        let mut looks = [0; 8];
        for (number, bytes) in looks.iter_mut().zip(numbers.as_chunks().0) {
            *number = u64::from_le_bytes(*bytes);
        }
        known.insert(Path::new(std::ffi::OsStr::from_bytes(path)).to_owned(), (looks, *digest));
        rest = after;
    }
    Some(known)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic left is only a cache.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_comes_back_and_what_is_damaged_does_not() {
        let odd = PathBuf::from(std::ffi::OsStr::from_bytes(b"a/\xff\n"));
        let known: Known = [(odd, ([1, 2, 3, 4, 5, 6, 7, u64::MAX], [7; 32]))].into();
        let bytes = encoded(&known);
        assert_eq!(parse(&bytes), Some(known));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(parse(&damaged), None, "{at}");
            assert_eq!(parse(&bytes[..at]), None, "{at}");
        }
    }

    #[test]
    fn a_file_is_read_again_when_it_looks_different_or_is_too_young() {
        let folder = tempfile::tempdir().unwrap();
        let (root, path) = (folder.path().join("tree"), Path::new("file"));
        fs::create_dir(&root).unwrap();
        let digests = Digests::new(&folder.path().join("digests"));
        let digest = |digests: &Digests| {
            let meta = fs::symlink_metadata(root.join(path)).unwrap();
            let mut reader = digests.reader(&root);
            let digest = reader.digest(path, &meta).unwrap();
            let read = reader.changed;
            reader.keep();
            (digest, read)
        };
        fs::write(root.join(path), "one").unwrap();
        let first = digest(&digests);
        assert_eq!(first, (blake3::hash(b"one").to_hex().to_string(), false));
        // The same size within the same tick of the clock.
        fs::write(root.join(path), "two").unwrap();
        assert_eq!(digest(&digests).0, blake3::hash(b"two").to_hex().to_string());
        // One that is old: its change cannot be made old, so the clock of the reader is moved.
        let meta = fs::symlink_metadata(root.join(path)).unwrap();
        let mut later = digests.reader(&root);
        later.racy_from_ms += 60_000;
        later.digest(path, &meta).unwrap();
        assert!(later.changed);
        later.keep();
        let again = Digests::new(&folder.path().join("digests"));
        assert_eq!(digest(&again), (blake3::hash(b"two").to_hex().to_string(), false));
    }
}
