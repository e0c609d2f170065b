//! One line of a run's history. A run's state is the fold of its events, and nothing else.
//!
//! Events are facts that came from outside: a plan was made, an agent took a job, a person asked.
//! What follows from them (which job is ready, skipped or over) is computed by the engine and is
//! never an event of its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use kiln_stdx::Timestamp;

use crate::artifact::Artifact;
use crate::id::{AgentId, JobIndex, LeaseId};
use crate::layer::LayerId;
use crate::outcome::{Exit, Outcome};

/// A numbered, dated fact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// From 1, without gaps, in its run.
    pub seq: u64,
    pub at: Timestamp,
    #[serde(flatten)]
    pub kind: EventKind,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum EventKind {
    /// The run's plan is frozen.
    Planned,
    /// There will be no plan: the manifest is missing or wrong.
    PlanRefused {
        message: String,
    },
    /// An agent has the right to an attempt.
    Leased {
        lease: LeaseId,
        agent: AgentId,
        agent_name: String,
        /// Which lock of [`crate::plan::Lock::any`] it holds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lock: Option<String>,
    },
    /// The agent is about to run the first step. From here on a second try needs a policy.
    Started {
        lease: LeaseId,
    },
    StepStarted {
        lease: LeaseId,
        step: u32,
        log_from: u64,
    },
    StepFinished {
        lease: LeaseId,
        step: u32,
        exit: Exit,
        log_to: u64,
    },
    Finished {
        lease: LeaseId,
        #[serde(flatten)]
        outcome: Outcome,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        outputs: BTreeMap<String, String>,
        /// What it wrote; absent: nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        layer: Option<LayerId>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        artifacts: Vec<Artifact>,
        #[serde(default)]
        log_bytes: u64,
        #[serde(default, skip_serializing_if = "Notes::is_empty")]
        notes: Notes,
    },
    /// The agent was silent for too long. Not started: the attempt is offered again under a new
    /// epoch. Started: it is lost.
    Lapsed {
        lease: LeaseId,
        message: String,
    },
    CancelAsked {
        by: String,
    },
    /// New attempts of these jobs, and of the jobs that need them, under the same plan.
    RerunAsked {
        jobs: Vec<JobIndex>,
        by: String,
    },
}

/// What else an agent has to say of an attempt that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// What a person should know and no job failed of. Whole sentences without the full stop.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Positions of the steps that the attempt's job can be begun from: the files that each found are
    /// kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boundaries: Vec<u32>,
}

impl Notes {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl EventKind {
    /// The lease that the event speaks of.
    pub fn lease(&self) -> Option<LeaseId> {
        match self {
            Self::Leased { lease, .. }
            | Self::Started { lease }
            | Self::StepStarted { lease, .. }
            | Self::StepFinished { lease, .. }
            | Self::Finished { lease, .. }
            | Self::Lapsed { lease, .. } => Some(*lease),
            Self::Planned
            | Self::PlanRefused { .. }
            | Self::CancelAsked { .. }
            | Self::RerunAsked { .. } => None,
        }
    }
}
