//! The layers of one machine, as who collects them sees them: what there is, and taking it away.
//!
//! Which runs may lose their layers is known by rows, and where layers are by the agent's machine.
//! All calls block.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kiln_model::layer::{Collected, LayerId, Verified};
use kiln_model::{ProjectId, RunId};
use kiln_stdx::Timestamp;

/// Asked while nobody can begin to use a layer: which of these must stay after all.
pub type Stays<'a> = &'a dyn Fn() -> Result<Held, String>;

/// What must stay.
#[derive(Clone, Debug, Default)]
pub struct Held {
    pub runs: BTreeSet<RunId>,
    /// Sources, by their trees.
    pub trees: BTreeSet<String>,
}

/// What is to be taken away.
#[derive(Clone, Debug, Default)]
pub struct Unwanted {
    pub runs: BTreeSet<RunId>,
    pub trees: BTreeSet<String>,
    /// Entries of caches, by name.
    pub caches: BTreeSet<String>,
    /// Layers of images, by name, with the time since which nobody may have used them.
    pub images: BTreeMap<String, Timestamp>,
    /// What is made again when it is wanted, older than this.
    pub derived_before: Option<Timestamp>,
    /// What was set aside because it was damaged, older than this.
    pub damaged_before: Option<Timestamp>,
}

/// A thing that is there, and when it was last of use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept<T> {
    pub what: T,
    pub used_at: Timestamp,
}

/// An entry of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    pub name: String,
    /// Whose it is.
    pub project: ProjectId,
    /// What it takes on disk.
    pub n_bytes: u64,
}

/// A layer of a container image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageLayer {
    pub name: String,
    /// What it takes on disk.
    pub n_bytes: u64,
}

/// What layers take on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerUsage {
    pub runs: Vec<(RunId, u64)>,
    pub sources: u64,
    pub caches: u64,
    pub images: u64,
    pub rest: u64,
    /// Not everything was counted in the time that was given.
    pub is_partial: bool,
}

/// The layers of one machine.
pub trait Layers: Send + Sync + 'static {
    /// Runs of which anything is there.
    fn runs(&self) -> Result<Vec<Kept<RunId>>, String>;
    fn sources(&self) -> Result<Vec<Kept<String>>, String>;
    fn caches(&self) -> Result<Vec<Kept<CacheEntry>>, String>;
    /// Layers of container images.
    fn images(&self) -> Result<Vec<Kept<ImageLayer>>, String>;
    /// Takes away what is unwanted and does not stay. `dry`: only says what that would be. What an
    /// attempt or a shell uses stays in any case. With the first trouble that it had.
    fn collect(
        &self,
        unwanted: &Unwanted,
        stays: Stays<'_>,
        dry: bool,
    ) -> (Vec<Collected>, Option<String>);
    /// Whether a layer is there as a whole.
    fn has(&self, layer: &LayerId) -> bool;
    /// Reads everything, and sets aside what is not what it was.
    fn verify(&self) -> Result<Verified, String>;
    /// Nothing is taken away while this is held.
    fn hold(&self) -> Result<Box<dyn Send>, String>;
    /// What is not known yet is counted, for at most so long.
    fn usage(&self, within: Duration) -> Result<LayerUsage, String>;
}
