//! A job in its session: steps, outputs, artifacts, the sealed layer.
//!
//! Elsewhere: how it came to have a session (`job`), one step (`step`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kiln_api::agent::{Assignment, JobResult, JobSource, LeaseError, StepKnown, Stop};
use kiln_executor::{Executor, Session, StepCommand, StepDone, StepError};
use kiln_model::artifact::Artifact;
use kiln_model::plan::ArtifactRule;
use kiln_model::{Exit, LeaseId, Notes, Outcome};
use tokio::sync::watch;

use crate::agent::{Phase, Shared};
use crate::boundary::Boundaries;
use crate::collide::Comparing;
use crate::job::{OUTPUT_FILE, discard, reap};
use crate::place::{self, Place};
use crate::service::Services;
use crate::{cache, explain, output, step};

/// How driving an assignment ended.
pub(crate) enum Ended {
    Result(Box<JobResult>),
    /// The lease is not ours (any more): nothing is to be told.
    Disowned,
    /// This process leaves; the session lives on for the next one.
    Left,
}

/// A session with what it is for.
pub(crate) struct Attempt<'a, S, E: Executor> {
    pub shared: &'a Arc<Shared<S, E>>,
    pub assignment: &'a Assignment,
    pub session: E::Session,
    /// What must be known of it to use it again; `None` when that cannot be.
    pub place: Option<Place>,
    pub warnings: Option<Comparing>,
    pub boundaries: Boundaries,
    pub services: Option<Services>,
}

/// What a session had done before this process came to own it.
#[derive(Default)]
pub(crate) struct Before {
    pub done: Vec<StepDone>,
    pub running: Option<u32>,
}

/// Why steps should end early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Halt {
    Cancelled,
    Disowned,
    Left,
}

/// How a step ended, as its job sees it.
enum StepEnd {
    Exit(Exit),
    /// Its own time was not up, the job's was.
    JobTimedOut,
}

