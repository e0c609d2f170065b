//! What an agent and its server say to one another.
//!
//! The protocol in one paragraph: an agent *takes* a job and gets a lease, (attempt, epoch). It says
//! *started* before the first step, and may not run it before that is durable. Every later call
//! carries the lease; a stale one is answered [`LeaseError::Stale`], and the agent kills what it
//! runs. It renews all its leases in one call every 15 s. The result is idempotent by lease. An
//! agent that restarts asks what it *held* and for each either goes on or gives it up.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use kiln_model::artifact::Artifact;
use kiln_model::key::{InputFile, Parts};
use kiln_model::layer::{Digest, LayerId, Source};
use kiln_model::plan::{CacheRule, Job};
use kiln_model::{
    AgentId, AttemptId, Earlier, Exit, JobName, LeaseId, Notes, Outcome, ProjectId, ProjectName,
    RunNumber, ServiceChange, Surroundings, Trigger, Usage,
};
use kiln_stdx::{Secret, Timestamp};
use serde::{Deserialize, Serialize};

/// Who takes jobs.
#[derive(Clone, Debug)]
pub struct AgentInfo {
    pub id: AgentId,
    pub name: String,
    pub labels: Vec<String>,
}

/// A job to run, with everything that its agent must know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Assignment {
    pub lease: LeaseId,
    pub project: ProjectName,
    pub number: RunNumber,
    pub job: Job,
    pub trigger: Trigger,
    /// `KILN_*`, the outputs of its needs, the plan's and the job's variables. The agent adds what
    /// only its machine knows: `PATH`, `HOME`, the workspace.
    pub env: BTreeMap<String, String>,
    /// Never written with the rest.
    #[serde(skip)]
    pub secrets: BTreeMap<String, Secret<String>>,
    pub source: Source,
    /// The bare mirror that has the source's objects, for [`Source::Git`].
    pub mirror: Option<PathBuf>,
    /// Layers over the source, lowest first: what its needs saw and left.
    pub layers: Vec<LayerId>,
    /// The jobs that wrote `layers`, in the same order.
    pub layers_of: Vec<JobName>,
    /// Through which of its needs it sees each of `layers`, as bits by the need's position. What
    /// has no bit in common meets in this job for the first time.
    pub layers_through: Vec<Vec<u64>>,
    /// Layers over those that become part of its own: what an earlier attempt had written before
    /// the step that this one begins from.
    pub own: Vec<LayerId>,
    /// The first step to run; those before it are done, in `own`.
    pub first_step: u32,
    /// Keep its files as each step finds them.
    pub snapshots: bool,
    /// Nothing is taken from earlier runs: no result, no cache.
    pub no_cache: bool,
    /// `None`: its result has no key.
    #[serde(skip)]
    pub reuse: Option<ReuseTerms>,
    /// Which caches it may read and write.
    pub caches: CacheScopes,
    /// Where the log goes. The agent appends to it; the server reads it.
    pub log: PathBuf,
    /// Where kept files go, named by digest: `objects/ab/cdef…`.
    pub objects: PathBuf,
    /// When [`JobSource::started`] was recorded, for an attempt that was held before a restart.
    pub started_at: Option<Timestamp>,
    /// What is recorded of each of its steps, by position.
    pub steps: Vec<StepKnown>,
    /// All other jobs of its run are over: what could serve the next one need not be kept.
    pub is_last: bool,
}

/// How results may be used again.
#[derive(Clone, Debug)]
pub struct ReuseTerms {
    /// Marks values that nobody may learn: the same value under the same key has the same mark.
    pub mark_key: Secret<Vec<u8>>,
}

/// What an attempt's result depends on.
#[derive(Clone, Debug)]
pub struct Keyed {
    pub digest: Digest,
    pub parts: Arc<Parts>,
}

/// An earlier attempt with the same key, and what must be looked at before its result is taken.
#[derive(Clone, Debug)]
pub struct Found {
    pub earlier: Earlier,
    pub layer: Option<LayerId>,
    /// The source must have these files, as they are here.
    pub covered: Vec<InputFile>,
}

/// What came of taking an earlier result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The attempt is over, and a success.
    Done,
    /// It is not whole any more, and why.
    Unfit(String),
}

/// Caches are kept apart by scope: `branch/main`, `pull/12`, `tag/v1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheScopes {
    /// Whose they are. Names are given again, numbers are not. `None`: nobody's, and there are none.
    pub project: Option<ProjectId>,
    /// Looked into in this order.
    pub read: Vec<String>,
    /// Where what the job leaves is kept. `None`: nowhere.
    pub write: Option<String>,
    /// The caches of the jobs that wrote [`Assignment::layers`]: there it sees what those left.
    pub below: Vec<CacheRule>,
}

