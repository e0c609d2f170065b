//! kiln's own format: `.kiln.yml`.
//!
//! text ──yaml──▶ tree ──shape, by the tables in keys──▶ complaints
//!                  └────read──▶ Written
//!
//! The tables in [`keys`] are the one description of the format: the check, the suggestions and the
//! JSON schema all come from them. Reading takes what has the right shape and leaves out the rest,
//! which the check has complained about.

mod job;
pub mod keys;
mod read;
pub mod shape;
mod surroundings;
mod trigger;
mod yaml;

use crate::complaint::Complaints;
use crate::written::Written;

/// Reads a manifest's text. `None`: there is no tree to speak of.
pub fn read(text: &str, complaints: &mut Complaints) -> Option<Written> {
    let root = yaml::tree(text, complaints)?;
    shape::check(&root, &keys::MANIFEST, "the manifest", complaints);
    Some(read::manifest(&root))
}
