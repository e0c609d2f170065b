//! Where a job runs: a session on a workspace of its own.
//!
//! A job that left its workspace as it had found it leaves a *spare*: the mount and the process that
//! holds it, without anything of the job, for the next job of the same run on the same layers.
//! Making these costs more than many a job. What its mount remembers of a working tree that somebody is
//! editing must not be older than eyes can tell: an older spare is not used, or, being a container, has its
//! workspace mounted anew.
//!
//! Always: a spare is in nobody's hands, and when it is not taken it is closed and its folder
//! removed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kiln_api::agent::{Assignment, JobSource};
use kiln_executor::{Container, Executor, OpenError, Root, Session, SessionSpec};
use kiln_image::Image;
use kiln_model::layer::{Digest, LayerId, Source};
use kiln_model::plan::{Network, View};
use kiln_model::{AttemptId, Surroundings};
use kiln_stdx::Subordinate;
use kiln_stdx::overlay::Mount;
use kiln_workspace::{Prepared, Untouched};

use crate::agent::{Shared, report};
use crate::job::{OUTPUT_FILE, prepare};
use crate::{environment, image, named, network, remote, sandbox};

/// How long after its workspace was mounted a place may be given to another job as it is, when it shows a
/// working tree.
const FRESH_FOR: Duration = Duration::from_millis(250);
/// How long a container waits for another job.
const WAITS_FOR: Duration = Duration::from_secs(2);
/// So many spares for each job that runs at the same time. Only jobs in different containers leave more.
const SPARES_MAX: usize = 2;

/// A workspace with its session, and what it was before the job.
pub(crate) struct Place {
    prepared: Prepared,
    untouched: Untouched,
    /// When its workspace was mounted.
    made_at: Duration,
    /// Where the session is a container.
    inside: Option<Inside>,
}

/// A container that may serve several jobs.
struct Inside {
    of: Of,
    container: Container,
    users: Option<Subordinate>,
    /// The folder that its files are in.
    attempt_dir: PathBuf,
}

/// What makes the container of one job the same as another's.
#[derive(Clone, PartialEq, Eq)]
struct Of {
    image: Digest,
    user: Option<String>,
    network: Option<Network>,
}

pub(crate) struct Spare<T> {
    session: T,
    place: Place,
    rests_since: Duration,
    /// Whose folder it is in.
    attempt: AttemptId,
    layers: Vec<LayerId>,
    sees: Sees,
}

/// What is under the layers.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Sees {
    source: bool,
    git: bool,
}

/// The spares of one agent, the youngest last.
pub(crate) struct Spares<T>(Mutex<Vec<Spare<T>>>);

impl<T> Default for Spares<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Session> Spares<T> {
    fn take(
        &self,
        assignment: &Assignment,
        image: Option<&Image>,
        now: Duration,
    ) -> Option<Spare<T>> {
        let mut spares = self.lock();
        let of = image.map(|image| Of::image(assignment, image));
        let fits = |spare: &Spare<T>| {
            spare.attempt.run == assignment.lease.attempt.run
                && spare.place.inside.as_ref().map(|inside| &inside.of) == of.as_ref()
                && (&spare.layers, spare.sees) == (&assignment.layers, sees(assignment))
                && now < spare.expire_at()
        };
        let at = spares.iter().rposition(fits)?;
        Some(spares.remove(at))
    }

    /// When the first of them is too old.
    pub fn expire_at(&self) -> Option<Duration> {
        self.lock().iter().map(Spare::expire_at).min()
    }

    /// Those that are too old at `now`.
    pub fn expired(&self, now: Duration) -> Vec<Spare<T>> {
        self.lock().extract_if(.., |spare| spare.expire_at() <= now).collect()
    }

    pub fn all(&self) -> Vec<Spare<T>> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Spare<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Spare<T> {
    fn expire_at(&self) -> Duration {
        match self.place.inside {
            Some(_) => self.rests_since + WAITS_FOR,
            None => self.place.made_at + FRESH_FOR,
        }
    }
}

impl Place {
    fn is_fresh(&self, now: Duration) -> bool {
        now < self.made_at + FRESH_FOR
    }
}

impl Of {
    fn image(assignment: &Assignment, image: &Image) -> Self {
        let job = &assignment.job;
        Self { image: image.digest.clone(), user: job.user.clone(), network: job.network }
    }
}

impl Inside {
    /// `None` when it is nobody else's.
    fn new(assignment: &Assignment, image: &Image, spec: &SessionSpec) -> Option<Self> {
        let container =
            spec.container.clone().filter(|container| container.root.layers().is_some())?;
        let (users, attempt_dir) = (spec.users.clone(), spec.attempt_dir.clone());
        Some(Self { of: Of::image(assignment, image), container, users, attempt_dir })
    }

