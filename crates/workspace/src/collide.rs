//! Paths that layers from different sides changed differently: where they meet, one of them wins.
//!
//! All layers are walked at once, and only folders that at least two of them have are opened: what
//! this costs is what the layers have in common, not what they weigh.
//!
//! Always: layers with a common bit in `through` never collide. Either one was made over the other,
//! or they have met in a job below, whose collision that was.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kiln_model::layer::LayerId;
use kiln_stdx::fs::{FsError, Named};

use crate::view::{Found, View, What};
use crate::{WorkspaceError, Workspaces};

/// Paths that are looked at. A look takes 2 µs.
const PATHS_MAX: usize = 200_000;
/// Bytes of files of one length that are compared: a tenth of a second or two.
const COMPARED_BYTES_MAX: u64 = 256 << 20;
/// Paths that are kept of each pair of layers.
const KEPT_PATHS: usize = 3;

/// What two layers changed differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collision {
    /// Positions among the layers that were asked about. What `upper` left is seen.
    pub lower: usize,
    pub upper: usize,
    /// The first of the paths, those of a folder before those below it.
    pub paths: Vec<PathBuf>,
    pub n_paths: usize,
}

/// All collisions of some layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collisions {
    /// By position.
    pub found: Vec<Collision>,
    /// There was too much to look at: there may be more.
    pub cut: bool,
}

impl Workspaces {
    /// Where layers (lowest first) collide. `through` has bits for each layer: the sides from which
    /// it comes. Layers that are not on this machine are left out.
    pub fn collisions(
        &self,
        layers: &[LayerId],
        through: &[Vec<u64>],
    ) -> Result<Collisions, WorkspaceError> {
        if !may_collide(through) {
            return Ok(Collisions::default());
        }
        let mut views = Vec::new();
        let mut at_of = HashMap::new();
        for (at, (layer, through)) in layers.iter().zip(through).enumerate() {
            // The same layer of two jobs is seen once.
            if let Some(&known) = at_of.get(layer) {
                let known: &mut Side = &mut views[known];
                let words = known.through.iter_mut().zip(through);
                words.for_each(|(word, more)| *word |= more);
            } else if let Some(folders) = self.layer_paths(layer) {
                at_of.insert(layer, views.len());
                views.push(Side { at, through: through.clone(), view: View::of(folders)? });
            }
        }
        Walk { sides: views, pairs: BTreeMap::new(), n_paths: 0, n_bytes: 0, cut: false }.whole()
    }
}

/// Whether some two have no bit in common.
fn may_collide(through: &[Vec<u64>]) -> bool {
    let Some((first, rest)) = through.split_first() else { return false };
    // When all are the same, as in a chain, nobody meets anybody.
    rest.iter().any(|other| other != first)
}

/// One layer.
struct Side {
    /// Its position among those that were asked about.
    at: usize,
    through: Vec<u64>,
    view: View,
}

struct Walk {
    /// Lowest first.
    sides: Vec<Side>,
    pairs: BTreeMap<(usize, usize), Collision>,
    n_paths: usize,
    n_bytes: u64,
    cut: bool,
}

/// A side in a folder.
#[derive(Clone)]
struct Here {
    side: usize,
    /// Which folders of the layer, highest first.
    pieces: Vec<usize>,
    /// A higher side made this folder anew: nothing of what this one has in it is seen.
    hidden_by: Option<usize>,
}

/// A path of one side.
struct Own {
    here: Here,
    found: Found,
}

impl Walk {
    fn whole(mut self) -> Result<Collisions, WorkspaceError> {
        let all = |(side, of): (usize, &Side)| Here {
            side,
            pieces: (0..of.view.pieces.len()).rev().collect(),
            hidden_by: None,
        };
        let root: Vec<Here> = self.sides.iter().enumerate().map(all).collect();
        // A stack of our own: a job may leave a tree deeper than a thread's.
        let mut todo = vec![(PathBuf::new(), root)];
        while let Some((folder, here)) = todo.pop() {
            let mut deeper = Vec::new();
            for (path, owns) in self.list(&folder, &here)? {
                let below = self.meet(&path, &owns)?;
                if below.len() > 1 {
                    deeper.push((path, below));
                }
            }
            todo.extend(deeper.into_iter().rev());
        }
        Ok(Collisions { found: self.pairs.into_values().collect(), cut: self.cut })
    }

    /// What the sides have in a folder, by path.
    fn list(
        &mut self,
        folder: &Path,
        here: &[Here],
    ) -> Result<BTreeMap<PathBuf, Vec<Own>>, FsError> {
        let mut names = BTreeMap::<OsString, Vec<Own>>::new();
        for here in here {
            if self.n_paths >= PATHS_MAX {
                self.cut = true;
                return Ok(BTreeMap::new());
            }
            let found = self.sides[here.side].view.list(folder, &here.pieces)?;
            self.n_paths += found.len() + 1;
            for found in found {
                let name = found.entry.path.file_name().unwrap_or_default().to_owned();
                names.entry(name).or_default().push(Own { here: here.clone(), found });
            }
        }
        Ok(names.into_iter().map(|(name, owns)| (folder.join(name), owns)).collect())
    }

