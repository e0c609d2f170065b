//! Artifacts: files of the workspace, copied into the object store.
//!
//! Always: nothing outside the workspace is read, whatever symbolic links a job leaves. Folders are
//! opened one name at a time without following links; a link is followed only by `openat2` with
//! `RESOLVE_BENEATH`, and only to a regular file. An object appears whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};
use kiln_model::artifact::Artifact;
use kiln_model::layer::Digest;
use kiln_model::plan::ArtifactRule;
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::StepError;
use crate::contract::words;

/// More files than this are synced by one `syncfs`, fewer one by one.
const SYNCED_SINGLY_MAX: usize = 16;

/// The files that match `rules`, each once, in the order of their paths.
pub(super) fn collect(
    workspace: &Path,
    rules: &[ArtifactRule],
    objects: &Path,
) -> Result<Vec<Artifact>, StepError> {
    let root = super::open_folder(workspace)
        .map_err(|cause| trouble(&workspace.display().to_string(), words(&cause)))?;
    let mut paths = BTreeSet::new();
    for rule in rules {
        let found = find(&root, rule)?;
        if found.is_empty() && !rule.optional {
            return Err(trouble(&rule.glob, "no file matches it".to_owned()));
        }
        paths.extend(found);
    }
    let mut artifacts = BTreeMap::new();
    let singly = paths.len() <= SYNCED_SINGLY_MAX;
    for path in paths {
        let name = path
            .to_str()
            .ok_or_else(|| trouble(&path.to_string_lossy(), "its name is not UTF-8".to_owned()))?;
        let artifact = keep(&root, name, objects, singly)?;
        artifacts.insert(artifact.path.clone(), artifact);
    }
    if !singly {
        let synced = File::open(objects).and_then(|folder| Ok(rustix::fs::syncfs(folder)?));
        synced.map_err(|cause| trouble(&objects.display().to_string(), words(&cause)))?;
    }
    Ok(artifacts.into_values().collect())
}

fn trouble(what: &str, cause: String) -> StepError {
    StepError::Artifact { what: what.to_owned(), cause }
}

/// Opens below `root`; links may be followed, but never out.
pub(super) fn open_beneath(root: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // Something was renamed meanwhile; the kernel cannot tell if the path is still inside.
            Err(Errno::AGAIN) if tries < 100 => tries += 1,
            // Before Linux 5.6, or forbidden by a filter: no links at all then.
            Err(Errno::NOSYS | Errno::PERM) => return open_without_links(root, path, flags),
            other => return Ok(other?),
        }
    }
}

fn open_without_links(root: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let mut at = root.try_clone()?;
    let mut parts = path.components().peekable();
    while let Some(part) = parts.next() {
        let name = match part {
            Component::Normal(name) => name,
            Component::CurDir => std::ffi::OsStr::new("."),
            _ => return Err(Errno::XDEV.into()),
        };
        let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let flags = if parts.peek().is_some() { folder } else { flags };
        at = rustix::fs::openat(&at, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(at)
}

/// What a rule asks for.
struct Wanted {
    /// The folders before the first name with a wildcard: only these need be walked.
    prefix: PathBuf,
    /// `None`: the path is meant as it stands.
    matcher: Option<GlobMatcher>,
}

impl Wanted {
    fn new(rule: &ArtifactRule) -> Result<Self, StepError> {
        let glob = rule.glob.trim_end_matches('/');
        let path = Path::new(glob);
        let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if glob.is_empty() || !path.components().all(inside) {
            let cause = "it must be a path inside the workspace, without `..`".to_owned();
            return Err(trouble(&rule.glob, cause));
        }
        let wild = |part: &Component<'_>| {
            part.as_os_str().as_bytes().iter().any(|b| b"*?[{\\".contains(b))
        };
        let parts: Vec<_> =
            path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        let prefix: PathBuf = parts.iter().take_while(|part| !wild(part)).collect();
        if prefix.components().count() == parts.len() {
            return Ok(Self { prefix, matcher: None });
        }
        let glob: PathBuf = parts.iter().collect();
        let matcher = GlobBuilder::new(&glob.to_string_lossy())
            .literal_separator(true)
            .backslash_escape(true)
            .build()
            .map_err(|error| trouble(&rule.glob, error.kind().to_string()))?;
        Ok(Self { prefix, matcher: Some(matcher.compile_matcher()) })
    }
}

/// Paths of files and links, relative to `root`.
fn find(root: &OwnedFd, rule: &ArtifactRule) -> Result<Vec<PathBuf>, StepError> {
    let wanted = Wanted::new(rule)?;
    let mut found = Vec::new();
    let named = |path: &Path, cause: &io::Error| match cause.kind() {
        io::ErrorKind::CrossesDevices => {
            trouble(&path.to_string_lossy(), "it leads out of the workspace".to_owned())
        }
        _ => trouble(&path.to_string_lossy(), words(cause)),
    };
    let start = match wanted.prefix.as_os_str().is_empty() {
        true => Path::new("."),
        false => &wanted.prefix,
    };
    let folder = match open_beneath(root, start, OFlags::PATH) {
        Ok(opened) => opened,
        Err(cause) if is_absent(&cause) => return Ok(found),
        Err(cause) => return Err(named(start, &cause)),
    };
    let stat = rustix::fs::fstat(&folder).map_err(|cause| named(start, &cause.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        if wanted.matcher.is_none() {
            found.push(wanted.prefix);
        }
        return Ok(found);
    }
    let mut walk = Walk { matcher: wanted.matcher.as_ref(), found: &mut found };
    // A folder that is named as it stands means its files.
    walk.folder(&folder, &wanted.prefix, wanted.matcher.is_none())
        .map_err(|(path, cause)| named(&path, &cause))?;
    Ok(found)
}

fn is_absent(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

struct Walk<'a> {
    matcher: Option<&'a GlobMatcher>,
    found: &'a mut Vec<PathBuf>,
}

impl Walk<'_> {
    /// Goes through a folder; with `all`, everything in it is meant.
    fn folder(
        &mut self,
        folder: &OwnedFd,
        path: &Path,
        all: bool,
    ) -> Result<(), (PathBuf, io::Error)> {
        let failed = |cause: Errno| (path.to_owned(), io::Error::from(cause));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let readable = rustix::fs::openat(folder, ".", flags, Mode::empty()).map_err(failed)?;
        for entry in Dir::new(readable).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let below = path.join(std::ffi::OsStr::from_bytes(name));
            let wanted = all || self.matcher.is_some_and(|matcher| matcher.is_match(&below));
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(folder, entry.file_name(), flags, Mode::empty()) {
                Ok(inner) => self.folder(&inner, &below, wanted)?,
                // Not a folder, or gone meanwhile.
                Err(Errno::NOTDIR | Errno::LOOP) if wanted => self.found.push(below),
                Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => {}
                Err(cause) => return Err((below, cause.into())),
            }
        }
        Ok(())
    }
}