impl<S: JobSource, E: Executor> Attempt<'_, S, E> {
    pub async fn run(mut self, before: Before, stop: watch::Receiver<Phase>) -> Ended {
        let lease = self.assignment.lease;
        let (cancel, cancelled) = watch::channel(false);
        let mut log = self.session.log();
        let source = self.shared.source.clone();
        let growth = async {
            while log.changed().await.is_ok() {
                let n_bytes = log.borrow_and_update().n_bytes;
                source.log_grew(lease, n_bytes);
            }
            std::future::pending::<()>().await;
        };
        let shared = self.shared.clone();
        let halted = async {
            let halt = halt(&shared, lease, stop).await;
            if halt != Halt::Left {
                cancel.send_replace(true);
            }
            halt
        };
        let (outcome, halt) = {
            let mut steps = std::pin::pin!(self.steps(before, cancelled));
            let mut growth = std::pin::pin!(growth);
            let mut halted = std::pin::pin!(halted);
            tokio::select! {
                outcome = &mut steps => (outcome, None),
                () = &mut growth => unreachable!("growth ends only with the steps"),
                halt = &mut halted => match halt {
                    Halt::Left => return Ended::Left,
                    halt => {
                        let outcome = tokio::select! {
                            outcome = &mut steps => outcome,
                            () = &mut growth => unreachable!("growth ends only with the steps"),
                        };
                        (outcome, Some(halt))
                    }
                },
            }
        };
        self.end(outcome, halt).await
    }

    /// The steps in order. An `always` step runs also after a failure, but not after a stop.
    async fn steps(&mut self, before: Before, cancel: watch::Receiver<bool>) -> Outcome {
        let shared = self.shared.clone();
        let job = &self.assignment.job;
        let clock = &shared.options.clock;
        // What ran before a restart counts too.
        let spent_before = match self.assignment.started_at {
            Some(started_at) => clock.now().since(started_at),
            None => Duration::ZERO,
        };
        if let Err(outcome) = self.serve(&before, cancel.clone()).await {
            return outcome;
        }
        let began = clock.monotonic();
        let mut outcome = Outcome::Success;
        let mut counter = 0_usize;
        let first = self.assignment.first_step as usize;
        for (position, written) in job.steps.iter().enumerate().skip(first) {
            let failed = !outcome.is_success();
            if failed && !written.always {
                continue;
            }
            let last = counter.checked_sub(1).and_then(|last| before.done.get(last));
            let log_from_before = last.map_or(0, |last| last.log_to);
            let ended = if let Some(done) = before.done.get(counter) {
                self.recorded(position, done, log_from_before)
            } else {
                if *cancel.borrow() {
                    break;
                }
                let runs = before.running.is_some_and(|running| running as usize == counter);
                // After a failure too: what an `always` step does is not what failed.
                if !runs
                    && counter > 0
                    && let Err(message) = self.boundary(position).await
                {
                    outcome = Outcome::Error { message };
                    break;
                }
                let spent = spent_before + clock.monotonic().saturating_sub(began);
                let (bound, of_job) = step::bound(written, job.timeout.saturating_sub(spent));
                let (command, log_from) = match runs {
                    true => (None, log_from_before),
                    false => {
                        let log_from = self.session.log().borrow().n_bytes;
                        (Some(step::command(written, Some(bound))), log_from)
                    }
                };
                let ended = self.step(position, command, log_from, cancel.clone()).await;
                ended.map(|exit| match exit {
                    Exit::TimedOut { .. } if of_job => StepEnd::JobTimedOut,
                    exit => StepEnd::Exit(exit),
                })
            };
            counter += 1;
            let this = match ended {
                Ok(StepEnd::Exit(exit)) if exit.is_success() => continue,
                Ok(StepEnd::Exit(Exit::Cancelled)) => Outcome::Cancelled,
                Ok(StepEnd::JobTimedOut) => Outcome::TimedOut { after_ms: millis(job.timeout) },
                Ok(StepEnd::Exit(Exit::HostGone { detail })) => Outcome::Lost { message: detail },
                Ok(StepEnd::Exit(exit)) => Outcome::StepFailed { step: index(position), exit },
                Err(message) => Outcome::Error { message },
            };
            let fatal = !matches!(this, Outcome::StepFailed { .. });
            // The first failure is the job's; what an `always` step adds comes after it.
            if !failed {
                outcome = this;
            }
            if fatal {
                break;
            }
        }
        if *cancel.borrow() && outcome.is_success() { Outcome::Cancelled } else { outcome }
    }

    /// Starts the services of the job, or finds them again.
    async fn serve(
        &mut self,
        before: &Before,
        mut cancel: watch::Receiver<bool>,
    ) -> Result<(), Outcome> {
        if self.assignment.job.services.is_empty() {
            return Ok(());
        }
        let begun = !before.done.is_empty() || before.running.is_some();
        let assignment = Arc::new(self.assignment.clone());
        let voice = self.session.voice();
        let (services, mut waiting) = Services::start(self.shared, &assignment, &voice, begun);
        self.services = Some(services);
        tokio::select! {
            ready = waiting.ready() => ready.map_err(|message| Outcome::Error { message }),
            _ = cancel.wait_for(|asked| *asked) => Err(Outcome::Cancelled),
        }
    }

    /// Keeps the files as the step at this position finds them.
    async fn boundary(&mut self, position: usize) -> Result<(), String> {
        let (shared, assignment) = (self.shared, self.assignment);
        self.boundaries.take(shared, assignment, &mut self.session, index(position)).await
    }

    /// What the source had heard of a step before this process came to own its attempt.
    fn known(&self, position: usize) -> StepKnown {
        self.assignment.steps.get(position).copied().unwrap_or_default()
    }

    /// A step that ended while nobody listened.
    fn recorded(&self, position: usize, done: &StepDone, log_from: u64) -> Result<StepEnd, String> {
        let (lease, source) = (self.assignment.lease, &self.shared.source);
        let told = |answer: Result<(), LeaseError>| answer.map_err(|error| error.to_string());
        let known = self.known(position);
        if known < StepKnown::Started {
            told(source.step_started(lease, index(position), log_from))?;
        }
        if known < StepKnown::Finished {
            let (exit, usage) = (done.exit.clone(), done.usage.clone());
            told(source.step_finished(lease, index(position), exit, done.log_to, usage))?;
            source.log_grew(lease, done.log_to);
        }
        Ok(StepEnd::Exit(done.exit.clone()))
    }

    /// One step; without a command: the one that runs already.
    async fn step(
        &mut self,
        position: usize,
        command: Option<StepCommand>,
        log_from: u64,
        cancel: watch::Receiver<bool>,
    ) -> Result<Exit, String> {
        let (lease, source) = (self.assignment.lease, self.shared.source.clone());
        let written = &self.assignment.job.steps[position];
        let log = self.session.log();
        let told = |answer: Result<(), LeaseError>| answer.map_err(|error| error.to_string());
        // Known already when it runs since before a restart, or was about to when that came.
        if self.known(position) < StepKnown::Started {
            told(source.step_started(lease, index(position), log_from))?;
        }
        let ended = match command {
            Some(command) => {
                let (shared, assignment) = (self.shared, self.assignment);
                // The step is asked for when this is first looked at, and runs during the rest.
                let runs = self.session.step(command, cancel);
                let noted = async { self.boundaries.note(shared, assignment) };
                tokio::join!(biased; runs, noted).0
            }
            None => match self.session.resume(cancel).await {
                Ok(Some(done)) => Ok(done.exit),
                Ok(None) => Err(StepError::Gone),
                Err(error) => Err(error),
            },
        };
        // Whoever ran the step is no more. Not the step's doing, and tried again where the job says so.
        let ended = match ended {
            Err(StepError::Gone) => Ok(Exit::HostGone { detail: StepError::Gone.to_string() }),
            ended => ended,
        };
        let log_to = log.borrow().n_bytes;
        source.log_grew(lease, log_to);
        let exit = ended.map_err(|error| format!("step `{}`: {error}", written.name))?;
        let usage = self.session.usage();
        told(source.step_finished(lease, index(position), exit.clone(), log_to, usage))?;
        Ok(exit)
    }

    async fn end(mut self, outcome: Outcome, halt: Option<Halt>) -> Ended {
        let attempt = self.assignment.lease.attempt;
        let (outcome, outputs) = self.outputs(outcome);
        let (outcome, mut artifacts) = self.artifacts(outcome, halt).await;
        if let Some(services) = self.services.take() {
            let logs = services.stop().await;
            let is_taken = |log: &Artifact| artifacts.iter().any(|own| own.path == log.path);
            let logs: Vec<_> = logs.into_iter().filter(|log| !is_taken(log)).collect();
            artifacts.extend(logs);
        }
        let log = self.session.log();
        let log_bytes = || log.borrow().n_bytes;
        let mut notes = self.notes().await;
        // What was stopped is closed: whether it is whole is nobody's worry then.
        let place = self.place.take().filter(|_| halt.is_none());
        let mut session = match place::keep(self.shared, self.assignment, self.session, place).await
        {
            Ok(()) => {
                let (log_bytes, layer) = (log_bytes(), None);
                notes.boundaries = self.shared.options.workspaces.steps_kept(attempt);
                let result = JobResult { outcome, outputs, layer, artifacts, log_bytes, notes };
                return Ended::Result(Box::new(result));
            }
            Err(session) => session,
        };
        let closed = session.close().await;
        if closed == Err(StepError::Gone) {
            // Who would have ended its processes is no more.
            reap(self.shared, attempt).await;
        }
        let mut log_bytes = log_bytes();
        if halt == Some(Halt::Disowned) {
            discard(self.shared, self.assignment);
            return Ended::Disowned;
        }
        let outcome = match closed {
            Err(error) if outcome.is_success() => Outcome::Error { message: error.to_string() },
            _ => outcome,
        };
        let workspaces = self.shared.options.workspaces.clone();
        let caches = cache::take(&workspaces, self.assignment, &outcome, &mut notes);
        let sealed = match !outcome.is_success() && workspaces.is_full() {
            // Perhaps they are what fills it, and without room nobody would hear how the job ended.
            true => {
                discard(self.shared, self.assignment);
                let line = "the disk is full, so what this job wrote is not kept";
                log_bytes = explain::say(&self.assignment.log, line);
                Ok(None)
            }
            false => workspaces.seal(attempt),
        };
        let (outcome, layer) = match sealed {
            Ok(layer) => {
                notes.boundaries = workspaces.steps_kept(attempt);
                (outcome, layer)
            }
            Err(error) => {
                discard(self.shared, self.assignment);
                let message = explain::unkept(&workspaces, self.assignment, &error);
                log_bytes = explain::say(&self.assignment.log, &message);
                match outcome.is_success() {
                    true => (Outcome::Error { message }, None),
                    false => (outcome, None),
                }
            }
        };
        if outcome.is_success() {
            cache::save(self.shared, caches, layer.clone(), &mut notes).await;
        }
        let result = JobResult { outcome, outputs, layer, artifacts, log_bytes, notes };
        Ended::Result(Box::new(result))
    }

    async fn notes(&mut self) -> Notes {
        let warnings = match self.warnings.take() {
            // It only fails when the process ends.
            Some(comparing) => comparing.await.unwrap_or_default(),
            None => Vec::new(),
        };
        Notes { warnings, ..Notes::default() }
    }

    fn outputs(&self, outcome: Outcome) -> (Outcome, BTreeMap<String, String>) {
        let attempt_dir = self.shared.options.workspaces.attempt_dir(self.assignment.lease.attempt);
        let path: PathBuf = attempt_dir.join(OUTPUT_FILE);
        // Only a job that succeeded is held to its promises.
        let promised: &[String] =
            if outcome.is_success() { &self.assignment.job.outputs } else { &[] };
        match output::read(&path, promised) {
            Ok(outputs) => (outcome, outputs),
            Err(error) if outcome.is_success() => {
                (Outcome::Error { message: error.to_string() }, BTreeMap::new())
            }
            Err(_) => (outcome, BTreeMap::new()),
        }
    }

    /// A failed job gives what there is: its report is what people then look for.
    async fn artifacts(
        &mut self,
        outcome: Outcome,
        halt: Option<Halt>,
    ) -> (Outcome, Vec<Artifact>) {
        let mut rules = self.assignment.job.artifacts.clone();
        let wanted = matches!(outcome, Outcome::Success | Outcome::StepFailed { .. });
        if rules.is_empty() || halt.is_some() || !wanted {
            return (outcome, Vec::new());
        }
        if !outcome.is_success() {
            rules = rules.into_iter().map(|rule| ArtifactRule { optional: true, ..rule }).collect();
        }
        match self.session.collect(rules, self.assignment.objects.clone()).await {
            Ok(artifacts) => (outcome, artifacts),
            Err(error) if outcome.is_success() => {
                (Outcome::Error { message: error.to_string() }, Vec::new())
            }
            Err(_) => (outcome, Vec::new()),
        }
    }
}

/// Resolves when the attempt must stop, for whatever reason.
pub(crate) async fn halt<S: JobSource, E: Executor>(
    shared: &Shared<S, E>,
    lease: LeaseId,
    mut stop: watch::Receiver<Phase>,
) -> Halt {
    tokio::select! {
        asked = shared.source.stop_asked(lease) => match asked {
            Stop::Cancel { .. } => Halt::Cancelled,
            Stop::Stale => Halt::Disowned,
        },
        () = shared.leases.stale(lease) => Halt::Disowned,
        _ = stop.wait_for(|phase| *phase == Phase::Leave) => Halt::Left,
    }
}

fn index(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
