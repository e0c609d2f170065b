//! Files of the source that a job has written over although it does not name them as inputs.
//!
//! Its layer hides them, so it fits only on sources that have the same files there: else whoever sees
//! the layer would see them as they were. They are found by walking the layer only as far as the
//! source has folders too; what a job builds is mostly where the source has nothing.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kiln_git::{Mirror, WorkingTree};
use kiln_model::inputs::{Decided, Inputs};
use kiln_model::key::InputFile;
use kiln_model::layer::LayerId;
use kiln_workspace::{Workspaces, Written};

/// More of them are not compared.
const COVERED_MAX: usize = 500;

/// The source of a job, as far as it must be looked at.
pub(crate) enum Ground<'a> {
    Tree {
        mirror: &'a Mirror,
        tree: &'a str,
        commit: &'a str,
        branch: Option<&'a str>,
    },
    /// What has changed since `still_from_ms` may not be what the job has seen.
    WorkingTree {
        root: &'a Path,
        hidden: &'a BTreeSet<PathBuf>,
        commit: &'a str,
        still_from_ms: Option<i64>,
    },
    Nothing,
}

/// What the source has at a path.
enum Thing {
    Nothing,
    Folder,
    /// Mode and content.
    File(String, String),
}

/// What the layer hides of the source, sorted by path, or in words why that cannot be told.
pub(crate) fn of(
    workspaces: &Workspaces,
    layer: &LayerId,
    ground: &Ground<'_>,
    inputs: &Inputs,
) -> Result<Vec<InputFile>, String> {
    let mut look = Look { ground, inputs, folders: HashMap::new(), covered: Vec::new() };
    let mut failed = None;
    let walked = workspaces.written(layer, |path, written| {
        if failed.is_some() {
            return false;
        }
        look.at(path, written).unwrap_or_else(|why| {
            failed = Some(why);
            false
        })
    });
    walked.map_err(|error| error.to_string())?;
    match failed {
        Some(why) => Err(why),
        None => {
            look.covered.sort_unstable_by(|a, b| a.path.cmp(&b.path));
            look.covered.dedup();
            Ok(look.covered)
        }
    }
}

/// The first path in which two sources differ under a layer.
pub(crate) fn difference<'a>(then: &'a [InputFile], now: &'a [InputFile]) -> Option<&'a Path> {
    let only_in = |some: &'a [InputFile], others: &[InputFile]| {
        some.iter().find(|file| !others.contains(file)).map(|file| file.path.as_path())
    };
    only_in(now, then).or_else(|| only_in(then, now))
}

/// What lies in a folder of a tree: mode and object id by name.
type Entries = HashMap<Vec<u8>, (String, String)>;

struct Look<'a> {
    ground: &'a Ground<'a>,
    inputs: &'a Inputs,
    /// Entries of the tree's folders that were looked at; `None`: there is no such folder.
    folders: HashMap<PathBuf, Option<Entries>>,
    covered: Vec<InputFile>,
}

