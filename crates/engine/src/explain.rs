//! A run in sentences: what led to a state, for `kiln why` and the page.
//!
//! The past is told from events, what followed from them from the run as it now is. Events of one
//! job alone are enough to tell that job's story.

use kiln_model::plan::RetryOn;
use kiln_model::{
    AttemptId, Earlier, Event, EventKind, Exit, FromStep, JobIndex, JobState, LeaseId, Outcome,
    Reason, RunState, ServiceChange, ServiceEnd,
};
use kiln_stdx::{Timestamp, duration};

use crate::attempt::Cause;
use crate::run::{Attempt, Job, Run};

/// How a job, or without one the run, came to be as it is; oldest first.
pub fn history(run: &Run, events: &[Event], job: Option<JobIndex>) -> Vec<(Timestamp, String)> {
    let job = job.filter(|job| job.at() < run.jobs.len());
    let told = events.iter().flat_map(|event| {
        let lines = line(run, event, job).into_iter();
        lines.map(|text| (event.at, text))
    });
    told.chain(last_line(run, job)).collect()
}

/// What the run is and why, in one sentence.
pub fn summary(run: &Run) -> String {
    let because = match &run.reason {
        Some(reason) => format!(": {reason}"),
        None => String::new(),
    };
    let took = match (run.started_at, run.finished_at) {
        (Some(from), Some(to)) => format!(" after {}", duration::show(to.since(from))),
        _ => String::new(),
    };
    let (over, all) = (run.n_jobs_over(), run.jobs.len());
    match run.state {
        RunState::Queued if run.cancelled_by.is_some() => format!("stops{because}"),
        RunState::Queued if run.jobs.is_empty() => "queued: it has no plan yet".to_owned(),
        RunState::Queued => "queued: no job has started yet".to_owned(),
        RunState::Running | RunState::Waiting if run.cancelled_by.is_some() => {
            format!("stops{because}; {over} of {all} jobs are over")
        }
        RunState::Running => format!("running: {over} of {all} jobs are over"),
        RunState::Waiting => format!("waiting for approval: {over} of {all} jobs are over"),
        RunState::Cancelled => match &run.reason {
            Some(Reason::CancelAsked { by }) => format!("cancelled by {by}{took}"),
            _ => format!("cancelled{took}{because}"),
        },
        RunState::Success | RunState::Warning | RunState::Failed => {
            format!("{}{took}{because}", run.state)
        }
    }
}

/// What a job is and why, in one sentence.
pub fn job_summary(run: &Run, at: JobIndex) -> String {
    let Some(job) = run.jobs.get(at.at()) else {
        return "there is no such job".to_owned();
    };
    let because = job.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    let on = job.attempts.last().and_then(|last| last.agent.as_ref());
    let on = on.map_or_else(String::new, |(_, agent)| format!(" on agent `{agent}`"));
    match job.state {
        JobState::Queued => match &job.reason {
            Some(reason) => format!("queued: {reason}"),
            None => format!("queued: it is being prepared{on}"),
        },
        JobState::Running => format!("running{on}{}", present_step(run, at, job)),
        JobState::Success => match &job.reason {
            Some(reused) => format!("success: {reused}"),
            None => format!("success{on}{}{}", took(job), tries(job)),
        },
        JobState::Warning => format!("warning: it failed{on}, and is allowed to{because}"),
        JobState::Failed => format!("failed{on}{}{}{because}", took(job), tries(job)),
        // Their reasons are whole sentences.
        JobState::Cancelled | JobState::Lost | JobState::Waiting => match &job.reason {
            Some(reason) => reason.to_string(),
            None => job.state.to_string(),
        },
        JobState::Skipped => format!("skipped{because}"),
    }
}

