//! Files that a job gives.

use serde::{Deserialize, Serialize};

use crate::layer::Digest;

/// One kept file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Relative to the workspace, `/`-separated, no `..`.
    pub path: String,
    pub n_bytes: u64,
    pub digest: Digest,
    pub executable: bool,
}
