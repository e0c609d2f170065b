//! From layers to a job's workspace, and from what the job wrote to a layer.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kiln_model::AttemptId;
use kiln_model::layer::LayerId;
use kiln_stdx::fs::{FsError, Named, create_private_dir};
use kiln_stdx::overlay::Mount;

use crate::record::Record;
use crate::source::{checked_name, is_name};
use crate::{Driver, GitLayer, WorkspaceError, copy, driver, flatten, hidden, hold, pieces, tree};

pub(crate) const UPPER: &str = "upper";
pub(crate) const WORK: &str = "work";
pub(crate) const TREE: &str = "tree";
pub(crate) const DOT_GIT: &str = ".git";
pub(crate) const RECORD: &str = "record.json";
/// The difference of a copy, while it is being taken.
const DIFFERENCE: &str = "difference";

/// All layers and attempts under one folder.
#[derive(Debug)]
pub struct Workspaces {
    root: PathBuf,
    driver: Driver,
}

/// The lowest layer.
#[derive(Clone, Debug)]
pub enum Base {
    /// A source that is there, and the `.git` that goes with it.
    Source { layer: LayerId, git: Option<GitLayer> },
    /// A folder as it is now, never written; `hidden` are paths in it that jobs must not see,
    /// relative to `root` or below it. A job that runs while its user edits sees the edits.
    /// `git` takes the place of a `.git` that leads out of the tree. `over` are folders over it, lowest
    /// first, that make the files those of an earlier time.
    WorkingTree { root: PathBuf, hidden: Vec<PathBuf>, git: Option<GitLayer>, over: Vec<PathBuf> },
    /// An empty folder.
    Nothing,
}

/// What the executor must mount (or not) and where the job then runs. Made by
/// [`Workspaces::prepare`].
#[derive(Clone, Debug)]
pub struct Prepared {
    /// To be mounted in the job's own mount namespace; `None`: `directory` is already the tree.
    pub mount: Option<Mount>,
    /// To be mounted besides: caches outside the workspace. Only with `mount`.
    pub further: Vec<Mount>,
    /// For the job's log.
    pub lines: Vec<String>,
    /// The job's working directory.
    pub directory: PathBuf,
}

impl Workspaces {
    /// Opens the folder, makes it if need be, and removes what crashed makers left half done.
    ///
    /// `driver` is the answer of a probe (`HostExecutor::probe_overlay`), and is remembered. With
    /// `None` the remembered answer holds, and without one, [`Driver::Copy`]; so a caller probes only
    /// when [`Workspaces::remembered_driver`] knows nothing.
    pub fn open(root: &Path, driver: Option<Driver>) -> Result<Self, WorkspaceError> {
        create_private_dir(root)?;
        // Mounts and comparisons need one name for one place.
        let root = root.canonicalize().named("open", root)?;
        let driver = match driver {
            Some(driver) => {
                driver::remember(&root, driver)?;
                driver
            }
            None => driver::remembered(&root).unwrap_or(Driver::Copy),
        };
        let opened = Self { root, driver };
        for folder in [
            "sources", "gits", "attempts", "sealed", "places", "visits", "masks", "digests",
            "trees", "caches", "cached", "images",
        ] {
            let folder = opened.root.join(folder);
            create_private_dir(&folder)?;
            tree::remove_stale(&folder)?;
        }
        opened.end_dead_visits()?;
        let empty = opened.empty();
        create_private_dir(&empty)?;
        // As a checkout looks: a job sees its root as its base has it.
        fs::set_permissions(&empty, fs::Permissions::from_mode(0o755))
            .named("change the mode of", &empty)?;
        Ok(opened)
    }

    /// Opens the folder with a driver that a person insists on; what a probe found stays remembered.
    pub fn open_with(root: &Path, driver: Driver) -> Result<Self, WorkspaceError> {
        Ok(Self { driver, ..Self::open(root, None)? })
    }

    /// What a probe found out here before, under the same kernel and by the same user.
    pub fn remembered_driver(root: &Path) -> Option<Driver> {
        driver::remembered(root)
    }

    pub fn driver(&self) -> Driver {
        self.driver
    }

    pub(crate) fn sources(&self) -> PathBuf {
        self.root.join("sources")
    }

