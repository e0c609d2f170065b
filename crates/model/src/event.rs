//! One line of a run's history. A run's state is the fold of its events, and nothing else.
//!
//! Events are facts that came from outside: a plan was made, an agent took a job, a person asked.
//! What follows from them (which job is ready, skipped or over) is computed by the engine and is
//! never an event of its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use kiln_stdx::Timestamp;

use crate::artifact::Artifact;
use crate::id::{AgentId, AttemptId, JobIndex, LeaseId, RunId, RunNumber};
use crate::key::{InputFile, JobKey};
use crate::layer::LayerId;
use crate::name::JobName;
use crate::outcome::{Exit, Outcome};
use crate::service::ServiceChange;
use crate::surroundings::Surroundings;
use crate::usage::Usage;

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
    /// What the attempt's result depends on is known; an earlier result was looked for.
    Keyed {
        lease: LeaseId,
        key: JobKey,
        /// Why earlier results with this key were not taken. Whole sentences.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        unfit: Vec<String>,
    },
    /// Another attempt with the same key is being run: this one waits for its result.
    Awaited {
        lease: LeaseId,
        from: Earlier,
    },
    /// The attempt is a success without a step: an earlier one with the same key has its result. The
    /// bytes of its log are this one's too.
    Reused {
        lease: LeaseId,
        from: Earlier,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        outputs: BTreeMap<String, String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        layer: Option<LayerId>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        artifacts: Vec<Artifact>,
        #[serde(default)]
        log_bytes: u64,
        /// How the earlier steps went, by position.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        steps: Vec<EarlierStep>,
        #[serde(default, skip_serializing_if = "Notes::is_empty")]
        notes: Notes,
    },
    /// The agent is about to run the first step. From here on a second try needs a policy.
    Started {
        lease: LeaseId,
        /// What the steps run in. Absent: recorded before that was told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        surroundings: Option<Box<Surroundings>>,
    },
    /// Something has become of one of the attempt's services.
    Service {
        lease: LeaseId,
        service: String,
        #[serde(flatten)]
        change: ServiceChange,
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
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Box<Usage>>,
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
        /// One of the jobs does not begin at its first step.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<FromStep>,
    },
}

/// Where an attempt begins that takes over what an earlier one did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromStep {
    pub job: JobIndex,
    /// The position of the first step that runs.
    pub step: u32,
    /// The number of the attempt whose files that step finds.
    pub attempt: u32,
}

impl FromStep {
    /// The files as the step found them, without what lay below that attempt.
    pub fn layer(&self, run: RunId) -> LayerId {
        let attempt = AttemptId { run, job: self.job, attempt: self.attempt };
        LayerId::Boundary(format!("{attempt}.{}", self.step))
    }
}

/// What else an agent has to say of an attempt that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// What a person should know and no job failed of. Whole sentences without the full stop.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Positions of the steps that the attempt's job can be begun from: the files that each found are
    /// kept. The first step's are those that the attempt itself began with, and not named here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boundaries: Vec<u32>,
    /// Why its result is not kept for other runs, although it has a key. A whole sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_reusable: Option<String>,
    /// Files of the source that it has written over and that are none of its inputs, as they were. Its
    /// result is for sources in which these are the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub covered: Vec<InputFile>,
}

/// An attempt whose result is, or will be, used by another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earlier {
    pub attempt: AttemptId,
    /// The number of its run.
    pub number: RunNumber,
    pub job: JobName,
    /// How long it took, in milliseconds; 0 while that is not known.
    #[serde(default)]
    pub took_ms: u64,
}

/// A step of an attempt whose result is used again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlierStep {
    /// Absent: it did not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    pub log_from: u64,
    pub log_to: u64,
    pub took_ms: u64,
}

impl Notes {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl EventKind {
    /// A start of which no more is told.
    pub fn started(lease: LeaseId) -> Self {
        Self::Started { lease, surroundings: None }
    }

    /// The lease that the event speaks of.
    pub fn lease(&self) -> Option<LeaseId> {
        match self {
            Self::Leased { lease, .. }
            | Self::Keyed { lease, .. }
            | Self::Awaited { lease, .. }
            | Self::Reused { lease, .. }
            | Self::Started { lease, .. }
            | Self::Service { lease, .. }
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
