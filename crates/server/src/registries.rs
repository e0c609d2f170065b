//! Where images come from, as the configuration file says.
//!
//! ```toml
//! [registries]
//! mirrors = { "docker.io" = ["mirror.example.org"] }   # asked before the registry itself, in order
//! plain = ["registry.lan:5000"]                        # spoken to without TLS
//! image_max = "100GB"                                  # of all layers of one image, unpacked
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::config::{Config, ConfigError};

/// The section.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// Hosts to ask before a registry, in order, by the registry's name.
    #[serde(default)]
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Hosts spoken to without TLS, besides those on this machine.
    #[serde(default)]
    pub plain: Vec<String>,
    /// Bytes that all layers of one image may unpack to.
    #[serde(default, deserialize_with = "size")]
    pub image_max: Option<u64>,
}

fn size<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(from)?;
    let wrong = |error| serde::de::Error::custom(format!("`{text}`: {error}"));
    kiln_stdx::bytes::parse(&text).map(Some).map_err(wrong)
}

/// What the file at `path` says.
pub fn read(path: &Path) -> Result<Written, ConfigError> {
    Config::read(path, |Config { registries, .. }| {
        let mirrored = registries.mirrors.iter().flat_map(|(of, at)| at.iter().chain([of]));
        let wrong = mirrored.chain(&registries.plain).find(|host| !is_host(host));
        if let Some(host) = wrong {
            let shown = host.escape_debug();
            return Err(format!(
                "`[registries]`: `{shown}` is not a host such as `registry.example.org:5000`; write no \
                 `https://` and no path"
            ));
        }
        Ok(registries)
    })
}

fn is_host(text: &str) -> bool {
    let lawful = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    !text.is_empty() && text.chars().all(lawful) && !text.starts_with(['.', '-', ':'])
}
