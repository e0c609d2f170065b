//! The formats that a manifest can be written in, each in a folder of its own.

pub mod native;

/// Which format a file is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Native,
}

impl Format {
    /// By the file's name alone. A name that says nothing (`-f ci/pipeline.yml`) is the native format.
    pub fn detect(_path: &str) -> Self {
        Self::Native
    }
}
