//! Rows and folded runs, as the pages, the JSON and the command line show them.
//!
//! One set of functions for all three, so that they cannot disagree.

use kiln_api::user;
use kiln_engine::run::{Attempt, Job as JobStatus, Run, Service};
use kiln_model::{Exit, JobIndex, JobState, Plan, Reason, RunId, ServiceEnd};
use kiln_store::{ProjectRow, RunFilter, RunRow, StoreError};

use crate::runs::{Runs, job_row};
use crate::state::App;

/// Runs shown of each project.
const PROJECT_RUNS: u32 = 20;

pub async fn projects(app: &App) -> Result<Vec<user::Project>, StoreError> {
    let rows = app.runs.store().projects(PROJECT_RUNS).await?;
    Ok(rows.into_iter().map(|(project, runs)| project_with(app, project, runs)).collect())
}

pub async fn project(app: &App, row: ProjectRow) -> Result<user::Project, StoreError> {
    let filter = RunFilter { project: Some(row.id), limit: PROJECT_RUNS, ..RunFilter::default() };
    let runs = app.runs.store().runs(filter).await?;
    Ok(project_with(app, row, runs))
}

fn project_with(app: &App, project: ProjectRow, runs: Vec<RunRow>) -> user::Project {
    user::Project {
        problem: app.reconcilers.problem(project.id),
        project: project.name.to_string(),
        repo: project.repo,
        default_branch: project.default_branch,
        poll_every_s: project.poll_every_s,
        created_at: project.created_at,
        runs: runs.into_iter().map(run_row).collect(),
    }
}

pub async fn run_list(runs: &Runs, filter: RunFilter) -> Result<Vec<user::Run>, StoreError> {
    Ok(runs.store().runs(filter).await?.into_iter().map(run_row).collect())
}

pub fn run_row(row: RunRow) -> user::Run {
    let trigger = row.trigger;
    user::Run {
        project: row.project_name.to_string(),
        number: row.number.0,
        state: row.state,
        reason: row.reason.map(|reason| reason.to_string()),
        event: trigger.kind,
        branch: trigger.branch,
        tag: trigger.tag,
        commit: trigger.commit,
        title: trigger.title,
        author: trigger.author,
        actor: trigger.actor,
        inputs: trigger.inputs,
        created_at: row.created_at,
        started_at: row.started_at,
        finished_at: row.finished_at,
        n_jobs: row.n_jobs,
        n_jobs_over: row.n_jobs_over,
        pinned: row.pinned.map(|pin| user::Pinned { at: pin.at, by: pin.by }),
    }
}

pub async fn run(runs: &Runs, id: RunId) -> Result<user::RunDetail, StoreError> {
    let (row, run) = runs.view(id).await?;
    let plan = run.plan.clone();
    let jobs = match &plan {
        Some(plan) => plan.indices().map(|at| job_of(runs, &run, plan, at)).collect(),
        None => Vec::new(),
    };
    Ok(user::RunDetail { seq: row.last_seq, run: run_row(row), jobs })
}

pub async fn job(runs: &Runs, id: RunId, at: JobIndex) -> Result<user::JobDetail, StoreError> {
    let (_, run) = runs.view(id).await?;
    let plan = run.plan.clone().ok_or(StoreError::NotFound("job"))?;
    let status = run.jobs.get(at.at()).ok_or(StoreError::NotFound("job"))?;
    let attempts = status.attempts.iter().map(|attempt| attempt_of(runs, &plan, status, attempt));
    Ok(user::JobDetail {
        row: job_of(runs, &run, &plan, at),
        matrix: plan.job(at).matrix.clone(),
        outputs: status.outputs.clone(),
        attempts: attempts.collect(),
    })
}

