//! What a run's working tree was when the run began.
//!
//! A person goes on editing; a rerun and a look into an old job must find the files as they were. What
//! is in the repository need not be copied: git's index of the time says which file was which object.
//! Kept beside it are only those files that differed from the index, or were not in it: usually few.
//!
//! ```text
//! trees/<run>/record.json   what was deleted, and what could not be kept
//!             index         git's index of the time
//!             files/        what differed from it, as a layer
//! trees/objects-<key>/      second names of the files with a repository's objects
//! ```
//!
//! Always: a folder of a run appears whole or not at all, and never changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Seek};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kiln_model::RunId;
use kiln_stdx::bytes;
use kiln_stdx::fs::{FsError, Named, create_private_dir};
use serde::{Deserialize, Serialize};

use crate::collect::is_temporary;
use crate::tree::{self, Links};
use crate::{GitLayer, WorkspaceError, Workspaces};

/// Most bytes of changed and untracked files that are kept for one run, and most files.
const BYTES_MAX: u64 = 1 << 30;
const FILES_MAX: usize = 100_000;

const RECORD: &str = "record.json";
const FILES: &str = "files";

/// What is known of a run's working tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptTree {
    /// Jobs saw what git ignores, too; of that nothing is kept.
    #[serde(default)]
    pub all: bool,
    /// Why there is no way back to the files: part of a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lack: Option<String>,
    /// Files of the index that were not there.
    #[serde(with = "kiln_stdx::path::list")]
    pub deleted: Vec<PathBuf>,
    /// All files and links below `files/`.
    #[serde(with = "kiln_stdx::path::list")]
    pub files: Vec<PathBuf>,
    /// The `.git` of the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitLayer>,
}

/// Why files were not kept.
#[derive(Debug)]
enum Lack {
    TooMuch { n_files: usize, n_bytes: u64 },
    File(FsError),
}

impl Workspaces {
    fn trees(&self) -> PathBuf {
        self.root().join("trees")
    }

    /// The folder of what is kept for a run, whether or not it is there.
    pub fn kept_dir(&self, run: RunId) -> PathBuf {
        self.trees().join(run.0.to_string())
    }

    /// git's index of the time.
    pub fn kept_index(&self, run: RunId) -> PathBuf {
        self.kept_dir(run).join("index")
    }

    /// The files that differed from the index, as a layer.
    pub fn kept_files(&self, run: RunId) -> PathBuf {
        self.kept_dir(run).join(FILES)
    }

    /// What is kept for a run; `None` when nothing is.
    pub fn kept_tree(&self, run: RunId) -> Result<Option<KeptTree>, WorkspaceError> {
        let file = self.kept_dir(run).join(RECORD);
        let text = match fs::read(&file) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.named("read", &file)?,
        };
        let record =
            serde_json::from_slice(&text).map_err(io::Error::other).named("read", &file)?;
        Ok(Some(record))
    }

    /// The folder for second names of a repository's objects.
    pub fn pinned(&self, objects: &Path) -> Result<PathBuf, WorkspaceError> {
        let key = blake3::hash(objects.as_os_str().as_bytes()).to_hex();
        let folder = self.trees().join(format!("objects-{}", &key.as_str()[..32]));
        create_private_dir(&folder)?;
        Ok(folder)
    }

    /// Keeps the files of `root` below `wanted` (files, and whole folders) without those below
    /// `hidden`, with what `record` says already and git's index. What cannot be kept is no
    /// error: then the record says why.
    pub fn keep_tree(
        &self,
        run: RunId,
        root: &Path,
        (wanted, hidden): (&[PathBuf], &[PathBuf]),
        index: Option<&File>,
        mut record: KeptTree,
    ) -> Result<KeptTree, WorkspaceError> {
        let temporary = tree::temporary_in(&self.trees());
        create_private_dir(&temporary)?;
        let made = (|| {
            match copy_files(root, wanted, hidden, &temporary.join(FILES)) {
                Ok(files) => record.files = files,
                Err(lack) => {
                    record.lack = Some(lack.to_string());
                    tree::remove(&temporary.join(FILES))?;
                }
            }
            if let Some(index) = index {
                let same = record.git.as_ref().map(|git| self.git_path(git).join(".git/index"));
                let to = temporary.join("index");
                // Neither ever changes, so they may be one file.
                if same.is_none_or(|same| fs::hard_link(same, &to).is_err()) {
                    copy_index(index, &to)?;
                }
            }
            let file = temporary.join(RECORD);
            let text = serde_json::to_vec(&record).unwrap_or_default();
            fs::write(&file, text).named("write", &file)?;
            let finished = self.kept_dir(run);
            fs::rename(&temporary, &finished).named("create", &finished)
        })();
        if made.is_err() {
            let _ = tree::remove(&temporary);
        }
        Ok(made.map(|()| record)?)
    }

    /// A new folder in which something can be made that lives as long as this process.
    pub fn temporary(&self) -> Result<PathBuf, WorkspaceError> {
        let folder = tree::temporary_in(&self.trees());
        create_private_dir(&folder)?;
        Ok(folder)
    }

    /// Removes a folder if [`Workspaces::temporary`] made it; else it stays.
    pub fn remove_temporary(&self, folder: &Path) -> Result<(), WorkspaceError> {
        let made_so = folder.parent() == Some(&self.trees()) && is_temporary(folder);
        if made_so { Ok(tree::remove(folder)?) } else { Ok(()) }
    }

    /// Gives the folders of a layer the looks that they have in the working tree.
    pub fn look_like(&self, root: &Path, layer: &Path) -> Result<(), WorkspaceError> {
        Ok(look_like(root, layer)?)
    }
}

