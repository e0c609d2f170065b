//! The heart that `kiln serve` and `kiln run` share: events in, rows and actions out. No HTTP.
//!
//! One idea: [`Runs::apply`] is the only way in which a run changes. Under the run's lock it folds
//! the events, hands the rows to the store, whose queue keeps their order, and does what follows in
//! memory. Whoever asked is answered when the rows are durable. What follows may be done before
//! that, because nothing leaves the process earlier: an agent is only answered after its own lease
//! is durable, and that row stands behind all that led to it.
//!
//! When the store refuses (a full disk, another server was faster), the run in memory is ahead of
//! its rows. It is dropped and read again from them.
//!
//! Always: a lock of a run is never held over an await. Elsewhere: what an agent asks (`source`),
//! what a person sees (`crate::view`).

mod assign;
mod cache;
mod earlier;
mod fresh;
mod lease;
mod live;
mod miss;
mod places;
mod reader;
mod reuse;
mod source;
mod past;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use kiln_api::layers::Layers;
use kiln_engine::queue::{Blocked, Queue};
use kiln_engine::run::{Action, Refused, Run};
use kiln_model::policy::JobPolicy;
use kiln_model::{AttemptId, Event, EventKind, LeaseId, ProjectId, RunId};
use kiln_stdx::{Clock, Secret};
use kiln_store::log::Logs;
use kiln_store::object::Objects;
use kiln_store::{RunRow, Store, StoreError};
use tokio::sync::{Notify, broadcast};

pub use fresh::new_run;
pub use live::job_row;
pub use past::Past;
pub use places::Places;

use crate::govern::Governor;
use crate::secret::SecretBox;
use lease::Leases;
use live::Live;
use reuse::Doers;

/// Finished runs kept in memory because somebody may be looking at them.
const RECENT_MAX: usize = 8;
/// News that a slow listener may be behind before it is told to look again at everything.
const NEWS_MAX: usize = 1024;

/// Between two tries to read a run whose rows could not be written.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// All runs of one data folder. Cheap to clone.
#[derive(Clone)]
pub struct Runs {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    logs: Logs,
    objects: Objects,
    places: Places,
    clock: Arc<dyn Clock>,
    secrets: SecretBox,
    /// Secrets given on the command line of `kiln run`: never stored.
    given: Mutex<HashMap<RunId, HashMap<String, Secret<String>>>>,
    /// Variables that the agent in this process gives to every job.
    machine_env: OnceLock<Vec<(String, String)>>,
    /// What jobs may have; a server's usual policy until somebody says otherwise.
    governor: OnceLock<Governor>,
    /// Where layers are, for who wants to know whether one is still there.
    layers: OnceLock<Arc<dyn Layers>>,
    live: Mutex<HashMap<RunId, Arc<Live>>>,
    recent: Mutex<Vec<RunId>>,
    queue: Mutex<Queue>,
    offered: Notify,
    /// The disk is full, and something waits to be written.
    full: Notify,
    leases: Leases,
    doers: Doers,
    news: broadcast::Sender<News>,
}

/// What a live reader hears: never the data, only that there is more of it.
#[derive(Clone, Debug)]
pub enum News {
    Run {
        project: ProjectId,
        run: RunId,
    },
    /// Of the attempt, or of one of its services.
    Log {
        attempt: AttemptId,
        service: Option<String>,
        n_bytes: u64,
    },
}

