//! git, through the `git` command of the system.
//!
//! Reads go to one long-lived `git cat-file` per repository, so that a push is planned and checked
//! out without starting a program. Whatever a person or a repository names (a URL, a ref, a path in
//! a tree) is checked here before git or the file system sees it.
//!
//! Elsewhere: when to fetch and what follows from a push (`kiln-server`).

pub mod error;
pub mod location;
pub mod command;
pub mod mirror;
pub mod refs;
pub mod objects;
mod recent;
pub mod commit;
pub mod tree;
mod walk;
mod checkout;
mod update;
mod index;
mod sha1;
mod lend;
mod linked;
mod modules;
mod pin;
mod repair;
pub mod working_tree;
mod glance;
mod look;
mod keep;

pub use commit::CommitInfo;
pub use error::GitError;
pub use index::unlike;
pub use lend::Head;
pub use location::Location;
pub use look::Look;
pub use mirror::Mirror;
pub use update::Update;
pub use walk::TreeEntry;
pub use working_tree::WorkingTree;