/// Copies a file of a folder into the store of objects: what kiln itself has written, such as a log.
///
/// # Errors
///
/// When there is no such file, or it cannot be copied.
pub fn keep_file(folder: &Path, name: &str, objects: &Path) -> Result<Artifact, StepError> {
    let root = super::open_folder(folder).map_err(|cause| trouble(name, words(&cause)))?;
    keep(&root, name, objects, false)
}

/// Copies one file into the store.
fn keep(root: &OwnedFd, name: &str, objects: &Path, sync: bool) -> Result<Artifact, StepError> {
    let failed = |cause: &io::Error| trouble(name, words(cause));
    let mut source = open_regular(root, name)?;
    let meta = source.metadata().map_err(|cause| failed(&cause))?;
    let stored = |cause: &io::Error| {
        let why = words(cause);
        trouble(name, format!("cannot keep it in `{}`: {why}", objects.display()))
    };
    std::fs::create_dir_all(objects).map_err(|cause| stored(&cause))?;
    let temporary = objects.join(format!(".{}-{}.tmp", std::process::id(), meta.ino()));
    let copied = (|| {
        let mut options = File::options();
        let mut target =
            options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        let (digest, n_bytes) = copy_and_digest(&mut source, &mut target)?;
        if sync {
            target.sync_data()?;
        }
        let (folder, file) = digest.as_str().split_at(2);
        let folder = objects.join(folder);
        std::fs::create_dir_all(&folder)?;
        std::fs::rename(&temporary, folder.join(file))?;
        Ok((digest, n_bytes))
    })();
    let (digest, n_bytes) = copied.map_err(|cause| {
        let _ = std::fs::remove_file(&temporary);
        stored(&cause)
    })?;
    let executable = meta.mode() & 0o111 != 0;
    Ok(Artifact { path: name.to_owned(), n_bytes, digest, executable })
}

fn open_regular(root: &OwnedFd, name: &str) -> Result<File, StepError> {
    // Non-blocking: a named pipe without a writer must not hold us.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let path = Path::new(name);
    let opened = open_beneath(root, path, flags).map_err(|cause| {
        let is_link = rustix::fs::readlinkat(root, path, Vec::new()).ok();
        let target = is_link.map(|target| {
            let target = std::ffi::OsString::from_vec(target.into_bytes());
            target.to_string_lossy().into_owned()
        });
        let why = match (target, cause.kind()) {
            (Some(target), io::ErrorKind::NotFound) => {
                format!("it is a link to `{target}`, which does not exist")
            }
            (Some(target), io::ErrorKind::CrossesDevices) => {
                format!("it is a link to `{target}`, which is outside the workspace")
            }
            _ => words(&cause),
        };
        trouble(name, why)
    })?;
    let stat =
        rustix::fs::fstat(opened.as_fd()).map_err(|cause| trouble(name, words(&cause.into())))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(File::from(opened)),
        FileType::Directory => Err(trouble(name, "it is a link to a folder".to_owned())),
        _ => Err(trouble(name, "it is not a regular file".to_owned())),
    }
}

fn copy_and_digest(from: &mut File, to: &mut File) -> io::Result<(Digest, u64)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut n_bytes = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&buffer[..n]);
                to.write_all(&buffer[..n])?;
                n_bytes += n as u64;
            }
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok((Digest::from_bytes(hasher.finalize().into()), n_bytes))
}
