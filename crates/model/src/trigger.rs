//! Who or what asked for a run, and of which commit.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of thing asked. In conditions this is `event`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TriggerKind {
    /// A branch moved or appeared.
    Push,
    PullRequest,
    /// A tag appeared or moved.
    Tag,
    Schedule,
    /// A person, in the page or with `kiln trigger`.
    Manual,
    Api,
    /// `kiln run` on a working tree.
    Local,
}

impl TriggerKind {
    pub const ALL: &'static [Self] = &[
        Self::Push,
        Self::PullRequest,
        Self::Tag,
        Self::Schedule,
        Self::Manual,
        Self::Api,
        Self::Local,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::PullRequest => "pull_request",
            Self::Tag => "tag",
            Self::Schedule => "schedule",
            Self::Manual => "manual",
            Self::Api => "api",
            Self::Local => "local",
        }
    }
}

impl fmt::Display for TriggerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A request for a run, as it is frozen with the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    pub kind: TriggerKind,
    /// Full hexadecimal object id, 40 or 64 digits; empty for a repository without commits.
    pub commit: String,
    /// The ref's previous commit; absent for a new ref.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Without `refs/heads/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Without `refs/tags/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_request: Option<PullRequest>,
    /// Who pushed or asked, as the source names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// The commit's subject line.
    #[serde(default)]
    pub title: String,
    /// Who wrote the commit: `Name <mail>`.
    #[serde(default)]
    pub author: String,
    /// Values for the manifest's inputs, as given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
    /// Paths that differ from `before`, lossily decoded. `None`: not known (new ref, manual run);
    /// then every path filter passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<Vec<String>>,
    /// Nothing is taken from earlier runs: no result, no cache. What it gives is kept as always.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_cache: bool,
}

/// A request to merge `branch` of [`Trigger`] into `base`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullRequest {
    pub number: u64,
    pub base: String,
    /// The head is in another repository, whose owner need not be trusted.
    pub from_fork: bool,
}

impl Trigger {
    /// A trigger of `kind` at `commit`, everything else empty.
    pub fn new(kind: TriggerKind, commit: impl Into<String>) -> Self {
        Self {
            kind,
            commit: commit.into(),
            before: None,
            branch: None,
            tag: None,
            pull_request: None,
            actor: None,
            title: String::new(),
            author: String::new(),
            inputs: BTreeMap::new(),
            changed: None,
            no_cache: false,
        }
    }

    /// The branch or the tag.
    pub fn ref_name(&self) -> Option<&str> {
        self.branch.as_deref().or(self.tag.as_deref())
    }
}
