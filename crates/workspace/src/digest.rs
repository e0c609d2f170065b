//! What a layer changes, as 32 bytes: equal for equal changes, whatever driver made them.
//!
//! BLAKE3 over every entry of the layer's [`View`]: path, kind, mode, owner where it is not the one
//! who runs kiln, extended attributes that mean something, and the file's own BLAKE3, the link's
//! target, the device's number, or the file's first name where it has several. No times and none of
//! overlayfs's bookkeeping. Files are read on as many threads as there are cores.
//!
//! An entry that is only there because something below it changed (a folder that was copied up)
//! counts: nothing tells it from one that was made.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use kiln_model::layer::{Digest, LayerId};
use kiln_stdx::fs::{FsError, Named};
use serde::{Deserialize, Serialize};

use crate::view::{Entry, View, What};
use crate::{WorkspaceError, Workspaces, sparse, tree, verify, xattr};

/// Goes into every digest. To be changed with the encoding.
const FORMAT: &[u8] = b"kiln layer 1\n";

/// A digest that was computed, and of what.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    digest: Digest,
    folders: Vec<Looks>,
}

/// One folder of a layer. A layer that took the place of another looks different.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Looks {
    #[serde(with = "kiln_stdx::path")]
    folder: PathBuf,
    inode: u64,
    changed: (i64, i64),
}

impl Workspaces {
    /// The content digest of a layer: computed when it is first asked for, and kept.
    ///
    /// Equal for equal changes, whichever driver made them. What an attempt wrote and is not what it
    /// was when it was last asked for is damaged: it is set aside, and missing from then on. Blocking:
    /// reads the whole layer once.
    pub fn digest(&self, layer: &LayerId) -> Result<Digest, WorkspaceError> {
        let folders =
            self.layer_paths(layer).ok_or_else(|| WorkspaceError::Missing(vec![layer.clone()]))?;
        let key = key_of(layer);
        let noted = self.noted(&key);
        if let Some(noted) = &noted
            && self.looks(&folders).is_ok_and(|looks| looks == noted.folders)
        {
            return Ok(noted.digest.clone());
        }
        let digest = self.digest_anew(layer, folders.clone())?;
        if let (LayerId::Attempt(name), Some(noted)) = (layer, noted)
            && noted.digest != digest
        {
            self.part_with_attempt(name, verify::CHANGED)?;
            return Err(WorkspaceError::Missing(vec![layer.clone()]));
        }
        self.note_digest(&key, &folders, &digest)?;
        Ok(digest)
    }

    /// Keeps what the content of these folders has come to.
    pub(crate) fn note_digest(
        &self,
        key: &str,
        folders: &[PathBuf],
        digest: &Digest,
    ) -> Result<(), FsError> {
        let kept = Kept { digest: digest.clone(), folders: self.looks(folders)? };
        // Not synced: a digest that is lost or torn is computed again.
        let (temporary, file) = (tree::temporary_in(&self.digests()), self.digests().join(key));
        fs::write(&temporary, serde_json::to_vec(&kept).unwrap_or_default())
            .and_then(|()| fs::rename(&temporary, &file))
            .named("write", &file)
    }

    /// What was kept, whether the folders look as they did then or not.
    pub(crate) fn digest_noted(&self, key: &str) -> Option<Digest> {
        self.noted(key).map(|kept| kept.digest)
    }

    /// Another layer takes the name of this one.
    pub(crate) fn forget_digest(&self, layer: &LayerId) -> Result<(), FsError> {
        tree::remove(&self.digests().join(key_of(layer)))
    }

    /// The digest of what is on disk now.
    pub(crate) fn digest_anew(
        &self,
        layer: &LayerId,
        folders: Vec<PathBuf>,
    ) -> Result<Digest, WorkspaceError> {
        let mut view = View::of(folders)?;
        view.complete = matches!(layer, LayerId::Source(_));
        Ok(of_view(&view)?)
    }

    fn noted(&self, key: &str) -> Option<Kept> {
        serde_json::from_slice(&fs::read(self.digests().join(key)).ok()?).ok()
    }

    fn looks(&self, folders: &[PathBuf]) -> Result<Vec<Looks>, FsError> {
        let look = |folder: &PathBuf| {
            let meta = fs::symlink_metadata(folder).named("read", folder)?;
            Ok(Looks {
                // Relative, so that a data folder can be moved.
                folder: folder.strip_prefix(self.root()).unwrap_or(folder).to_owned(),
                inode: meta.ino(),
                changed: (meta.ctime(), meta.ctime_nsec()),
            })
        };
        folders.iter().map(look).collect()
    }
}

/// Under which a layer's digest is kept.
fn key_of(layer: &LayerId) -> String {
    let (kind, id) = match layer {
        LayerId::Source(id) => ("source", id),
        LayerId::Attempt(id) => ("attempt", id),
        LayerId::Boundary(id) => ("boundary", id),
        LayerId::Cache(id) => ("cache", id),
    };
    format!("{kind}-{id}")
}

/// One entry on its way into the digest.
struct Line {
    /// Everything about it but a file's bytes.
    head: Vec<u8>,
    /// The file whose bytes count, and then their digest.
    file: Option<PathBuf>,
}

