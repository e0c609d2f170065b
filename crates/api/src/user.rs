//! What the pages, the JSON under `/api/v1` and the command line show: one set of types for all three.
//!
//! Times are RFC 3339 in UTC. A list is an array of objects whose fields have the names of the
//! tables' columns.

use std::collections::BTreeMap;

use kiln_model::artifact::Artifact;
use kiln_model::{Exit, JobState, Reason, RunState, ServiceState, Surroundings, TriggerKind};
use kiln_stdx::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

/// A project with its newest runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Project {
    pub project: String,
    pub repo: String,
    pub default_branch: Option<String>,
    /// Seconds between polls; absent: off.
    pub poll_every_s: Option<u32>,
    pub created_at: Timestamp,
    /// Newest first.
    pub runs: Vec<Run>,
    /// What keeps its pushes from being seen, such as a repository that cannot be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// One row of a list of runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    pub project: String,
    pub number: i64,
    pub state: RunState,
    /// Why it is so, in one sentence.
    pub reason: Option<String>,
    pub event: TriggerKind,
    pub branch: Option<String>,
    pub tag: Option<String>,
    pub commit: String,
    pub title: String,
    pub author: String,
    pub actor: Option<String>,
    pub inputs: BTreeMap<String, String>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub n_jobs: u32,
    pub n_jobs_over: u32,
    /// Kept with all that it has, whatever its age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<Pinned>,
}

/// A run with its jobs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunDetail {
    #[serde(flatten)]
    pub run: Run,
    /// In plan order.
    pub jobs: Vec<JobRow>,
    /// Number of events applied so far: a reader that has a newer one ignores this answer.
    pub seq: u64,
}

/// A job as its run's page shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobRow {
    pub job: String,
    pub group: String,
    pub state: JobState,
    pub reason: Option<String>,
    /// Names of the jobs that it needs.
    pub needs: Vec<String>,
    pub allow_failure: bool,
    /// 0: none yet.
    pub attempt: u32,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub log_bytes: u64,
    /// What a person should know of its last attempt, and the job did not fail of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// It did not run: an earlier job's result is its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused_from: Option<Reused>,
}

/// Whose result a job has that did not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reused {
    /// The number of its run, in the same project.
    pub number: i64,
    pub job: String,
    pub attempt: u32,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// A job with its attempts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobDetail {
    #[serde(flatten)]
    pub row: JobRow,
    pub matrix: BTreeMap<String, String>,
    pub outputs: BTreeMap<String, String>,
    pub attempts: Vec<Attempt>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attempt {
    pub attempt: u32,
    pub state: JobState,
    pub reason: Option<String>,
    pub agent: Option<String>,
    pub lock: Option<String>,
    pub queued_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub log_bytes: u64,
    /// What its steps run in; absent before it starts, and where that was not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surroundings: Option<Surroundings>,
    pub steps: Vec<Step>,
    /// The containers beside it that were begun, in the order of their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
    pub artifacts: Vec<Artifact>,
    /// What it had and has no more: of `log`, `artifacts`, `layer`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub collected: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused_from: Option<Reused>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    pub step: u32,
    pub name: String,
    /// `queued` before it starts; `skipped` when the job ended first.
    pub state: JobState,
    pub exit: Option<Exit>,
    /// The exit in words.
    pub reason: Option<String>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// Bytes of the attempt's log that are this step's.
    pub log_from: Option<u64>,
    pub log_to: Option<u64>,
    /// The earlier attempt that ran it, where this one began at a later step. Its times and its part
    /// of the log are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Its files are kept as it found them: the job can be run again from here.
    #[serde(default)]
    pub kept: bool,
    /// What it used of its machine; absent where that is not known, and before it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<kiln_model::Usage>,
}

/// A container beside an attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Service {
    pub service: String,
    pub image: String,
    pub state: ServiceState,
    /// How it ended, in words, when that was not with its job.
    pub reason: Option<String>,
    pub started_at: Timestamp,
    pub ready_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub log_bytes: u64,
}

/// An artifact in a run's list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ArtifactRow {
    pub job: String,
    pub attempt: u32,
    #[serde(flatten)]
    pub artifact: Artifact,
    /// When its bytes were collected; absent: they are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collected_at: Option<Timestamp>,
}

/// A part of a log by lines.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogWindow {
    /// Number of the first line given, from 0.
    pub first: u64,
    pub n_lines: u64,
    pub n_bytes: u64,
    /// No more will come.
    pub over: bool,
    pub lines: Vec<LogLine>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogLine {
    /// Where it begins in the log.
    pub offset: u64,
    /// Invalid UTF-8 replaced; a line longer than the limit is cut.
    pub text: String,
    /// Its length in bytes when it was cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_from: Option<u64>,
}

/// A line that a search found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogHit {
    /// Counted from 0.
    pub line: u64,
    /// Where it begins in the log.
    pub offset: u64,
}

