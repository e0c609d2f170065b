//! One job: workspace, steps, outputs, artifacts, layer, result.
//!
//! ```text
//! assignment ─▶ base + workspace ─▶ session ─┐
//!          └──────────▶ started (durable) ───┴─▶ steps ─▶ outputs, artifacts ─▶ seal ─▶ finish
//! ```
//!
//! Always: no step runs before `started` is durable; nothing is finished under a lease that the
//! source has disowned; whatever happens, the session is closed (or, untouched, kept for
//! another job: `place`) and the lease leaves the table.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kiln_api::agent::{Assignment, JobResult, JobSource, LeaseError, StepKnown, Stop};
use kiln_executor::{Executor, Session, StepCommand, StepDone, StepError};
use kiln_image::{Image, Policy};
use kiln_model::artifact::Artifact;
use kiln_model::plan::{ArtifactRule, ExecutorKind};
use kiln_model::{AttemptId, Exit, LeaseId, Notes, Outcome};
use kiln_stdx::{Clock, SystemClock};
use kiln_workspace::{Prepared, WorkspaceError};
use tokio::sync::watch;

use crate::agent::{Phase, Shared, report};
use crate::boundary::{self, Boundaries};
use crate::collide::{self, Comparing};
use crate::place::{self, Place};
use crate::reuse::{self, Sought, Watched};
use crate::service::{self, Services};
use crate::slot::Busy;
use crate::{cache, explain, image, output, pull, step};

/// Runs an assignment to its end and tells the source.
pub(crate) async fn run<S: JobSource, E: Executor>(
    shared: Arc<Shared<S, E>>,
    assignment: Assignment,
    busy: Busy,
    stop: watch::Receiver<Phase>,
) {
    let lease = assignment.lease;
    let ended = match reuse::seek(&shared, &assignment, busy, stop.clone()).await {
        Sought::Run { busy, watched } => {
            let image = watched.as_ref().and_then(|watched| watched.image.clone());
            let ended = drive(&shared, &assignment, image, stop).await;
            let watched = watched.map(|watched| *watched);
            let ended = noted(&shared, &assignment, watched, ended).await;
            // The next job need not wait until this one's result is on disk.
            drop(busy);
            ended
        }
        Sought::Reused | Sought::Disowned => Ended::Disowned,
        Sought::Cancelled => Ended::Result(Box::new(JobResult::bare(Outcome::Cancelled, 0))),
        Sought::Left => Ended::Left,
    };
    settle(&shared, lease, ended).await;
    cache::tidy(&shared, &assignment).await;
}

/// Goes on with an assignment that was held before a restart, or gives it up.
pub(crate) async fn resume<S: JobSource, E: Executor>(
    shared: Arc<Shared<S, E>>,
    assignment: Assignment,
    busy: Busy,
    stop: watch::Receiver<Phase>,
) {
    let lease = assignment.lease;
    let attempt_dir = shared.options.workspaces.attempt_dir(lease.attempt);
    match shared.executor.attach(&attempt_dir).await {
        Ok(Some(found)) if assignment.started_at.is_some() => {
            let before = Before { done: found.steps_done, running: found.running };
            let boundaries = Boundaries::over(found.mount);
            let (session, place) = (found.session, None);
            let warnings = collide::begin(&shared, &assignment);
            let (shared, assignment) = (&shared, &assignment);
            let attempt = Attempt {
                shared,
                assignment,
                session,
                place,
                warnings,
                boundaries,
                services: None,
            };
            let ended = attempt.run(before, stop).await;
            let ended = noted(shared, assignment, reuse::watched(assignment), ended).await;
            drop(busy);
            settle(shared, lease, ended).await;
        }
        found => {
            if let Ok(Some(mut unasked)) = found {
                // Leased, its session open, and not yet recorded as started: nothing of it ran.
                let _ = unasked.session.close().await;
            }
            abandon(&shared, lease, attempt_dir).await;
        }
    }
}

/// Ends what a session that is gone has left running.
async fn reap<S: JobSource, E: Executor>(shared: &Arc<Shared<S, E>>, attempt: AttemptId) {
    let cleaner = shared.clone();
    let folder = shared.options.workspaces.attempt_dir(attempt);
    let ended = tokio::task::spawn_blocking(move || cleaner.executor.reap(attempt, &folder)).await;
    if let Err(panic) = ended {
        report(&format!("cannot end what is left of {attempt}: {panic}"));
    }
}

