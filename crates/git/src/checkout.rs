//! The files of a tree, written into an empty folder.
//!
//! The whole tree is read and checked first, so a hostile one is refused before the first file. A
//! small tree is then written from the objects' process: no program is started, which is what a push
//! waits for. A large one, and one whose attributes ask git to convert files, is left to
//! `git read-tree`, which writes in parallel and knows every conversion. Either way git's index of
//! what was written is made beside.

use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_stdx::fs::Named;
use kiln_stdx::process;

use crate::command;
use crate::error::GitError;
use crate::index::{self, Line};
use crate::objects::Objects;
use crate::tree::{self, Entry, Kind};

/// Up to so many files the pipe is faster than starting git, which takes as long as 50 files, and
/// then writes each a little faster.
const FILES_BY_PIPE_MAX: usize = 500;

/// Most entries of one tree, so that a tree that repeats itself cannot fill memory and disk: 48
/// levels of two entries each would be 10^14 files.
const ENTRIES_MAX: usize = 5_000_000;

/// Deepest nesting. `PATH_MAX` ends sooner for every name that a file system takes.
const DEPTH_MAX: usize = 2_048;

/// A file to be written, at a path relative to the folder.
pub(crate) struct Item {
    pub path: PathBuf,
    pub kind: Kind,
    pub id: String,
}

pub(crate) fn checkout(
    mirror: &Path,
    objects: &Arc<Objects>,
    tree: &str,
    into: &Path,
    index: &Path,
) -> Result<(), GitError> {
    if !crate::refs::is_object_id(tree) {
        let why = "it is not an object id";
        return Err(GitError::Refused { what: "the tree", text: tree.to_owned(), why });
    }
    let (items, in_order) = walk(objects, tree)?;
    let many = items.len() > FILES_BY_PIPE_MAX && in_order;
    if many || converts(objects, &attributes(&items))? {
        by_git(mirror, tree, into, index)
    } else {
        index::write(index, by_pipe(objects, &items, into)?)
    }
}

/// Every file of the tree, checked; and whether all folders are in git's order.
fn walk(objects: &Arc<Objects>, tree: &str) -> Result<(Vec<Item>, bool), GitError> {
    let (mut items, mut in_order) = (Vec::new(), true);
    let mut n_entries = 0;
    let mut folders = vec![(PathBuf::new(), tree.to_owned(), 0)];
    while let Some((folder, id, depth)) = folders.pop() {
        let entries = tree::read(objects, &id)?;
        n_entries += entries.len();
        if n_entries > ENTRIES_MAX {
            return Err(too_large(tree, &folder));
        }
        check(tree, &folder, &entries, depth)?;
        in_order &= is_in_order(&entries);
        for Entry { name, kind, id } in entries {
            let path = folder.join(std::ffi::OsString::from_vec(name));
            match kind {
                Kind::Tree => folders.push((path, id, depth + 1)),
                kind => items.push(Item { path, kind, id }),
            }
        }
    }
    Ok((items, in_order))
}

/// Refuses a folder of `tree` that would write elsewhere.
pub(crate) fn check(
    tree: &str,
    folder: &Path,
    entries: &[Entry],
    depth: usize,
) -> Result<(), GitError> {
    if depth > DEPTH_MAX {
        return Err(too_large(tree, folder));
    }
    check_names(entries).map_err(|(name, why)| {
        let path = folder.join(std::ffi::OsStr::from_bytes(&name)).display().to_string();
        GitError::HostileTree { tree: tree.to_owned(), path, why }
    })
}

fn too_large(tree: &str, folder: &Path) -> GitError {
    let why = "is part of a tree that is too large or too deep";
    GitError::HostileTree { tree: tree.to_owned(), path: folder.display().to_string(), why }
}

/// A name must be one component that stays in its folder, and stand there once: a symlink and a
/// folder of one name would lead files outside.
fn check_names(entries: &[Entry]) -> Result<(), (Vec<u8>, &'static str)> {
    let mut seen = std::collections::HashSet::with_capacity(entries.len());
    for entry in entries {
        let name = entry.name.as_slice();
        let why = match name {
            b"" => "is an empty name",
            b"." | b".." => "leads out of its folder",
            _ if name.contains(&b'/') => "contains a slash",
            _ if is_git_folder(name) => "would be taken for git's own folder",
            _ if entry.kind == Kind::Symlink && is_gitmodules(name) => {
                "is a symlink where git expects a file of its own"
            }
            _ if !seen.insert(name) => "is there twice",
            _ => continue,
        };
        return Err((name.to_owned(), why));
    }
    Ok(())
}

/// What some file system takes for `.git`: other cases, trailing dots and spaces, streams, the short
/// name of old; also behind a backslash. git itself refuses the same names.
fn is_git_folder(name: &[u8]) -> bool {
    name.split(|byte| *byte == b'\\')
        .any(|part| [&b".git"[..], b"git~1"].iter().any(|git| is_ntfs(part, git)))
}

