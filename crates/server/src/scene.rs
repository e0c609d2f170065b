//! Finding the moment of a job that somebody wants to look at.

use std::io;
use std::time::Duration;

use kiln_api::scene::{Enter, Moment, Scene};
use kiln_api::user::ErrorBody;
use kiln_engine::run::{Attempt, Run, Step};
use kiln_model::layer::LayerId;
use kiln_model::plan::Job;
use kiln_model::{AttemptId, JobIndex, JobState, Outcome, Plan};
use kiln_store::RunRow;

use crate::ask::{AskError, no_job};
use crate::runs::{Past, Places, Runs};
use crate::serve::socket;

/// Jobs that are listed when one must be named.
const LISTED_MAX: usize = 20;
/// Of a step's name, in a sentence.
const NAME_CHARS_MAX: usize = 40;

/// How long a server may take to answer. It reads a run's history.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Why the server of a data folder gave no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// Nobody serves the folder, or not any more.
    Away(io::Error),
    /// It does not give what was asked. The status, and why.
    Refused(u16, ErrorBody),
}

/// Asks the server of a data folder over its socket. Blocking.
pub fn ask(places: &Places, enter: &Enter) -> Result<Scene, Unanswered> {
    let body = serde_json::to_vec(enter).expect("a question is plain data");
    let answer = socket::post(&places.socket(), "/internal/scene", &body, ANSWER_WITHIN);
    let garbled = |error: serde_json::Error| Unanswered::Away(io::Error::other(error));
    match answer.map_err(Unanswered::Away)? {
        (200, body) => serde_json::from_slice(&body).map_err(garbled),
        (status, body) => {
            Err(Unanswered::Refused(status, serde_json::from_slice(&body).map_err(garbled)?))
        }
    }
}

/// The job and the moment that are meant.
pub async fn scene(runs: &Runs, row: RunRow, enter: &Enter) -> Result<Scene, AskError> {
    let (row, run) = runs.view(row.id).await?.clone();
    let reference = format!("{}#{}", enter.project, row.number);
    let Some(plan) = run.plan.clone().filter(|_| !run.jobs.is_empty()) else {
        return Err(wrong(
            "no_plan",
            format!("run {reference} has no plan, so it has no jobs"),
            None,
        ));
    };
    let job = match &enter.job {
        Some(name) => named(&plan, name)?,
        None if enter.moment == Moment::Live => only_running(&plan, &run, &reference)?,
        None => only(&plan, &run, &reference)?,
    };
    let subject = Subject {
        run: &run,
        plan: &plan,
        job,
        reference: format!("{reference}/{}", plan.job(job).name),
    };
    let attempt = match enter.moment {
        Moment::Live => Some(subject.running()?),
        _ => subject.attempt(enter.attempt)?,
    };
    let id = attempt.map_or(AttemptId { run: row.id, job, attempt: 1 }, |attempt| attempt.id);
    let Past { mut assignment, secrets, without } = runs.past(row, id, enter.secrets).await?;
    let found = subject.at(attempt, &enter.moment, &assignment.own)?;
    assignment.layers.extend(found.layers);
    assignment.own.clear();
    Ok(Scene {
        assignment,
        state: attempt.map_or(run.jobs[job.at()].state, |attempt| attempt.state),
        attempt: attempt.map(|attempt| attempt.id.attempt),
        when: found.when,
        step: found.step,
        chosen: enter.job.is_none() && plan.jobs.len() > 1,
        notes: found.notes,
        secrets,
        without,
        machine_env: runs.machine_env(),
    })
}

/// A job by its name, or by the name of a matrix of one.
fn named(plan: &Plan, name: &str) -> Result<JobIndex, AskError> {
    if let Some(job) = plan.find(name) {
        return Ok(job);
    }
    let of_group: Vec<JobIndex> =
        plan.indices().filter(|job| plan.job(*job).group.as_str() == name).collect();
    match of_group.as_slice() {
        [] => Err(no_job(plan, name)),
        [one] => Ok(*one),
        several => {
            let names = listed(several.iter().map(|job| plan.job(*job).name.to_string()));
            Err(wrong(
                "which_job",
                format!("`{name}` is several jobs"),
                Some(format!("name one of {names}")),
            ))
        }
    }
}