pub async fn why(runs: &Runs, id: RunId, at: Option<JobIndex>) -> Result<user::Why, StoreError> {
    let (row, run) = runs.view(id).await?;
    let (events, status) = match at {
        Some(job) => {
            let status = run.jobs.get(job.at()).ok_or(StoreError::NotFound("job"))?;
            (runs.store().job_events(id, job).await?, Some(status))
        }
        None => (runs.store().events(id, 0).await?, None),
    };
    let (of, state, reason) = match (at, status, &run.plan) {
        (Some(job), Some(status), Some(plan)) => (
            format!("{}#{}/{}", row.project_name, row.number, plan.job(job).name),
            status.state.to_string(),
            reason_now(runs, &run, status),
        ),
        _ => {
            let of = format!("{}#{}", row.project_name, row.number);
            (of, row.state.to_string(), row.reason.clone())
        }
    };
    let trace = match &reason {
        Some(Reason::Condition { trace, .. }) => Some(trace.clone()),
        _ => None,
    };
    let summary = match (at, &reason) {
        (Some(_), Some(lock @ Reason::Lock { .. })) => format!("{state}: {lock}"),
        (Some(job), _) => kiln_engine::explain::job_summary(&run, job),
        (None, _) => kiln_engine::explain::summary(&run),
    };
    let attempt = status.and_then(|status| status.attempts.last());
    let compared = match (at, attempt, &run.plan) {
        (Some(job), Some(attempt), Some(plan)) => {
            runs.compared(&row, &plan.job(job).name, attempt).await?
        }
        _ => None,
    };
    let history = kiln_engine::explain::history(&run, &events, at)
        .into_iter()
        .map(|(at, text)| user::WhyLine { at, text })
        .collect();
    Ok(user::Why { of, state, summary, reason, history, trace, compared })
}

fn job_of(runs: &Runs, run: &Run, plan: &Plan, at: JobIndex) -> user::JobRow {
    let (job, row) = (plan.job(at), job_row(run, at));
    let status = &run.jobs[at.at()];
    // The row learns of the log's length when a step ends. While one runs, and when the agent was
    // lost in the middle of one, the file knows better.
    let behind = matches!(row.state, JobState::Running | JobState::Lost);
    let written =
        status.attempts.last().filter(|_| behind).map(|latest| runs.logs().len(latest.id));
    user::JobRow {
        job: job.name.to_string(),
        group: job.group.to_string(),
        state: row.state,
        reason: reason_now(runs, run, status).map(|reason| reason.to_string()),
        needs: job.needs.iter().map(|need| plan.job(*need).name.to_string()).collect(),
        allow_failure: job.allow_failure,
        attempt: row.attempt,
        started_at: row.started_at,
        finished_at: row.finished_at,
        log_bytes: written.and_then(Result::ok).unwrap_or(row.log_bytes),
        warnings: status
            .attempts
            .last()
            .map(|last| last.notes.warnings.clone())
            .unwrap_or_default(),
        reused_from: status.attempts.last().and_then(reused_from),
    }
}

/// Whose result an attempt has, when it did not run.
pub fn reused_from(attempt: &Attempt) -> Option<user::Reused> {
    let earlier = attempt.reused_from()?;
    Some(user::Reused {
        number: earlier.number.0,
        job: earlier.job.to_string(),
        attempt: earlier.attempt.attempt,
        took_ms: earlier.took_ms,
    })
}

/// A job's reason; for one that is offered, what keeps agents from taking it right now.
fn reason_now(runs: &Runs, run: &Run, status: &JobStatus) -> Option<Reason> {
    use kiln_engine::queue::Blocked;

    let offered = match (&status.reason, status.attempts.last()) {
        (Some(Reason::NoAgent), Some(attempt)) => attempt.id,
        _ => return status.reason.clone(),
    };
    match runs.blocked(offered) {
        Some(Blocked::Lock { lock, held_by }) => {
            let name = |holder: &kiln_model::AttemptId| match &run.plan {
                Some(plan) if holder.run == run.id => format!("`{}`", plan.job(holder.job).name),
                _ => "another run".to_owned(),
            };
            let mut held_by: Vec<String> = held_by.iter().map(name).collect();
            // This run's own jobs first, and other runs once.
            held_by.sort_unstable_by_key(|name| !name.starts_with('`'));
            held_by.dedup();
            Some(Reason::Lock { lock, held_by: held_by.join(", ") })
        }
        _ => status.reason.clone(),
    }
}

