//! What a job's result depends on, as far as kiln sees it: its key, and the parts that the key is made of.
//!
//! The parts are kept so that a miss can be explained. They hold no value of a secret and none of the
//! machine's variables: of those only marks, which say whether two values are the same.
//!
//! Elsewhere: gathering the parts (`agent`), finding results by key (`server`).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::layer::Digest;

/// The version of the kept form, and part of every key: when what it counts changes, nothing of before is hit.
pub const PARTS_VERSION: u32 = 2;

/// Of how many files a difference is told.
const FILES_TOLD: usize = 8;
/// So much of a value is told.
const VALUE_CHARS_MAX: usize = 60;

/// The key of an attempt, and where the parts that it is made of are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobKey {
    pub digest: Digest,
    /// An object: JSON of [`Parts`], compressed.
    pub parts: Digest,
}

/// Everything that a key is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    pub version: u32,
    /// Sorted, each once.
    pub facts: Vec<(Fact, String)>,
    /// What the job's `inputs` match, sorted by path.
    pub files: Vec<InputFile>,
}

/// What one of the values is a value of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "of", content = "name")]
pub enum Fact {
    /// Something about the machine: `architecture`, `executor`, `system`.
    Machine(String),
    /// A mark of a variable that the job gets from its machine.
    MachineVariable(String),
    /// A key of the job in the manifest, such as `image`.
    Setting(String),
    /// A step, by its position.
    Step(u32),
    /// A variable of the manifest.
    Variable(String),
    /// A variable that kiln gives.
    OwnVariable(String),
    /// What the job sees of the repository besides files: `commit`, `refs`.
    Git(String),
    /// A mark of a secret.
    Secret(String),
    /// What a job before it left: its layer. With its place among the layers, since their order counts.
    Layer { job: String, place: u32 },
}

/// A file that a job says it reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// Relative to the root of the repository.
    #[serde(with = "kiln_stdx::path")]
    pub path: PathBuf,
    /// What it is and may be: `100755`, as git writes it, with all bits for a working tree's files.
    pub mode: String,
    /// Names its content: an object of git, or a digest of the bytes.
    pub content: String,
}

impl Parts {
    /// What keeps two keys from being the same, one sentence each. `old` is the earlier one.
    pub fn differences(old: &Self, new: &Self) -> Vec<String> {
        let mut told = Vec::new();
        if old.version != new.version {
            told.push("another kiln made the earlier key".to_owned());
        }
        let (was, is): (BTreeMap<_, _>, BTreeMap<_, _>) =
            (old.facts.iter().cloned().collect(), new.facts.iter().cloned().collect());
        let mut facts: Vec<&Fact> = was.keys().chain(is.keys()).collect();
        facts.sort_unstable();
        facts.dedup();
        for fact in facts {
            let (was, is) = (was.get(fact), is.get(fact));
            if was != is {
                told.push(fact.difference(was.map(String::as_str), is.map(String::as_str)));
            }
        }
        told.extend(of_files(&old.files, &new.files));
        told
    }
}

impl Fact {
    fn difference(&self, was: Option<&str>, is: Option<&str>) -> String {
        let change = match (was, is) {
            (None, _) => " is new",
            (_, None) => " is gone",
            _ => " changed",
        };
        match self {
            // Their values are marks, or say nothing to a person.
            Self::MachineVariable(_) | Self::Secret(_) | Self::Layer { .. } | Self::Step(_) => {
                format!("{self}{change}")
            }
            Self::Machine(_)
            | Self::Setting(_)
            | Self::Variable(_)
            | Self::OwnVariable(_)
            | Self::Git(_) => match (was, is) {
                (Some(was), Some(is)) => {
                    format!("{self}{change}: {} -> {}", short(was), short(is))
                }
                _ => format!("{self}{change}"),
            },
        }
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(what) => write!(f, "the machine's {what}"),
            Self::MachineVariable(name) => write!(f, "the machine's variable `{name}`"),
            Self::Setting(key) => write!(f, "its `{key}`"),
            Self::Step(position) => write!(f, "step {}", position + 1),
            Self::Variable(name) => write!(f, "the variable `{name}`"),
            Self::OwnVariable(name) => write!(f, "`{name}`"),
            Self::Git(what) => write!(f, "the repository's {what}"),
            Self::Secret(name) => write!(f, "the secret `{name}`"),
            Self::Layer { job, .. } => write!(f, "what `{job}` left"),
        }
    }
}

