//! A run's jobs, fully resolved, with their needs. Frozen with the run.
//!
//! Always, once [`Plan::check`] has passed: every need points to a job of the plan, there is no
//! cycle, names are unique, every job has at least one step. A plan is only made by a resolver that
//! checked it, and is checked again when it is read back.

mod check;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::check::PlanError;
use crate::condition::Condition;
use crate::id::JobIndex;
use crate::name::JobName;
pub use crate::surroundings::{ExecutorKind, Limits, Network, Pull, Volume};

/// The version of the frozen form. A reader refuses a higher one.
pub const PLAN_VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub version: u32,
    /// Where it was written, relative to the repository's root.
    pub manifest: String,
    /// The values of the manifest's inputs for this run, defaults filled in. Given to the steps as
    /// `KILN_INPUT_<NAME>`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, InputValue>,
    /// In written order; matrix instances in the order of their axes.
    pub jobs: Vec<Job>,
}

/// The value of an input, of the type that the manifest declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum InputValue {
    Boolean(bool),
    Number(i64),
    /// Also a choice.
    Text(String),
}

impl fmt::Display for InputValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(value),
        }
    }
}

/// A node of the plan: what one agent takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub name: JobName,
    /// The name as written; instances of one matrix share it.
    pub group: JobName,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub matrix: BTreeMap<String, String>,
    /// Positions in [`Plan::jobs`], in declared order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<JobIndex>,
    /// `if:`. What could be decided when planning is decided; the rest waits for the run.
    #[serde(default, rename = "if", skip_serializing_if = "Option::is_none")]
    pub condition: Option<Condition>,
    /// Runs also when needs have failed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub always: bool,
    /// Its failure makes the run `warning`, not `failed`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_failure: bool,
    /// How its agent runs it.
    #[serde(default, skip_serializing_if = "ExecutorKind::is_auto")]
    pub executor: ExecutorKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// When the image is asked for at its registry. `None`: as the runner has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull: Option<Pull>,
    /// Of the container: `1000`, `node`, `0:0`, `user:group`. `None`: as the image has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What its steps reach. `None`: as the runner has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// What is absent is as the runner has it.
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
    /// Of a job on the host: it uses the machine's tools and cannot change the machine. `None`: as the
    /// runner has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<bool>,
    /// Its container may do what root of the machine may.
    #[serde(default, skip_serializing_if = "is_false")]
    pub privileged: bool,
    /// What its container sees of the machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// `user@host` of the ssh executor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<String>,
    /// Labels that an agent must have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// The plan's and the job's variables, later ones over earlier ones.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    pub steps: Vec<Step>,
    /// Of all steps together.
    #[serde(with = "millis")]
    pub timeout: Duration,
    #[serde(default)]
    pub retry: Retry,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<ArtifactRule>,
    /// Names of secrets, given to the steps as variables of the same name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
    /// Names of the values that its steps promise to give.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
    /// Globs of what it reads; empty: everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// Files that it may find again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cache: Vec<CacheRule>,
    /// Part of what its result depends on, besides what kiln sees: another text, another result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_key: Option<String>,
    /// Which files it starts from.
    #[serde(default, skip_serializing_if = "View::is_all")]
    pub workspace: View,
    /// Whether its files are kept as each step found them. `None`: as the runner has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<Snapshots>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, Service>,
    /// Who may approve; the job waits for one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approve: Option<Vec<String>>,
    /// Higher goes first; -100 to 100.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i32,
}

/// One command of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub name: String,
    pub run: Command,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Relative to the workspace's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    #[serde(default, with = "optional_millis", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Runs also when an earlier step has failed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub always: bool,
}

/// What a step runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// A script, by the shell, which stops at the first error. `shell` is `sh` or `bash`.
    Shell { script: String, shell: String },
    /// A program and its arguments, as they are.
    Argv { argv: Vec<String> },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// How many attempts in all; 1: no retry.
    pub attempts: u32,
    /// What is worth another attempt.
    pub on: Vec<RetryOn>,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 1, on: Vec::new() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// A step ended with an exit code or a signal.
    Failed,
    Timeout,
    /// The agent went away.
    Lost,
    /// kiln's own trouble.
    Error,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactRule {
    /// Relative to the workspace; `*` within a name, `**` across folders. A folder means its files.
    pub glob: String,
    /// Matching nothing is not a failure.
    #[serde(default, skip_serializing_if = "is_false")]
    pub optional: bool,
}

/// Files that a job may find again, and may always find gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenCacheRule")]
pub struct CacheRule {
    /// A folder or a file: relative to the workspace, absolute, or below the home (`~/…`).
    pub path: String,
    /// Caches of one path with different keys are different caches. Default: one for the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Plans of the first version had the path alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenCacheRule {
    Path(String),
    Rule {
        path: String,
        #[serde(default)]
        key: Option<String>,
    },
}

impl From<WrittenCacheRule> for CacheRule {
    fn from(written: WrittenCacheRule) -> Self {
        match written {
            WrittenCacheRule::Path(path) => Self { path, key: None },
            WrittenCacheRule::Rule { path, key } => Self { path, key },
        }
    }
}

/// Which files a job starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "sees")]
pub enum View {
    /// The source, and what its needs saw and left.
    #[default]
    All,
    /// The source, and what these jobs saw and left; they are among its needs.
    From { jobs: Vec<JobIndex> },
    /// The source only.
    Fresh,
    /// An empty folder.
    Nothing,
}