fn attempt_of(runs: &Runs, plan: &Plan, status: &JobStatus, attempt: &Attempt) -> user::Attempt {
    let written = runs.logs().len(attempt.id).unwrap_or(attempt.log_bytes);
    let last = status.attempts.last().is_some_and(|last| last.id == attempt.id);
    let over = attempt.state.is_over();
    let steps = plan.job(attempt.id.job).steps.iter().enumerate().map(|(position, step)| {
        let at = u32::try_from(position).unwrap_or(u32::MAX);
        if at < attempt.first_step() {
            return taken_over(status, attempt, at, step.name.clone());
        }
        let known = attempt.steps.get(position);
        let exit = known.and_then(|known| known.exit.clone());
        user::Step {
            step: at,
            name: step.name.clone(),
            attempt: None,
            kept: attempt.can_begin_at(at),
            state: step_state(
                known.is_some_and(|k| k.started_at.is_some()),
                exit.as_ref(),
                attempt,
            ),
            reason: exit.as_ref().filter(|exit| !exit.is_success()).map(Exit::to_string),
            started_at: known.and_then(|known| known.started_at),
            finished_at: known.and_then(|known| known.finished_at),
            log_from: known
                .filter(|known| known.started_at.is_some() || known.log_to.is_some())
                .map(|known| known.log_from),
            log_to: known.and_then(|known| known.log_to),
            usage: known.and_then(|known| known.usage.as_deref().cloned()),
            exit,
        }
    });
    user::Attempt {
        attempt: attempt.id.attempt,
        state: attempt.state,
        reason: status.reason.as_ref().filter(|_| last && over).map(Reason::to_string),
        agent: attempt.agent.as_ref().map(|(_, name)| name.clone()),
        lock: attempt.lock.clone(),
        queued_at: attempt.queued_at,
        started_at: attempt.started_at,
        finished_at: attempt.finished_at,
        log_bytes: written,
        surroundings: attempt.surroundings.clone(),
        steps: steps.collect(),
        services: services_of(runs, plan, attempt),
        artifacts: attempt.artifacts.clone(),
        collected: collected(runs, attempt, over),
        warnings: attempt.notes.warnings.clone(),
        reused_from: reused_from(attempt),
    }
}

fn services_of(runs: &Runs, plan: &Plan, attempt: &Attempt) -> Vec<user::Service> {
    let planned = &plan.job(attempt.id.job).services;
    let shown = |(name, known): (&String, &Service)| {
        let is_early = |end: &&ServiceEnd| **end != ServiceEnd::Stopped;
        let written = match known.end {
            Some(_) => known.log_bytes,
            None => runs.logs().of_service(name).len(attempt.id).unwrap_or(0),
        };
        user::Service {
            service: name.clone(),
            image: planned.get(name).map(|planned| planned.image.clone()).unwrap_or_default(),
            state: known.state(),
            reason: known.end.as_ref().filter(is_early).map(ServiceEnd::to_string),
            started_at: known.started_at,
            ready_at: known.ready_at,
            finished_at: known.finished_at,
            log_bytes: written,
        }
    };
    attempt.services.iter().map(shown).collect()
}

/// What an attempt had and has no more. Of artifacts the list of a run's artifacts says more.
fn collected(runs: &Runs, attempt: &Attempt, over: bool) -> Vec<String> {
    let mut gone = Vec::new();
    if log_is_collected(runs, attempt, over) {
        gone.push("log".to_owned());
    }
    let kept =
        |artifact: &kiln_model::artifact::Artifact| runs.objects().path(&artifact.digest).exists();
    if over && !attempt.artifacts.iter().all(kept) {
        gone.push("artifacts".to_owned());
    }
    if let (Some(layer), Some(layers)) = (&attempt.layer, runs.layers())
        && !layers.has(layer)
    {
        gone.push("layer".to_owned());
    }
    gone
}

/// It wrote a log, and there is none.
pub fn log_is_collected(runs: &Runs, attempt: &Attempt, over: bool) -> bool {
    over && attempt.log_bytes > 0 && !runs.logs().is_there(attempt.id)
}

/// A step that an earlier attempt ran. Its output is in that one's log.
fn taken_over(status: &JobStatus, attempt: &Attempt, at: u32, name: String) -> user::Step {
    let mut ran = attempt;
    // Each takes over from one with a lower number.
    while let Some(from) = ran.from.as_ref().filter(|from| at < from.step) {
        match status.attempts.iter().find(|earlier| earlier.id.attempt == from.attempt) {
            Some(earlier) if earlier.id.attempt < ran.id.attempt => ran = earlier,
            _ => break,
        }
    }
    let exit = ran.steps.get(at as usize).and_then(|step| step.exit.clone());
    let number = ran.id.attempt;
    user::Step {
        step: at,
        name,
        attempt: Some(number),
        kept: false,
        state: step_state(exit.is_some(), exit.as_ref(), ran),
        reason: Some(format!("taken over from attempt {number}")),
        exit,
        started_at: None,
        finished_at: None,
        log_from: None,
        log_to: None,
        usage: None,
    }
}

fn step_state(started: bool, exit: Option<&Exit>, attempt: &Attempt) -> JobState {
    match exit {
        Some(exit) if exit.is_success() => JobState::Success,
        Some(Exit::Cancelled) => JobState::Cancelled,
        Some(_) => JobState::Failed,
        // The attempt ended in the middle of it, or before it.
        None if attempt.state.is_over() && started => attempt.state,
        None if attempt.state.is_over() => JobState::Skipped,
        None if started => JobState::Running,
        None => JobState::Queued,
    }
}
