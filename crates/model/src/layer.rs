//! Immutable trees and what names them.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{AttemptId, RunId};

/// 32 bytes as 64 hexadecimal digits, that name something by its content: an object by SHA-256, a
/// layer by BLAKE3.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// A text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not 64 lower-case hexadecimal digits")]
pub struct NotADigest(String);

impl Digest {
    pub fn new(text: impl Into<String>) -> Result<Self, NotADigest> {
        let text = text.into();
        let hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if hex && text.len() == 64 { Ok(Self(text)) } else { Err(NotADigest(text)) }
    }

    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = NotADigest;
    fn try_from(text: String) -> Result<Self, NotADigest> {
        Self::new(text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

/// Which layer, on the machine that made it. Digests come later, only when another machine asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "id")]
pub enum LayerId {
    /// The files of one git tree, named by the tree's id.
    Source(String),
    /// What one attempt wrote, named by [`crate::AttemptId`].
    Attempt(String),
    /// What an attempt had written before one of its steps: `7-0-1.2` is before the step at
    /// position 2 of attempt `7-0-1`.
    Boundary(String),
    /// Files of a cache, named by the cache's entry.
    Cache(String),
}

/// The files that a run starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Source {
    /// One commit of a repository.
    Git { commit: String, tree: String },
    /// A working tree as it is, for `kiln run`. Never written to.
    WorkingTree { path: PathBuf },
}

/// What kind of thing is on a machine's disk for its jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LayerKind {
    /// What attempts of a run wrote, and what belongs to its workspaces alone.
    Layers,
    /// The files of git trees.
    Sources,
    /// Files of caches.
    Caches,
    /// Layers of container images.
    Images,
    /// What is made again when it is wanted: white-outs, merged layers, digests.
    Derived,
    /// What was set aside because it was damaged.
    Damaged,
    /// What a crash left half made.
    Leftovers,
}

impl LayerKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Layers => "layers",
            Self::Sources => "sources",
            Self::Caches => "caches",
            Self::Images => "images",
            Self::Derived => "derived",
            Self::Damaged => "damaged",
            Self::Leftovers => "leftovers",
        }
    }
}

/// Something that was taken away, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    pub kind: LayerKind,
    pub run: Option<RunId>,
    /// On disk.
    pub n_bytes: u64,
}

/// Something that was not what it should have been, and is set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub kind: LayerKind,
    /// Whose files they were, of [`LayerKind::Layers`].
    pub attempt: Option<AttemptId>,
    /// What it was called: a tree, an attempt, a cache's folder, an image's layer.
    pub name: String,
    pub why: String,
    /// Where it is now.
    pub aside: PathBuf,
}

/// What came of reading every layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    pub n_layers: u64,
    /// Of these, layers of which nothing was known: they are compared from the next time on.
    pub n_new: u64,
    pub damaged: Vec<Damage>,
}
