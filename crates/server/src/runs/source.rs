//! What an agent in the same process asks: `JobSource` over the runs themselves.

use std::pin::pin;

use kiln_api::agent::{
    AgentInfo, Assignment, Found, JobResult, JobSource, Keyed, LeaseError, Stop, Taken,
};
use kiln_engine::run::Refused;
use kiln_model::{
    AttemptId, EventKind, Exit, LeaseId, Outcome, ServiceChange, Surroundings, Usage,
};
use kiln_store::StoreError;

use super::assign::AssignError;
use super::{ApplyError, News, Runs, attempt_of, lock};

impl JobSource for Runs {
    async fn held(&self, agent: &AgentInfo) -> Result<Vec<Assignment>, LeaseError> {
        let lives: Vec<_> = lock(&self.inner.live).values().cloned().collect();
        let mut held = Vec::new();
        for live in lives {
            let leases = {
                let run = lock(&live.run);
                let mut leases = run.leased();
                leases.retain(|lease| {
                    let holder = attempt_of(&run, lease.attempt).and_then(|a| a.agent.as_ref());
                    holder.is_some_and(|(id, _)| *id == agent.id)
                });
                leases
            };
            for lease in leases {
                match self.assignment(&live, lease).await {
                    Ok(assignment) => held.push(assignment),
                    Err(error) => self.fail(lease, &error).await?,
                }
            }
        }
        Ok(held)
    }

    async fn give_up(&self, lease: LeaseId, message: String) -> Result<(), LeaseError> {
        let given_up = self.lapse(lease, message).await;
        self.inner.leases.remove(lease);
        given_up.map_err(|error| lease_error(lease, &error))
    }

    async fn take(&self, agent: &AgentInfo) -> Result<Assignment, LeaseError> {
        loop {
            // Registered before the look, so that an offer in between is not missed.
            let mut offered = pin!(self.inner.offered.notified());
            offered.as_mut().enable();
            let taken = lock(&self.inner.queue).take(&agent.labels);
            let Some((offer, held_lock)) = taken else {
                offered.await;
                continue;
            };
            if let Some(assignment) = self.lease(agent, offer, held_lock).await? {
                return Ok(assignment);
            }
        }
    }

    async fn seek(
        &self,
        lease: LeaseId,
        key: Keyed,
        unfit: Vec<(AttemptId, String)>,
    ) -> Result<Option<Found>, LeaseError> {
        self.seek_result(lease, key, unfit).await
    }

    async fn reuse(
        &self,
        lease: LeaseId,
        found: Found,
        warnings: Vec<String>,
    ) -> Result<Taken, LeaseError> {
        self.take_result(lease, found, warnings).await
    }

    async fn started(&self, lease: LeaseId, surroundings: Surroundings) -> Result<(), LeaseError> {
        self.inner.leases.mark_started(lease);
        let surroundings = Some(Box::new(surroundings));
        self.fact(lease, EventKind::Started { lease, surroundings }).await
    }

    fn step_started(&self, lease: LeaseId, step: u32, log_from: u64) -> Result<(), LeaseError> {
        self.note(lease, EventKind::StepStarted { lease, step, log_from })
    }

    fn step_finished(
        &self,
        lease: LeaseId,
        step: u32,
        exit: Exit,
        log_to: u64,
        usage: Option<Usage>,
    ) -> Result<(), LeaseError> {
        let usage = usage.map(Box::new);
        self.note(lease, EventKind::StepFinished { lease, step, exit, log_to, usage })
    }

    fn service_changed(
        &self,
        lease: LeaseId,
        service: &str,
        change: ServiceChange,
    ) -> Result<(), LeaseError> {
        let service = service.to_owned();
        self.note(lease, EventKind::Service { lease, service, change })
    }

    fn log_grew(&self, lease: LeaseId, n_bytes: u64) {
        self.tell(News::Log { attempt: lease.attempt, service: None, n_bytes });
    }

    fn service_log_grew(&self, lease: LeaseId, service: &str, n_bytes: u64) {
        let service = Some(service.to_owned());
        self.tell(News::Log { attempt: lease.attempt, service, n_bytes });
    }

    async fn finish(&self, lease: LeaseId, result: JobResult) -> Result<(), LeaseError> {
        let JobResult { outcome, outputs, layer, artifacts, log_bytes, notes } = result;
        let kind =
            EventKind::Finished { lease, outcome, outputs, layer, artifacts, log_bytes, notes };
        let finished = self.fact(lease, kind).await;
        if !matches!(finished, Err(LeaseError::Unavailable(_))) {
            self.inner.leases.remove(lease);
            // Readers of the log learn that no more will come.
            self.log_grew(lease, log_bytes);
        } else {
            self.make_room();
        }
        finished
    }