/// What one event says about a job, or about the run when `only` is absent.
fn line(run: &Run, event: &Event, only: Option<JobIndex>) -> Vec<String> {
    let about = event.kind.lease().map(|lease| lease.attempt.job);
    if only.is_some() && about.is_some() && about != only {
        return Vec::new();
    }
    match &event.kind {
        EventKind::Planned => vec![match only {
            None => format!("planned: {}", counted(run.jobs.len(), "job")),
            Some(job) => match names(run, &run.planned_job(job).needs) {
                needs if needs.is_empty() => "planned; it needs no other job".to_owned(),
                needs => format!("planned; it needs {}", needs.join(", ")),
            },
        }],
        EventKind::PlanRefused { message } => vec![format!("no plan: {message}")],
        EventKind::CancelAsked { by } => cancel_line(run, event.at, by, only).into_iter().collect(),
        EventKind::RerunAsked { jobs, by, from } => {
            rerun_line(run, jobs, by, from.as_ref(), only).into_iter().collect()
        }
        EventKind::Leased { lease, agent_name, lock, .. } => {
            let lock =
                lock.as_ref().map_or_else(String::new, |lock| format!(" with lock `{lock}`"));
            let cause = cause_of(run, lease.attempt);
            vec![format!(
                "{} was taken by agent `{agent_name}`{lock}{cause}",
                subject(run, *lease, only)
            )]
        }
        EventKind::Keyed { lease, unfit, .. } => {
            let subject = subject(run, *lease, only);
            unfit
                .iter()
                .map(|why| format!("{subject} cannot use an earlier result: {why}"))
                .collect()
        }
        EventKind::Awaited { lease, from } => {
            let Earlier { number, job, .. } = from;
            let subject = subject(run, *lease, only);
            vec![format!("{subject} waits for `#{number}/{job}`, which does the same")]
        }
        EventKind::Reused { lease, from, .. } => {
            let took = duration::show(std::time::Duration::from_millis(from.took_ms));
            let Earlier { number, job, .. } = from;
            let subject = subject(run, *lease, only);
            vec![format!(
                "{subject} did not run: nothing that it depends on has changed since `#{number}/{job}`, \
                 which took {took}"
            )]
        }
        EventKind::Started { lease, .. } => vec![format!("{} started", subject(run, *lease, only))],
        EventKind::Service { service, change, .. } => match (only, change) {
            // When it was begun is not worth a line: all are, with their job.
            (None, _) | (_, ServiceChange::Started) => Vec::new(),
            (_, ServiceChange::Ready) => vec![format!("service `{service}` was ready")],
            (_, ServiceChange::Ended { end: ServiceEnd::Stopped, .. }) => Vec::new(),
            (_, ServiceChange::Ended { end, .. }) => vec![format!("service `{service}` {end}")],
        },
        EventKind::StepStarted { .. } => Vec::new(),
        EventKind::StepFinished { lease, step, exit, .. } => match only {
            Some(_) => vec![step_line(run, *lease, *step, exit)],
            None => Vec::new(),
        },
        EventKind::Finished { lease, outcome, .. } => ended(run, *lease, outcome, only),
        EventKind::Lapsed { lease, message } => {
            ended(run, *lease, &Outcome::Lost { message: message.clone() }, only)
        }
    }
}

/// What no event tells, because it followed from others: skips, waits, and the run's own end.
fn last_line(run: &Run, only: Option<JobIndex>) -> Option<(Timestamp, String)> {
    let Some(at) = only else {
        return Some((run.finished_at?, format!("the run is over: {}", summary(run))));
    };
    let job = &run.jobs[at.at()];
    let untold = match job.state {
        JobState::Queued | JobState::Waiting | JobState::Skipped => true,
        JobState::Cancelled => job.attempts.last().is_none_or(|last| last.leased_at.is_none()),
        JobState::Warning => true,
        JobState::Running | JobState::Success | JobState::Failed | JobState::Lost => false,
    };
    untold.then(|| (job.since, job_summary(run, at)))
}

/// `attempt 2`, with the job's name when the story is the run's.
fn subject(run: &Run, lease: LeaseId, only: Option<JobIndex>) -> String {
    let AttemptId { job, attempt, .. } = lease.attempt;
    match (only, run.jobs.get(job.at())) {
        (None, Some(_)) => format!("`{}`, attempt {attempt},", run.planned_job(job).name),
        _ => format!("attempt {attempt}"),
    }
}

fn attempt(run: &Run, id: AttemptId) -> Option<&Attempt> {
    run.jobs.get(id.job.at())?.attempts.iter().find(|attempt| attempt.id == id)
}

fn cause_of(run: &Run, id: AttemptId) -> String {
    let Some(attempt) = attempt(run, id) else { return String::new() };
    let begins = attempt.from.as_ref().map(begins).unwrap_or_default();
    match &attempt.cause {
        Cause::First => String::new(),
        Cause::Retry => format!("; it is a retry{begins}"),
        Cause::Rerun { by } => format!("; {by} asked for a rerun{begins}"),
    }
}

fn step_line(run: &Run, lease: LeaseId, step: u32, exit: &Exit) -> String {
    let steps = run.plan.as_ref().and_then(|plan| plan.jobs.get(lease.attempt.job.at()));
    let name = steps.zip(usize::try_from(step).ok()).and_then(|(job, at)| job.steps.get(at));
    let name = name.map_or_else(String::new, |step| format!(" `{}`", step.name));
    format!("step {}{name} {}", step + 1, exit.ended())
}

