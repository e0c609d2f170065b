//! Takes a job, runs it, again; as many at once as it has slots.
//!
//! Always: between taking a job and finishing it, the job's lease is in the table that is renewed.
//! An agent without a job sleeps on the source and wakes for nothing else.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kiln_api::agent::{AgentInfo, JobSource};
use kiln_executor::Executor;
use kiln_image::Images;
use kiln_model::RunId;
use kiln_stdx::Clock;
use kiln_workspace::{Base, Workspaces};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::base::Bases;
use crate::collide::Warnings;
use crate::digests::Digests;
use crate::lease::Leases;
use crate::place::{self, Spare, Spares};
use crate::slot::Slots;
use crate::trouble::{Lasting, Tries};
use crate::{job, leftover};

/// What an agent is given.
#[derive(Clone)]
pub struct AgentOptions {
    pub info: AgentInfo,
    /// How many jobs at once.
    pub n_slots: usize,
    pub workspaces: Arc<Workspaces>,
    pub images: Arc<Images>,
    /// No other process keeps attempts in `workspaces`. Those that no lease names are then cleared
    /// away at the start; where several share a folder, they may be a neighbour's.
    pub workspaces_are_ours: bool,
    pub clock: Arc<dyn Clock>,
    pub log_bytes_max: u64,
    /// Between TERM and KILL.
    pub grace: Duration,
    /// How long a session outlives this process and waits for the next one. Zero: not at all.
    pub orphan_for: Duration,
    /// Variables of this machine that every job gets: `PATH`, `HOME` and the like.
    pub machine_env: Vec<(String, String)>,
    /// In place of the user's own configuration of `ssh`.
    pub ssh_config: Option<PathBuf>,
    /// Where digests of files of working trees are remembered.
    pub digests: PathBuf,
    /// Called when there is nothing to do, each time anew. Must not take long.
    pub on_idle: fn(),
    /// The base of a run of a working tree that begins with this agent. Any other run of one began
    /// earlier, and its jobs get the files of that time.
    pub begins: Option<(RunId, Base)>,
}

/// A running agent.
pub struct Agent {
    stop: watch::Sender<Phase>,
    lasting: watch::Receiver<Option<String>>,
    tasks: JoinSet<()>,
}

/// What the agent's tasks should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Run,
    /// Take nothing new; what runs goes on to its end.
    Drain,
    /// Leave at once. What runs is left to its session, for the next process to go on with.
    Leave,
}

/// Everything that the tasks of one agent share.
pub(crate) struct Shared<S, E: Executor> {
    pub options: AgentOptions,
    pub source: Arc<S>,
    pub executor: E,
    pub leases: Leases,
    pub bases: Bases,
    pub digests: Digests,
    pub warnings: Warnings,
    pub spares: Spares<E::Session>,
    pub lasting: Lasting,
}

impl<S, E: Executor> Shared<S, E> {
    /// For one act that is tried until it succeeds.
    pub fn tries(&self) -> Tries<'_> {
        Tries::new(&self.options.clock, &self.lasting)
    }
}

impl Agent {
    /// Starts it. Jobs that it held before a restart are continued or given up first.
    pub fn start<S: JobSource, E: Executor>(
        options: AgentOptions,
        source: Arc<S>,
        executor: E,
    ) -> Self {
        let stop = watch::Sender::new(Phase::Run);
        let n_slots = options.n_slots.max(1);
        let bases = Bases::with(options.workspaces.clone(), options.begins.clone());
        let digests = Digests::new(&options.digests);
        let shared = Arc::new(Shared {
            options,
            source,
            executor,
            leases: Leases::default(),
            bases,
            digests,
            warnings: Warnings::default(),
            spares: Spares::default(),
            lasting: Lasting::new(None),
        });
        let lasting = shared.lasting.subscribe();
        let mut tasks = JoinSet::new();
        tasks.spawn(work(shared.clone(), n_slots, stop.subscribe()));
        tasks.spawn(renew(shared, stop.subscribe()));
        Self { stop, lasting, tasks }
    }

    /// Trouble with the source that lasts: nothing can be taken, or results cannot be delivered. The
    /// agent goes on trying.
    pub fn lasting_trouble(&self) -> impl Future<Output = String> + use<> {
        let mut lasting = self.lasting.clone();
        async move {
            let told = lasting.wait_for(Option::is_some).await.map(|told| told.clone());
            match told.ok().flatten() {
                Some(trouble) => trouble,
                // The agent is gone, and its trouble with it.
                None => std::future::pending().await,
            }
        }
    }

    /// Takes nothing new and waits until what runs has ended.
    pub async fn drain(mut self) {
        self.stop.send_replace(Phase::Drain);
        while self.tasks.join_next().await.is_some() {}
    }

