//! How long what is kept: in the configuration file, and typed for once.
//!
//! ```toml
//! [keep]                                      # for every project
//! runs = { for = "365d", at_least = 100 }
//! layers = { for = "7d", at_least = 5 }
//! disk = { above = 85, until = 75 }           # percent of the file system
//!
//! [projects.site.keep]                        # for one, where it differs
//! artifacts = { for = "30d", bytes = "5GB" }
//! ```
//!
//! What is younger than `for` stays, and so does what is among the newest `at_least` runs. Older than
//! the newest `at_most`, and beyond `bytes`, nothing stays. A pin is stronger than all of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use kiln_stdx::{bytes, duration};
use serde::{Deserialize, Deserializer};

use crate::config::{Config, ConfigError};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What is kept of a thing. Where a field is absent, a wider rule or none holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// What is younger stays.
    #[serde(default, rename = "for", deserialize_with = "span")]
    pub within: Option<Duration>,
    /// The newest so many runs of a project keep theirs, whatever their age.
    pub at_least: Option<u32>,
    /// Older runs of a project lose theirs, whatever their age.
    pub at_most: Option<u32>,
    /// Of a project; what is oldest goes first.
    #[serde(default, deserialize_with = "size")]
    pub bytes: Option<u64>,
}

/// When layers, sources and caches go before their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Percent of the file system in use.
    pub above: u8,
    pub until: u8,
}

/// What is kept of a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    pub runs: Keep,
    pub logs: Keep,
    pub artifacts: Keep,
    pub layers: Keep,
    pub caches: Keep,
}

/// What is kept, for every project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub rules: Rules,
    /// Layers of container images: of the machine, whichever projects use them.
    images: Keep,
    pub disk: Disk,
    projects: BTreeMap<String, Given>,
    asked: Given,
    asked_images: Option<Keep>,
}

/// What somebody has said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Given {
    runs: Option<Keep>,
    logs: Option<Keep>,
    artifacts: Option<Keep>,
    layers: Option<Keep>,
    caches: Option<Keep>,
}

/// `[keep]` of the configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileKeep {
    runs: Option<Keep>,
    logs: Option<Keep>,
    artifacts: Option<Keep>,
    layers: Option<Keep>,
    caches: Option<Keep>,
    images: Option<Keep>,
    disk: Option<Disk>,
}

/// Why a configuration, or what was typed, is not taken.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "`{0}` is not kept by itself; say what of runs, logs, artifacts, layers, caches, \
             images"
    )]
    Kind(String),
    #[error("`{0}` is no rule for images; write a duration (`7d`), a size (`10GB`), both, or 0")]
    Images(String),
    #[error(
        "`{0}` says not how long; write a duration (`7d`), a number of runs (`20`), a size (`10GB`), \
         or several with commas"
    )]
    Text(String),
}

impl Policy {
    /// Of a server. Nothing is lost soon that somebody may still look at; what is only there to save
    /// time goes after a week.
    pub fn of_server() -> Self {
        let keep = |days: u32, at_least| Keep {
            within: Some(DAY * days),
            at_least: Some(at_least),
            ..Keep::default()
        };
        let rules = Rules {
            runs: keep(365, 100),
            logs: keep(365, 100),
            artifacts: keep(90, 10),
            layers: keep(7, 5),
            caches: Keep { bytes: Some(10_000_000_000), ..keep(30, 0) },
        };
        Self {
            images: Keep { within: Some(DAY * 30), bytes: Some(50_000_000_000), ..Keep::default() },
            rules,
            disk: Disk { above: 85, until: 75 },
            projects: BTreeMap::new(),
            asked: Given::default(),
            asked_images: None,
        }
    }

    /// Of `kiln run`: a laptop has other things to hold.
    pub fn of_laptop() -> Self {
        let mut policy = Self::of_server();
        let keep = |days: u32, at_least| Keep {
            within: Some(DAY * days),
            at_least: Some(at_least),
            ..Keep::default()
        };
        policy.rules.runs = keep(90, 50);
        policy.rules.logs = keep(90, 50);
        policy.rules.artifacts = keep(30, 10);
        policy.rules.layers = keep(3, 5);
        policy.images.bytes = Some(20_000_000_000);
        policy
    }

    /// These defaults with what a file says. A file that is not there says nothing.
    pub fn read(self, path: &Path) -> Result<Self, PolicyError> {
        Ok(Config::read(path, |config| self.with(config))?)
    }

