//! What must be known to stand where a past job stood: which files, which variables, which folder.
//!
//! Asked over the socket in the data folder only, and answered to nobody else: whoever may read the
//! folder may read all that this tells.

use std::collections::BTreeMap;

use kiln_model::JobState;
use kiln_stdx::Secret;
use serde::{Deserialize, Serialize};

use crate::agent::Assignment;

/// Which job of which run, and at which moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Enter {
    pub project: String,
    pub number: i64,
    /// `None`: the only job, or the only one that failed.
    pub job: Option<String>,
    /// `None`: the last one.
    pub attempt: Option<u32>,
    pub moment: Moment,
    /// The values of the job's secrets are wanted too.
    pub secrets: bool,
}

/// When a job's files are looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "at", content = "step")]
pub enum Moment {
    /// When it failed, or when it was over. For a job that never ran: before its first step.
    Left,
    /// Before its first step.
    Start,
    /// As a step found them. A step is named by its number, from 1, or by its name.
    Before(String),
    /// As a step left them.
    After(String),
    /// Now: the job must be running.
    Live,
}

/// A job at a moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scene {
    /// What the attempt's agent was told. Its layers are all that lie over the source at that moment,
    /// its own included. Without secrets.
    pub assignment: Assignment,
    pub state: JobState,
    /// `None`: it never ran.
    pub attempt: Option<u32>,
    /// When that is, after "files": `as failed step 2 (make test) left them`.
    pub when: String,
    /// Which step's variables and folder are meant, by position. `None`: the job's.
    pub step: Option<u32>,
    /// The job was chosen here and not by the person.
    pub chosen: bool,
    /// What a person should know besides. Whole sentences without the full stop.
    pub notes: Vec<String>,
    /// The secrets that were asked for and are there.
    #[serde(with = "exposed")]
    pub secrets: BTreeMap<String, Secret<String>>,
    /// Names of the job's other secrets.
    pub without: Vec<String>,
    /// Variables that the agent of the asked machine gives to every job; empty: not known.
    pub machine_env: Vec<(String, String)>,
}

/// Values in the open. The socket that they go through is its owner's alone.
mod exposed {
    use std::collections::BTreeMap;

    use kiln_stdx::Secret;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(
        secrets: &BTreeMap<String, Secret<String>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_map(secrets.iter().map(|(name, value)| (name, value.expose())))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<String, Secret<String>>, D::Error> {
        let open = BTreeMap::<String, String>::deserialize(from)?;
        Ok(open.into_iter().map(|(name, value)| (name, Secret::new(value))).collect())
    }
}
