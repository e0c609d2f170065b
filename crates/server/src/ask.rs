//! What people ask for: a project, a run, an end to a run, another try. The JSON and the pages both
//! come here, so that a button and `kiln` do the same.

use std::collections::BTreeMap;

use kiln_api::user::{AddProject, Rerun, TriggerRun};
use kiln_engine::run::Run;
use kiln_git::{GitError, Location, Mirror, refs};
use kiln_manifest::Input;
use kiln_model::layer::Source;
use kiln_model::plan::Job;
use kiln_model::{EventKind, FromStep, JobIndex, JobState, ProjectName, Trigger, TriggerKind};
use kiln_store::{NewProject, ProjectRow, RunRow, StoreError};

use crate::reconcile::plan::{self, Outcome};
use crate::report::whole;
use crate::runs::{ApplyError, new_run};
use crate::state::App;

/// Shortest pause between two looks at a far repository: shorter is an attack on its host.
const POLL_MIN_S: u32 = 10;

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Wrong in itself; the first word is its code.
    #[error("{message}")]
    Wrong { code: &'static str, message: String, help: Option<String> },
    #[error("{message}")]
    NotFound { code: &'static str, message: String },
    /// Right, and not now.
    #[error("{message}")]
    Conflict { code: &'static str, message: String },
    #[error(transparent)]
    Git(GitError),
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for AskError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Exists(_) => Self::Conflict { code: "exists", message: error.to_string() },
            StoreError::NotFound(what) => {
                Self::NotFound { code: code_of(what), message: format!("there is no such {what}") }
            }
            other => Self::Store(other),
        }
    }
}

impl From<GitError> for AskError {
    fn from(error: GitError) -> Self {
        let message = error.to_string();
        match error {
            GitError::Refused { .. } | GitError::NotARepository(_) | GitError::Bare(_) => {
                Self::Wrong { code: "bad_repository", message, help: None }
            }
            GitError::TooLarge { .. } | GitError::NotAFile { .. } => {
                Self::Wrong { code: "bad_manifest", message, help: None }
            }
            GitError::NotFound { .. } => Self::NotFound { code: "commit_not_found", message },
            other => Self::Git(other),
        }
    }
}

impl From<ApplyError> for AskError {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Refused(refused) => {
                Self::Conflict { code: "refused", message: refused.to_string() }
            }
            ApplyError::Store(error) => error.into(),
        }
    }
}

/// The code of "there is no such …".
pub fn code_of(what: &str) -> &'static str {
    match what {
        "project" => "project_not_found",
        "run" => "run_not_found",
        "job" => "job_not_found",
        "attempt" => "attempt_not_found",
        "artifact" => "artifact_not_found",
        _ => "not_found",
    }
}

/// Adds a project whose repository can be read. What is there now starts no run.
pub async fn add_project(app: &App, asked: AddProject) -> Result<ProjectRow, AskError> {
    let wrong = |code, message: String| AskError::Wrong { code, message, help: None };
    let name = ProjectName::new(asked.name.clone()).map_err(|error| {
        wrong("bad_name", format!("`{}` is no project name: {error}", asked.name.escape_debug()))
    })?;
    let location = Location::parse(&asked.repo)?;
    if asked.poll_every_s.is_some_and(|every| every < POLL_MIN_S) {
        let message = format!("a repository is polled at most every {POLL_MIN_S} seconds");
        return Err(wrong("bad_interval", message));
    }
    match app.runs.store().project(&name).await {
        Err(StoreError::NotFound(_)) => {}
        Err(error) => return Err(error.into()),
        Ok(_) => {
            let message = format!("there is a project `{name}` already");
            return Err(AskError::Conflict { code: "project_exists", message });
        }
    }
    let (heads, default_branch) = first_look(app, location).await?;
    let new = NewProject {
        name,
        repo: asked.repo,
        default_branch,
        poll_every_s: asked.poll_every_s,
        at: app.clock.now(),
    };
    let store = app.runs.store();
    let project = store.add_project(new).await?;
    let _turn = app.reconcilers.turn(project.id).await;
    let heads = heads.into_iter().map(|(name, id)| (name, Some(id))).collect();
    store.settle_delivery(None, project.id, "as it was when added", Vec::new(), heads).await?;
    app.reconcilers.projects_changed();
    prepare_mirror(app, &project);
    Ok(project)
}