impl Look<'_> {
    /// Whether what is in the folder at `path` matters.
    fn at(&mut self, path: &Path, written: Written) -> Result<bool, String> {
        if path == Path::new(".git") {
            let content = self.dot_git();
            return self.push(path, String::new(), content).map(|()| false);
        }
        let thing = self.thing(path)?;
        match (written, thing) {
            (Written::Folder, Thing::Folder) => return Ok(true),
            (_, Thing::Nothing) => {}
            // In the key already.
            (_, Thing::File(..)) if self.inputs.includes(self.decided(path)) => {}
            (_, Thing::Folder) if self.inputs.includes_all_below(self.decided(path), path) => {}
            (_, Thing::File(mode, content)) => self.push(path, mode, content)?,
            (Written::NewFolder | Written::File | Written::Gone, Thing::Folder) => {
                let folder = self.whole_folder(path)?;
                self.push(path, "40000".to_owned(), folder)?;
            }
        }
        Ok(false)
    }

    fn push(&mut self, path: &Path, mode: String, content: String) -> Result<(), String> {
        if self.covered.len() == COVERED_MAX {
            let what = "files of the source that are none of its `inputs`";
            return Err(format!("it has written over more than {COVERED_MAX} {what}"));
        }
        self.covered.push(InputFile { path: path.to_owned(), mode, content });
        Ok(())
    }

    fn decided(&self, path: &Path) -> Decided {
        let mut above: Vec<&Path> =
            path.ancestors().filter(|part| !part.as_os_str().is_empty()).collect();
        above.reverse();
        let decide = |decided, part: &Path| self.inputs.decide(decided, &part.to_string_lossy());
        above.into_iter().fold(Decided::default(), decide)
    }

    fn thing(&mut self, path: &Path) -> Result<Thing, String> {
        match self.ground {
            Ground::Nothing => Ok(Thing::Nothing),
            Ground::Tree { .. } => Ok(match self.entry(path)? {
                None => Thing::Nothing,
                Some((mode, _)) if mode == "40000" => Thing::Folder,
                Some((mode, id)) => Thing::File(mode, id),
            }),
            Ground::WorkingTree { hidden, .. } if hidden.contains(path) => Ok(Thing::Nothing),
            Ground::WorkingTree { root, still_from_ms, .. } => {
                of_file(&root.join(path), *still_from_ms)
            }
        }
    }

    /// What a tree has at a path.
    fn entry(&mut self, path: &Path) -> Result<Option<(String, String)>, String> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
        if !self.folders.contains_key(above) {
            let read = self.read_folder(above)?;
            self.folders.insert(above.to_owned(), read);
        }
        let folder = self.folders.get(above).and_then(Option::as_ref);
        Ok(folder.and_then(|entries| entries.get(name.as_bytes()).cloned()))
    }

    fn read_folder(&mut self, folder: &Path) -> Result<Option<Entries>, String> {
        let Ground::Tree { mirror, tree, .. } = self.ground else { return Ok(None) };
        let id = match folder.as_os_str().is_empty() {
            true => (*tree).to_owned(),
            false => match self.entry(folder)? {
                Some((mode, id)) if mode == "40000" => id,
                _ => return Ok(None),
            },
        };
        let mut entries = HashMap::new();
        let read = mirror.walk(&id, (), |(), entry| {
            let name = entry.path.as_os_str().as_bytes().to_owned();
            entries.insert(name, (entry.mode.to_owned(), entry.id));
            None
        });
        read.map_err(|error| error.to_string())?;
        Ok(Some(entries))
    }

    /// What names a folder of the source with all that is in it.
    fn whole_folder(&mut self, path: &Path) -> Result<String, String> {
        match self.ground {
            Ground::Tree { .. } => Ok(self.entry(path)?.map(|(_, id)| id).unwrap_or_default()),
            _ => Err(format!(
                "it has replaced the folder `{}`, which is none of its `inputs`",
                path.to_string_lossy().escape_debug()
            )),
        }
    }

    /// What a `.git` that is partly written over must be.
    fn dot_git(&self) -> String {
        match self.ground {
            Ground::Nothing => String::new(),
            Ground::Tree { commit, branch, .. } => format!("{commit} {}", branch.unwrap_or("")),
            Ground::WorkingTree { root, commit, .. } => {
                let mut hasher = blake3::Hasher::new();
                hasher.update(commit.as_bytes());
                if let Ok(tree) = WorkingTree::discover(root) {
                    for name in ["HEAD", "index"] {
                        hasher.update(&fs::read(tree.git_dir.join(name)).unwrap_or_default());
                    }
                }
                hasher.finalize().to_hex().to_string()
            }
        }
    }
}

fn of_file(path: &Path, still_from_ms: Option<i64>) -> Result<Thing, String> {
    let unreadable = |cause| format!("cannot read `{}`: {cause}", path.display());
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(_) => return Ok(Thing::Nothing),
    };
    let changed_ms = meta.ctime() * 1_000 + meta.ctime_nsec() / 1_000_000;
    if !meta.is_dir() && still_from_ms.is_some_and(|from| changed_ms >= from) {
        return Err(format!(
            "`{}`, which it has written over, changed while it ran",
            path.display()
        ));
    }
    let content = match meta.file_type() {
        kind if kind.is_dir() => return Ok(Thing::Folder),
        kind if kind.is_symlink() => {
            fs::read_link(path).map(|to| to.as_os_str().as_bytes().to_owned())
        }
        kind if kind.is_file() => fs::read(path),
        _ => Ok(Vec::new()),
    };
    let content = blake3::hash(&content.map_err(unreadable)?).to_hex().to_string();
    Ok(Thing::File(format!("{:o}", meta.mode()), content))
}