    fn with(mut self, file: Config) -> Result<Self, String> {
        let FileKeep { runs, logs, artifacts, layers, caches, images, disk } = file.keep;
        if let Some(images) = images {
            images.check_of_images()?;
            images.over(&mut self.images);
        }
        let given = Given { runs, logs, artifacts, layers, caches };
        given.check()?;
        given.over(&mut self.rules);
        if let Some(disk) = disk {
            if disk.above > 100 || disk.until > disk.above {
                return Err(
                    "`disk`: `above` is at most 100, and `until` at most `above`".to_owned()
                );
            }
            self.disk = disk;
        }
        for (name, project) in file.projects {
            project.keep.check().map_err(|error| format!("project `{name}`: {error}"))?;
            self.projects.insert(name, project.keep);
        }
        Ok(self)
    }

    /// What somebody typed for this once: of a kind, such as `3d`, `20` or `3d,5,10GB`.
    pub fn ask(&mut self, kind: &str, text: &str) -> Result<(), PolicyError> {
        let keep = typed(text).ok_or_else(|| PolicyError::Text(text.to_owned()))?;
        if kind == "images" {
            keep.check_of_images().map_err(|_| PolicyError::Images(text.to_owned()))?;
            self.asked_images = Some(keep);
            return Ok(());
        }
        let place = match kind {
            "runs" => &mut self.asked.runs,
            "logs" => &mut self.asked.logs,
            "artifacts" => &mut self.asked.artifacts,
            "layers" => &mut self.asked.layers,
            "caches" => &mut self.asked.caches,
            _ => return Err(PolicyError::Kind(kind.to_owned())),
        };
        *place = Some(keep);
        Ok(())
    }

    /// What is kept of a project.
    pub fn of(&self, project: &str) -> Rules {
        let mut rules = self.rules.clone();
        if let Some(given) = self.projects.get(project) {
            given.over(&mut rules);
        }
        // For this once and as a whole: what was typed is not mixed with what is usual.
        let Rules { runs, logs, artifacts, layers, caches } = &mut rules;
        let asked = &self.asked;
        for (rule, asked) in [
            (runs, &asked.runs),
            (logs, &asked.logs),
            (artifacts, &asked.artifacts),
            (layers, &asked.layers),
            (caches, &asked.caches),
        ] {
            if let Some(asked) = asked {
                *rule = asked.clone();
            }
        }
        rules
    }

    /// How layers of images are kept.
    pub fn images(&self) -> &Keep {
        self.asked_images.as_ref().unwrap_or(&self.images)
    }

    /// How long a source stays that nobody begins on.
    pub fn sources_within(&self) -> Option<Duration> {
        match &self.asked.layers {
            Some(asked) => asked.within,
            None => self.rules.layers.within,
        }
    }
}

impl Given {
    fn check(&self) -> Result<(), String> {
        for (name, keep) in [("runs", &self.runs), ("logs", &self.logs), ("layers", &self.layers)] {
            if keep.as_ref().is_some_and(|keep| keep.bytes.is_some()) {
                return Err(format!("`{name}`: only artifacts and caches are kept by `bytes`"));
            }
        }
        Ok(())
    }

    fn over(&self, rules: &mut Rules) {
        let Rules { runs, logs, artifacts, layers, caches } = rules;
        for (rule, given) in [
            (runs, &self.runs),
            (logs, &self.logs),
            (artifacts, &self.artifacts),
            (layers, &self.layers),
            (caches, &self.caches),
        ] {
            if let Some(given) = given {
                given.over(rule);
            }
        }
    }
}

impl Keep {
    fn over(&self, rule: &mut Self) {
        rule.within = self.within.or(rule.within);
        rule.at_least = self.at_least.or(rule.at_least);
        rule.at_most = self.at_most.or(rule.at_most);
        rule.bytes = self.bytes.or(rule.bytes);
    }

    /// They belong to no run, so no number of runs says how many are kept; 0 says none.
    fn check_of_images(&self) -> Result<(), String> {
        match (self.at_least, self.at_most) {
            (None, None | Some(0)) => Ok(()),
            _ => Err("`images`: only `for` and `bytes` say what is kept".to_owned()),
        }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.within.map(|span| format!("for {} days", span.as_secs() / 86_400)));
        parts.extend(self.at_least.map(|n| format!("at least of the newest {n} runs")));
        parts.extend(self.at_most.map(|n| format!("at most of the newest {n} runs")));
        parts.extend(self.bytes.map(|n| format!("at most {}", bytes::show(n))));
        f.write_str(&parts.join(", "))
    }
}

