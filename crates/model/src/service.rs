//! What becomes of a service: a container beside a job.
//!
//! ```text
//! starting ──ready──▶ ready ──job over──▶ stopped
//!     │                 └──by itself──▶ ended
//!     ├──job over──▶ stopped
//!     └──never ready, cannot run──▶ failed
//! ```

use serde::{Deserialize, Serialize};

use crate::outcome::Exit;

/// A fact about a service of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum ServiceChange {
    /// Its container is being made.
    Started,
    /// It can be used.
    Ready,
    /// It is not there any more.
    Ended {
        #[serde(flatten)]
        end: ServiceEnd,
        /// Length of its log.
        #[serde(default)]
        log_bytes: u64,
    },
}

/// Why a service is not there any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "end")]
pub enum ServiceEnd {
    /// Its job was over.
    Stopped,
    /// By itself, while its job ran.
    Exited { exit: Exit },
    /// It could not be run, or was never ready. The message follows its name.
    Failed { message: String },
    /// By itself, while no kiln was there to see how.
    Unseen,
}

/// A service in one word, as pages, JSON and tables show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    Starting,
    Ready,
    Stopped,
    Ended,
    Failed,
}

impl ServiceState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Stopped => "stopped",
            Self::Ended => "ended",
            Self::Failed => "failed",
        }
    }

    pub fn is_over(self) -> bool {
        matches!(self, Self::Stopped | Self::Ended | Self::Failed)
    }
}

impl std::fmt::Display for ServiceState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl ServiceEnd {
    pub fn state(&self) -> ServiceState {
        match self {
            Self::Stopped => ServiceState::Stopped,
            Self::Exited { .. } | Self::Unseen => ServiceState::Ended,
            Self::Failed { .. } => ServiceState::Failed,
        }
    }
}

impl std::fmt::Display for ServiceEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped with its job"),
            Self::Exited { exit } => write!(f, "ended early: {exit}"),
            Self::Failed { message } => f.write_str(message),
            Self::Unseen => f.write_str("ended while kiln was not there"),
        }
    }
}
