//! Why the store could not do what it was asked.

use kiln_model::RunId;

/// One variant for each thing that a caller might do differently.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Somebody else has appended to this run meanwhile: load it again.
    #[error("run {0} has changed meanwhile")]
    Conflict(RunId),
    #[error("there is no such {0}")]
    NotFound(&'static str),
    #[error("{0} exists already")]
    Exists(String),
    /// The database, the disk or the network; the text names the place and the way out.
    #[error("{0}")]
    Other(String),
}

impl StoreError {
    /// An error that no caller tells apart.
    pub(crate) fn other(message: impl Into<String>) -> Self {
        Self::Other(message.into())
    }

    /// A value in the database that this program cannot read.
    pub(crate) fn unreadable(what: &str, cause: impl std::fmt::Display) -> Self {
        Self::Other(format!("cannot read {what} from the database: {cause}"))
    }
}