fn look_like(root: &Path, layer: &Path) -> Result<(), FsError> {
    for (path, meta) in tree::entries(layer)? {
        if meta.is_dir() {
            look_like(&root.join(path.file_name().unwrap_or_default()), &path)?;
        }
    }
    match fs::symlink_metadata(root) {
        Ok(meta) if meta.is_dir() => tree::set_attributes(layer, &meta),
        _ => Ok(()),
    }
}

/// With its time, by which git knows which files may have changed unseen.
fn copy_index(mut index: &File, to: &Path) -> Result<(), FsError> {
    let copied = (|| {
        let mut file = File::create_new(to)?;
        index.rewind()?;
        io::copy(&mut index, &mut file)?;
        file.set_modified(index.metadata()?.modified()?)
    })();
    copied.named("copy git's index to", to)
}

/// The files that were copied. Nothing is copied when there are too many.
fn copy_files(
    root: &Path,
    wanted: &[PathBuf],
    hidden: &[PathBuf],
    to: &Path,
) -> Result<Vec<PathBuf>, Lack> {
    // Collected again: git writes folders with a slash at the end.
    let plain = |path: &PathBuf| path.components().collect::<PathBuf>();
    let hidden: BTreeSet<PathBuf> = hidden.iter().map(plain).collect();
    let mut found = BTreeMap::new();
    let mut todo: Vec<PathBuf> = wanted.iter().map(plain).collect();
    let mut n_bytes = 0;
    while let Some(path) = todo.pop() {
        let at = root.join(&path);
        let meta = match fs::symlink_metadata(&at) {
            Err(cause) if tree::is_absent(&cause) => continue,
            other => other.named("read", &at)?,
        };
        if hidden.contains(&path) {
            continue;
        }
        if meta.is_dir() {
            for (below, _) in tree::entries(&at)? {
                todo.push(path.join(below.file_name().unwrap_or_default()));
            }
        } else {
            n_bytes += meta.len();
        }
        found.insert(path, meta);
        if n_bytes > BYTES_MAX || found.len() > FILES_MAX {
            return Err(Lack::TooMuch { n_files: found.len(), n_bytes });
        }
    }
    copy_found(root, &found, to)?;
    Ok(found.into_iter().filter(|(_, meta)| !meta.is_dir()).map(|(path, _)| path).collect())
}

fn copy_found(root: &Path, found: &BTreeMap<PathBuf, Metadata>, to: &Path) -> Result<(), FsError> {
    create_private_dir(to)?;
    let mut links = Links::default();
    for (path, meta) in found {
        let at = to.join(path);
        let folder = if meta.is_dir() { Some(at.as_path()) } else { at.parent() };
        if let Some(folder) = folder {
            fs::create_dir_all(folder).named("create", folder)?;
        }
        if !meta.is_dir() {
            match tree::copy_leaf(&root.join(path), meta, &at, &mut links) {
                // Gone since it was listed.
                Err(error) if tree::is_absent(&error.cause) => {}
                other => other?,
            }
        }
    }
    look_like(root, to)
}

impl From<FsError> for Lack {
    fn from(error: FsError) -> Self {
        Self::File(error)
    }
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooMuch { n_files, n_bytes } => write!(
                f,
                "changed and untracked files were too many to keep ({}{n_files} files, {}; at most \
                 {FILES_MAX} files and {} are kept)",
                if *n_files > FILES_MAX || *n_bytes > BYTES_MAX { "more than " } else { "" },
                bytes::show(*n_bytes),
                bytes::show(BYTES_MAX),
            ),
            Self::File(error) => write!(f, "{error}: {}", error.cause),
        }
    }
}