pub(crate) fn of_view(view: &View) -> Result<Digest, FsError> {
    let mut lines = Vec::new();
    // By device and inode: where a file with several names was first met.
    let mut names = HashMap::new();
    view.walk(|entry| {
        lines.push(line(entry, &mut names)?);
        Ok::<(), FsError>(())
    })?;
    let contents = contents(&lines)?;
    let mut all = blake3::Hasher::new();
    all.update(FORMAT);
    for (line, content) in lines.iter().zip(contents) {
        all.update(&line.head);
        if let Some(content) = content {
            all.update(content.as_bytes());
        }
    }
    Ok(Digest::from_bytes(*all.finalize().as_bytes()))
}

fn line(entry: Entry, names: &mut HashMap<(u64, u64), PathBuf>) -> Result<Line, FsError> {
    let mut head = Vec::new();
    put(&mut head, entry.path.as_os_str().as_bytes());
    let mut file = None;
    match entry.what {
        What::WhiteOut => head.push(b'-'),
        What::Folder { real, meta, opaque } => {
            head.push(if opaque { b'o' } else { b'd' });
            attributes(&mut head, &real, &meta)?;
        }
        What::Leaf { real, meta } => {
            let first = match meta.is_file() && meta.nlink() > 1 {
                true => names.get(&(meta.dev(), meta.ino())),
                false => None,
            };
            if let Some(first) = first {
                head.push(b'h');
                put(&mut head, first.as_os_str().as_bytes());
                return Ok(Line { head, file });
            }
            if meta.nlink() > 1 {
                names.insert((meta.dev(), meta.ino()), entry.path);
            }
            leaf(&mut head, &real, &meta)?;
            file = meta.is_file().then_some(real);
        }
    }
    Ok(Line { head, file })
}

fn leaf(head: &mut Vec<u8>, real: &Path, meta: &Metadata) -> Result<(), FsError> {
    let kind = meta.file_type();
    if kind.is_symlink() {
        head.push(b'l');
        let target = fs::read_link(real).named("read", real)?;
        put(head, target.as_os_str().as_bytes());
    } else {
        head.push(if kind.is_file() { b'f' } else { b's' });
        // Of a special file the number, too; it is zero where it means nothing.
        head.extend(meta.rdev().to_le_bytes());
    }
    attributes(head, real, meta)
}

/// Mode, owner and extended attributes.
fn attributes(head: &mut Vec<u8>, real: &Path, meta: &Metadata) -> Result<(), FsError> {
    let link = meta.file_type().is_symlink();
    // A link's own mode is never looked at.
    head.extend(if link { 0 } else { meta.mode() }.to_le_bytes());
    for (id, mine) in [
        (meta.uid(), rustix::process::geteuid().as_raw()),
        (meta.gid(), rustix::process::getegid().as_raw()),
    ] {
        head.extend(if id == mine { 0 } else { id }.to_le_bytes());
    }
    if !link {
        for (name, value) in xattr::of(real)? {
            head.push(b'x');
            put(head, name.as_bytes());
            put(head, &value);
        }
    }
    head.push(b'.');
    Ok(())
}

/// Bytes with their length in front, so that two neighbours cannot be taken for other two.
fn put(head: &mut Vec<u8>, bytes: &[u8]) {
    head.extend((bytes.len() as u64).to_le_bytes());
    head.extend(bytes);
}

/// The digests of the files' bytes, in the order of the lines.
fn contents(lines: &[Line]) -> Result<Vec<Option<blake3::Hash>>, FsError> {
    let n_files = lines.iter().filter(|line| line.file.is_some()).count();
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from).min(n_files);
    let next = AtomicUsize::new(0);
    let results = Mutex::new(vec![None; lines.len()]);
    let failed = Mutex::new(None);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(line) = lines.get(at) else { break };
            let Some(file) = &line.file else { continue };
            match content(file) {
                Ok(hash) => done.push((at, hash)),
                Err(error) => {
                    // The others stop, too.
                    next.store(lines.len(), Ordering::Relaxed);
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
            }
        }
        let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, hash) in done {
            results[at] = Some(hash);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..n_threads {
            scope.spawn(work);
        }
        work();
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(results.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

/// What is hashed at once, and the unit in which zeros are left out.
const BLOCK: usize = 64 << 10;

/// Size, and every block that is not all zeros with its place: a file of holes is as good as the same
/// file of zeros, and a job that left a hole of ten terabytes costs nobody an afternoon.
fn content(path: &Path) -> Result<blake3::Hash, FsError> {
    let mut hasher = blake3::Hasher::new();
    let file = fs::File::open(path).named("open", path)?;
    let size = file.metadata().named("read", path)?.len();
    hasher.update(&size.to_le_bytes());
    let mut block = vec![0; BLOCK.min(usize::try_from(size).unwrap_or(BLOCK))];
    let mut at = 0;
    while at < size {
        if size > BLOCK as u64 {
            let Some(data) = sparse::next_data(&file, at).named("read", path)? else { break };
            at = data - data % BLOCK as u64;
        }
        let n = usize::try_from(size - at).map_or(block.len(), |left| left.min(block.len()));
        file.read_exact_at(&mut block[..n], at).named("read", path)?;
        if !sparse::is_zero(&block[..n]) {
            hasher.update(&at.to_le_bytes()).update(&block[..n]);
        }
        at += n as u64;
    }
    Ok(hasher.finalize())
}
