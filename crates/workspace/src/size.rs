//! How much room things take on disk, counted once.
//!
//! Sealing takes the same time whatever a layer holds, so nobody counts then. Whoever wants to know
//! counts, and leaves what came out in one file: a line for each layer. Layers never change, so a
//! line is right for as long as its layer is there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_model::RunId;
use kiln_stdx::clock::Stopwatch;

use crate::collect::run_of;
use crate::{WorkspaceError, Workspaces, image, tree};

const FILE: &str = "sizes";

/// Lines of layers that are gone are dropped when there are so many more lines than layers.
const STALE_LINES_MAX: usize = 1_000;

/// What layers take on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of each run: what its attempts wrote.
    pub runs: BTreeMap<RunId, u64>,
    pub sources: u64,
    pub caches: u64,
    /// Layers of container images.
    pub images: u64,
    /// What is made again when it is wanted, what is damaged, and what living attempts hold.
    pub rest: u64,
    /// Not everything was counted in the time that was given.
    pub is_partial: bool,
}

/// With less than this, writing may fail at any moment.
const FULL_BYTES: u64 = 1 << 20;

impl Workspaces {
    /// Whether there is no room left on the disk of the layers.
    pub fn is_full(&self) -> bool {
        let disk = rustix::fs::statvfs(self.root());
        disk.is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < FULL_BYTES)
    }

    /// What everything takes, from what was counted before and what can be counted now within
    /// `within`. Blocking.
    pub fn usage(&self, within: Duration) -> Result<Usage, WorkspaceError> {
        let mut sizes = Sizes::read(self.root());
        let mut usage = Usage::default();
        let watch = Stopwatch::start();
        for (folder, meta) in tree::entries(self.root())? {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !meta.is_dir() {
                continue;
            }
            for (path, meta) in tree::entries(&folder)? {
                let known = match meta.is_dir() {
                    // A living attempt changes.
                    true if name == "attempts" => None,
                    true => sizes.of(self.root(), &path),
                    false => Some(meta.blocks() * 512),
                };
                let n_bytes = match known {
                    Some(n_bytes) => n_bytes,
                    None if watch.elapsed() > within => {
                        usage.is_partial = true;
                        continue;
                    }
                    None => {
                        let n_bytes = on_disk(&path);
                        if name != "attempts" {
                            sizes.learn(self.root(), &path, n_bytes);
                        }
                        n_bytes
                    }
                };
                match (name.as_str(), run_of(&path)) {
                    ("sources", _) => usage.sources += n_bytes,
                    ("caches" | "cached", _) => usage.caches += n_bytes,
                    (image::FOLDER, _) => usage.images += n_bytes,
                    ("attempts" | "masks" | "damaged" | "visits", _) | (_, None) => {
                        usage.rest += n_bytes;
                    }
                    (_, Some(run)) => *usage.runs.entry(run).or_default() += n_bytes,
                }
            }
        }
        sizes.write(self.root());
        Ok(usage)
    }
}

/// What folders below the root take, counted now where they never were.
pub(crate) fn of_all<'a>(root: &Path, folders: impl Iterator<Item = &'a Path>) -> Vec<u64> {
    let mut sizes = Sizes::read(root);
    let size = |folder: &'a Path| {
        sizes.of(root, folder).unwrap_or_else(|| {
            let n_bytes = on_disk(folder);
            sizes.learn(root, folder, n_bytes);
            n_bytes
        })
    };
    let all = folders.map(size).collect();
    sizes.append(root);
    all
}

/// The file, in memory.
#[derive(Default)]
struct Sizes {
    known: HashMap<String, u64>,
    /// Those that were asked for: they are still there.
    there: HashSet<String>,
    new: Vec<(String, u64)>,
}

impl Sizes {
    fn read(root: &Path) -> Self {
        let text = fs::read_to_string(root.join(FILE)).unwrap_or_default();
        let line = |line: &str| {
            let (n_bytes, name) = line.split_once(' ')?;
            Some((name.to_owned(), n_bytes.parse().ok()?))
        };
        Self { known: text.lines().filter_map(line).collect(), ..Self::default() }
    }

    fn of(&mut self, root: &Path, path: &Path) -> Option<u64> {
        let name = key(root, path)?;
        let known = self.known.get(&name).copied();
        self.there.insert(name);
        known
    }

    fn learn(&mut self, root: &Path, path: &Path, n_bytes: u64) {
        self.new.extend(key(root, path).map(|name| (name, n_bytes)));
    }

    /// Appends what is new: several processes may do so at once. Best effort, also on a full disk:
    /// what is not kept is counted again.
    fn write(mut self, root: &Path) {
        let path = root.join(FILE);
        let stale = self.known.len().saturating_sub(self.there.len());
        if stale > STALE_LINES_MAX {
            self.known.retain(|name, _| self.there.contains(name));
            self.new.extend(self.known.drain());
            let _ = kiln_stdx::fs::write_atomic(&path, lines(&self.new).as_bytes());
        } else {
            self.append(root);
        }
    }

    fn append(&self, root: &Path) {
        if self.new.is_empty() {
            return;
        }
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o600).open(root.join(FILE));
        let _ = file.and_then(|mut file| file.write_all(lines(&self.new).as_bytes()));
    }
}

fn lines(all: &[(String, u64)]) -> String {
    all.iter().map(|(name, n_bytes)| format!("{n_bytes} {name}\n")).collect()
}

/// A layer's name in the file; `None` for names that a line cannot hold. With its inode: another
/// layer of the same name is another one.
fn key(root: &Path, path: &Path) -> Option<String> {
    let inode = fs::symlink_metadata(path).ok()?.ino();
    let name = path.strip_prefix(root).ok()?.to_str()?;
    (!name.contains('\n')).then(|| format!("{inode} {name}"))
}

/// What a file or a tree takes on disk, without following links; a file of several names once. What
/// cannot be read counts as nothing.
pub(crate) fn on_disk(path: &Path) -> u64 {
    let mut total = 0;
    let mut seen = HashSet::new();
    let mut rest: Vec<PathBuf> = vec![path.to_owned()];
    while let Some(path) = rest.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.nlink() > 1 && !meta.is_dir() && !seen.insert((meta.dev(), meta.ino())) {
            continue;
        }
        total += meta.blocks() * 512;
        if meta.is_dir() {
            let entries = fs::read_dir(&path).into_iter().flatten().flatten();
            rest.extend(entries.map(|entry| entry.path()));
        }
    }
    total
}