/// The job that is meant when none is named.
fn only(plan: &Plan, run: &Run, reference: &str) -> Result<JobIndex, AskError> {
    let all: Vec<JobIndex> = plan.indices().collect();
    let is_failed =
        |job: &JobIndex| matches!(run.jobs[job.at()].state, JobState::Failed | JobState::Lost);
    let failed: Vec<JobIndex> = all.iter().copied().filter(is_failed).collect();
    match (all.as_slice(), failed.as_slice()) {
        ([one], _) | (_, [one]) => Ok(*one),
        _ => {
            let shown =
                |job: &JobIndex| format!("{} ({})", plan.job(*job).name, run.jobs[job.at()].state);
            let among = if failed.is_empty() { &all } else { &failed };
            let names = listed(among.iter().map(shown));
            let which = if failed.is_empty() {
                "several jobs, and none failed"
            } else {
                "several failed jobs"
            };
            let message = format!("run {reference} has {which}: {names}");
            let help = format!("name one, as in `{reference}/{}`", plan.job(among[0]).name);
            Err(wrong("which_job", message, Some(help)))
        }
    }
}

/// The job that is meant when none is named, and it must be running.
fn only_running(plan: &Plan, run: &Run, reference: &str) -> Result<JobIndex, AskError> {
    let runs = |job: &JobIndex| run.jobs[job.at()].state == JobState::Running;
    let all: Vec<JobIndex> = plan.indices().filter(runs).collect();
    match all.as_slice() {
        [one] => Ok(*one),
        [] => Err(wrong("job_not_running", format!("no job of run {reference} is running"), None)),
        [first, ..] => {
            let names = listed(all.iter().map(|job| plan.job(*job).name.to_string()));
            let message = format!("run {reference} has several running jobs: {names}");
            let help = format!("name one, as in `{reference}/{}`", plan.job(*first).name);
            Err(wrong("which_job", message, Some(help)))
        }
    }
}

fn listed(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(LISTED_MAX);
    let text = names.take(LISTED_MAX).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{text} and {more} more") } else { text }
}

/// A job that is being looked at.
struct Subject<'a> {
    run: &'a Run,
    plan: &'a Plan,
    job: JobIndex,
    reference: String,
}

/// A moment, found.
#[derive(Debug, Default)]
struct Found {
    /// Over what the job's needs left.
    layers: Vec<LayerId>,
    when: String,
    step: Option<u32>,
    notes: Vec<String>,
}

