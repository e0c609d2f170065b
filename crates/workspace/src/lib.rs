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
//!        attempts/<attempt>/   a living attempt: upper and work, or tree and record; its sockets
//!        places/<name>/        where a project's workspaces are mounted, each in its own namespace
//!        masks/<key>/          white-outs that hide paths of a working tree
//! ```
//!
//! Always: a layer appears whole or not at all, and never changes. What is under a name that begins
//! with `.tmp-` belongs to the process in that name and is garbage when that one is gone.
//!
//! Elsewhere: mounting, in the namespace of the job (`executor`); what a layer is good for (`engine`).

mod workspaces;
mod source;
mod pieces;
mod hidden;
mod driver;
mod copy;
mod record;
mod flatten;
mod again;
mod tree;
mod error;

pub use again::Untouched;
pub use driver::Driver;
pub use error::WorkspaceError;
pub use source::{GitLayer, Removed};
pub use workspaces::{Base, Prepared, Workspaces};
