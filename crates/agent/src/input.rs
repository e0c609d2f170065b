//! The files that a job's `inputs` match: what they are and what names their content.
//!
//! Of a commit: the entries of its tree, without a checkout. Of a working tree: what a job would see of
//! it, each file by the digest of its bytes, which is known for a file that looks as when it was last
//! read ([`crate::digests`]).
//!
//! Always: `.git` is no input. A symbolic link is what it says, not what it leads to.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kiln_git::Mirror;
use kiln_model::inputs::{Decided, Inputs};
use kiln_model::key::InputFile;
use kiln_model::limit::INPUT_FILES_MAX;

use crate::digests::Digests;

/// What was found.
#[derive(Debug)]
pub(crate) struct Listing {
    /// Sorted by path.
    pub files: Vec<InputFile>,
    /// How the files of a working tree looked, all together. Another look gives the same as long as
    /// nobody has touched one.
    pub looks: Option<blake3::Hash>,
    /// Patterns that match nothing.
    pub without_match: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("more than {INPUT_FILES_MAX} files match its `inputs`")]
    TooMany,
    #[error("{0}")]
    Git(#[from] kiln_git::GitError),
    #[error("cannot read `{}`: {cause}", .path.display())]
    Read { path: PathBuf, cause: io::Error },
}

/// What is being listed.
struct Found {
    files: Vec<InputFile>,
    decided: Vec<(String, Decided)>,
}

impl Found {
    fn push(&mut self, file: InputFile, decided: Decided) -> Result<(), InputError> {
        self.decided.push((file.path.to_string_lossy().into_owned(), decided));
        self.files.push(file);
        if self.files.len() > INPUT_FILES_MAX { Err(InputError::TooMany) } else { Ok(()) }
    }

    fn listing(mut self, inputs: &Inputs, looks: Option<blake3::Hash>) -> Listing {
        let without_match = inputs.without_match(&self.decided);
        self.files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Listing { files: self.files, looks, without_match }
    }
}

/// The inputs that are in a tree of git. What git is told to convert on checkout is a matter of
/// `.gitattributes`, so those of the folders on the way are inputs too.
pub(crate) fn of_tree(mirror: &Mirror, tree: &str, inputs: &Inputs) -> Result<Listing, InputError> {
    let mut found = Found { files: Vec::new(), decided: Vec::new() };
    let mut failed = None;
    mirror.walk(tree, Decided::default(), |above, entry| {
        if failed.is_some() {
            return None;
        }
        let path = entry.path.to_string_lossy();
        let decided = inputs.decide(*above, &path);
        if entry.is_folder() {
            return inputs.may_include_below(decided, &path).then_some(decided);
        }
        let rules = entry.path.file_name().is_some_and(|name| name == ".gitattributes");
        if rules || inputs.includes(decided) {
            let (mode, content) = (entry.mode.to_owned(), entry.id);
            failed = found.push(InputFile { path: entry.path, mode, content }, decided).err();
        }
        None
    })?;
    match failed {
        Some(error) => Err(error),
        None => Ok(found.listing(inputs, None)),
    }
}

/// The inputs that are in a working tree, `hidden` left out. With `digests` their content is named;
/// without, only how they look is found out.
pub(crate) fn of_working_tree(
    root: &Path,
    hidden: &BTreeSet<PathBuf>,
    inputs: &Inputs,
    digests: Option<&Digests>,
) -> Result<Listing, InputError> {
    let mut walk = Walk {
        root,
        hidden,
        inputs,
        reader: digests.map(|digests| digests.reader(root)),
        looks: blake3::Hasher::new(),
        found: Found { files: Vec::new(), decided: Vec::new() },
    };
    let done = walk.go();
    let Walk { reader, looks, found, .. } = walk;
    if let Some(reader) = reader {
        reader.keep();
    }
    done?;
    Ok(found.listing(inputs, Some(looks.finalize())))
}

struct Walk<'a> {
    root: &'a Path,
    hidden: &'a BTreeSet<PathBuf>,
    inputs: &'a Inputs,
    reader: Option<crate::digests::Reader<'a>>,
    looks: blake3::Hasher,
    found: Found,
}

impl Walk<'_> {
    /// In the order of names: looks are compared.
    fn go(&mut self) -> Result<(), InputError> {
        let mut todo = vec![(PathBuf::new(), Decided::default())];
        while let Some((folder, above)) = todo.pop() {
            for (path, is_folder) in self.entries(&folder)? {
                let text = path.to_string_lossy();
                let decided = self.inputs.decide(above, &text);
                if is_folder && self.inputs.may_include_below(decided, &text) {
                    todo.push((path.clone(), decided));
                }
                if self.inputs.includes(decided) {
                    self.take(path, decided)?;
                }
            }
        }
        Ok(())
    }

    fn entries(&self, folder: &Path) -> Result<Vec<(PathBuf, bool)>, InputError> {
        let at = self.root.join(folder);
        let failed = |cause| InputError::Read { path: at.clone(), cause };
        let listed = match fs::read_dir(&at) {
            // Gone since it was seen, or turned into something else.
            Err(cause) if !folder.as_os_str().is_empty() && is_gone(&cause) => {
                return Ok(Vec::new());
            }
            listed => listed.map_err(failed)?,
        };
        let mut entries = Vec::new();
        for entry in listed {
            let entry = entry.map_err(failed)?;
            let path = folder.join(entry.file_name());
            if entry.file_name() != ".git" && !self.hidden.contains(&path) {
                entries.push((path, entry.file_type().map_err(failed)?.is_dir()));
            }
        }
        entries.sort_unstable();
        Ok(entries)
    }

    fn take(&mut self, path: PathBuf, decided: Decided) -> Result<(), InputError> {
        let at = self.root.join(&path);
        let meta = match fs::symlink_metadata(&at) {
            Err(cause) if is_gone(&cause) => return Ok(()),
            meta => meta.map_err(|cause| InputError::Read { path: at.clone(), cause })?,
        };
        self.looks.update(path.as_os_str().as_bytes()).update(&[0]);
        for number in looks(&meta) {
            self.looks.update(&number.to_le_bytes());
        }
        let Some(reader) = &mut self.reader else { return Ok(()) };
        let content = match meta.file_type() {
            kind if kind.is_file() => reader.digest(&path, &meta),
            kind if kind.is_symlink() => fs::read_link(&at)
                .map(|target| blake3::hash(target.as_os_str().as_bytes()).to_hex().to_string()),
            _ => Ok(String::new()),
        };
        let content = match content {
            Err(cause) if is_gone(&cause) => return Ok(()),
            content => content.map_err(|cause| InputError::Read { path: at, cause })?,
        };
        let mode = format!("{:o}", meta.mode());
        self.found.push(InputFile { path, mode, content }, decided)
    }
}

/// What changes when a file does. Not the time of the last look at it; of folders not their own times
/// either, since what is in them is looked at by itself.
pub(crate) fn looks(meta: &Metadata) -> [u64; 8] {
    let unless_folder = |number: i64| if meta.is_dir() { 0 } else { number.cast_unsigned() };
    [
        meta.dev(),
        meta.ino(),
        u64::from(meta.mode()),
        if meta.is_dir() { 0 } else { meta.size() },
        unless_folder(meta.mtime()),
        unless_folder(meta.mtime_nsec()),
        unless_folder(meta.ctime()),
        unless_folder(meta.ctime_nsec()),
    ]
}

fn is_gone(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