impl Subject<'_> {
    fn planned(&self) -> &Job {
        self.plan.job(self.job)
    }

    /// The attempt that is meant; `None` when the job never ran.
    fn attempt(&self, number: Option<u32>) -> Result<Option<&Attempt>, AskError> {
        let attempts = &self.run.jobs[self.job.at()].attempts;
        let attempt = match number {
            Some(number) => {
                let found = attempts.iter().find(|attempt| attempt.id.attempt == number);
                Some(found.ok_or_else(|| {
                    let message = format!("{} has no attempt {number}", self.reference);
                    let help = format!(
                        "it has {}; `kiln show '{}'` lists them",
                        attempts.len(),
                        self.reference
                    );
                    wrong("no_attempt", message, Some(help))
                })?)
            }
            None => attempts.last(),
        };
        match attempt {
            Some(attempt) if attempt.outcome.is_none() && attempt.agent.is_some() => {
                let earlier = attempt.id.attempt.checked_sub(1).filter(|earlier| *earlier > 0);
                let or = earlier.map(|n| format!(", or look at attempt {n} with `--attempt {n}`"));
                let message = format!("{} is running", self.reference);
                let help = format!("wait until it is over{}", or.unwrap_or_default());
                Err(wrong("job_running", message, Some(help)))
            }
            // Offered, and taken by nobody before it was over or until now.
            Some(attempt) if attempt.agent.is_none() => Ok(None),
            other => Ok(other),
        }
    }

    /// The attempt that an agent has now.
    fn running(&self) -> Result<&Attempt, AskError> {
        let status = &self.run.jobs[self.job.at()];
        let last = status.attempts.last();
        let runs = |attempt: &&Attempt| attempt.outcome.is_none() && attempt.agent.is_some();
        last.filter(runs).ok_or_else(|| {
            let message =
                format!("{} is not running; its state is {}", self.reference, status.state);
            let help = match status.state.is_over() {
                true => format!("`kiln shell '{}'` shows what it left", self.reference),
                false => "wait until it has begun".to_owned(),
            };
            wrong("job_not_running", message, Some(help))
        })
    }

    fn at(
        &self,
        attempt: Option<&Attempt>,
        moment: &Moment,
        own: &[LayerId],
    ) -> Result<Found, AskError> {
        match (attempt, moment) {
            (None, Moment::Left | Moment::Start) => Ok(self.never_ran()),
            (None, Moment::Before(step)) if self.position(step)? == 0 => {
                Ok(Found { step: Some(0), ..self.never_ran() })
            }
            (None, Moment::Before(_) | Moment::After(_)) => Err(wrong(
                "not_kept",
                format!("{} has not run, so no step has found or left any files", self.reference),
                Some(format!(
                    "`kiln shell '{}'` shows what its first step would find",
                    self.reference
                )),
            )),
            (attempt, Moment::Live) => Ok(Found {
                when: "as they are now".to_owned(),
                step: attempt.and_then(|attempt| {
                    let is_open = |step: &Step| step.started_at.is_some() && step.exit.is_none();
                    let at = attempt.steps.iter().position(is_open)?;
                    u32::try_from(at).ok()
                }),
                ..Found::default()
            }),
            (Some(_), Moment::Start) => {
                Ok(Found { when: "as its first step found them".to_owned(), ..Found::default() })
            }
            (Some(attempt), Moment::Left) => self.left(attempt, own),
            (Some(attempt), Moment::Before(step)) => {
                self.before(attempt, self.position(step)?, own)
            }
            (Some(attempt), Moment::After(step)) => self.after(attempt, self.position(step)?, own),
        }
    }

    fn never_ran(&self) -> Found {
        let waits = |need: &&JobIndex| !self.run.jobs[need.at()].state.is_over();
        let waited_for = self.planned().needs.iter().find(waits);
        let note = waited_for.map(|need| {
            let need = &self.plan.job(*need).name;
            format!("`{need}`, which it needs, is not over: its files are missing")
        });
        Found {
            when: "as its first step would find them".to_owned(),
            notes: note.into_iter().collect(),
            ..Found::default()
        }
    }

    /// The moment of failure, or the end.
    fn left(&self, attempt: &Attempt, own: &[LayerId]) -> Result<Found, AskError> {
        let failed = match &attempt.outcome {
            Some(Outcome::StepFailed { step, .. }) => Some(*step),
            _ => None,
        };
        let Some(failed) = failed else {
            let layers = self.last(attempt, own)?;
            return Ok(Found {
                layers,
                when: "as the job left them".to_owned(),
                ..Found::default()
            });
        };
        let step = self.step_name(failed);
        let mut found = Found {
            step: Some(failed),
            when: format!("as failed {step} left them"),
            ..Found::default()
        };
        match self.next_run(attempt, failed) {
            // What an `always` step did came after the failure.
            Some(next) if self.run.has_files_before(attempt, next).is_ok() => {
                found.layers = vec![boundary(attempt, next)];
            }
            next => {
                found.layers = self.last(attempt, own)?;
                if next.is_some() {
                    found.when = "as the job left them".to_owned();
                    found
                        .notes
                        .push(format!("steps that always run came after {step}, which failed"));
                }
            }
        }
        Ok(found)
    }

    fn before(&self, attempt: &Attempt, step: u32, own: &[LayerId]) -> Result<Found, AskError> {
        let layers = if step == 0 {
            Vec::new()
        } else if step == attempt.first_step() {
            own.to_vec()
        } else {
            self.run.has_files_before(attempt, step).map_err(|why| self.not_kept(step, &why))?;
            vec![boundary(attempt, step)]
        };
        let when = format!("as {} found them", self.step_name(step));
        Ok(Found { layers, when, step: Some(step), notes: Vec::new() })
    }

    fn after(&self, attempt: &Attempt, step: u32, own: &[LayerId]) -> Result<Found, AskError> {
        let ran = attempt.steps.get(step as usize).is_some_and(|step| step.exit.is_some());
        if !ran {
            let why = format!("in attempt {}, step {} did not run", attempt.id.attempt, step + 1);
            return Err(self.not_kept(step, &why));
        }
        let layers = match self.next_run(attempt, step) {
            None => self.last(attempt, own)?,
            Some(next) => self.before(attempt, next, own)?.layers,
        };
        let when = format!("as {} left them", self.step_name(step));
        Ok(Found { layers, when, step: Some(step), notes: Vec::new() })
    }

    /// What the attempt left at its end.
    fn last(&self, attempt: &Attempt, own: &[LayerId]) -> Result<Vec<LayerId>, AskError> {
        match (&attempt.layer, &attempt.outcome) {
            (Some(layer), _) => Ok(vec![layer.clone()]),
            (None, Some(Outcome::Lost { .. })) => Err(wrong(
                "files_lost",
                format!("{} was lost, and what it had written with it", self.reference),
                Some(format!(
                    "`--fresh` shows what its first step found; `kiln rerun '{}'` runs it again",
                    self.reference
                )),
            )),
            // It has written nothing.
            (None, _) => Ok(own.to_vec()),
        }
    }

    /// The step that ran next after one.
    fn next_run(&self, attempt: &Attempt, step: u32) -> Option<u32> {
        let after = attempt.steps.iter().enumerate().skip(step as usize + 1);
        let ran = after.filter(|(_, step)| step.started_at.is_some() || step.exit.is_some());
        ran.map(|(position, _)| position as u32).next()
    }

    /// The position of a step that is named by its number or its name.
    fn position(&self, text: &str) -> Result<u32, AskError> {
        self.planned().find_step(text).map_err(|none| wrong("no_step", none.to_string(), None))
    }

    /// `step 2 (make test)`.
    fn step_name(&self, position: u32) -> String {
        let name = self.planned().steps.get(position as usize).map_or("", |step| &step.name);
        let line = name.lines().next().unwrap_or("");
        let mut shown: String =
            line.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
        if shown.chars().count() < name.chars().count() {
            shown.push('…');
        }
        format!("step {} ({shown})", position + 1)
    }

    fn not_kept(&self, step: u32, why: &str) -> AskError {
        let message =
            format!("the files of {} as of step {} are not kept: {why}", self.reference, step + 1);
        let mut help =
            "without `--step` you see them at the end, with `--fresh` at the beginning".to_owned();
        if self.planned().no_boundaries().is_none() {
            help.push_str("; `snapshots: steps` in the manifest keeps them between steps");
        }
        wrong("not_kept", message, Some(help))
    }
}

/// Files of an attempt as a step found them. One whose result is an earlier one's has that one's.
fn boundary(attempt: &Attempt, step: u32) -> LayerId {
    let id = attempt.reused_from().map_or(attempt.id, |earlier| earlier.attempt);
    LayerId::Boundary(format!("{id}.{step}"))
}

fn wrong(code: &'static str, message: String, help: Option<String>) -> AskError {
    AskError::Wrong { code, message, help }
}