/// Refs and default branch of a repository that is no project yet.
async fn first_look(
    app: &App,
    location: Location,
) -> Result<(Vec<(String, String)>, Option<String>), AskError> {
    let probe = app.places.data.join(format!("probe-{:016x}", fastrand::u64(..)));
    let looked = tokio::task::spawn_blocking(move || {
        let look = || {
            let mirror = Mirror::open(&probe, &location)?;
            let refs = mirror.remote_refs()?;
            Ok((refs, mirror.remote_head()?))
        };
        let looked = look();
        // Best effort: the name is unique, so a left-over is harmless.
        let _ = std::fs::remove_dir_all(&probe);
        looked
    });
    match looked.await {
        Ok(looked) => looked.map_err(|error: GitError| match error {
            GitError::Unreachable { .. } => {
                let help = Some("check the URL, and that git can read it from this machine".into());
                AskError::Wrong { code: "bad_repository", message: error.to_string(), help }
            }
            error => error.into(),
        }),
        Err(panic) => Err(AskError::Git(GitError::Failed {
            doing: "reading the repository",
            message: panic.to_string(),
        })),
    }
}

/// The first fetch may be long; nobody waits for it, and the first push would otherwise.
fn prepare_mirror(app: &App, project: &ProjectRow) {
    let (app, project) = (app.clone(), project.clone());
    app.tasks.clone().spawn(async move {
        let fetched = app.mirrors.with(&project, |mirror| mirror.fetch()).await;
        app.reconcilers.set_problem(project.id, fetched.err().map(|error| whole(&error)));
    });
}

/// Removes a project with its runs, logs and mirror. Runs that are not over must end first.
pub async fn remove_project(app: &App, project: &ProjectRow) -> Result<(), AskError> {
    let store = app.runs.store();
    let _turn = app.reconcilers.turn(project.id).await;
    let active = store.active_runs().await?.into_iter().find(|run| run.project == project.id);
    if let Some(run) = active {
        let message = format!("{}#{} is not over; cancel it first", run.project_name, run.number);
        return Err(AskError::Conflict { code: "project_busy", message });
    }
    let runs = all_runs(app, project).await?;
    store.remove_project(project.id).await?;
    for run in runs {
        // Best effort: a left-over log costs disk and nothing else, and ids are never used again.
        let _ = app.runs.logs().remove_run(run);
    }
    app.mirrors.remove(project.id).await;
    app.reconcilers.forget(project.id);
    Ok(())
}

async fn all_runs(app: &App, project: &ProjectRow) -> Result<Vec<kiln_model::RunId>, StoreError> {
    const PAGE: u32 = 1_000;
    let mut found = Vec::new();
    let mut before = None;
    loop {
        let filter = kiln_store::RunFilter {
            project: Some(project.id),
            before,
            limit: PAGE,
            ..Default::default()
        };
        let page = app.runs.store().runs(filter).await?;
        before = page.last().map(|run| run.number);
        found.extend(page.iter().map(|run| run.id));
        if page.len() < PAGE as usize {
            return Ok(found);
        }
    }
}

/// Starts a run that a person asks for.
pub async fn trigger(
    app: &App,
    project: &ProjectRow,
    asked: TriggerRun,
    actor: Option<String>,
) -> Result<RunRow, AskError> {
    let default_branch = project.default_branch.clone();
    let planned = with_revision(app, project, asked.clone(), move |mirror, id, mut at| {
        at.branch = asked.branch.or(at.branch);
        at.tag = asked.tag;
        at.commit = id;
        at.inputs = asked.inputs;
        at.no_cache = asked.no_cache;
        at.actor = actor;
        if at.branch.is_none() && at.tag.is_none() {
            at.branch = default_branch.filter(|_| asked.commit.is_none());
        }
        plan::plan(mirror, at)
    })
    .await?;
    let (trigger, commit, outcome) = planned;
    let wrong = |code, message| Err(AskError::Wrong { code, message, help: None });
    let plan = match outcome {
        Outcome::Plan(plan) => match app.runs.governor().of(project.name.as_str()).check(&plan) {
            Ok(()) => plan,
            Err(message) => return wrong("not_allowed", message),
        },
        Outcome::Wrong(message) => return wrong("bad_manifest", message),
        Outcome::Nothing(why) => {
            return wrong("no_run", format!("{} starts no run: {why}", shown(&trigger)));
        }
    };
    let source = Source::Git { commit: commit.commit, tree: commit.tree };
    let new = new_run(trigger, source, Ok(plan), app.clock.now());
    let store = app.runs.store();
    let rows = store.settle_delivery(None, project.id, "asked for", vec![new], Vec::new()).await?;
    app.runs.adopt(rows.clone()).await?;
    rows.into_iter().next().ok_or(AskError::Store(StoreError::NotFound("run")))
}