/// The session did not outlive the restart. What is left of it goes, and the source is told.
async fn abandon<S: JobSource, E: Executor>(
    shared: &Arc<Shared<S, E>>,
    lease: LeaseId,
    attempt_dir: PathBuf,
) {
    let cleaner = shared.clone();
    let clean = move || {
        cleaner.executor.reap(lease.attempt, &attempt_dir);
        if let Err(error) = cleaner.options.workspaces.discard(lease.attempt) {
            report(&format!("cannot remove the files of {lease}: {error}"));
        }
    };
    if let Err(panic) = tokio::task::spawn_blocking(clean).await {
        report(&format!("cannot clean up after {lease}: {panic}"));
    }
    let message = "kiln was stopped while it ran".to_owned();
    let mut tries = shared.tries();
    while let Err(LeaseError::Unavailable(error)) =
        shared.source.give_up(lease, message.clone()).await
    {
        tries.failed(&format!("cannot give up {lease}"), &error);
        tokio::time::sleep(FINISH_AGAIN_AFTER).await;
    }
    shared.leases.remove(lease);
}

/// How driving an assignment ended.
enum Ended {
    Result(Box<JobResult>),
    /// The lease is not ours (any more): nothing is to be told.
    Disowned,
    /// This process leaves; the session lives on for the next one.
    Left,
}

/// Between two tries to deliver a result.
const FINISH_AGAIN_AFTER: Duration = Duration::from_secs(1);

async fn settle<S: JobSource, E: Executor>(shared: &Shared<S, E>, lease: LeaseId, ended: Ended) {
    if let Ended::Result(result) = ended {
        // No bound on the tries: a result is worth as long as its lease, and a lease that is gone
        // answers as stale.
        let mut tries = shared.tries();
        while let Err(LeaseError::Unavailable(error)) =
            shared.source.finish(lease, (*result).clone()).await
        {
            tries.failed(&format!("cannot deliver the result of {lease}"), &error);
            tokio::time::sleep(FINISH_AGAIN_AFTER).await;
        }
    }
    shared.leases.remove(lease);
}

/// With what must be known of a result before others take it.
async fn noted<S: JobSource, E: Executor>(
    shared: &Arc<Shared<S, E>>,
    assignment: &Assignment,
    watched: Option<Watched>,
    ended: Ended,
) -> Ended {
    match (watched, ended) {
        (Some(watched), Ended::Result(mut result)) => {
            reuse::note(shared, assignment, watched, &mut result).await;
            Ended::Result(result)
        }
        (_, ended) => ended,
    }
}

async fn drive<S: JobSource, E: Executor>(
    shared: &Arc<Shared<S, E>>,
    assignment: &Assignment,
    image: Option<Result<Image, String>>,
    stop: watch::Receiver<Phase>,
) -> Ended {
    let error = |message: String| unbegun(assignment, message);
    if assignment.job.executor == ExecutorKind::Docker {
        return error(NO_DOCKER.to_owned());
    }
    // A large image takes minutes, in which the job may be cancelled.
    let image = async {
        let image = match image {
            Some(known) => known.map(Some),
            None => image_of(shared, assignment).await,
        };
        let image = image?;
        service::fetch(shared, assignment).await?;
        Ok::<_, String>(image)
    };
    let image = tokio::select! {
        image = image => image,
        halt = halt(shared, assignment.lease, stop.clone()) => return match halt {
            Halt::Cancelled => Ended::Result(Box::new(JobResult::bare(Outcome::Cancelled, 0))),
            Halt::Disowned => Ended::Disowned,
            Halt::Left => Ended::Left,
        },
    };
    let image = match image {
        Ok(image) => image,
        Err(message) => return error(message),
    };
    let ready = match place::ready(shared, assignment).await {
        Ok(ready) => ready,
        Err(message) => return error(message),
    };
    let opening = async {
        tokio::join!(
            place::open(shared, assignment, ready, image.as_ref()),
            shared.source.started(assignment.lease),
        )
    };
    let (opened, started) = tokio::select! {
        both = opening => both,
        // So does a workspace on its way to another machine.
        halt = halt(shared, assignment.lease, stop.clone()), if assignment.job.ssh.is_some() => {
            discard(shared, assignment);
            return match halt {
                Halt::Cancelled => Ended::Result(Box::new(JobResult::bare(Outcome::Cancelled, 0))),
                Halt::Disowned => Ended::Disowned,
                Halt::Left => Ended::Left,
            };
        }
    };
    let (mut session, place, mount) = match opened {
        Ok(opened) => opened,
        Err(cause) => {
            discard(shared, assignment);
            return match started {
                Err(LeaseError::Stale(_)) => Ended::Disowned,
                _ => error(explain::no_session(assignment, &cause)),
            };
        }
    };
    if let Err(refused) = started {
        let _ = session.close().await;
        discard(shared, assignment);
        return match refused {
            LeaseError::Stale(_) => Ended::Disowned,
            LeaseError::Unavailable(message) => error(message),
        };
    }
    let warnings = collide::begin(shared, assignment);
    let boundaries = Boundaries::over(mount);
    let attempt =
        Attempt { shared, assignment, session, place, warnings, boundaries, services: None };
    attempt.run(Before::default(), stop).await
}