fn is_gitmodules(name: &[u8]) -> bool {
    let names = [&b".gitmodules"[..], b"gitmod~1", b"gitmod~2", b"gitmod~3", b"gitmod~4"];
    names.iter().any(|known| is_ntfs(name, known))
}

/// Whether `name` is `known` with nothing after it that counts.
fn is_ntfs(name: &[u8], known: &[u8]) -> bool {
    let Some((head, tail)) = name.split_at_checked(known.len()) else { return false };
    let end = tail.iter().find(|byte| !matches!(byte, b'.' | b' '));
    head.eq_ignore_ascii_case(known) && matches!(end, None | Some(b':'))
}

/// Whether a tree's entries stand as git wants them, a folder as if its name ended in a slash. git
/// itself makes nonsense of others.
fn is_in_order(entries: &[Entry]) -> bool {
    let key = |entry: &Entry| {
        let slash: &[u8] = if entry.kind == Kind::Tree { b"/" } else { b"" };
        [&entry.name, slash].concat()
    };
    entries.windows(2).all(|two| key(&two[0]) < key(&two[1]))
}

/// The ids of `.gitattributes` among the files.
pub(crate) fn attributes(items: &[Item]) -> Vec<String> {
    let is_attributes =
        |item: &&Item| item.path.file_name().is_some_and(|name| name == ".gitattributes");
    items.iter().filter(is_attributes).map(|item| item.id.clone()).collect()
}

/// Some `.gitattributes` asks for more than bytes as they are.
pub(crate) fn converts(objects: &Arc<Objects>, attributes: &[String]) -> Result<bool, GitError> {
    let mut found = false;
    objects.each(attributes, &mut |_, _, content| {
        let mut text = Vec::new();
        content.read_to_end(&mut text).map_err(|cause| failed(&cause))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let words = text.lines().flat_map(|line| line.split_whitespace().skip(1));
        // No `filter`: one does nothing unless somebody has configured what, and here nobody has.
        let asks = |word: &str| {
            ["eol", "crlf", "ident", "working-tree-encoding"].iter().any(|attribute| {
                word.strip_prefix(attribute).is_some_and(|r| r.is_empty() || r.starts_with('='))
            })
        };
        found |= words.into_iter().any(asks);
        Ok(())
    })?;
    Ok(found)
}

/// Gives what the index says of the files.
pub(crate) fn by_pipe<'a>(
    objects: &Arc<Objects>,
    items: &'a [Item],
    into: &Path,
) -> Result<Vec<Line<'a>>, GitError> {
    let mut made = PathBuf::new();
    let (files, submodules): (Vec<&Item>, Vec<&Item>) =
        items.iter().partition(|item| item.kind != Kind::Submodule);
    let mut lines = Vec::with_capacity(items.len());
    for item in submodules {
        let path = into.join(&item.path);
        fs::create_dir_all(&path).named("create", &path)?;
        lines.push(line(item, None));
    }
    let ids: Vec<String> = files.iter().map(|item| item.id.clone()).collect();
    objects.each(&ids, &mut |at, header, content| {
        let item = files[at];
        if header.kind != "blob" {
            return Err(GitError::NotFound { kind: "file", name: item.id.clone() });
        }
        let path = into.join(&item.path);
        // Files of one folder come together.
        if let Some(folder) = path.parent().filter(|folder| *folder != made) {
            fs::create_dir_all(folder).named("create", folder)?;
            folder.clone_into(&mut made);
        }
        let looks = write(&path, item.kind, content).named("write", &path)?;
        lines.push(line(item, Some(looks)));
        Ok(())
    })?;
    Ok(lines)
}

fn line(item: &Item, looks: Option<Metadata>) -> Line<'_> {
    Line { path: &item.path, kind: item.kind, id: &item.id, looks }
}

/// Gives how the file looks now.
fn write(path: &Path, kind: Kind, content: &mut dyn Read) -> io::Result<Metadata> {
    if kind == Kind::Symlink {
        let mut target = Vec::new();
        content.take(1 << 16).read_to_end(&mut target)?;
        symlink(std::ffi::OsStr::from_bytes(&target), path)?;
        return fs::symlink_metadata(path);
    }
    let mode = if kind == Kind::Executable { 0o777 } else { 0o666 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    io::copy(content, &mut file)?;
    file.metadata()
}

fn by_git(mirror: &Path, tree: &str, into: &Path, index: &Path) -> Result<(), GitError> {
    let mut git = command::local(mirror);
    git.env("GIT_WORK_TREE", into)
        .env("GIT_INDEX_FILE", index)
        .env("GIT_LITERAL_PATHSPECS", "1")
        .current_dir(into)
        .args(["-c", "core.autocrlf=false", "-c", "checkout.workers=0", "-c", "index.threads=1"])
        .args(["read-tree", "--reset", "-u", "--no-recurse-submodules", tree]);
    process::output(&mut git).map(drop).map_err(|error| GitError::process("checking out", error))
}

fn failed(cause: &io::Error) -> GitError {
    GitError::Failed { doing: "checking out", message: cause.to_string() }
}
