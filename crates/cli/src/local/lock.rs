//! Locks of the manifest, held against other `kiln run` of the same repository.
//!
//! Each process queues its own jobs, so the queue keeps two jobs of one process apart and knows
//! nothing of a second process. Before a job with a lock begins, it therefore also takes a file of
//! that lock, which the kernel gives back when the process ends, however it ends.
//!
//! Always: a job holds one lock at most and waits for it before its first step, so nobody waits in a
//! circle.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kiln_api::agent::{
    AgentInfo, Assignment, Found, JobResult, JobSource, Keyed, LeaseError, Stop, Taken,
};
use kiln_model::{
    AttemptId, Exit, LeaseId, Outcome, ProjectId, ServiceChange, Surroundings, Usage,
};
use kiln_server::runs::Runs;
use kiln_stdx::fs::{FsError, Named, create_private_dir};
use rustix::fs::{FlockOperation, flock};

use super::keys::Keys;
use crate::place::Data;

/// Between two looks at a lock that others hold.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// So much of a lock's name is in its file's name. Longer ones that begin alike keep each other
/// waiting, which is slower and not wrong.
const NAME_BYTES_MAX: usize = 80;

type Answer<T> = Result<T, LeaseError>;

/// The jobs of [`Runs`], started when their locks are free on the whole machine.
pub struct Locked {
    runs: Runs,
    folder: PathBuf,
    project: ProjectId,
    locks: Mutex<HashMap<LeaseId, Lock>>,
    keys: Keys,
}

enum Lock {
    Wanted { name: String, limit: u32 },
    Held(#[expect(dead_code, reason = "holds the lock")] File),
}

impl Locked {
    pub fn new(runs: Runs, data: &Data, project: ProjectId) -> Result<Self, FsError> {
        let folder = data.local().data.join("locks");
        create_private_dir(&folder)?;
        let keys = Keys::new(&folder, project);
        Ok(Self { runs, folder, project, locks: Mutex::default(), keys })
    }

    fn locks(&self) -> MutexGuard<'_, HashMap<LeaseId, Lock>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn want(&self, assignment: &Assignment) {
        let held = assignment.env.get("KILN_LOCK");
        if let (Some(name), Some(lock)) = (held, &assignment.job.lock) {
            let wanted = Lock::Wanted { name: name.clone(), limit: lock.limit };
            self.locks().insert(assignment.lease, wanted);
        }
    }

    /// Waits until the lease's lock is free, and holds it.
    async fn hold(&self, lease: LeaseId) -> Answer<()> {
        let (name, limit) = match self.locks().get(&lease) {
            Some(Lock::Wanted { name, limit }) => (name.clone(), *limit),
            Some(Lock::Held(_)) | None => return Ok(()),
        };
        loop {
            let free = self.try_hold(&name, limit);
            if let Some(file) = free.map_err(|error| LeaseError::Unavailable(error.to_string()))? {
                self.locks().insert(lease, Lock::Held(file));
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// One of the places of a lock, if one is free.
    fn try_hold(&self, name: &str, limit: u32) -> Result<Option<File>, FsError> {
        let name: String =
            name.bytes().take(NAME_BYTES_MAX).map(|byte| format!("{byte:02x}")).collect();
        for place in 0..limit {
            let path = self.folder.join(format!("{}-{name}-{place}", self.project));
            let file = File::create(&path).named("open", &path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(file)),
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(cause) => return Err(std::io::Error::from(cause)).named("lock", &path),
            }
        }
        Ok(None)
    }

    fn release(&self, lease: LeaseId) {
        self.locks().remove(&lease);
        self.keys.release(lease);
    }
}

impl JobSource for Locked {
    async fn held(&self, agent: &AgentInfo) -> Answer<Vec<Assignment>> {
        self.runs.held(agent).await
    }

    async fn give_up(&self, lease: LeaseId, message: String) -> Answer<()> {
        self.release(lease);
        self.runs.give_up(lease, message).await
    }

    async fn take(&self, agent: &AgentInfo) -> Answer<Assignment> {
        let assignment = self.runs.take(agent).await?;
        self.want(&assignment);
        self.keys.want(&assignment);
        Ok(assignment)
    }

    async fn seek(
        &self,
        lease: LeaseId,
        key: Keyed,
        unfit: Vec<(AttemptId, String)>,
    ) -> Answer<Option<Found>> {
        let mut waited = false;
        loop {
            let found = self.runs.seek(lease, key.clone(), unfit.clone()).await?;
            // Nobody in this process does the same. One in another may.
            if found.is_some() || waited || !self.keys.hold(lease, &key.digest).await? {
                return Ok(found);
            }
            waited = true;
        }
    }

    async fn reuse(&self, lease: LeaseId, found: Found, warnings: Vec<String>) -> Answer<Taken> {
        let taken = self.runs.reuse(lease, found, warnings).await;
        if let Ok(Taken::Done) | Err(LeaseError::Stale(_)) = taken {
            self.release(lease);
        }
        taken
    }

    async fn started(&self, lease: LeaseId, surroundings: Surroundings) -> Answer<()> {
        tokio::select! {
            held = self.hold(lease) => held?,
            stop = self.runs.stop_asked(lease) => {
                // Nothing of it ran, so its end is told here; the agent has nothing to add.
                if let Stop::Cancel { .. } = stop {
                    self.finish(lease, JobResult::bare(Outcome::Cancelled, 0)).await?;
                }
                return Err(LeaseError::Stale(lease));
            }
        }
        self.runs.started(lease, surroundings).await
    }

    fn step_started(&self, lease: LeaseId, step: u32, log_from: u64) -> Answer<()> {
        self.runs.step_started(lease, step, log_from)
    }

    fn step_finished(
        &self,
        lease: LeaseId,
        step: u32,
        exit: Exit,
        log_to: u64,
        usage: Option<Usage>,
    ) -> Answer<()> {
        self.runs.step_finished(lease, step, exit, log_to, usage)
    }

    fn service_changed(&self, lease: LeaseId, name: &str, change: ServiceChange) -> Answer<()> {
        self.runs.service_changed(lease, name, change)
    }

    fn log_grew(&self, lease: LeaseId, n_bytes: u64) {
        self.runs.log_grew(lease, n_bytes);
    }

    fn service_log_grew(&self, lease: LeaseId, service: &str, n_bytes: u64) {
        self.runs.service_log_grew(lease, service, n_bytes);
    }

    async fn finish(&self, lease: LeaseId, result: JobResult) -> Answer<()> {
        let finished = self.runs.finish(lease, result).await;
        if !matches!(finished, Err(LeaseError::Unavailable(_))) {
            self.release(lease);
        }
        finished
    }

    async fn renew(&self, leases: &[LeaseId]) -> Vec<LeaseId> {
        self.runs.renew(leases).await
    }

    async fn stop_asked(&self, lease: LeaseId) -> Stop {
        self.runs.stop_asked(lease).await
    }
}