    /// As it is when its folder is another attempt's.
    fn moved(&self, to: &Path) -> Self {
        let there = |path: &mut PathBuf| {
            if let Ok(below) = path.strip_prefix(&self.attempt_dir) {
                *path = to.join(below);
            }
        };
        let mut container = self.container.clone();
        if let Root::Layers(mount) = &mut container.root {
            [&mut mount.upper, &mut mount.work, &mut mount.at].into_iter().for_each(there);
        }
        container.binds.iter_mut().for_each(|bind| there(&mut bind.from));
        let (of, users) = (self.of.clone(), self.users.clone());
        Self { of, container, users, attempt_dir: to.to_owned() }
    }
}

/// A place that is on its way to a job.
pub(crate) enum Ready<T> {
    New(Prepared),
    Again(Box<Spare<T>>, Prepared),
}

/// Everything before the session.
pub(crate) async fn ready<S: JobSource, E: Executor>(
    shared: &Arc<Shared<S, E>>,
    assignment: &Assignment,
    image: Option<&Image>,
) -> Result<Ready<E::Session>, String> {
    let to = assignment.lease.attempt;
    let now = shared.options.clock.monotonic();
    if is_plain(assignment)
        && let Some(spare) = shared.spares.take(assignment, image, now)
    {
        let workspaces = &shared.options.workspaces;
        match workspaces.hand_on(spare.attempt, to, &spare.place.prepared) {
            Ok(prepared) => return Ok(Ready::Again(Box::new(spare), prepared)),
            // What is wrong is told by the other way, if it is still wrong there.
            Err(_) => close(shared, spare).await,
        }
    }
    prepare(shared, assignment).await.map(Ready::New)
}

/// A session, what must be known of its place to use it again, and how that is mounted.
pub(crate) type Opened<T> = (T, Option<Place>, Option<Mount>);

/// The session of a job.
pub(crate) async fn open<S: JobSource, E: Executor>(
    shared: &Arc<Shared<S, E>>,
    assignment: &Assignment,
    ready: Ready<E::Session>,
    image: Option<&Image>,
) -> Result<Opened<E::Session>, OpenError> {
    let prepared = match ready {
        Ready::New(prepared) => prepared,
        Ready::Again(spare, prepared) => {
            let Spare { mut session, mut place, .. } = *spare;
            let mut spec = spec(shared, assignment, &prepared);
            connect(shared, assignment, &mut spec)?;
            if let (Some(image), Some(inside)) = (image, place.inside.take()) {
                let inside = inside.moved(&spec.attempt_dir);
                spec.container = Some(inside.container.clone());
                spec.users = inside.users.clone();
                image::speak_of(assignment, &shared.options.machine_env, image, &mut spec);
                place.inside = Some(inside);
            }
            let renewed = session.renew(spec).await;
            let renewed = match renewed {
                Ok(()) => look_again(shared, assignment, &mut session, &mut place, &prepared).await,
                Err(_) => false,
            };
            match renewed {
                true => {
                    let mount = prepared.mount.clone();
                    return Ok((session, Some(Place { prepared, ..place }), mount));
                }
                false => {
                    let _ = session.close().await;
                    prepare(shared, assignment).await.map_err(OpenError::Other)?
                }
            }
        }
    };
    let made_at = shared.options.clock.monotonic();
    let mut spec = spec(shared, assignment, &prepared);
    connect(shared, assignment, &mut spec)?;
    if !assignment.job.services.is_empty() {
        // They are containers, in namespaces below this one.
        spec.users = shared.options.workspaces.users();
    }
    if let Some(image) = image {
        let (workspaces, machine_env) = (&shared.options.workspaces, &shared.options.machine_env);
        let folder = workspaces.attempt_dir(assignment.lease.attempt);
        let job = (assignment, machine_env.as_slice());
        image::run_in(workspaces, &folder, job, image, &prepared, &mut spec)
            .map_err(OpenError::Other)?;
    }
    let (workspaces, machine_env) = (&shared.options.workspaces, &shared.options.machine_env);
    let folder = spec.attempt_dir.clone();
    sandbox::put_in(workspaces, &folder, (assignment, machine_env), &prepared, &mut spec)
        .map_err(OpenError::Other)?;
    remote::send(assignment, &shared.options, &mut spec);
    let inside = image.and_then(|image| Inside::new(assignment, image, &spec));
    let session = shared.executor.open(spec).await?;
    let untouched = shared.options.workspaces.untouched(assignment.lease.attempt);
    let untouched = untouched.filter(|_| image.is_none() || inside.is_some());
    let mount = prepared.mount.clone();
    let place = untouched.map(|untouched| Place { prepared, untouched, made_at, inside });
    Ok((session, place, mount))
}

/// Mounts the workspace of a renewed session anew when it may show a working tree of earlier. `false`: the
/// session cannot be used.
async fn look_again<S: JobSource, E: Executor>(
    shared: &Shared<S, E>,
    assignment: &Assignment,
    session: &mut E::Session,
    place: &mut Place,
    prepared: &Prepared,
) -> bool {
    let now = shared.options.clock.monotonic();
    let sees_tree =
        matches!(assignment.source, Source::WorkingTree { .. }) && sees(assignment).source;
    if !sees_tree || place.is_fresh(now) {
        return true;
    }
    if session.remount(prepared.mount.clone()).await != Ok(true) {
        return false;
    }
    match shared.options.workspaces.untouched(assignment.lease.attempt) {
        Some(untouched) => {
            (place.untouched, place.made_at) = (untouched, now);
            true
        }
        None => false,
    }
}

/// Gives a session the network of its job.
fn connect<S, E: Executor>(
    shared: &Shared<S, E>,
    assignment: &Assignment,
    spec: &mut SessionSpec,
) -> Result<(), OpenError> {
    let network = network::of(&assignment.job, &shared.options.machine_env);
    let (network, remark) = network.map_err(OpenError::Other)?;
    spec.network = network;
    spec.preface.extend(remark);
    Ok(())
}

/// Whether the job has left its place as it was, in which case that is spare now.
pub(crate) async fn keep<S: JobSource, E: Executor>(
    shared: &Shared<S, E>,
    assignment: &Assignment,
    mut session: E::Session,
    place: Option<Place>,
) -> Result<(), E::Session> {
    let attempt = assignment.lease.attempt;
    let clock = &shared.options.clock;
    let n_max = SPARES_MAX * shared.options.n_slots.max(1);
    let is_soon_used = |place: &Place| place.inside.is_some() || place.is_fresh(clock.monotonic());
    let lasts = |place: &Place| {
        !assignment.is_last && is_soon_used(place) && shared.spares.lock().len() < n_max
    };
    let wanted = |place: &Place| is_plain(assignment) && lasts(place);
    let Some(place) = place.filter(wanted) else {
        return Err(session);
    };
    let untouched = || shared.options.workspaces.is_untouched(attempt, &place.untouched);
    // Asked again when nobody is left who could write.
    if !(untouched() && session.rest().await == Ok(true) && untouched()) {
        return Err(session);
    }
    // Before its folder is another's. Without them, the job can still be run from its beginning.
    if let Err(error) = shared.options.workspaces.keep_steps_of_nothing(attempt) {
        report(&format!("cannot keep the steps of {attempt}: {error}"));
    }
    let (layers, sees) = (assignment.layers.clone(), sees(assignment));
    let rests_since = clock.monotonic();
    shared.spares.lock().push(Spare { session, place, rests_since, attempt, layers, sees });
    Ok(())
}

/// Whether it begins with an empty top, at its first step, and finds nothing of earlier runs.
fn is_plain(assignment: &Assignment) -> bool {
    let job = &assignment.job;
    let on_machine = job.image.is_none() && network::is_machines(job);
    let in_container = job.image.is_some() && !job.privileged && job.volumes.is_empty();
    (on_machine || in_container)
        && job.services.is_empty()
        && job.ssh.is_none()
        && job.limits.is_none()
        && !sandbox::is_asked(assignment)
        && assignment.own.is_empty()
        && assignment.first_step == 0
        && assignment.job.cache.is_empty()
}

fn sees(assignment: &Assignment) -> Sees {
    let source = assignment.job.workspace != View::Nothing;
    Sees { source, git: source && named::sees_git(&assignment.job) }
}

/// Ends a spare and removes its folder.
pub(crate) async fn close<S, E: Executor>(shared: &Shared<S, E>, spare: Spare<E::Session>) {
    let Spare { mut session, attempt, .. } = spare;
    // It has no job whose result could change.
    let _ = session.close().await;
    if let Err(error) = shared.options.workspaces.discard(attempt) {
        report(&format!("cannot remove the files of {attempt}: {error}"));
    }
}

/// What the steps of an attempt run in, for those who look at it later.
pub(crate) fn surroundings<S, E: Executor>(
    shared: &Shared<S, E>,
    assignment: &Assignment,
    image: Option<&Image>,
) -> Surroundings {
    let job = &assignment.job;
    Surroundings {
        executor: job.executor,
        image: job.image.clone(),
        image_digest: image.map(|image| format!("sha256:{}", image.digest)),
        network: network::reached(job, &shared.options.machine_env),
        limits: job.limits,
        sandbox: sandbox::is_asked(assignment),
        privileged: job.privileged,
        host: job.ssh.clone(),
    }
}

fn spec<S, E: Executor>(
    shared: &Shared<S, E>,
    assignment: &Assignment,
    prepared: &Prepared,
) -> SessionSpec {
    let options = &shared.options;
    let attempt = assignment.lease.attempt;
    let attempt_dir = options.workspaces.attempt_dir(attempt);
    let output = attempt_dir.join(OUTPUT_FILE);
    SessionSpec {
        attempt,
        attempt_dir,
        users: None,
        stop_signal: None,
        mount: prepared.mount.clone(),
        further: prepared.further.clone(),
        read_only: assignment.mirror.iter().cloned().collect(),
        preface: prepared.lines.clone(),
        container: None,
        network: kiln_executor::SessionNetwork::default(),
        directory: prepared.directory.clone(),
        env: environment::of(assignment, &options.machine_env, &prepared.directory, &output),
        masked: assignment.secrets.values().cloned().collect(),
        log: assignment.log.clone(),
        log_bytes_max: options.log_bytes_max,
        grace: options.grace,
        orphan_for: options.orphan_for,
        limits: assignment.job.limits,
        sandbox: None,
        remote: None,
    }
}
