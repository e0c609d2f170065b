//! Files that a job finds again, as an earlier job of its project left them.
//!
//! A cache is kept for a project, a scope (a branch, a pull request), a path and a key. It is a chain of
//! *pieces*: folders that are stacked, lowest first, like layers. Finding one is reading a file of a
//! few hundred bytes; what it holds is mounted, never unpacked. Keeping one makes a piece of what the
//! job has changed, by hard links to its sealed files or by a rename.
//!
//! ```text
//! <root>/caches/<name>.json   which pieces; its time is that of the last use
//!        cached/<piece>/      files, below the cache's path or (outside the workspace) at it
//!        attempts/<attempt>/caches.json  what a living attempt found and will keep
//!        attempts/<attempt>/caches/<n>/  top and work of a cache outside the workspace
//! ```
//!
//! Inside the workspace the pieces are layers of the job's own: whoever needs the job sees them too.
//! What a need has left at the path lies over them, and where a need keeps the same cache, what it
//! left is all that is seen. Outside, each cache is a mount over the real folder, which is not written.
//!
//! Always: a piece never changes; a name leads to whole pieces or nowhere; what is damaged or missing
//! is a cache that is not there.
//! Elsewhere: which scopes a job may read and write (`server`); what is kept for how long (`collect`).

mod entry;
mod part;
mod find;
mod outside;
mod save;
mod collect;

use std::path::PathBuf;

use kiln_model::layer::LayerId;
use kiln_model::plan::CacheRule;
use kiln_model::{ProjectId, RunNumber};
use serde::{Deserialize, Serialize};

pub use collect::CacheEntry;
use entry::Piece;
pub use save::Taken;

/// What a job may find and keep.
#[derive(Clone, Debug)]
pub struct CacheWish {
    pub project: ProjectId,
    /// Of the run, for people.
    pub number: RunNumber,
    pub rules: Vec<CacheRule>,
    /// Scopes, looked into in this order.
    pub read: Vec<String>,
    /// The scope that it keeps caches in; `None`: it keeps none.
    pub write: Option<String>,
    /// What `~` means to the job.
    pub home: Option<PathBuf>,
    /// The caches of the jobs whose files it sees.
    pub below: Vec<CacheRule>,
    /// It goes on from files of an earlier attempt, which began with caches of its own.
    pub goes_on: bool,
    /// Folders and files of kiln's own, besides the layers, that nothing may be mounted over.
    pub taken: Vec<PathBuf>,
}

/// What a job finds.
#[derive(Debug, Default)]
pub struct Caches {
    /// For [`crate::Workspaces::prepare`], after other layers of its own.
    pub own: Vec<LayerId>,
    /// One for each rule: what was found, or why not.
    pub lines: Vec<String>,
    plan: Plan,
}

/// What must be known at the end of the attempt.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Plan {
    project: i64,
    number: i64,
    /// `None`: nothing is kept.
    scope: Option<String>,
    held: Vec<Held>,
    /// Folders of the layers below, relative to the root of all, lowest first.
    layers: Vec<String>,
}

/// One cache of a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Held {
    rule: CacheRule,
    /// What was there, lowest first.
    began: Vec<Piece>,
    /// Of a path outside the workspace: the folder that is mounted over, and its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outside: Option<Outside>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outside {
    #[serde(with = "kiln_stdx::path")]
    at: PathBuf,
    n: usize,
}

/// How a cache is called in a line of the log.
fn shown(rule: &CacheRule) -> String {
    match &rule.key {
        Some(key) => format!("cache {} [{key}]", rule.path),
        None => format!("cache {}", rule.path),
    }
}

/// Whether a path is one of the workspace.
fn is_inside(path: &str) -> bool {
    !path.starts_with('/') && !path.starts_with("~/")
}

/// Whether one path is the other or lies in it.
fn overlap(one: &str, other: &str) -> bool {
    let (one, other) = (std::path::Path::new(one), std::path::Path::new(other));
    one.starts_with(other) || other.starts_with(one)
}
