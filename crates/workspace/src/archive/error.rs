//! Why an archive was not unpacked.

use std::io;
use std::path::{Path, PathBuf};

use kiln_stdx::fs::FsError;

#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// Cut off, changed on the way, or no archive at all.
    #[error("the archive is damaged{}: {what}", near(.entry))]
    Damaged { entry: Option<PathBuf>, what: String },
    /// It asks for what no archive may.
    #[error("refused `{}` of the archive: {why}", .entry.display())]
    Refused { entry: PathBuf, why: String },
    #[error("refused `{}` of the archive: more than {bound}", .entry.display())]
    TooMuch { entry: PathBuf, bound: Bound },
    #[error("cannot read the archive{}", near(.entry))]
    Read {
        entry: Option<PathBuf>,
        #[source]
        cause: io::Error,
    },
    #[error("there is something in `{}` already", .0.display())]
    NotEmpty(PathBuf),
    #[error(transparent)]
    Fs(#[from] FsError),
}

/// What an archive may have at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Bytes(u64),
    Entries(u64),
    Depth(usize),
    /// Names and attributes, which are held in memory until the end.
    Names(u64),
    /// In one file.
    Holes(usize),
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(max) => write!(f, "{} unpacked", kiln_stdx::bytes::show(*max)),
            Self::Entries(max) => write!(f, "{max} files"),
            Self::Depth(max) => write!(f, "{max} folders deep"),
            Self::Names(max) => {
                write!(f, "{} of names and attributes", kiln_stdx::bytes::show(*max))
            }
            Self::Holes(max) => write!(f, "{max} holes in a file"),
        }
    }
}

fn near(entry: &Option<PathBuf>) -> String {
    entry.as_deref().map_or_else(String::new, |entry| format!(" at `{}`", entry.display()))
}

impl UnpackError {
    pub(super) fn refused(entry: &Path, why: impl Into<String>) -> Self {
        Self::Refused { entry: entry.to_owned(), why: why.into() }
    }

    /// A stream that ends early, or does not decompress, is damaged; anything else is the reader's.
    pub(super) fn read(entry: Option<&Path>, cause: io::Error) -> Self {
        let entry = entry.map(Path::to_owned);
        match cause.kind() {
            io::ErrorKind::UnexpectedEof => {
                Self::Damaged { entry, what: "it ends too early".to_owned() }
            }
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
                Self::Damaged { entry, what: cause.to_string() }
            }
            _ => Self::Read { entry, cause },
        }
    }
}