    /// Leaves at once. Sessions live on for `orphan_for` and are found again by the next start.
    pub async fn leave(mut self) {
        self.stop.send_replace(Phase::Leave);
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn work<S: JobSource, E: Executor>(
    shared: Arc<Shared<S, E>>,
    n_slots: usize,
    mut stop: watch::Receiver<Phase>,
) {
    let slots = Slots::new(n_slots);
    let mut jobs = JoinSet::new();
    let held = resume(&shared, &stop).await;
    let attempts = held.iter().map(|held| held.lease.attempt).collect();
    for held in held {
        jobs.spawn(job::resume(shared.clone(), held, slots.busy(), stop.clone()));
    }
    // Before the first new job: it may be another lease of an attempt whose remains lie here.
    if shared.options.workspaces_are_ours && *stop.borrow() == Phase::Run {
        leftover::clear(&shared, attempts).await;
    }
    // Kept over the turns of the loop: dropped in the middle of a lease, it would cost an epoch.
    let mut take = None;
    let mut tries = shared.tries();
    let mut closing = JoinSet::new();
    let mut rests = false;
    loop {
        if take.is_none() {
            let (shared, slots) = (shared.clone(), slots.clone());
            take = Some(Box::pin(async move {
                slots.free().await;
                shared.source.take(&shared.options.info).await
            }));
        }
        let idle = jobs.is_empty() && closing.is_empty() && shared.spares.expire_at().is_none();
        rests &= idle;
        let taken = tokio::select! {
            biased;
            _ = stop.wait_for(|phase| *phase > Phase::Run) => break,
            Some(_) = jobs.join_next(), if !jobs.is_empty() => continue,
            taken = async { take.as_mut().expect("asked only when it is there").await },
                if take.is_some() => taken,
            old = expired(&shared) => {
                close(&mut closing, &shared, old);
                continue;
            }
            Some(_) = closing.join_next(), if !closing.is_empty() => continue,
            () = tokio::time::sleep(IDLE_AFTER), if idle && !rests => {
                rests = true;
                (shared.options.on_idle)();
                continue;
            }
        };
        take = None;
        match taken {
            Ok(assignment) => {
                tries.succeeded();
                shared.leases.insert(assignment.lease);
                jobs.spawn(job::run(shared.clone(), assignment, slots.busy(), stop.clone()));
            }
            Err(error) => {
                tries.failed("cannot take a job", &error.to_string());
                wait_or_stop(TAKE_AGAIN_AFTER, &mut stop).await;
            }
        }
    }
    drop(take);
    while jobs.join_next().await.is_some() {}
    close(&mut closing, &shared, shared.spares.all());
    while closing.join_next().await.is_some() {}
}

/// Spares that have become too old. Does not resolve while there are none; a job that leaves one
/// wakes the caller by its end.
async fn expired<S, E: Executor>(shared: &Shared<S, E>) -> Vec<Spare<E::Session>> {
    let Some(at) = shared.spares.expire_at() else { return std::future::pending().await };
    let clock = &shared.options.clock;
    tokio::time::sleep(at.saturating_sub(clock.monotonic())).await;
    shared.spares.expired(clock.monotonic())
}

fn close<S: JobSource, E: Executor>(
    closing: &mut JoinSet<()>,
    shared: &Arc<Shared<S, E>>,
    spares: Vec<Spare<E::Session>>,
) {
    for spare in spares {
        let shared = shared.clone();
        closing.spawn(async move { place::close(&shared, spare).await });
    }
}

/// How long after its last job an agent counts as idle.
const IDLE_AFTER: Duration = Duration::from_secs(1);

/// After a refusal, for example by a full disk. Long enough not to load a server in trouble.
const TAKE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What this agent held before it was started, with retries until the source answers.
async fn resume<S: JobSource, E: Executor>(
    shared: &Shared<S, E>,
    stop: &watch::Receiver<Phase>,
) -> Vec<kiln_api::agent::Assignment> {
    let mut stop = stop.clone();
    let mut tries = shared.tries();
    while *stop.borrow() == Phase::Run {
        match shared.source.held(&shared.options.info).await {
            Ok(held) => {
                for assignment in &held {
                    shared.leases.insert(assignment.lease);
                }
                return held;
            }
            Err(error) => {
                tries.failed("cannot ask for the jobs held before", &error.to_string());
                wait_or_stop(TAKE_AGAIN_AFTER, &mut stop).await;
            }
        }
    }
    Vec::new()
}

async fn wait_or_stop(span: Duration, stop: &mut watch::Receiver<Phase>) {
    tokio::select! {
        () = tokio::time::sleep(span) => {}
        _ = stop.wait_for(|phase| *phase > Phase::Run) => {}
    }
}

/// Renews what is held, every 15 s while something is.
async fn renew<S: JobSource, E: Executor>(
    shared: Arc<Shared<S, E>>,
    mut stop: watch::Receiver<Phase>,
) {
    let stop_too = stop.clone();
    let renewing = async {
        loop {
            shared.leases.wait_for_some().await;
            tokio::time::sleep(kiln_model::limit::RENEW_EVERY).await;
            let held = shared.leases.all();
            if held.is_empty() {
                continue;
            }
            for stale in shared.source.renew(&held).await {
                shared.leases.mark_stale(stale);
            }
        }
    };
    let drained = async {
        let _ = stop.wait_for(|phase| *phase >= Phase::Drain).await;
        shared.leases.wait_for_none().await;
    };
    let mut leave = stop_too;
    tokio::select! {
        () = renewing => {}
        () = drained => {}
        _ = leave.wait_for(|phase| *phase == Phase::Leave) => {}
    }
}

/// One line on standard error: what an operator should know and no job can carry.
pub(crate) fn report(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "kiln agent: {text}");
}
