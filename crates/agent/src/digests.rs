//! Digests of files that were read before, for files that look the same.
//!
//! One file for each working tree. What is in it may be lost at any time; then files are read again.
//! A file that was changed so shortly before it was read that another change might leave no trace is
//! not remembered.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kiln_stdx::fs::{create_private_dir, write_atomic};
use kiln_stdx::{Clock, SystemClock};

use crate::agent::report;
use crate::input::{Looks, looks};

/// A file that changed within this time before it was read may change again and look the same. The
/// coarsest file systems count in two seconds.
const RACY_FOR_MS: i64 = 2_500;

/// Files of one tree that are remembered.
const FILES_MAX: usize = 1_000_000;

const HEAD: &[u8] = b"kiln digests 1\n";
const LOOKS_BYTES: usize = 8 * 8;
const DIGEST_BYTES: usize = 32;
const ENTRY_BYTES: usize = LOOKS_BYTES + DIGEST_BYTES;

/// What was found of one file.
type Entry = (Looks, [u8; DIGEST_BYTES]);

/// Files of one tree. A process mostly reads what another has written, of many files: that stays in the
/// one piece in which it came.
#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    bytes: Vec<u8>,
    /// Where in `bytes` each path and what follows it begin and where the path ends; by path.
    entries: Vec<(usize, usize)>,
    /// Goes before `bytes`.
    new: HashMap<PathBuf, Entry>,
}

impl Known {
    fn len(&self) -> usize {
        self.entries.len() + self.new.len()
    }

    fn path(&self, (from, to): (usize, usize)) -> &[u8] {
        &self.bytes[from..to]
    }

    fn entry(&self, (_, at): (usize, usize)) -> Entry {
        let (numbers, digest) = self.bytes[at..at + ENTRY_BYTES].split_at(LOOKS_BYTES);
        let mut looks = [0; 8];
        for (number, bytes) in looks.iter_mut().zip(numbers.as_chunks().0) {
            *number = u64::from_le_bytes(*bytes);
        }
        (looks, digest.try_into().unwrap_or_default())
    }

    /// `next` is where the last one was found, plus one: whoever walks in order finds it there.
    fn get(&self, path: &Path, next: &mut usize) -> Option<Entry> {
        if let Some(new) = (!self.new.is_empty()).then(|| self.new.get(path)).flatten() {
            return Some(*new);
        }
        let path = path.as_os_str().as_bytes();
        let is_next = self.entries.get(*next).is_some_and(|at| self.path(*at) == path);
        let found = match is_next {
            true => *next,
            false => self.entries.binary_search_by(|at| self.path(*at).cmp(path)).ok()?,
        };
        *next = found + 1;
        Some(self.entry(self.entries[found]))
    }
}

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
    /// Where the next file probably is.
    next: usize,
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
            Arc::new(Mutex::new(parse(bytes).unwrap_or_default()))
        });
        let racy_from_ms = SystemClock.now().as_millis() - RACY_FOR_MS;
        Reader { root, file, known: known.clone(), next: 0, changed: false, racy_from_ms }
    }
}

impl Reader<'_> {
    /// The digest of a regular file that looks so.
    pub fn digest(&mut self, path: &Path, now: Looks) -> io::Result<String> {
        let known = lock(&self.known).get(path, &mut self.next);
        if let Some((_, digest)) = known.filter(|(then, _)| *then == now) {
            return Ok(blake3::Hash::from_bytes(digest).to_hex().to_string());
        }
        let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(self.root.join(path))?;
        let digest = read(&file)?;
        let changed_ms = |seconds: u64, nanos: u64| {
            seconds.cast_signed().saturating_mul(1_000) + (nanos / 1_000_000).cast_signed()
        };
        let latest = changed_ms(now[4], now[5]).max(changed_ms(now[6], now[7]));
        let mut all = lock(&self.known);
        if latest < self.racy_from_ms && all.len() < FILES_MAX && looks(&file.metadata()?) == now {
            all.new.insert(path.to_owned(), (now, *digest.as_bytes()));
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

/// Head, entries by path, and a digest of all that: `n_bytes[4] path looks[64] digest[32]`.
fn encoded(known: &Known) -> Vec<u8> {
    let new = known.new.iter().map(|(path, entry)| (path.as_os_str().as_bytes(), *entry));
    let old = known.entries.iter().map(|at| (known.path(*at), known.entry(*at)));
    let mut all: BTreeMap<&[u8], Entry> = old.collect();
    all.extend(new);
    let mut bytes = HEAD.to_vec();
    for (path, (looks, digest)) in all {
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
fn parse(bytes: Vec<u8>) -> Option<Known> {
    let (text, end) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST_BYTES)?)?;
    if blake3::hash(text).as_bytes() != end || !text.starts_with(HEAD) {
        return None;
    }
    let (mut at, over) = (HEAD.len(), text.len());
    let mut entries = Vec::new();
    while at < over {
        let n_bytes = text[at..].first_chunk()?;
        let from = at + n_bytes.len();
        let to = from.checked_add(usize::try_from(u32::from_le_bytes(*n_bytes)).ok()?)?;
        at = to.checked_add(ENTRY_BYTES).filter(|end| *end <= over)?;
        entries.push((from, to));
    }
    // Those of an earlier kiln are in no order.
    let path = |(from, to): (usize, usize)| &bytes[from..to];
    if !entries.is_sorted_by(|a, b| path(*a) < path(*b)) {
        entries.sort_unstable_by(|a, b| path(*a).cmp(path(*b)));
    }
    Some(Known { bytes, entries, new: HashMap::new() })
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
        let entry = ([1, 2, 3, 4, 5, 6, 7, u64::MAX], [7; 32]);
        let known = Known { new: [(odd.clone(), entry)].into(), ..Known::default() };
        let bytes = encoded(&known);
        let again = parse(bytes.clone()).unwrap();
        assert_eq!(again.get(&odd, &mut 0), Some(entry));
        assert_eq!(again.get(Path::new("a"), &mut 0), None);
        assert_eq!(encoded(&again), bytes);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(parse(damaged), None, "{at}");
            assert_eq!(parse(bytes[..at].to_vec()), None, "{at}");
        }
    }

    #[test]
    fn each_file_is_found_in_whatever_order_they_are_asked_for() {
        let entry = |n: u64| ([n; 8], [u8::try_from(n).unwrap(); 32]);
        let files = |from: u64, to: u64| (from..to).map(|n| (format!("f{n:02}").into(), entry(n)));
        let mut known = Known { new: files(0, 50).collect(), ..Known::default() };
        known = parse(encoded(&known)).unwrap();
        // One that looks otherwise now, and new ones.
        known.new.extend(files(50, 60).chain([("f07".into(), entry(99))]));
        known = parse(encoded(&known)).unwrap();
        assert_eq!(known.len(), 60);
        let mut next = 0;
        for n in (0..60).chain([30, 7, 59, 0, 31]) {
            let n_then = if n == 7 { 99 } else { n };
            let found = known.get(Path::new(&format!("f{n:02}")), &mut next);
            assert_eq!(found, Some(entry(n_then)), "{n}");
        }
        assert_eq!(known.get(Path::new("f60"), &mut next), None);
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
            let digest = reader.digest(path, looks(&meta)).unwrap();
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
        later.digest(path, looks(&meta)).unwrap();
        assert!(later.changed);
        later.keep();
        let again = Digests::new(&folder.path().join("digests"));
        assert_eq!(digest(&again), (blake3::hash(b"two").to_hex().to_string(), false));
    }
}
