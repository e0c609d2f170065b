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
    /// Kept with all that it has; by whom.
    pub pinned: Option<Pin>,
    /// Logs of attempts that had ended by then are gone.
    pub logs_collected_at: Option<Timestamp>,
}

/// Who keeps a run, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    pub at: Timestamp,
    pub by: String,
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
    /// Of the attempt that the events end, when it has one.
    pub key: Option<JobKeyRow>,
}

/// What the result of an attempt depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct JobKeyRow {
    pub attempt: AttemptId,
    pub project: ProjectId,
    pub name: JobName,
    pub key: JobKey,
    pub scope: KeyScope,
    /// A success of its own that other runs may take.
    pub usable: bool,
}

/// Who may take a result: every run of the project, or only those of one pull request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyScope(String);

impl KeyScope {
    /// What comes from somebody else's repository gives nothing to the project's own runs.
    pub fn of(trigger: &Trigger) -> Self {
        let fork = trigger.pull_request.as_ref().filter(|pull| pull.from_fork);
        Self(fork.map_or_else(String::new, |pull| format!("pull-{}", pull.number)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a run of this scope may take what `other` has.
    pub fn may_take(&self, other: &Self) -> bool {
        other.0.is_empty() || self == other
    }
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
    /// When its bytes were collected; `None`: they are there.
    pub collected_at: Option<Timestamp>,
}

/// What decides whether a run may lose something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepRow {
    pub id: RunId,
    pub project: ProjectId,
    pub number: RunNumber,
    pub state: RunState,
    pub finished_at: Option<Timestamp>,
    pub pinned_at: Option<Timestamp>,
    /// Of its project's newest run.
    pub last_number: RunNumber,
}

/// Runs of a project that are over, not pinned, and old: over since before `before` and numbered up
/// to `age_up_to`, or numbered up to `up_to` whatever their age.
#[derive(Clone, Debug)]
pub struct OldRuns {
    pub project: ProjectId,
    /// Only greater numbers.
    pub after: RunNumber,
    pub before: Timestamp,
    pub age_up_to: RunNumber,
    pub up_to: RunNumber,
    pub kind: OldKind,
    pub limit: u32,
}

/// What an old run must still have to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldKind {
    Rows,
    Logs,
    Artifacts,
}

/// What a project's rows know of its use of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectUsage {
    pub project: ProjectId,
    pub name: ProjectName,
    pub n_runs: u64,
    pub n_pinned: u64,
    pub log_bytes: u64,
    pub artifacts: ArtifactUsage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArtifactUsage {
    pub n_objects: u64,
    pub n_bytes: u64,
}
