//! Workspaces: immutable layers, and one writable top for each attempt.
//!
//! A source is a layer; what an attempt wrote becomes another, by a rename; a job sees the layers
//! of its needs stacked on its source. Nothing is copied where the kernel stacks trees (overlayfs),
//! and where it does not, plain copies give every job exactly the same view.
//!
//! ```text
//! <root>/sources/<tree>/       the files of one git tree; `<tree>.index` is git's index of them
//!        sources/<tree>.over/  the same by what differs from others: files, their names, the index
//!        gits/<name>/          a `.git` for one source, its objects borrowed
//!        sealed/<attempt>/     what an attempt wrote; with `<attempt>.json` in the copy driver's form
//!        sealed/<attempt>.own.json  the folders below that which are its own too
//!        sealed/<attempt>.<n>  one of several tops of an attempt; see `step`
//!        attempts/<attempt>/   a living attempt: upper and work, or tree and record; its sockets
//!        places/<name>/        where a project's workspaces are mounted, each in its own namespace
//!        visits/<pid>-<n>/     a throw-away top, for a look at what a job left; with what it holds
//!        empty/                what a job starts from that wants no files
//!        masks/<key>/          white-outs that hide paths of a working tree
//!        trees/<run>/          what a working tree was when the run began (`kept`)
//!        digests/<layer>       what a layer's content came to when it was first asked for
//!        images/<digest>-<form>/  a layer of a container image
//!        damaged/<name>/       what was not as it was made; beside it `<name>.txt`, which says why
//!        caches/<name>.json, cached/<piece>/  files that jobs find again (`cache`)
//!        gc.lock               held shared by who begins to use layers, alone by who collects them
//!        sizes                 how large layers were found to be
//! ```
//!
//! Always: a layer appears whole or not at all, and never changes. What is under a name that begins
//! with `.tmp-` belongs to the process in that name and is garbage when that one is gone.
//!
//! Elsewhere: mounting, in the namespace of the job (`executor`); what a layer is good for (`engine`).

mod workspaces;
mod source;
mod pieces;
mod step;
mod hold;
mod cache;
mod collect;
mod size;
mod damage;
mod verify;
mod hidden;
mod kept;
mod driver;
mod copy;
mod record;
mod view;
mod visit;
mod written;
mod digest;
pub mod archive;
mod packing;
mod image;
mod collide;
mod flatten;
mod again;
mod tree;
mod remove;
mod xattr;
mod sparse;
mod error;

pub use again::Untouched;
pub use cache::{CacheEntry, CacheWish, Caches, Taken as TakenCaches};
pub use collect::{Source, Victims};
pub use collide::{Collision, Collisions};
pub use driver::Driver;
pub use error::WorkspaceError;
pub use hold::{Alone, Using};
pub use image::ImageLayer;
pub use kept::KeptTree;
pub use packing::PackingError;
pub use size::Usage;
pub use source::{GitLayer, Removed};
pub use visit::Visit;
pub use workspaces::{Base, Prepared, Workspaces};
pub use written::Written;
