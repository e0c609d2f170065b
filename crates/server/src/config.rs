//! `kiln.toml`: the one configuration file. Each section belongs to the module that goes by it; here is only
//! which sections there are, so that a word that nobody knows is a mistake and not silence.
//!
//! ```toml
//! [keep]                  # collect::policy: what is kept for how long
//! [jobs]                  # govern: what jobs may have of this machine
//! [registries]            # registries: where images come from
//! [projects.NAME.keep]    # for one project, where it differs
//! [projects.NAME.jobs]
//! ```

pub(crate) mod lines;

use std::collections::BTreeMap;
use std::path::Path;

use kiln_stdx::fs::{FsError, Named};
use serde::Deserialize;

use crate::collect::policy::{FileKeep, Given};
use crate::govern;
use crate::registries;

/// The file, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    pub(crate) keep: FileKeep,
    #[serde(default)]
    pub(crate) jobs: govern::Written,
    #[serde(default)]
    pub(crate) registries: registries::Written,
    #[serde(default)]
    pub(crate) projects: BTreeMap<String, Project>,
}

/// What is different for one project.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Project {
    #[serde(default)]
    pub keep: Given,
    #[serde(default)]
    pub jobs: govern::Written,
}

/// Why the file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    File(#[from] FsError),
    /// With file, line and what is wrong there.
    #[error("{0}")]
    Syntax(String),
}

impl Config {
    /// Reads the file and makes something of it. A file that is not there says nothing.
    pub fn read<T>(
        path: &Path,
        make: impl FnOnce(Self) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let text = match std::fs::read_to_string(path) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.named("read", path)?,
        };
        Self::parse(&text).and_then(make).map_err(|cause| {
            ConfigError::Syntax(lines::placed(&path.display().to_string(), &text, &cause))
        })
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        basic_toml::from_str(text).map_err(|error| error.to_string())
    }
}