    fn empty(&self) -> PathBuf {
        self.root.join("empty")
    }

    pub(crate) fn gits(&self) -> PathBuf {
        self.root.join("gits")
    }

    /// The folder that all of it is in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn digests(&self) -> PathBuf {
        self.root.join("digests")
    }

    pub(crate) fn sealed(&self) -> PathBuf {
        self.root.join("sealed")
    }

    /// Where an attempt keeps its files: upper, work, control socket, output file.
    pub fn attempt_dir(&self, attempt: AttemptId) -> PathBuf {
        self.root.join("attempts").join(attempt.to_string())
    }

    /// Attempts that have a folder: after a crash, those to attach to, or to reap and discard.
    pub fn attempts(&self) -> Result<Vec<AttemptId>, WorkspaceError> {
        let folder = self.root.join("attempts");
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).named("list", &folder)? {
            let name = entry.named("list", &folder)?.file_name();
            found.extend(name.to_str().and_then(|name| name.parse::<AttemptId>().ok()));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The folders of a layer that is on this machine, lowest first. One, but for a source that was
    /// made from another.
    pub fn layer_paths(&self, layer: &LayerId) -> Option<Vec<PathBuf>> {
        match layer {
            LayerId::Source(tree) if is_name(tree) => self.source_paths(tree),
            LayerId::Attempt(attempt) if is_name(attempt) => {
                pieces::of(&self.root, &self.sealed().join(attempt))
            }
            LayerId::Boundary(name) => self.boundary_paths(name),
            LayerId::Cache(piece) if is_name(piece) => {
                Some(vec![self.cached_dir().join(piece)]).filter(|paths| paths[0].is_dir())
            }
            _ => None,
        }
    }

    /// An empty upper over the layers (lowest first) over the base. `place` names the folder where
    /// all workspaces of a project are mounted, each in its own namespace.
    ///
    /// `own` are layers over `layers` that count as written by this attempt: they are part of what
    /// [`Workspaces::seal`] gives.
    ///
    /// What the attempt had before is gone: a second lease of it begins anew.
    pub fn prepare(
        &self,
        attempt: AttemptId,
        place: &str,
        base: &Base,
        layers: &[LayerId],
        own: &[LayerId],
    ) -> Result<Prepared, WorkspaceError> {
        checked_name(place)?;
        // Until what is used is noted, below.
        let _using = self.using()?;
        let stack = self.stack(base, layers, own)?;
        self.touch_used(attempt, base, layers);
        self.discard(attempt)?;
        let dir = self.attempt_dir(attempt);
        create_private_dir(&dir)?;
        self.fill(&dir, place, base, stack)
    }

    /// A new top in `dir`, over a stack.
    pub(crate) fn fill(
        &self,
        dir: &Path,
        place: &str,
        base: &Base,
        stack: Stack,
    ) -> Result<Prepared, WorkspaceError> {
        let user = match self.driver {
            // The kernel stacks no tree with another that is inside it.
            _ if self.root.starts_with(&stack.base) => None,
            Driver::Overlay => Some(false),
            Driver::OverlayUser if has_foreign_owners(base, &stack.base)? => None,
            Driver::OverlayUser => Some(true),
            Driver::Reflink | Driver::Copy => None,
        };
        match user {
            Some(user) => self.prepare_overlay(dir, place, stack, user),
            None => self.prepare_copy(dir, &stack),
        }
    }

    fn prepare_overlay(
        &self,
        dir: &Path,
        place: &str,
        stack: Stack,
        user: bool,
    ) -> Result<Prepared, WorkspaceError> {
        let at = self.root.join("places").join(place);
        create_private_dir(&at)?;
        let (upper, work) = (dir.join(UPPER), dir.join(WORK));
        for folder in [&upper, &work] {
            fs::create_dir(folder).named("create", folder)?;
        }
        let own: Vec<_> = stack.own.iter().map(|(_, path)| path.clone()).collect();
        pieces::write(&self.root, &dir.join(pieces::OWN), &own)?;
        // The top's attributes are what the job sees of its own root.
        let looks = stack.own.last().or(stack.layers.last()).map_or(stack.top(), |(_, path)| path);
        let looks = fs::metadata(looks).named("read", looks)?.permissions();
        fs::set_permissions(&upper, looks).named("change the mode of", &upper)?;

        let sealed = self.sealed();
        let paths = stack.layers.into_iter().chain(stack.own).map(|(_, path)| path);
        // Copies from when this machine could not mount.
        let paths = paths.map(|path| flatten::stacked(&sealed, path, user));
        let mut lowers = flatten::flatten(&sealed, paths.collect::<Result<_, _>>()?, user)?;
        lowers.reverse();
        lowers.extend(stack.git);
        lowers.extend(stack.over.into_iter().rev());
        lowers.extend(hidden::mask(&self.root.join("masks"), &stack.base, &stack.hidden)?);
        lowers.push(stack.base);
        hold::note(&self.root, dir, &lowers)?;
        let mount = Mount { lowers, upper, work, at: at.clone(), user };
        Ok(Prepared { mount: Some(mount), further: Vec::new(), lines: Vec::new(), directory: at })
    }

    fn prepare_copy(&self, dir: &Path, stack: &Stack) -> Result<Prepared, WorkspaceError> {
        let directory = dir.join(TREE);
        fs::create_dir(&directory).named("create", &directory)?;
        let mut hidden = stack.hidden.clone();
        // Never into itself.
        hidden.extend(self.root.strip_prefix(&stack.base).ok().map(Path::to_owned));
        hidden.extend(stack.git.is_some().then(|| DOT_GIT.into()));
        copy::copy_tree(&stack.base, &directory, &hidden)?;
        for layer in &stack.over {
            copy::apply(layer, &directory)?;
        }
        if let Some(git) = &stack.git {
            for (path, meta) in tree::entries(git)? {
                let to = directory.join(path.file_name().unwrap_or_default());
                if meta.is_dir() && !to.is_dir() {
                    fs::create_dir(&to).named("create", &to)?;
                }
                copy::apply(&path, &to)?;
            }
        }
        for (_, layer) in &stack.layers {
            copy::apply(layer, &directory)?;
        }
        copy::remember(&directory, &dir.join(RECORD))?;
        // After the record: what differs from it is the attempt's.
        for (_, layer) in &stack.own {
            copy::apply(layer, &directory)?;
        }
        Ok(Prepared { mount: None, further: Vec::new(), lines: Vec::new(), directory })
    }

    /// The attempt's writes become a layer, by a rename; `None` when it wrote nothing. After unmount
    /// only. Everything else in the attempt's folder is removed: take what you need before.
    pub fn seal(&self, attempt: AttemptId) -> Result<Option<LayerId>, WorkspaceError> {
        let dir = self.attempt_dir(attempt);
        let sealed = self.sealed().join(attempt.to_string());
        // Of an older try of the same attempt.
        self.forget_digest(&LayerId::Attempt(attempt.to_string()))?;
        let (upper, tree) = (dir.join(UPPER), dir.join(TREE));
        let wrote = if upper.is_dir() {
            self.seal_tops(attempt)?
        } else if tree.is_dir() {
            self.seal_copied_steps(attempt)?;
            self.seal_copy(&dir, &tree, &sealed)?
        } else {
            return Err(WorkspaceError::NoAttempt(attempt.to_string()));
        };
        self.discard(attempt)?;
        Ok(wrote.then(|| LayerId::Attempt(attempt.to_string())))
    }

    fn seal_copy(&self, dir: &Path, tree: &Path, sealed: &Path) -> Result<bool, WorkspaceError> {
        let before = Record::read(&dir.join(RECORD))?;
        let layer = dir.join(DIFFERENCE);
        tree::remove(&layer)?;
        tree::remove(&copy::gone_file(&layer))?;
        fs::create_dir(&layer).named("create", &layer)?;
        if !copy::take_difference(tree, &before, &layer)? {
            return Ok(false);
        }
        // What is gone first: a layer without that would show too much.
        let gone = copy::gone_file(sealed);
        fs::rename(copy::gone_file(&layer), &gone).named("create", &gone)?;
        self.replace(&layer, sealed)?;
        Ok(true)
    }

    /// Moves a folder to where an older try of the same attempt may have left one.
    pub(crate) fn replace(&self, from: &Path, to: &Path) -> Result<(), FsError> {
        match fs::rename(from, to) {
            Err(cause)
                if matches!(
                    cause.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) =>
            {
                tree::remove(to)?;
                fs::rename(from, to)
            }
            other => other,
        }
        .named("create", to)
    }

    /// Removes a folder that was made in the root, whichever of our users has left files in it. One that is
    /// not there is no error.
    pub fn clear(&self, folder: &Path) -> Result<(), WorkspaceError> {
        Ok(tree::remove(folder)?)
    }

    /// Forgets an attempt that will not be sealed.
    pub fn discard(&self, attempt: AttemptId) -> Result<(), WorkspaceError> {
        Ok(tree::remove(&self.attempt_dir(attempt))?)
    }

    /// Finds every layer, or says which are missing.
    pub(crate) fn stack(
        &self,
        base: &Base,
        layers: &[LayerId],
        own: &[LayerId],
    ) -> Result<Stack, WorkspaceError> {
        let mut missing = Vec::new();
        let mut find = |layer: &LayerId| {
            let paths = self.layer_paths(layer);
            if paths.is_none() {
                missing.push(layer.clone());
            }
            paths.unwrap_or_default()
        };
        let mut seen = BTreeSet::new();
        // The kernel refuses the same layer twice. Its lowest place counts: what comes after its
        // first mention was made on top of it.
        let mut found = |layers: &[LayerId]| {
            let mut all = Vec::new();
            for layer in layers {
                let paths = find(layer).into_iter().filter(|path| seen.insert(path.clone()));
                all.extend(paths.map(|path| (layer.clone(), path)));
            }
            all
        };
        let (layers, own) = (found(layers), found(own));
        let git = match base {
            Base::Source { git, .. } | Base::WorkingTree { git, .. } => {
                git.as_ref().map(|git| self.git_path(git))
            }
            Base::Nothing => None,
        };
        let (base, over, hidden) = match base {
            Base::Source { layer, .. } => {
                let mut paths = find(layer).into_iter();
                (paths.next().unwrap_or_default(), paths.collect(), BTreeSet::new())
            }
            Base::Nothing => (self.empty(), Vec::new(), BTreeSet::new()),
            Base::WorkingTree { root, hidden, over, .. } => {
                let tree = root.canonicalize().named("open", root)?;
                if !tree.is_dir() {
                    return Err(WorkspaceError::NoWorkingTree(root.clone()));
                }
                // Given below the name that the caller knows the tree by.
                let hidden: Vec<_> = hidden
                    .iter()
                    .map(|path| path.strip_prefix(root).unwrap_or(path).to_owned())
                    .collect();
                (tree.clone(), over.clone(), hidden::relative(&tree, &hidden))
            }
        };
        if missing.is_empty() {
            Ok(Stack { base, over, git, hidden, layers, own })
        } else {
            Err(WorkspaceError::Missing(missing))
        }
    }
}