/// Why a run or a job is as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Why {
    /// `project#12` or `project#12/test`.
    pub of: String,
    pub state: String,
    /// One sentence.
    pub summary: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What led there, oldest first.
    pub history: Vec<WhyLine>,
    /// The condition's parts with their values, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// Of a job with `inputs` that ran: what is another since it ran before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<Compared>,
}

/// What a job's result depends on, compared with the run before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// `#8/build`; absent: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<String>,
    /// Which file, variable, step or need, a sentence each.
    pub differences: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WhyLine {
    pub at: Timestamp,
    pub text: String,
}

/// Body of `POST /api/v1/projects`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddProject {
    pub name: String,
    pub repo: String,
    #[serde(default)]
    pub poll_every_s: Option<u32>,
}

/// Body of `POST /api/v1/projects/{project}/runs`. Without branch, tag and commit: the default branch.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TriggerRun {
    #[serde(default)]
    pub branch: Option<String>,
    #[serde(default)]
    pub tag: Option<String>,
    #[serde(default)]
    pub commit: Option<String>,
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
    /// Take nothing from earlier runs: no result, no cache.
    #[serde(default)]
    pub no_cache: bool,
}

/// Body of `POST …/rerun`. Neither: every job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rerun {
    /// Jobs that failed, were lost or cancelled, and what needs them.
    #[serde(default)]
    pub failed: bool,
    /// This job and what needs it.
    #[serde(default)]
    pub job: Option<String>,
    /// The step of that job to begin from, by its number from 1 or by its name; those before it are
    /// taken over from the latest attempt that has kept the files.
    #[serde(default, deserialize_with = "number_or_text")]
    pub from: Option<String>,
}

/// A number is as good as its text.
fn number_or_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u64),
        Text(String),
    }
    let written = Option::<Written>::deserialize(from)?;
    Ok(written.map(|written| match written {
        Written::Number(number) => number.to_string(),
        Written::Text(text) => text,
    }))
}

/// A push, told by a post-receive hook over the data folder's socket or found by polling.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Push {
    pub project: String,
    /// Absent when git gave it in the environment's place; then the hook's user name.
    pub actor: Option<String>,
    /// Differs for every push, so that `a → b`, `b → a`, `a → b` are three pushes and the same push
    /// told twice is one. Empty: the server makes one up.
    #[serde(default)]
    pub nonce: String,
    pub refs: Vec<RefUpdate>,
}

/// What came of a push that was told.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PushAnswer {
    pub runs: Vec<StartedRun>,
    /// Refs that started nothing, each with the reason; one line each.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A run that a push has started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StartedRun {
    /// `project#12`.
    pub run: String,
    pub state: RunState,
    pub reason: Option<String>,
    pub url: String,
}

/// One ref of a push. All zeroes: the ref was not there, or is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefUpdate {
    pub name: String,
    pub old: String,
    pub new: String,
}

/// Body of every error answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// `run_not_found`, `bad_request`, …
    pub code: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// Body of `POST /api/v1/gc`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskGc {
    /// Nothing is removed; the answer says what would be.
    #[serde(default)]
    pub dry_run: bool,
    /// For this once: of `runs`, `logs`, `artifacts`, `layers` or `caches` what is kept, such as `3d`,
    /// `20` (runs) or `10GB`.
    #[serde(default)]
    pub keep: BTreeMap<String, String>,
    /// Every layer is read before, and what is not what it was is set aside.
    #[serde(default)]
    pub verify: bool,
}

/// What was collected.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GcReport {
    pub dry_run: bool,
    pub collected: Vec<CollectedRow>,
    /// On disk, of all that was collected.
    pub n_bytes: u64,
    /// What could not be done. Whole sentences without the full stop.
    pub trouble: Vec<String>,
    /// What somebody should know although all went well. Sentences of the same kind.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// When that was asked for: what reading every layer has shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<VerifiedLayers>,
}

/// What came of reading every layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedLayers {
    pub n_layers: u64,
    /// Of these, layers that nobody had read before: they are compared from the next time on.
    pub n_new: u64,
    /// What was damaged and is set aside. Whole sentences without the full stop, with the way out.
    pub damaged: Vec<String>,
}

/// One row of what was collected, or of what is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectedRow {
    /// `runs`, `logs`, `artifacts`, `layers`, `sources`, `caches`, `mirrors`, …
    pub kind: String,
    /// Absent for what belongs to no project alone.
    pub project: Option<String>,
    pub n: u64,
    pub n_bytes: u64,
}

/// What is there, and what it takes on disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    pub kept: Vec<CollectedRow>,
    pub n_bytes: u64,
    /// Of the file system.
    pub free_bytes: u64,
    pub total_bytes: u64,
    /// Layers that nobody has counted yet are missing.
    pub is_partial: bool,
}

/// Who keeps a run, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    pub at: Timestamp,
    pub by: String,
}
