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

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kiln_api::agent::{Assignment, JobResult, JobSource, LeaseError};
use kiln_executor::{Executor, Session};
use kiln_image::{Image, Policy};
use kiln_model::{AttemptId, LeaseId, Outcome};
use kiln_stdx::{Clock, SystemClock};
use kiln_workspace::{Prepared, WorkspaceError};
use tokio::sync::watch;

use crate::agent::{Phase, Shared, report};
use crate::attempt::{Attempt, Before, Ended, Halt, halt};
use crate::boundary::{self, Boundaries};
use crate::collide::{self};
use crate::place::{self};
use crate::reuse::{self, Sought, Watched};
use crate::service::{self};
use crate::slot::Busy;
use crate::{cache, explain, image, pull};

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
pub(crate) async fn reap<S: JobSource, E: Executor>(
    shared: &Arc<Shared<S, E>>,
    attempt: AttemptId,
) {
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
    let ready = match place::ready(shared, assignment, image.as_ref()).await {
        Ok(ready) => ready,
        Err(message) => return error(message),
    };
    let surroundings = place::surroundings(shared, assignment, image.as_ref());
    let opening = async {
        tokio::join!(
            place::open(shared, assignment, ready, image.as_ref()),
            shared.source.started(assignment.lease, surroundings),
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
    let asked = (name, policy, assignment.job.executor);
    let grew = |n_bytes| shared.source.log_grew(assignment.lease, n_bytes);
    let (progress, began) = (watch::Sender::default(), SystemClock.monotonic());
    let found = tokio::select! {
        found = image::named(&shared.options.images, asked, files, &progress) => found,
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

pub(crate) fn discard<S, E: Executor>(shared: &Shared<S, E>, assignment: &Assignment) {
    if let Err(error) = shared.options.workspaces.discard(assignment.lease.attempt) {
        report(&format!("cannot remove the files of {}: {error}", assignment.lease));
    }
}
