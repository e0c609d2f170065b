//! What identifies a thing to the system. People see names and numbers instead.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $type:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $type(pub $inner);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id!(
    /// A row of `project`.
    ProjectId(i64)
);
id!(
    /// A row of `run`; unique over all projects.
    RunId(i64)
);
id!(
    /// A run's number in its project: from 1, without gaps.
    RunNumber(i64)
);
id!(
    /// A row of `agent`.
    AgentId(i64)
);
id!(
    /// A job's place in its plan.
    JobIndex(u32)
);
id!(
    /// Counts how often an attempt was leased. A write with an older epoch is refused.
    Epoch(u32)
);

impl JobIndex {
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

/// One try at a job. Attempts of a job are numbered from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    pub run: RunId,
    pub job: JobIndex,
    pub attempt: u32,
}

impl fmt::Display for AttemptId {
    /// `7-0-1`: safe in file names, labels and environment variables.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.run, self.job, self.attempt)
    }
}

impl std::str::FromStr for AttemptId {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('-');
        let mut next = || parts.next().ok_or(());
        let run = RunId(next()?.parse().map_err(drop)?);
        let job = JobIndex(next()?.parse().map_err(drop)?);
        let attempt = next()?.parse().map_err(drop)?;
        if parts.next().is_some() { Err(()) } else { Ok(Self { run, job, attempt }) }
    }
}

/// The right to one attempt: every write of an agent carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId {
    #[serde(flatten)]
    pub attempt: AttemptId,
    pub epoch: Epoch,
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.attempt, self.epoch)
    }
}