    async fn renew(&self, leases: &[LeaseId]) -> Vec<LeaseId> {
        let now = self.inner.clock.monotonic();
        leases.iter().copied().filter(|lease| !self.inner.leases.renew(*lease, now)).collect()
    }

    async fn stop_asked(&self, lease: LeaseId) -> Stop {
        let Some(mut stop) = self.inner.leases.watch(lease) else { return Stop::Stale };
        match stop.wait_for(Option::is_some).await {
            Ok(asked) => asked.clone().unwrap_or(Stop::Stale),
            Err(_) => Stop::Stale,
        }
    }
}

impl Runs {
    /// Makes the lease durable. `None`: the offer was gone by then.
    async fn lease(
        &self,
        agent: &AgentInfo,
        offer: kiln_engine::queue::Offer,
        held_lock: Option<String>,
    ) -> Result<Option<Assignment>, LeaseError> {
        let attempt = offer.attempt;
        let unavailable = |error: StoreError| LeaseError::Unavailable(error.to_string());
        let live = self.load(attempt.run).await.map_err(unavailable)?;
        let next = attempt_of(&lock(&live.run), attempt).map(|known| known.next_lease());
        let Some(lease) = next else {
            lock(&self.inner.queue).release(attempt);
            return Ok(None);
        };
        let event = EventKind::Leased {
            lease,
            agent: agent.id,
            agent_name: agent.name.clone(),
            lock: held_lock,
        };
        // In the table first: a cancel that comes while the row is written finds its holder.
        self.inner.leases.insert(lease, false, self.inner.clock.monotonic());
        let written = match self.record(&live, event) {
            Ok(written) => written,
            Err(_) => {
                self.inner.leases.remove(lease);
                lock(&self.inner.queue).release(attempt);
                return Ok(None);
            }
        };
        let granted = Granted { runs: self, lease, handed: false };
        if let Err(error) = written.await {
            granted.handed();
            // The run has been read again from its rows, its offers with it.
            self.inner.leases.remove(lease);
            return Err(unavailable(error));
        }
        let assignment = self.assignment(&live, lease).await;
        granted.handed();
        match assignment {
            Ok(assignment) => Ok(Some(assignment)),
            Err(error) => {
                self.fail(lease, &error).await?;
                Ok(None)
            }
        }
    }

    /// A job that cannot be handed over ends with the reason.
    async fn fail(&self, lease: LeaseId, error: &AssignError) -> Result<(), LeaseError> {
        let outcome = Outcome::Error { message: error.to_string() };
        match self.finish(lease, JobResult::bare(outcome, 0)).await {
            Err(LeaseError::Stale(_)) | Ok(()) => Ok(()),
            unavailable => unavailable,
        }
    }

    async fn fact(&self, lease: LeaseId, kind: EventKind) -> Result<(), LeaseError> {
        self.apply(lease.attempt.run, kind).await.map_err(|error| lease_error(lease, &error))
    }

    /// Records without waiting for the disk. Rows keep their order, so a later durable fact
    /// carries this one.
    pub(super) fn note(&self, lease: LeaseId, kind: EventKind) -> Result<(), LeaseError> {
        let live = lock(&self.inner.live).get(&lease.attempt.run).cloned();
        let reading = || LeaseError::Unavailable("its run is being read again".to_owned());
        let live = live.ok_or_else(reading)?;
        let written =
            self.record(&live, kind).map_err(|refused| lease_error(lease, &refused.into()))?;
        tokio::spawn(written);
        Ok(())
    }
}

/// A lease on its way to its agent. If the agent stops asking meanwhile, it is given up.
struct Granted<'a> {
    runs: &'a Runs,
    lease: LeaseId,
    handed: bool,
}

impl Granted<'_> {
    fn handed(mut self) {
        self.handed = true;
    }
}

impl Drop for Granted<'_> {
    fn drop(&mut self) {
        if !self.handed {
            let (runs, lease) = (self.runs.clone(), self.lease);
            // Its row stands behind that of the lease, so the order is right without waiting.
            tokio::spawn(async move {
                let message = "the agent left before it got the job".to_owned();
                let _ = runs.give_up(lease, message).await;
            });
        }
    }
}

pub(super) fn lease_error(lease: LeaseId, error: &ApplyError) -> LeaseError {
    match error {
        // An illegal event of a live lease means that agent and server disagree about the attempt;
        // to go on would only make it worse.
        ApplyError::Refused(Refused::StaleLease { .. } | Refused::Illegal(_)) => {
            LeaseError::Stale(lease)
        }
        ApplyError::Store(error) => LeaseError::Unavailable(error.to_string()),
    }
}