impl View {
    pub fn is_all(&self) -> bool {
        *self == Self::All
    }
}

/// When a job's files are kept besides at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Snapshots {
    /// Before each step that finds other files than the step before it.
    Steps,
    Off,
}

/// A semaphore of the project. The holder keeps it from lease to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// One of these is held; with one name, that one.
    pub any: Vec<String>,
    /// How many may hold one name at once.
    pub limit: u32,
}

/// A container beside the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub image: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// A command that succeeds when the service can be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// How long it may take until then. `None`: `limit::SERVICE_READY_TIMEOUT`.
    #[serde(default, with = "optional_millis", skip_serializing_if = "Option::is_none")]
    pub ready_timeout: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Of its own processes, beside those of the job. What is absent is as the runner has it.
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
}

impl Service {
    /// Of an image, as it is.
    pub fn of(image: impl Into<String>) -> Self {
        let (env, ready, ready_timeout, command) = (BTreeMap::new(), None, None, None);
        let limits = Limits::default();
        Self { image: image.into(), env, ready, ready_timeout, command, limits }
    }
}

/// So much of a step's name is quoted in an error.
const SHOWN_CHARS: usize = 60;

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &i32) -> bool {
    *value == 0
}

/// Durations in milliseconds.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

mod optional_millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(span: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match span {
            Some(span) => super::millis::serialize(span, to),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.map(Duration::from_millis))
    }
}

/// Why a text names no step of a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoStep {
    #[error("job `{job}` has no step `{text}`; its steps are {steps}")]
    Unknown { job: JobName, text: String, steps: String },
    #[error(
        "job `{job}` has several steps `{text}`; name one by its number: its steps are {steps}"
    )]
    Ambiguous { job: JobName, text: String, steps: String },
}

impl Job {
    /// The position of a step that a person names, by its number from 1 or by its name.
    pub fn find_step(&self, text: &str) -> Result<u32, NoStep> {
        let number = text.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
        // A step without a name is called by its command, which may have more lines than one types.
        let is = |name: &str| name == text || name.lines().next() == Some(text);
        let named = |(at, step): (usize, &Step)| is(&step.name).then_some(at);
        let mut found = self.steps.iter().enumerate().filter_map(named);
        let at = match number.filter(|at| *at < self.steps.len()) {
            Some(at) => Some(at),
            None => found.next(),
        };
        let fault = |make: fn(JobName, String, String) -> NoStep| {
            let text = text.chars().take(SHOWN_CHARS).collect::<String>();
            Err(make(self.name.clone(), text.escape_debug().to_string(), self.steps_in_words()))
        };
        match (at.and_then(|at| u32::try_from(at).ok()), number.is_none() && found.next().is_some())
        {
            (Some(_), true) => fault(|job, text, steps| NoStep::Ambiguous { job, text, steps }),
            (Some(at), false) => Ok(at),
            (None, _) => fault(|job, text, steps| NoStep::Unknown { job, text, steps }),
        }
    }

    /// Why no files are kept between its steps, whatever its manifest wishes. Part of a sentence.
    pub fn no_boundaries(&self) -> Option<&'static str> {
        match self {
            Self { ssh: Some(_), .. } => Some("its steps run on another machine"),
            Self { services, .. } if !services.is_empty() => Some("its services run beside them"),
            _ => None,
        }
    }

    fn steps_in_words(&self) -> String {
        const SHOWN: usize = 20;
        let name = |(at, step): (usize, &Step)| {
            let first = step.name.lines().next().unwrap_or_default();
            let short: String = first.chars().take(SHOWN_CHARS).collect();
            format!("{} `{}`", at + 1, short.escape_debug())
        };
        let mut all: Vec<String> = self.steps.iter().enumerate().take(SHOWN).map(name).collect();
        if self.steps.len() > SHOWN {
            all.push(format!("{} more", self.steps.len() - SHOWN));
        }
        all.join(", ")
    }

    /// A job of one shell command and defaults everywhere else.
    pub fn sample(name: &str, script: &str) -> Self {
        let name = JobName::new(name).expect("callers give a lawful name");
        Self {
            group: name.clone(),
            name,
            matrix: BTreeMap::new(),
            needs: Vec::new(),
            condition: None,
            always: false,
            allow_failure: false,
            executor: ExecutorKind::Auto,
            image: None,
            pull: None,
            user: None,
            network: None,
            limits: Limits::default(),
            sandbox: None,
            privileged: false,
            volumes: Vec::new(),
            ssh: None,
            labels: Vec::new(),
            env: BTreeMap::new(),
            steps: vec![Step {
                name: script.to_owned(),
                run: Command::Shell { script: script.to_owned(), shell: "sh".to_owned() },
                env: BTreeMap::new(),
                directory: None,
                timeout: None,
                always: false,
            }],
            timeout: crate::limit::JOB_TIMEOUT,
            retry: Retry::default(),
            artifacts: Vec::new(),
            secrets: Vec::new(),
            lock: None,
            outputs: Vec::new(),
            inputs: Vec::new(),
            cache: Vec::new(),
            cache_key: None,
            workspace: View::All,
            snapshots: None,
            services: BTreeMap::new(),
            approve: None,
            priority: 0,
        }
    }
}