/// Whether a working tree has files, near its top, that belong to somebody else.
///
/// In a user namespace with one user, the kernel cannot copy such a file up: the first write to it
/// would fail with "value too large". Deeper ones are not looked for: that would take as long as the
/// copy that it is to avoid.
fn has_foreign_owners(base: &Base, tree: &Path) -> Result<bool, FsError> {
    use std::os::unix::fs::MetadataExt;
    let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let Base::WorkingTree { .. } = base else { return Ok(false) };
    let own = fs::symlink_metadata(tree).named("read", tree)?;
    let mut all = tree::entries(tree)?.into_iter().map(|(_, meta)| meta).chain([own]);
    Ok(all.any(|meta| (meta.uid(), meta.gid()) != me))
}

/// Layers, found. Lowest first.
pub(crate) struct Stack {
    pub base: PathBuf,
    /// What makes the base another source.
    pub over: Vec<PathBuf>,
    /// A folder with a `.git` in it, over the base.
    pub git: Option<PathBuf>,
    pub hidden: BTreeSet<PathBuf>,
    pub layers: Vec<(LayerId, PathBuf)>,
    /// Over those, and part of what the attempt gives.
    pub own: Vec<(LayerId, PathBuf)>,
}

impl Stack {
    /// The highest of the folders that make up the source.
    fn top(&self) -> &PathBuf {
        self.over.last().unwrap_or(&self.base)
    }
}
