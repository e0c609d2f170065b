//! A run's jobs, fully resolved, with their needs. Frozen with the run.
//!
//! Always, once [`Plan::check`] has passed: every need points to a job of the plan, there is no
//! cycle, names are unique, every job has at least one step. A plan is only made by a resolver that
//! checked it, and is checked again when it is read back.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

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

/// Why a plan cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("the plan has version {0}; this kiln reads up to {PLAN_VERSION}")]
    Version(u32),
    #[error("job `{0}` occurs twice")]
    Twice(JobName),
    #[error("job `{0}` has no step")]
    NoStep(JobName),
    #[error("job `{job}` needs job {need}, and the plan has {n_jobs} jobs")]
    UnknownNeed { job: JobName, need: JobIndex, n_jobs: usize },
    #[error("job `{job}` starts from the files of job {from}, which it does not need")]
    NotNeeded { job: JobName, from: JobIndex },
    #[error("the jobs need each other in a circle: {}", .0.join(" -> "))]
    Cycle(Vec<String>),
}

/// So much of a step's name is quoted in an error.
const SHOWN_CHARS: usize = 60;

impl Plan {
    pub fn job(&self, at: JobIndex) -> &Job {
        &self.jobs[at.at()]
    }

    pub fn indices(&self) -> impl Iterator<Item = JobIndex> + use<> {
        (0..u32::try_from(self.jobs.len()).unwrap_or(u32::MAX)).map(JobIndex)
    }

    /// Finds a job by its name.
    pub fn find(&self, name: &str) -> Option<JobIndex> {
        self.indices().find(|at| self.job(*at).name.as_str() == name)
    }

    /// The promises of the module's header.
    pub fn check(&self) -> Result<(), PlanError> {
        if self.version > PLAN_VERSION {
            return Err(PlanError::Version(self.version));
        }
        let mut names = HashSet::new();
        for job in &self.jobs {
            if !names.insert(&job.name) {
                return Err(PlanError::Twice(job.name.clone()));
            }
            if job.steps.is_empty() {
                return Err(PlanError::NoStep(job.name.clone()));
            }
            if let Some(&need) = job.needs.iter().find(|need| need.at() >= self.jobs.len()) {
                let (job, n_jobs) = (job.name.clone(), self.jobs.len());
                return Err(PlanError::UnknownNeed { job, need, n_jobs });
            }
            let View::From { jobs } = &job.workspace else { continue };
            if let Some(&from) = jobs.iter().find(|from| !job.needs.contains(from)) {
                return Err(PlanError::NotNeeded { job: job.name.clone(), from });
            }
        }
        match self.cycle() {
            Some(cycle) => {
                let name = |at: JobIndex| self.job(at).name.to_string();
                Err(PlanError::Cycle(cycle.into_iter().map(name).collect()))
            }
            None => Ok(()),
        }
    }

    /// A circle of needs, its first job repeated at the end, if there is one.
    pub fn cycle(&self) -> Option<Vec<JobIndex>> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            OnPath,
            Done,
        }
        let mut marks = vec![Mark::New; self.jobs.len()];
        // An explicit stack: a chain of 10,000 jobs must not overflow the thread's.
        for start in self.indices() {
            let mut path = vec![(start, 0)];
            while let Some((at, next)) = path.pop() {
                if next == 0 && marks[at.at()] != Mark::New {
                    continue;
                }
                marks[at.at()] = Mark::OnPath;
                match self.job(at).needs.get(next) {
                    None => marks[at.at()] = Mark::Done,
                    Some(&need) => {
                        path.push((at, next + 1));
                        if marks[need.at()] == Mark::OnPath {
                            let from = path.iter().position(|(job, _)| *job == need)?;
                            let mut circle: Vec<_> = path[from..].iter().map(|p| p.0).collect();
                            circle.push(need);
                            return Some(circle);
                        }
                        path.push((need, 0));
                    }
                }
            }
        }
        None
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(needs: &[&[u32]]) -> Plan {
        let job = |(at, needs): (usize, &&[u32])| Job {
            needs: needs.iter().copied().map(JobIndex).collect(),
            ..Job::sample(&format!("j{at}"), "true")
        };
        Plan {
            version: PLAN_VERSION,
            manifest: ".kiln.yml".into(),
            inputs: BTreeMap::new(),
            jobs: needs.iter().enumerate().map(job).collect(),
        }
    }

    #[test]
    fn a_cycle_is_named_in_full() {
        let names = |n: &[&str]| n.iter().map(|n| (*n).to_owned()).collect();
        assert_eq!(
            plan(&[&[], &[0, 3], &[1], &[2]]).check(),
            Err(PlanError::Cycle(names(&["j1", "j3", "j2", "j1"])))
        );
        assert_eq!(plan(&[&[0]]).check(), Err(PlanError::Cycle(names(&["j0", "j0"]))));
        assert_eq!(plan(&[&[], &[0], &[0], &[1, 2]]).check(), Ok(()));
    }

    #[test]
    fn a_step_is_named_by_its_number_or_its_name() {
        let mut job = Job::sample("j", "build");
        for name in ["test", "test", "1"] {
            let step = Step { name: name.to_owned(), ..job.steps[0].clone() };
            job.steps.push(step);
        }
        let words = |text| job.find_step(text).map_err(|error| error.to_string());
        assert_eq!((words("1"), words("4"), words("build")), (Ok(0), Ok(3), Ok(0)));
        let steps = "its steps are 1 `build`, 2 `test`, 3 `test`, 4 `1`";
        for text in ["0", "5", "", "-1", "tset", "99999999999999999999"] {
            assert_eq!(words(text), Err(format!("job `j` has no step `{text}`; {steps}")));
        }
        let several = "job `j` has several steps `test`; name one by its number";
        assert_eq!(words("test"), Err(format!("{several}: {steps}")));
    }

    #[test]
    fn a_plan_survives_json() {
        let plan = plan(&[&[], &[0]]);
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    }
}