/// `3d`: what is younger. `20`: of the newest 20 runs. Both: what either keeps. `10GB`: at most. `0`
/// and `none`: nothing.
fn typed(text: &str) -> Option<Keep> {
    let mut keep = Keep::default();
    let mut count = None;
    for part in text.split(',').map(str::trim) {
        if part == "none" {
            count = Some(0);
        } else if let Ok(n) = part.parse() {
            count = Some(n);
        } else if let Ok(span) = duration::parse(part) {
            keep.within = Some(span);
        } else {
            keep.bytes = Some(parse_size(part)?);
        }
    }
    match keep.within {
        Some(_) => keep.at_least = count,
        None => keep.at_most = count,
    }
    Some(keep)
}

/// `500MB`, `10 GB`, `2TB`.
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    number.checked_mul(unit)
}

fn span<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    let span = duration::parse(&text);
    span.map(Some).map_err(|error| serde::de::Error::custom(format!("`{text}`: {error}")))
}

fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(from)?;
    let wrong = || serde::de::Error::custom(format!("`{text}` is not a size such as `10GB`"));
    parse_size(&text).map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_changes_what_it_names_and_nothing_else() {
        let text = "[keep]\nlayers = { for = \"2d\" }\ndisk = { above = 90, until = 80 }\n\
                    [projects.site.keep]\nartifacts = { bytes = \"5GB\" }\n";
        let policy = Policy::of_server().with(Config::parse(text).unwrap()).unwrap();
        let usual = Policy::of_server().rules;
        assert_eq!(policy.disk, Disk { above: 90, until: 80 });
        let layers = Keep { within: Some(DAY * 2), ..usual.layers.clone() };
        assert_eq!(policy.of("other"), Rules { layers: layers.clone(), ..usual.clone() });
        let artifacts = Keep { bytes: Some(5_000_000_000), ..usual.artifacts.clone() };
        assert_eq!(policy.of("site"), Rules { layers, artifacts, ..usual });
    }

    #[test]
    fn the_example_of_the_documents_means_what_it_says() {
        let text = include_str!("../../../../docs/keeping.md");
        let example = text.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
        let file = Config::parse(example.unwrap()).unwrap();
        let policy = Policy::of_server().with(file).unwrap();
        assert_eq!(policy.disk, Disk { above: 90, until: 80 });
        assert_eq!(policy.images().bytes, Some(20_000_000_000));
        assert_eq!(policy.of("other").layers.at_most, Some(50));
        assert_eq!(policy.of("site").artifacts.within, Some(DAY * 180));
    }

    #[test]
    fn what_a_file_cannot_mean_is_refused() {
        for (text, word) in [
            ("[keep]\nlayer = { for = \"2d\" }", "layer"),
            ("[keep]\nlayers = { for = \"2 days\" }", "2 days"),
            ("[keep]\nruns = { bytes = \"1GB\" }", "only artifacts and caches"),
            ("[keep]\nimages = { at_least = 3 }", "only `for` and `bytes`"),
            ("[projects.x.keep]\nimages = { for = \"1d\" }", "images"),
            ("[keep]\ndisk = { above = 50, until = 80 }", "until"),
            ("[keep]\ndisk = { above = 200, until = 80 }", "above"),
            ("[keep]\nartifacts = { bytes = \"lots\" }", "lots"),
            ("[projects.x]\nkep = {}", "kep"),
            ("[keep", ""),
        ] {
            let error =
                Config::parse(text).and_then(|file| Policy::of_server().with(file)).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_typed_holds_alone() {
        let mut policy = Policy::of_server();
        policy.ask("layers", "3d,5").unwrap();
        let keep = Keep { within: Some(DAY * 3), at_least: Some(5), ..Keep::default() };
        assert_eq!(policy.of("x").layers, keep);
        policy.ask("layers", "0").unwrap();
        assert_eq!(policy.of("x").layers, Keep { at_most: Some(0), ..Keep::default() });
        policy.ask("caches", "2GB").unwrap();
        assert_eq!(policy.of("x").caches, Keep { bytes: Some(2_000_000_000), ..Keep::default() });
        for bad in ["", "soon", "3 apples", "-1"] {
            assert!(policy.ask("runs", bad).is_err(), "{bad}");
        }
        assert!(policy.ask("mirrors", "3d").is_err());
        policy.ask("images", "7d,2GB").unwrap();
        assert_eq!(policy.images().bytes, Some(2_000_000_000));
        policy.ask("images", "0").unwrap();
        assert_eq!(policy.images(), &Keep { at_most: Some(0), ..Keep::default() });
        assert!(policy.ask("images", "5").is_err());
    }
}