    /// One path that some sides have, lowest first. Gives who goes on into it as a folder.
    fn meet(&mut self, path: &Path, owns: &[Own]) -> Result<Vec<Here>, FsError> {
        let Some(top) = owns.iter().rposition(|own| own.here.hidden_by.is_none()) else {
            self.all_hidden(path, owns);
            return Ok(Vec::new());
        };
        let winner = &owns[top];
        let mut met = vec![winner.here.side];
        for other in owns.iter().rev() {
            let side = other.here.side;
            // Of each side only what it showed last.
            if met.iter().all(|met| self.is_apart(*met, side)) {
                if self.differ(&winner.found, &other.found)? {
                    self.note(side, winner.here.side, path);
                }
                met.push(side);
            }
        }
        Ok(folders(owns, top))
    }

    /// A path of sides that are all covered by a folder made anew, which does not have it.
    fn all_hidden(&mut self, path: &Path, owns: &[Own]) {
        for own in owns.iter().rev() {
            let side = own.here.side;
            let Some(by) = own.here.hidden_by.filter(|by| self.is_apart(*by, side)) else {
                continue;
            };
            if !matches!(own.found.entry.what, What::WhiteOut) {
                self.note(side, by, path);
            }
        }
    }

    fn is_apart(&self, one: usize, other: usize) -> bool {
        let words = self.sides[one].through.iter().zip(&self.sides[other].through);
        one != other && words.into_iter().all(|(one, other)| one & other == 0)
    }

    fn note(&mut self, lower: usize, upper: usize, path: &Path) {
        let (lower, upper) = (self.sides[lower].at, self.sides[upper].at);
        let new = Collision { lower, upper, paths: Vec::new(), n_paths: 0 };
        let pair = self.pairs.entry((lower, upper)).or_insert(new);
        pair.n_paths += 1;
        if pair.paths.len() < KEPT_PATHS {
            pair.paths.push(path.to_owned());
        }
    }

    /// Whether two sides left different things at one path. Two folders do not differ by themselves.
    fn differ(&mut self, one: &Found, other: &Found) -> Result<bool, FsError> {
        match (&one.entry.what, &other.entry.what) {
            (What::WhiteOut, What::WhiteOut) | (What::Folder { .. }, What::Folder { .. }) => {
                Ok(false)
            }
            (
                What::Leaf { real: one, meta: of_one },
                What::Leaf { real: other, meta: of_other },
            ) => self.leaves_differ((one, of_one), (other, of_other)),
            _ => Ok(true),
        }
    }

    fn leaves_differ(
        &mut self,
        one: (&Path, &Metadata),
        other: (&Path, &Metadata),
    ) -> Result<bool, FsError> {
        let ((one, of_one), (other, of_other)) = (one, other);
        let kind = of_one.file_type();
        if (of_one.dev(), of_one.ino()) == (of_other.dev(), of_other.ino()) {
            return Ok(false);
        }
        if kind != of_other.file_type() {
            return Ok(true);
        }
        if kind.is_symlink() {
            let target = |path: &Path| fs::read_link(path).named("read", path);
            return Ok(target(one)? != target(other)?);
        }
        if of_one.mode() != of_other.mode() || of_one.len() != of_other.len() {
            return Ok(true);
        }
        if !kind.is_file() {
            return Ok(false);
        }
        if self.n_bytes + of_one.len() > COMPARED_BYTES_MAX {
            self.cut = true;
            return Ok(false);
        }
        self.n_bytes += of_one.len();
        contents_differ(one, other)
    }
}

/// Those of one path that go on into it as folders, lowest first; `top` is the one that is seen.
fn folders(owns: &[Own], top: usize) -> Vec<Here> {
    let mut going_on = Vec::new();
    let mut hider = None;
    for own in owns[..=top].iter().rev() {
        let What::Folder { opaque, .. } = own.found.entry.what else { break };
        let hidden_by = own.here.hidden_by.or(hider);
        let pieces = own.found.pieces.clone();
        going_on.push(Here { side: own.here.side, pieces, hidden_by });
        if opaque && hider.is_none() {
            hider = Some(own.here.side);
        }
    }
    going_on.reverse();
    going_on
}

fn contents_differ(one: &Path, other: &Path) -> Result<bool, FsError> {
    const CHUNK_BYTES: usize = 64 << 10;
    let open = |path: &Path| File::open(path).named("open", path);
    let (mut of_one, mut of_other) = (open(one)?, open(other)?);
    let (mut chunk, mut same) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    loop {
        let n = of_one.read(&mut chunk).named("read", one)?;
        if n == 0 {
            return Ok(false);
        }
        match of_other.read_exact(&mut same[..n]) {
            Ok(()) if chunk[..n] == same[..n] => {}
            Ok(()) => return Ok(true),
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => return Ok(true),
            Err(cause) => return Err(cause).named("read", other),
        }
    }
}