/// How an attempt ended, and what its policy made of it.
fn ended(run: &Run, lease: LeaseId, outcome: &Outcome, only: Option<JobIndex>) -> Vec<String> {
    let subject = subject(run, lease, only);
    let known = attempt(run, lease.attempt);
    let started = known.is_some_and(|a| a.started_at.is_some() && a.epoch == lease.epoch);
    let how = match outcome {
        Outcome::Success => "succeeded".to_owned(),
        Outcome::StepFailed { step, exit } => {
            format!("failed: {}", step_line(run, lease, *step, exit))
        }
        Outcome::TimedOut { after_ms } => {
            format!("failed: {}", Reason::JobTimedOut { after_ms: *after_ms })
        }
        Outcome::Cancelled => "was cancelled".to_owned(),
        Outcome::Error { message } => {
            format!("failed: {}", Reason::Error { message: message.clone() })
        }
        Outcome::Lost { message } if started => format!("was lost: {message}"),
        Outcome::Lost { message } => format!("was given up before it started: {message}"),
    };
    let mut lines = vec![format!("{subject} {how}")];
    let free = matches!(outcome, Outcome::Lost { .. }) && !started;
    let next = AttemptId { attempt: lease.attempt.attempt + 1, ..lease.attempt };
    match attempt(run, next).map(|next| &next.cause) {
        _ if free && known.is_some_and(|known| known.epoch > lease.epoch || known.is_offered()) => {
            lines.push(format!("{subject} is offered to other agents again"));
        }
        Some(Cause::Retry) if !free => {
            let retry = &run.planned_job(lease.attempt.job).retry;
            let on: Vec<&str> = retry.on.iter().map(|on| retry_word(*on)).collect();
            lines.push(format!(
                "{subject} is retried: up to {} attempts on {}",
                retry.attempts,
                on.join(", ")
            ));
        }
        _ => {}
    }
    lines
}

fn cancel_line(run: &Run, at: Timestamp, by: &str, only: Option<JobIndex>) -> Option<String> {
    let over = |job: &Job| job.state.is_over() && job.since < at;
    match only {
        Some(job) if over(&run.jobs[job.at()]) => None,
        _ => Some(format!("a cancel was asked by {by}")),
    }
}

fn begins(from: &FromStep) -> String {
    format!(" from step {}, on the files of attempt {}", from.step + 1, from.attempt)
}

fn rerun_line(
    run: &Run,
    jobs: &[JobIndex],
    by: &str,
    from: Option<&FromStep>,
    only: Option<JobIndex>,
) -> Option<String> {
    let begins = |job: Option<JobIndex>| {
        let from = from.filter(|from| job.is_none_or(|job| job == from.job));
        from.map(begins)
    };
    match only {
        Some(job) if jobs.contains(&job) => {
            let begins = begins(only).unwrap_or_default();
            Some(format!("a rerun{begins} was asked by {by}"))
        }
        Some(job) => follows(run, job, jobs)
            .then(|| format!("a rerun of jobs that it needs was asked by {by}")),
        None => {
            let begins = begins(None).unwrap_or_default();
            Some(format!("a rerun of {}{begins} was asked by {by}", names(run, jobs).join(", ")))
        }
    }
}

/// Whether a job needs one of `jobs`, directly or not.
fn follows(run: &Run, job: JobIndex, jobs: &[JobIndex]) -> bool {
    let mut seen = vec![false; run.jobs.len()];
    let mut next = vec![job];
    while let Some(at) = next.pop() {
        for &need in &run.planned_job(at).needs {
            if jobs.contains(&need) {
                return true;
            }
            if !std::mem::replace(&mut seen[need.at()], true) {
                next.push(need);
            }
        }
    }
    false
}

fn names(run: &Run, jobs: &[JobIndex]) -> Vec<String> {
    const SHOWN: usize = 10;
    let known = |job: &&JobIndex| job.at() < run.jobs.len();
    let name = |job: &JobIndex| format!("`{}`", run.planned_job(*job).name);
    let mut names: Vec<String> = jobs.iter().filter(known).take(SHOWN).map(name).collect();
    if jobs.len() > SHOWN {
        names.push(format!("{} more", jobs.len() - SHOWN));
    }
    names
}

fn present_step(run: &Run, at: JobIndex, job: &Job) -> String {
    let steps = job.attempts.last().map_or(&[][..], |attempt| &attempt.steps);
    let open = steps.iter().position(|step| step.started_at.is_some() && step.exit.is_none());
    let planned = open.and_then(|open| Some((open, run.planned_job(at).steps.get(open)?)));
    planned.map_or_else(String::new, |(at, step)| format!(": step {} `{}`", at + 1, step.name))
}

fn took(job: &Job) -> String {
    let times = job.attempts.last().and_then(|last| last.started_at.zip(last.finished_at));
    times
        .map_or_else(String::new, |(from, to)| format!(" after {}", duration::show(to.since(from))))
}

fn tries(job: &Job) -> String {
    match job.attempts.len() {
        0 | 1 => String::new(),
        n => format!(", attempt {n}"),
    }
}

fn counted(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

fn retry_word(on: RetryOn) -> &'static str {
    match on {
        RetryOn::Failed => "failed",
        RetryOn::Timeout => "timeout",
        RetryOn::Lost => "lost",
        RetryOn::Error => "error",
    }
}
