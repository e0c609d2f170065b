//! A project's bare mirror on this machine.
//!
//! Of a repository on this machine the mirror borrows the objects (`objects/info/alternates`), so a
//! commit can be read in the moment in which it was pushed. [`Mirror::fetch`] later copies them, so
//! that runs outlive a force push and the garbage collection of the source. Of a URL the mirror has
//! what was fetched.
//!
//! Always: nothing is ever deleted from a mirror, so a commit that was once fetched can be read.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kiln_stdx::fs::{Named, create_private_dir, write_atomic};

use crate::checkout;
use crate::command::{self, ASK_WITHIN, FETCH_WITHIN};
use crate::commit::CommitInfo;
use crate::error::GitError;
use crate::lend::{self, Head};
use crate::location::Location;
use crate::objects::Objects;
use crate::pin;
use crate::refs;
use crate::repair;
use crate::tree::{self, Found, Kind};
use crate::update::{self, Update};
use crate::walk::{self, TreeEntry};
use crate::working_tree::is_git_folder;

/// Where a mirror notes what it is a mirror of.
const LOCATION_FILE: &str = "kiln-location";

/// A bare repository that follows another.
#[derive(Debug)]
pub struct Mirror {
    pub at: PathBuf,
    of: Location,
    objects: Arc<Objects>,
    /// Held while something is fetched: two fetches would only do the same work twice.
    fetching: Mutex<()>,
}

impl Mirror {
    /// Makes or opens the mirror at `at`. For a path the repository must be there; a URL is not
    /// asked yet.
    pub fn open(at: &Path, of: &Location) -> Result<Self, GitError> {
        let source = match of {
            Location::Path(path) => Some(Source::at(path)?),
            Location::Url(_) => None,
        };
        if !is_git_folder(at) {
            make(at, source.as_ref().is_some_and(|source| source.sha256))?;
        }
        if !is_located(at, of) {
            if let Some(source) = &source {
                source.lend_to(at)?;
            }
            write_atomic(&at.join(LOCATION_FILE), of.to_string().as_bytes())?;
        }
        Ok(Self::new(at, of.clone()))
    }

    /// Opens a mirror that is there.
    pub fn existing(at: &Path) -> Result<Self, GitError> {
        let file = at.join(LOCATION_FILE);
        let text = fs::read_to_string(&file).named("read", &file)?;
        Ok(Self::new(at, Location::parse(&text)?))
    }

    fn new(at: &Path, of: Location) -> Self {
        Self { at: at.to_owned(), of, objects: Objects::of(at), fetching: Mutex::new(()) }
    }

    /// Whether all is there that [`Mirror::open`] makes. Cheap: to be asked before each use.
    pub fn is_whole(&self) -> bool {
        is_git_folder(&self.at) && is_located(&self.at, &self.of)
    }

    /// Ends the process that reads objects; the next read starts another. It also ends by itself
    /// when it has been idle for a minute.
    pub fn rest(&self) {
        self.objects.rest();
    }

    /// Fetches all branches and tags, or, for a path, copies what is only borrowed. Blocking;
    /// network errors say so.
    pub fn fetch(&self) -> Result<(), GitError> {
        let _one = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        match &self.of {
            Location::Path(path) => {
                let source = Source::at(path)?;
                source.lend_to(&self.at)?;
                pin::copy(&self.at, &source.refs()?)
            }
            Location::Url(url) => match self.fetch_url(url) {
                // The repository uses SHA-256, which is only known once it was asked.
                Err(GitError::Unreachable { message, .. }) if message.contains("algorithm") => {
                    self.rest();
                    configure(&self.at, true)?;
                    self.fetch_url(url)
                }
                done => done,
            },
        }
    }

    /// Joins small packs when many have gathered. Nothing is lost by it, and readers go on reading.
    /// Blocking.
    pub fn tidy(&self) -> Result<(), GitError> {
        let _one = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        pin::join_packs(&self.at)
    }

