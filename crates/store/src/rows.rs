//! Rows as they are read and written.

use kiln_model::artifact::Artifact;
use kiln_model::layer::Source;
use kiln_model::*;
use kiln_stdx::Timestamp;

#[derive(Clone, Debug, PartialEq)]
pub struct ProjectRow {
    pub id: ProjectId,
    pub name: ProjectName,
    /// Path or URL, as given.
    pub repo: String,
    pub default_branch: Option<String>,
    /// `None`: not polled.
    pub poll_every_s: Option<u32>,
    pub created_at: Timestamp,
}

#[derive(Clone, Debug)]
pub struct NewProject {
    pub name: ProjectName,
    pub repo: String,
    pub default_branch: Option<String>,
    pub poll_every_s: Option<u32>,
    pub at: Timestamp,
}

#[derive(Clone, Debug)]
pub struct NewDelivery {
    pub project: ProjectId,
    /// The same push told twice has the same key; another project may use it too.
    pub key: String,
    pub body: String,
    pub at: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryRow {
    pub id: i64,
    pub project: ProjectId,
    pub key: String,
    pub body: String,
    pub at: Timestamp,
    pub n_tries: u32,
}

#[derive(Clone, Debug)]
pub struct NewRun {
    pub trigger: Trigger,
    pub source: Source,
    /// `None`: planning was refused.
    pub plan: Option<Plan>,
    pub at: Timestamp,
    /// Written with the row, numbered from 1: `Planned` or `PlanRefused`.
    pub first: Vec<Event>,
    /// A run that is over from the start is also finished at `at`.
    pub state: RunState,
    pub reason: Option<Reason>,
    pub jobs: Vec<JobRow>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RunRow {
    pub id: RunId,
    pub project: ProjectId,
    pub project_name: ProjectName,
    pub number: RunNumber,
    pub state: RunState,
    pub reason: Option<Reason>,
    pub trigger: Trigger,
    pub source: Source,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub n_jobs: u32,
    pub n_jobs_over: u32,
    /// The next event's `seq` is this + 1.
    pub last_seq: u64,
}

/// Everything that a run's page needs of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRow {
    pub job: JobIndex,
    pub name: JobName,
    pub state: JobState,
    pub reason: Option<Reason>,
    /// The newest; 0: none yet.
    pub attempt: u32,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub log_bytes: u64,
}

/// Which runs a list shows; conditions that are given hold together.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    pub project: Option<ProjectId>,
    pub branch: Option<String>,
    pub state: Option<RunState>,
    /// Older than this number, in one project.
    pub before: Option<RunNumber>,
    /// Older than this id, across projects.
    pub before_id: Option<RunId>,
    /// At most so many.
    pub limit: u32,
}

/// A change of a run: facts, and the rows that follow from them.
#[derive(Clone, Debug)]
pub struct Append {
    pub run: RunId,
    pub events: Vec<Event>,
    pub row: Option<RunUpdate>,
    /// Replace the rows of these jobs.
    pub jobs: Vec<JobRow>,
    pub artifacts: Vec<(AttemptId, Artifact)>,
}

#[derive(Clone, Debug)]
pub struct RunUpdate {
    pub state: RunState,
    pub reason: Option<Reason>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub n_jobs_over: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ArtifactRow {
    pub attempt: AttemptId,
    pub job: JobName,
    pub artifact: Artifact,
}