/// Never run in another way in silence.
const NO_DOCKER: &str = "the job asks for `executor: docker`, which this version does not have; \
                         `executor: oci` runs the same image without Docker";

/// A job that never had a session: what kept it from one is in its log, too.
fn unbegun(assignment: &Assignment, message: String) -> Ended {
    let log_bytes = explain::say(&assignment.log, &message);
    Ended::Result(Box::new(JobResult::bare(Outcome::Error { message }, log_bytes)))
}

/// The image that the job runs in, if it asks for one.
pub(crate) async fn image_of<S: JobSource, E: Executor>(
    shared: &Arc<Shared<S, E>>,
    assignment: &Assignment,
) -> Result<Option<Image>, String> {
    let Some(name) = &assignment.job.image else { return Ok(None) };
    fetch(shared, assignment, name, image::policy(assignment)).await.map(Some)
}

/// An image by its name. What is fetched is told in the job's log.
pub(crate) async fn fetch<S: JobSource, E: Executor>(
    shared: &Arc<Shared<S, E>>,
    assignment: &Assignment,
    name: &str,
    policy: Policy,
) -> Result<Image, String> {
    let (there, asked) = (shared.clone(), assignment.clone());
    let files = move || image::folders(&there.options.workspaces, &there.bases, &asked);
    let image = (name, assignment.log.as_path());
    let grew = |n_bytes| shared.source.log_grew(assignment.lease, n_bytes);
    let (progress, began) = (watch::Sender::default(), SystemClock.monotonic());
    let found = tokio::select! {
        found = image::named(&shared.options.images, name, policy, files, &progress) => found,
        never = pull::tell(progress.subscribe(), image, grew) => match never {},
    };
    pull::told(*progress.borrow(), image, began, grew);
    found
}

/// A new workspace.
pub(crate) async fn prepare<S: JobSource, E: Executor>(
    shared: &Arc<Shared<S, E>>,
    assignment: &Assignment,
) -> Result<Prepared, String> {
    let (shared, assignment) = (shared.clone(), assignment.clone());
    let prepared = move || {
        let workspaces = &shared.options.workspaces;
        let attempt = assignment.lease.attempt;
        let base = shared.bases.of(&assignment);
        let base = base.map_err(|why| explain::no_base(&assignment, &why))?;
        let place = assignment.project.as_str();
        // Until they are found and noted, nobody may collect caches.
        let unmade = |error: WorkspaceError| explain::unmade(workspaces, &assignment, &error);
        let _using = workspaces.using().map_err(unmade)?;
        let caches = cache::find(&shared.options, &assignment, &base);
        let own = [assignment.own.as_slice(), &caches.own].concat();
        let made = workspaces.prepare(attempt, place, &base, &assignment.layers, &own);
        let made = made.map_err(unmade).and_then(|mut prepared| {
            boundary::begin(workspaces, &assignment, &prepared)?;
            workspaces.lay_caches(attempt, caches, &mut prepared).map_err(unmade)?;
            Ok(prepared)
        });
        if made.is_err() {
            // Nothing half made stays, and no layer is held by it.
            discard(&shared, &assignment);
        }
        made
    };
    // A first checkout may take minutes; everything else is a few small calls.
    tokio::task::spawn_blocking(prepared).await.map_err(|error| error.to_string())?
}

/// In the attempt's own folder, where `KILN_OUTPUT` points.
pub(crate) const OUTPUT_FILE: &str = "output";

fn discard<S, E: Executor>(shared: &Shared<S, E>, assignment: &Assignment) {
    if let Err(error) = shared.options.workspaces.discard(assignment.lease.attempt) {
        report(&format!("cannot remove the files of {}: {error}", assignment.lease));
    }
}

/// A session with what it is for.
struct Attempt<'a, S, E: Executor> {
    shared: &'a Arc<Shared<S, E>>,
    assignment: &'a Assignment,
    session: E::Session,
    /// What must be known of it to use it again; `None` when that cannot be.
    place: Option<Place>,
    warnings: Option<Comparing>,
    boundaries: Boundaries,
    services: Option<Services>,
}

/// What a session had done before this process came to own it.
#[derive(Default)]
struct Before {
    done: Vec<StepDone>,
    running: Option<u32>,
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
    async fn run(mut self, before: Before, stop: watch::Receiver<Phase>) -> Ended {
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
            Some(command) => self.session.step(command, cancel).await,
            None => match self.session.resume(cancel).await {
                Ok(Some(done)) => Ok(done.exit),
                Ok(None) => Err(StepError::Gone),
                Err(error) => Err(error),
            },
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