/// A value on one line, in quotes.
fn short(value: &str) -> String {
    let mut text: String = value.chars().take(VALUE_CHARS_MAX).collect();
    if text.len() < value.len() {
        text.push('…');
    }
    format!("`{}`", text.escape_debug())
}

/// Files that changed, are new or gone; the first few by name.
fn of_files(old: &[InputFile], new: &[InputFile]) -> Vec<String> {
    let by_path = |files: &[InputFile]| -> BTreeMap<PathBuf, InputFile> {
        files.iter().map(|file| (file.path.clone(), file.clone())).collect()
    };
    let (was, is) = (by_path(old), by_path(new));
    let mut told = Vec::new();
    for (path, file) in &is {
        match was.get(path) {
            None => told.push(format!("{} is new", shown(path))),
            Some(before) if before == file => {}
            Some(before) if before.content == file.content => {
                let (from, to) = (&before.mode, &file.mode);
                told.push(format!("{} has mode {to}, and had {from}", shown(path)));
            }
            Some(_) => told.push(format!("{} changed", shown(path))),
        }
    }
    let gone = was.keys().filter(|path| !is.contains_key(*path));
    told.extend(gone.map(|path| format!("{} is gone", shown(path))));
    if told.len() > FILES_TOLD {
        let n_more = told.len() - FILES_TOLD;
        told.truncate(FILES_TOLD);
        told.push(format!("and {n_more} more files"));
    }
    told
}

fn shown(path: &Path) -> String {
    format!("`{}`", path.to_string_lossy().escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, mode: &str, content: &str) -> InputFile {
        InputFile { path: path.into(), mode: mode.into(), content: content.into() }
    }

    fn parts(facts: &[(Fact, &str)], files: Vec<InputFile>) -> Parts {
        let facts = facts.iter().map(|(fact, value)| (fact.clone(), (*value).to_owned())).collect();
        Parts { version: PARTS_VERSION, facts, files }
    }

    #[test]
    fn each_difference_is_a_sentence_that_names_it() {
        let variable = |name: &str| Fact::Variable(name.to_owned());
        let layer = || Fact::Layer { job: "build".into(), place: 0 };
        let old = parts(
            &[
                (Fact::MachineVariable("PATH".into()), "mark-1"),
                (Fact::Setting("image".into()), "rust:1.89"),
                (Fact::Step(0), "make"),
                (variable("LEVEL"), "1"),
                (Fact::Secret("TOKEN".into()), "mark-2"),
                (layer(), "7-0-1"),
            ],
            vec![file("a", "100644", "1"), file("b", "100644", "2"), file("c", "100644", "3")],
        );
        let new = parts(
            &[
                (Fact::MachineVariable("PATH".into()), "mark-3"),
                (Fact::Setting("image".into()), "rust:1.90"),
                (Fact::Step(0), "make all"),
                (Fact::Step(1), "make test"),
                (variable("LEVEL"), "2\n"),
                (layer(), "8-0-1"),
            ],
            vec![file("a", "100755", "1"), file("b", "100644", "4"), file("d", "100644", "3")],
        );
        assert_eq!(
            Parts::differences(&old, &new),
            [
                "the machine's variable `PATH` changed",
                "its `image` changed: `rust:1.89` -> `rust:1.90`",
                "step 1 changed",
                "step 2 is new",
                "the variable `LEVEL` changed: `1` -> `2\\n`",
                "the secret `TOKEN` is gone",
                "what `build` left changed",
                "`a` has mode 100755, and had 100644",
                "`b` changed",
                "`d` is new",
                "`c` is gone",
            ]
        );
        assert_eq!(Parts::differences(&old, &old), Vec::<String>::new());
    }

    #[test]
    fn of_many_files_the_first_are_named() {
        let many = (0..20).map(|n| file(&format!("f{n:02}"), "100644", "1")).collect();
        let told = Parts::differences(&parts(&[], Vec::new()), &parts(&[], many));
        assert_eq!((told.len(), told[0].as_str()), (9, "`f00` is new"));
        assert_eq!(told[8], "and 12 more files");
    }

    #[test]
    fn parts_survive_json() {
        let layer = Fact::Layer { job: "build".into(), place: 0 };
        let parts = parts(&[(layer, "7-0-1"), (Fact::Step(0), "x")], vec![file("a", "1", "2")]);
        let text = serde_json::to_string(&parts).unwrap();
        assert_eq!(serde_json::from_str::<Parts>(&text).unwrap(), parts);
    }
}