/// The inputs that the manifest declares of the commit that would be run.
pub async fn inputs(
    app: &App,
    project: &ProjectRow,
    asked: TriggerRun,
) -> Result<Vec<Input>, AskError> {
    let file =
        with_revision(app, project, asked, |mirror, id, _| plan::manifest(mirror, &id)).await?;
    Ok(file.map(|file| kiln_manifest::inputs(&file)).unwrap_or_default())
}

/// Finds the commit that is asked for and works on it.
async fn with_revision<T: Send + 'static>(
    app: &App,
    project: &ProjectRow,
    asked: TriggerRun,
    work: impl FnOnce(&Mirror, String, Trigger) -> Result<T, GitError> + Send + 'static,
) -> Result<T, AskError> {
    if let Some(commit) = &asked.commit
        && !refs::is_object_id(commit)
    {
        let message = format!("`{}` is not a full commit id", commit.escape_debug());
        let help = Some("give all 40 digits, or a branch or a tag".to_owned());
        return Err(AskError::Wrong { code: "bad_commit", message, help });
    }
    let default_branch = project.default_branch.clone();
    let found = app.mirrors.with(project, move |mirror| {
        let mut trigger = Trigger::new(TriggerKind::Manual, "");
        let id = match (&asked.commit, &asked.tag, &asked.branch) {
            (Some(commit), _, _) => {
                let commit = commit.to_ascii_lowercase();
                if !mirror.has(&commit)? {
                    mirror.fetch()?;
                }
                commit
            }
            (None, Some(tag), _) => head(mirror, "tag", &format!("refs/tags/{tag}"))?,
            (None, None, Some(branch)) => head(mirror, "branch", &format!("refs/heads/{branch}"))?,
            (None, None, None) => {
                let branch = match default_branch {
                    Some(branch) => branch,
                    None => mirror.remote_head()?.unwrap_or_else(|| "main".to_owned()),
                };
                let id = head(mirror, "branch", &format!("refs/heads/{branch}"))?;
                trigger.branch = Some(branch);
                id
            }
        };
        work(mirror, id, trigger)
    });
    Ok(found.await?)
}

/// Where a ref of the repository is now, its objects at hand.
fn head(mirror: &Mirror, kind: &'static str, ref_name: &str) -> Result<String, GitError> {
    refs::check_ref(ref_name)?;
    let found = mirror.remote_refs()?.into_iter().find(|(name, _)| name == ref_name);
    let short = ref_name.splitn(3, '/').nth(2).unwrap_or(ref_name).to_owned();
    let (_, id) = found.ok_or(GitError::NotFound { kind, name: short })?;
    if !mirror.has(&id)? {
        mirror.fetch()?;
    }
    Ok(id)
}

fn shown(trigger: &Trigger) -> String {
    match trigger.ref_name() {
        Some(name) => format!("`{name}`"),
        None => format!("commit {}", &trigger.commit[..trigger.commit.len().min(10)]),
    }
}

/// Cancels a run. Running jobs are told to stop and get their grace period; asking twice is
/// harmless.
pub async fn cancel(app: &App, run: &RunRow, by: String) -> Result<(), AskError> {
    if run.state.is_over() {
        let message = format!("{}#{} is over: it is {}", run.project_name, run.number, run.state);
        return Err(AskError::Conflict { code: "run_over", message });
    }
    Ok(app.runs.apply(run.id, EventKind::CancelAsked { by }).await?)
}

