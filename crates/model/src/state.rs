//! The states that people see: the same words in page, API, JSON and database.
//!
//! How one becomes another is the engine's matter (`kiln-engine`).

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! words {
    ($type:ident { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl $type {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $type {
            type Err = UnknownState;
            fn from_str(text: &str) -> Result<Self, UnknownState> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    other => Err(UnknownState(other.to_owned())),
                }
            }
        }
    };
}

/// A word that is no state.
#[derive(Debug, Clone, thiserror::Error)]
#[error("`{0}` is not a state")]
pub struct UnknownState(String);

/// What a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Recorded; no job has started.
    Queued,
    Running,
    /// For a person.
    Waiting,
    Success,
    /// Only jobs that are allowed to fail have failed.
    Warning,
    Failed,
    Cancelled,
}

words!(RunState {
    Queued => "queued",
    Running => "running",
    Waiting => "waiting",
    Success => "success",
    Warning => "warning",
    Failed => "failed",
    Cancelled => "cancelled",
});

impl RunState {
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Success | Self::Warning | Self::Failed | Self::Cancelled)
    }
}

/// What a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for its needs, for a lock or for an agent.
    Queued,
    Running,
    /// For a person.
    Waiting,
    Success,
    /// Failed, and allowed to.
    Warning,
    Failed,
    Cancelled,
    /// Did not run, for the reason that it carries.
    Skipped,
    /// Its agent went away while it ran.
    Lost,
}

words!(JobState {
    Queued => "queued",
    Running => "running",
    Waiting => "waiting",
    Success => "success",
    Warning => "warning",
    Failed => "failed",
    Cancelled => "cancelled",
    Skipped => "skipped",
    Lost => "lost",
});

impl JobState {
    pub const fn is_over(self) -> bool {
        !matches!(self, Self::Queued | Self::Running | Self::Waiting)
    }
}