/// What the source has heard of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StepKnown {
    #[default]
    Nothing,
    Started,
    Finished,
}

/// How an attempt ended, and what it gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobResult {
    pub outcome: Outcome,
    pub outputs: BTreeMap<String, String>,
    pub layer: Option<LayerId>,
    pub artifacts: Vec<Artifact>,
    pub log_bytes: u64,
    pub notes: Notes,
}

impl JobResult {
    /// A result that gives nothing.
    pub fn bare(outcome: Outcome, log_bytes: u64) -> Self {
        Self {
            outcome,
            outputs: BTreeMap::new(),
            layer: None,
            artifacts: Vec::new(),
            log_bytes,
            notes: Notes::default(),
        }
    }
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another epoch holds the attempt, or it is over: stop at once and discard everything.
    #[error("the lease {0} is stale")]
    Stale(LeaseId),
    /// The server could not record it; try again later.
    #[error("the server could not record it: {0}")]
    Unavailable(String),
}

/// Why the server wants an attempt to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Somebody cancelled it: TERM, grace, KILL, then finish as cancelled.
    Cancel { by: String },
    /// The lease is gone: KILL, discard, do not finish.
    Stale,
}

/// Whoever hands out jobs: the server in the same process, or one far away.
pub trait JobSource: Send + Sync + 'static {
    /// What the server believes this agent holds: asked once, when the agent starts.
    fn held(
        &self,
        agent: &AgentInfo,
    ) -> impl Future<Output = Result<Vec<Assignment>, LeaseError>> + Send;

    /// The agent does not run this (any more). Not started: the attempt is offered again. Started:
    /// it is lost, with this message.
    fn give_up(
        &self,
        lease: LeaseId,
        message: String,
    ) -> impl Future<Output = Result<(), LeaseError>> + Send;

    /// Waits until there is a job for this agent. Dropping the future loses nothing.
    fn take(
        &self,
        agent: &AgentInfo,
    ) -> impl Future<Output = Result<Assignment, LeaseError>> + Send;

    /// An earlier result for the key, if one may be taken and is not among `unfit` (with the reasons).
    /// While another attempt with the same key runs, waits for what comes of it. After `None` the
    /// attempt is the one that others wait for. Dropping the future loses nothing.
    fn seek(
        &self,
        lease: LeaseId,
        key: Keyed,
        unfit: Vec<(AttemptId, String)>,
    ) -> impl Future<Output = Result<Option<Found>, LeaseError>> + Send;

    /// The attempt is over with the result of that one. Durable when it resolves.
    fn reuse(
        &self,
        lease: LeaseId,
        found: Found,
        warnings: Vec<String>,
    ) -> impl Future<Output = Result<Taken, LeaseError>> + Send;

    /// Durable when it resolves. The surroundings are what the steps run in.
    fn started(
        &self,
        lease: LeaseId,
        surroundings: Surroundings,
    ) -> impl Future<Output = Result<(), LeaseError>> + Send;

    /// Recorded in order with what follows; not durable when it returns.
    fn step_started(&self, lease: LeaseId, step: u32, log_from: u64) -> Result<(), LeaseError>;

    /// As [`JobSource::step_started`].
    fn step_finished(
        &self,
        lease: LeaseId,
        step: u32,
        exit: Exit,
        log_to: u64,
        usage: Option<Usage>,
    ) -> Result<(), LeaseError>;

    /// Something has become of one of its services. Recorded as [`JobSource::step_started`].
    fn service_changed(
        &self,
        lease: LeaseId,
        service: &str,
        change: ServiceChange,
    ) -> Result<(), LeaseError>;

    /// The log has grown to so many bytes, and they are in the file.
    fn log_grew(&self, lease: LeaseId, n_bytes: u64);

    /// As [`JobSource::log_grew`], of the log of one of its services (`kiln_model::log::of_service`).
    fn service_log_grew(&self, lease: LeaseId, service: &str, n_bytes: u64);

    /// Durable when it resolves. Idempotent.
    fn finish(
        &self,
        lease: LeaseId,
        result: JobResult,
    ) -> impl Future<Output = Result<(), LeaseError>> + Send;

    /// Says that these are alive; gives those that are not any more.
    fn renew(&self, leases: &[LeaseId]) -> impl Future<Output = Vec<LeaseId>> + Send;

    /// Resolves when the server wants this attempt to stop, and never otherwise.
    fn stop_asked(&self, lease: LeaseId) -> impl Future<Output = Stop> + Send;
}