/// Why an event was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Runs {
    /// Loads what is not over and rebuilds the queue. What agents held before has a full term again.
    pub async fn open(
        store: Store,
        places: Places,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let inner = Inner {
            logs: Logs::new(&places.logs()),
            objects: Objects::new(&places.objects()),
            secrets: SecretBox::at(&places.keys()),
            given: Mutex::default(),
            machine_env: OnceLock::new(),
            governor: OnceLock::new(),
            layers: OnceLock::new(),
            live: Mutex::default(),
            recent: Mutex::default(),
            queue: Mutex::new(Queue::default()),
            offered: Notify::new(),
            full: Notify::new(),
            leases: Leases::default(),
            doers: Doers::default(),
            news: broadcast::Sender::new(NEWS_MAX),
            store,
            places,
            clock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Takes over every run that is not over. A server does so once; `kiln run` only adopts its own.
    pub async fn adopt_active(&self) -> Result<(), StoreError> {
        let rows = self.inner.store.active_runs().await?;
        self.adopt(rows).await
    }

    /// Takes over runs whose rows are written.
    pub async fn adopt(&self, rows: Vec<RunRow>) -> Result<(), StoreError> {
        for row in rows {
            let (project, id) = (row.project, row.id);
            if !row.state.is_over() {
                self.take_over(row).await?;
            }
            self.tell(News::Run { project, run: id });
        }
        Ok(())
    }

    /// What jobs may have of this machine, from now on. Once.
    pub fn govern(&self, governor: Governor) {
        let _ = self.inner.governor.set(governor);
    }

    /// What jobs may have of this machine.
    pub fn governor(&self) -> &Governor {
        self.inner.governor.get_or_init(|| Governor::usual(JobPolicy::of_server()))
    }

    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    pub fn logs(&self) -> &Logs {
        &self.inner.logs
    }

    pub fn objects(&self) -> &Objects {
        &self.inner.objects
    }

    pub fn places(&self) -> &Places {
        &self.inner.places
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    pub fn secrets(&self) -> &SecretBox {
        &self.inner.secrets
    }

    /// Gives a run's jobs secrets that live only in this process.
    pub fn give_secrets(&self, run: RunId, secrets: HashMap<String, Secret<String>>) {
        lock(&self.inner.given).insert(run, secrets);
    }

    /// Notes what the agent in this process gives to every job, for who looks at one later.
    pub fn note_machine_env(&self, env: Vec<(String, String)>) {
        // A second agent in one process gives the same.
        let _ = self.inner.machine_env.set(env);
    }

    /// Notes whose layers the runs here use.
    pub fn note_layers(&self, layers: Arc<dyn Layers>) {
        // A second agent in one process uses the same.
        let _ = self.inner.layers.set(layers);
    }

    /// Nothing could be written. When that is for want of room, what was set aside for it goes, and who
    /// collects is woken.
    fn make_room(&self) {
        if crate::collect::make_room(&self.inner.places.data) {
            self.inner.full.notify_one();
        }
    }

    /// Resolves when something could not be written because the disk is full.
    pub async fn disk_filled(&self) {
        self.inner.full.notified().await;
    }

    /// Absent before an agent is started here.
    pub fn layers(&self) -> Option<&Arc<dyn Layers>> {
        self.inner.layers.get()
    }

    pub fn machine_env(&self) -> Vec<(String, String)> {
        self.inner.machine_env.get().cloned().unwrap_or_default()
    }

    pub fn news(&self) -> broadcast::Receiver<News> {
        self.inner.news.subscribe()
    }

    /// Why an attempt that is ready has not been taken.
    pub fn blocked(&self, attempt: AttemptId) -> Option<Blocked> {
        lock(&self.inner.queue).blocked(attempt)
    }

    /// Applies an event from outside. Durable when it returns.
    pub async fn apply(&self, run: RunId, event: EventKind) -> Result<(), ApplyError> {
        let live = self.load(run).await?;
        self.record(&live, event)?.await?;
        Ok(())
    }

    /// Folds an event into a run and queues its rows. The future resolves when they, and with them
    /// all that the event rests on, are durable; dropping it changes nothing.
    fn record(
        &self,
        live: &Arc<Live>,
        kind: EventKind,
    ) -> Result<impl Future<Output = Result<(), StoreError>> + Send + use<>, Refused> {
        let (written, seq, over, ended) = {
            let mut run = lock(&live.run);
            let before = run.seq;
            let event = Event { seq: before + 1, at: self.inner.clock.now(), kind };
            let actions = run.apply(&event)?;
            // A repeated fact is accepted and changes nothing, not even the count.
            let written = (run.seq > before).then(|| {
                self.inner.store.append(live::append_for(&live.row, &run, event, &actions))
            });
            let ended = reuse::ended(&actions);
            self.act(live, actions);
            (written, run.seq, run.state.is_over(), ended)
        };
        if let Some(written) = written {
            let (runs, live) = (self.clone(), live.clone());
            // Its own task: whoever asked may go away, and the failure must still be dealt with.
            tokio::spawn(async move {
                match written.await {
                    Ok(()) => {
                        live.written.up_to(seq);
                        runs.inner.doers.remove(&ended);
                        runs.tell(News::Run { project: live.row.project, run: live.id });
                        if over {
                            runs.retire(live.id);
                        }
                    }
                    Err(error) => {
                        runs.forget(&live).await;
                        live.written.failed(error);
                    }
                }
            });
        }
        let live = live.clone();
        Ok(async move { live.written.wait(seq).await })
    }

    /// Does what follows from events, in order.
    fn act(&self, live: &Live, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Offer(offer) => {
                    lock(&self.inner.queue).offer(live.row.project, offer);
                    self.inner.offered.notify_waiters();
                }
                Action::Withdraw(attempt) => lock(&self.inner.queue).withdraw(attempt),
                Action::Release(attempt) => {
                    if lock(&self.inner.queue).release(attempt) {
                        self.inner.offered.notify_waiters();
                    }
                }
                Action::Stop { lease, by } => self.inner.leases.stop(lease, by),
                Action::JobChanged(_) | Action::RunChanged => {}
            }
        }
    }

    /// The run in memory, read from its rows when it is not there.
    async fn load(&self, id: RunId) -> Result<Arc<Live>, StoreError> {
        if let Some(live) = lock(&self.inner.live).get(&id) {
            return Ok(live.clone());
        }
        let row = self.inner.store.run(id).await?;
        let loaded = live::load(&self.inner.store, row).await?;
        let live = lock(&self.inner.live).entry(id).or_insert(loaded).clone();
        self.retire(id);
        Ok(live)
    }

    /// Brings a run that is not over into memory, its offers into the queue, its leases into the
    /// table.
    async fn take_over(&self, row: RunRow) -> Result<(), StoreError> {
        let id = row.id;
        let live = live::load(&self.inner.store, row).await?;
        {
            let mut table = lock(&self.inner.live);
            if table.contains_key(&id) {
                return Ok(());
            }
            table.insert(id, live.clone());
        }
        let leased = lock(&live.run).leased();
        for lease in leased {
            if let Some(doer) = reuse::doer(&live, lease) {
                self.inner.doers.insert(lease.attempt, doer);
            }
        }
        let run = lock(&live.run);
        let now = self.inner.clock.monotonic();
        for lease in run.leased() {
            let attempt = attempt_of(&run, lease.attempt);
            let started = attempt.is_some_and(|attempt| attempt.started_at.is_some());
            self.inner.leases.insert(lease, started, now);
            let held_lock = attempt.and_then(|attempt| attempt.lock.clone());
            lock(&self.inner.queue).resume(live.row.project, lease.attempt, held_lock);
        }
        for (lease, by) in run.stops() {
            self.inner.leases.stop(lease, by);
        }
        for offer in run.offers() {
            lock(&self.inner.queue).offer(live.row.project, offer);
        }
        drop(run);
        self.inner.offered.notify_waiters();
        Ok(())
    }

    /// The store refused: what memory holds is ahead of the rows, so it is read again.
    async fn forget(&self, live: &Arc<Live>) {
        {
            let mut table = lock(&self.inner.live);
            // Several appends of one run fail together; only the first of them finds it here.
            if !table.get(&live.id).is_some_and(|held| Arc::ptr_eq(held, live)) {
                return;
            }
            table.remove(&live.id);
        }
        let attempts: Vec<AttemptId> = {
            let run = lock(&live.run);
            run.jobs.iter().flat_map(|job| job.attempts.iter().map(|a| a.id)).collect()
        };
        self.inner.doers.remove(&attempts);
        {
            let mut queue = lock(&self.inner.queue);
            for attempt in attempts {
                queue.withdraw(attempt);
                queue.release(attempt);
            }
        }
        if self.read_again(live.id).await.is_err() {
            // The store answers again when its trouble is over; until then nobody may take these jobs.
            let (runs, id) = (self.clone(), live.id);
            tokio::spawn(async move {
                while runs.read_again(id).await.is_err() {
                    tokio::time::sleep(READ_AGAIN_AFTER).await;
                }
            });
        }
    }

    async fn read_again(&self, id: RunId) -> Result<(), StoreError> {
        match self.inner.store.run(id).await {
            Ok(row) if !row.state.is_over() => self.take_over(row).await,
            Ok(_) | Err(StoreError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A run that is over may leave memory when enough others have been looked at since.
    fn retire(&self, id: RunId) {
        let mut recent = lock(&self.inner.recent);
        recent.retain(|held| *held != id);
        recent.push(id);
        if recent.len() > RECENT_MAX {
            let oldest = recent.remove(0);
            let mut table = lock(&self.inner.live);
            let over = |live: &Arc<Live>| lock(&live.run).state.is_over();
            if table.get(&oldest).is_some_and(over) {
                table.remove(&oldest);
            }
            lock(&self.inner.given).remove(&oldest);
        }
    }

    /// Forgets a run whose rows are gone.
    pub(crate) fn drop_over(&self, id: RunId) {
        lock(&self.inner.recent).retain(|held| *held != id);
        lock(&self.inner.live).remove(&id);
    }

    /// Keeps a run with all that it has, or lets go of it. False: it was so already.
    pub async fn pin(&self, id: RunId, by: Option<String>) -> Result<bool, StoreError> {
        let at = self.inner.clock.now();
        // While nobody collects: what is there now stays.
        let layers = self.layers().cloned();
        let held = tokio::task::spawn_blocking(move || layers.map(|layers| layers.hold()));
        let _held = held.await.ok().flatten().transpose().map_err(StoreError::Other)?;
        let pin = by.clone().map(|by| (at, by));
        let changed = self.inner.store.pin(id, pin).await?;
        let live = lock(&self.inner.live).get(&id).cloned();
        if let Some(live) = live {
            *lock(&live.pinned) = self.inner.store.run(id).await?.pinned;
            self.tell(News::Run { project: live.row.project, run: id });
        }
        Ok(changed)
    }

    /// Gives up leases whose holders are silent, when they are; sleeps in between, and without end
    /// while nobody holds anything.
    pub async fn watch_leases(&self) {
        loop {
            let (lapsed, next) = self.inner.leases.lapsed(self.inner.clock.monotonic());
            for lease in lapsed {
                let message = "its agent has been silent for too long".to_owned();
                // Refused means that it is over by now; the row in the table goes either way.
                let _ = self.lapse(lease, message).await;
                self.inner.leases.remove(lease);
            }
            let wait = next.map(|at| at.saturating_sub(self.inner.clock.monotonic()));
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => self.inner.leases.changed.notified().await,
            }
        }
    }

    async fn lapse(&self, lease: LeaseId, message: String) -> Result<(), ApplyError> {
        self.apply(lease.attempt.run, EventKind::Lapsed { lease, message }).await
    }

    fn tell(&self, news: News) {
        // Nobody listening is the usual case.
        let _ = self.inner.news.send(news);
    }
}

fn attempt_of(run: &Run, id: AttemptId) -> Option<&kiln_engine::run::Attempt> {
    run.jobs.get(id.job.at())?.attempts.iter().find(|attempt| attempt.id == id)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under one of these locks is a bug; going on with half a state would hide it.
    mutex.lock().expect("no holder of this lock panics")
}