/// Runs jobs of a run again, under the same plan: all, those that failed, or one and what needs it.
pub async fn rerun(app: &App, run: &RunRow, asked: Rerun, by: String) -> Result<(), AskError> {
    let (_, folded) = app.runs.view(run.id).await?;
    let conflict = |code, message: String| AskError::Conflict { code, message };
    let Some(plan) = &folded.plan else {
        let message = "the run has no plan to run again; mend its manifest and push";
        return Err(conflict("no_plan", message.to_owned()));
    };
    let bad = |state| {
        matches!(state, JobState::Failed | JobState::Lost | JobState::Cancelled | JobState::Warning)
    };
    let jobs: Vec<JobIndex> = match &asked.job {
        Some(name) => {
            let is = |known: &Job| known.name.as_str() == name || known.group.as_str() == name;
            let found: Vec<_> = plan.indices().filter(|job| is(plan.job(*job))).collect();
            if found.is_empty() {
                return Err(no_job(plan, name));
            }
            found
        }
        None if asked.failed => {
            plan.indices().filter(|job| bad(folded.jobs[job.at()].state)).collect()
        }
        None => plan.indices().collect(),
    };
    if jobs.is_empty() {
        return Err(conflict("nothing_failed", "no job of the run has failed".to_owned()));
    }
    let from = match asked.from.as_deref().filter(|from| !from.is_empty()) {
        Some(step) => from_step(&folded, &jobs, step)?,
        None => None,
    };
    Ok(app.runs.apply(run.id, EventKind::RerunAsked { jobs, by, from }).await?)
}

/// Where to begin the one job of `jobs`. `None` for its first step: that is a rerun like any other.
pub fn from_step(run: &Run, jobs: &[JobIndex], step: &str) -> Result<Option<FromStep>, AskError> {
    let wrong = |message| Err(AskError::Wrong { code: "bad_step", message, help: None });
    let (Some(plan), [job]) = (&run.plan, jobs) else {
        let message = "only one job can begin from a step; name it".to_owned();
        return wrong(message);
    };
    let planned = plan.job(*job);
    match planned.find_step(step) {
        Err(unknown) => wrong(unknown.to_string()),
        Ok(0) => Ok(None),
        Ok(at) => run.begins_from(*job, at).map(Some).map_err(|why| {
            let earlier = (1..at).rev().find(|step| run.begins_from(*job, *step).is_ok());
            let way_out = match earlier {
                _ if !run.jobs[job.at()].state.is_over() => {
                    "wait until it is over, or cancel it first".to_owned()
                }
                Some(step) => format!("it can begin from step {}", step + 1),
                None if planned.no_boundaries().is_some() => {
                    "run it again from its beginning".to_owned()
                }
                None => {
                    "run it again from its beginning, or give it `snapshots: steps` to have the \
                         files kept from then on"
                        .to_owned()
                }
            };
            let message =
                format!("`{}` cannot begin from step {}: {why}; {way_out}", planned.name, at + 1);
            AskError::Conflict { code: "not_kept", message }
        }),
    }
}

/// A job's place in a run's plan, by its name.
pub async fn job_of(app: &App, run: &RunRow, name: &str) -> Result<JobIndex, AskError> {
    let jobs = app.runs.view(run.id).await?.1;
    let Some(plan) = &jobs.plan else {
        let message = "the run has no plan, so it has no jobs".to_owned();
        return Err(AskError::NotFound { code: "job_not_found", message });
    };
    let found = plan.indices().find(|job| plan.job(*job).name.as_str() == name);
    found.ok_or_else(|| no_job(plan, name))
}

pub(crate) fn no_job(plan: &kiln_model::Plan, name: &str) -> AskError {
    let names: BTreeMap<&str, ()> = plan.jobs.iter().map(|job| (job.name.as_str(), ())).collect();
    let near = kiln_stdx::suggest::nearest(name, names.into_keys());
    let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    let message = format!("the run has no job `{}`{hint}", name.escape_debug());
    AskError::NotFound { code: "job_not_found", message }
}