    fn fetch_url(&self, url: &str) -> Result<(), GitError> {
        let mut git = command::network(&self.at);
        git.args(["fetch", "--quiet", "--prune", "--force", "--no-tags", "--no-write-fetch-head"])
            .args(["--no-auto-maintenance", "--no-recurse-submodules", "--", url])
            .args(["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]);
        command::ask(git, &self.of.shown(), FETCH_WITHIN).map(drop)
    }

    /// Heads and tags of the other side now: `refs/heads/main -> id`, annotated tags peeled to
    /// their commit. Tags of trees and blobs are left out where that is known.
    pub fn remote_refs(&self) -> Result<Vec<(String, String)>, GitError> {
        match &self.of {
            Location::Path(path) => Source::at(path)?.refs(),
            Location::Url(url) => {
                let mut git = command::network(&self.at);
                git.args(["ls-remote", "--quiet", "--", url, "refs/heads/*", "refs/tags/*"]);
                let answer = command::ask(git, &self.of.shown(), ASK_WITHIN)?;
                Ok(listed_refs(&refs::utf8_lines(&answer)))
            }
        }
    }

    /// The branch that the other side's HEAD points to. Blocking.
    pub fn remote_head(&self) -> Result<Option<String>, GitError> {
        let target = match &self.of {
            Location::Path(path) => {
                let head = Source::at(path)?.git_dir.join("HEAD");
                fs::read_to_string(&head).named("read", &head)?.trim_end().to_owned()
            }
            Location::Url(url) => {
                let mut git = command::network(&self.at);
                git.args(["ls-remote", "--symref", "--quiet", "--", url, "HEAD"]);
                let answer = command::ask(git, &self.of.shown(), ASK_WITHIN)?;
                let answer = String::from_utf8_lossy(&answer).into_owned();
                answer.split('\t').next().unwrap_or_default().trim_end().to_owned()
            }
        };
        let branch = target.strip_prefix("ref:").map(str::trim);
        Ok(branch.and_then(|name| name.strip_prefix("refs/heads/")).map(str::to_owned))
    }

    /// The mirror can read this object.
    pub fn has(&self, id: &str) -> Result<bool, GitError> {
        refs::check_revision(id)?;
        Ok(self.objects.info(id)?.is_some())
    }

    /// A commit by its id, or by a ref of the mirror in full; a tag is followed to its commit.
    pub fn commit(&self, id_or_ref: &str) -> Result<CommitInfo, GitError> {
        refs::check_revision(id_or_ref)?;
        let missing = || GitError::NotFound { kind: "commit", name: id_or_ref.to_owned() };
        let peeled = format!("{id_or_ref}^{{commit}}");
        let header = self.objects.info(&peeled)?.ok_or_else(missing)?;
        CommitInfo::parse(&header.id, &self.objects.read(&header.id, "commit")?)
    }

    /// Reads commits, by their ids, with their top folders and these files of the first, all together: whatever
    /// of these is asked for next costs nothing. What cannot be read is told when it is asked for.
    pub fn read_ahead(&self, commits: &[&str], files: &[&str]) {
        let is_known = |id: &&str| self.objects.is_known(id);
        if commits.iter().any(|id| !refs::is_object_id(id)) || commits.iter().all(is_known) {
            return;
        }
        let files = commits
            .iter()
            .take(1)
            .flat_map(|id| files.iter().map(move |file| format!("{id}:{file}")));
        let each = commits.iter().flat_map(|id| [(*id).to_owned(), format!("{id}^{{tree}}")]);
        self.objects.read_ahead(&each.chain(files).collect::<Vec<_>>());
    }

    /// A file of a commit's tree; `None`: nothing is there. Symlinks are followed inside the tree.
    /// Refuses what is no file, and more than `max` bytes.
    pub fn file(&self, commit: &str, path: &str, max: usize) -> Result<Option<Vec<u8>>, GitError> {
        let commit = self.commit(commit)?;
        let not_a_file = |is| Err(GitError::NotAFile { path: path.to_owned(), is });
        let entry = match tree::find(&self.objects, &commit.tree, path)? {
            Found::Nothing => return Ok(None),
            Found::Astray => return not_a_file("a symlink to no file of the repository"),
            Found::Entry(entry) => entry,
        };
        match entry.kind {
            Kind::File | Kind::Executable => {}
            Kind::Tree => return not_a_file("a folder"),
            Kind::Submodule => return not_a_file("a submodule"),
            Kind::Symlink => unreachable!("links are followed"),
        }
        let missing = || GitError::NotFound { kind: "object", name: entry.id.clone() };
        let n_bytes = self.objects.info(&entry.id)?.ok_or_else(missing)?.n_bytes;
        if n_bytes > max as u64 {
            let what = format!("`{}`", path.escape_debug());
            return Err(GitError::TooLarge { what, n_bytes, max: max as u64 });
        }
        self.objects.read(&entry.id, "blob").map(|bytes| Some(bytes.to_vec()))
    }

    /// Paths that differ between two commits, lossily decoded; a renamed file is two paths.
    pub fn changed(&self, from: &str, to: &str) -> Result<Vec<String>, GitError> {
        let (from, to) = (self.commit(from)?, self.commit(to)?);
        tree::changed(&self.objects, &from.tree, &to.tree)
    }

    /// Visits what is in a tree, from the top; nothing is read of its files. `visit` is given what it
    /// gave for the folder that the entry is in, and `root` for those of the tree itself; what it gives
    /// for a folder is known in there, and with `None` it is not entered.
    pub fn walk<S>(
        &self,
        tree: &str,
        root: S,
        mut visit: impl FnMut(&S, TreeEntry) -> Option<S>,
    ) -> Result<(), GitError> {
        walk::walk(&self.objects, tree, root, &mut visit)
    }

    /// Writes the files of a tree into an empty folder: modes, symlinks, non-UTF-8 names exact, as
    /// `git checkout` would. A tree that would write elsewhere is refused before the first file.
    /// git's index of what was written is made at `index`, an absolute path outside of the folder.
    /// Objects that are missing or damaged are fetched again, once.
    pub fn checkout(&self, tree: &str, into: &Path, index: &Path) -> Result<(), GitError> {
        let checkout = || checkout::checkout(&self.at, &self.objects, tree, into, index);
        match checkout() {
            Err(error) if repair::is_of_objects(&error) => {
                let _one = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
                repair::refetch(&self.at, &self.of)?;
                // It has seen the packs of before.
                self.rest();
                repair::empty(into, index)?;
                checkout().map_err(|error| match repair::is_of_objects(&error) {
                    true => repair::told(&self.at, &self.of, &error),
                    false => error,
                })
            }
            done => done,
        }
    }

    /// Writes into an empty folder only those files of `tree` that `from` (a tree, with its index) has
    /// not, and the whole index of `tree`. `None`: a full checkout is better, or the only way.
    pub fn update(
        &self,
        from: (&str, &Path),
        tree: &str,
        into: &Path,
        index: &Path,
    ) -> Result<Option<Update>, GitError> {
        update::update(&self.objects, from, tree, into, index)
    }

    /// Writes a `.git` into a folder, for a workspace: refs as they are now, the index of the
    /// checkout, objects borrowed from here and never written.
    pub fn lend(&self, head: Head<'_>, index: Option<&Path>, into: &Path) -> Result<(), GitError> {
        let known = match &self.of {
            // Gone since: what was copied of it is still here.
            Location::Path(path) => match Source::at(path) {
                Ok(source) => refs::read(&source.common_dir)?,
                Err(_) => refs::read(&self.at)?,
            },
            Location::Url(_) => refs::read(&self.at)?,
        };
        lend::lend(&self.at, &self.of, head, &known, index, into)
    }
}

/// Lines of `ls-remote`: `<id>\t<ref>`, and after an annotated tag `<commit>\t<ref>^{}`.
fn listed_refs(answer: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for line in answer.lines() {
        let Some((id, name)) = line.split_once('\t') else { continue };
        match (name.strip_suffix("^{}"), found.last_mut()) {
            (Some(name), Some(last)) if last.0 == name => last.1 = id.to_owned(),
            (Some(_), _) => {}
            (None, _) if refs::is_object_id(id) && refs::check_ref(name).is_ok() => {
                found.push((name.to_owned(), id.to_owned()));
            }
            (None, _) => {}
        }
    }
    found
}

/// A repository on this machine whose objects are borrowed.
struct Source {
    git_dir: PathBuf,
    /// Where objects and refs are; another folder than `git_dir` for a linked working tree.
    common_dir: PathBuf,
    sha256: bool,
}

impl Source {
    fn at(path: &Path) -> Result<Self, GitError> {
        let (git_dir, common_dir) = crate::working_tree::git_folders(path)
            .ok_or_else(|| GitError::NotARepository(path.to_owned()))?;
        let config = fs::read_to_string(common_dir.join("config")).unwrap_or_default();
        let sha256 = config.lines().any(|line| {
            let line: String = line.to_lowercase().split_whitespace().collect();
            line == "objectformat=sha256"
        });
        Ok(Self { git_dir, common_dir, sha256 })
    }

    /// Lets the mirror at `at` read this repository's objects.
    fn lend_to(&self, at: &Path) -> Result<(), GitError> {
        use std::os::unix::ffi::OsStrExt;
        let objects = self.common_dir.join("objects");
        let mut line = objects.as_os_str().as_bytes().to_owned();
        if line.contains(&b'\n') {
            let (what, text) = ("the repository", objects.display().to_string());
            return Err(GitError::Refused { what, text, why: "its path contains a newline" });
        }
        line.push(b'\n');
        let alternates = at.join("objects/info/alternates");
        if fs::read(&alternates).ok().as_deref() != Some(&line) {
            write_atomic(&alternates, &line)?;
        }
        // Where a shallow clone's history ends, its mirror's ends.
        match fs::read(self.common_dir.join("shallow")) {
            Ok(shallow) => Ok(write_atomic(&at.join("shallow"), &shallow)?),
            Err(_) => Ok(()),
        }
    }

    fn refs(&self) -> Result<Vec<(String, String)>, GitError> {
        let mut git = command::local(&self.common_dir);
        git.args([
            "for-each-ref",
            "--format=%(objectname)%09%(refname)%0a%(*objectname)%09%(refname)^{}",
        ])
        .args(["refs/heads", "refs/tags"]);
        let listed = kiln_stdx::process::output(&mut git)
            .map_err(|error| GitError::process("listing refs", error))?;
        let listed = refs::utf8_lines(&listed);
        // A ref that is no annotated tag has an empty second line.
        let lines: Vec<&str> = listed.lines().filter(|line| !line.starts_with('\t')).collect();
        Ok(listed_refs(&lines.join("\n")))
    }
}

/// A bare repository that appears whole or not at all.
fn make(at: &Path, sha256: bool) -> Result<(), GitError> {
    if at.is_dir() {
        // What is left of it may be nowhere else.
        return furnish(at, sha256);
    }
    let parent = at.parent().unwrap_or(Path::new("/"));
    create_private_dir(parent)?;
    let name = at.file_name().unwrap_or_default().to_string_lossy();
    // Two makers at once each have their own, and the first rename wins.
    let new = parent.join(format!(".{name}.{}.new", command::unique()));
    furnish(&new, sha256)?;
    match fs::rename(&new, at) {
        // Somebody else made it meanwhile, and theirs is as good.
        Err(_) if at.join("HEAD").is_file() => Ok(fs::remove_dir_all(&new).named("remove", &new)?),
        done => Ok(done.named("create", at)?),
    }
}

fn furnish(at: &Path, sha256: bool) -> Result<(), GitError> {
    for folder in ["objects/info", "objects/pack", "refs/heads", "refs/tags"] {
        create_private_dir(&at.join(folder))?;
    }
    write_atomic(&at.join("HEAD"), b"ref: refs/heads/main\n")?;
    configure(at, sha256)
}

/// Whether a mirror says what it is a mirror of, and borrows from it when that is on this machine.
fn is_located(at: &Path, of: &Location) -> bool {
    let borrows = matches!(of, Location::Url(_)) || at.join("objects/info/alternates").is_file();
    let said = fs::read(at.join(LOCATION_FILE)).ok();
    borrows && said.as_deref() == Some(of.to_string().as_bytes())
}

fn configure(at: &Path, sha256: bool) -> Result<(), GitError> {
    let format = match sha256 {
        true => "\trepositoryformatversion = 1\n[extensions]\n\tobjectformat = sha256\n",
        false => "\trepositoryformatversion = 0\n",
    };
    // Nothing is collected: a run's commit must stay, whether or not a ref still leads to it.
    let config = format!("[core]\n\tbare = true\n\tfilemode = true\n{format}[gc]\n\tauto = 0\n");
    Ok(write_atomic(&at.join("config"), config.as_bytes())?)
}
