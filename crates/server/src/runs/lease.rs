//! Who holds which attempt, in memory: when it was last heard of, and whether it should stop.
//!
//! The lease itself is an event of its run. This table only knows how long a holder has been silent,
//! measured on the monotonic clock since *this* server began to listen: after a restart every lease
//! has its full term again, so that nobody loses a job because the server was away.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use kiln_api::agent::Stop;
use kiln_model::LeaseId;
use kiln_model::limit::{DISCONNECT_GRACE, LEASE_FOR};
use tokio::sync::{Notify, watch};

#[derive(Debug, Default)]
pub(super) struct Leases {
    held: Mutex<HashMap<LeaseId, Held>>,
    /// Wakes the one who waits for the next expiry.
    pub changed: Notify,
}

#[derive(Debug)]
struct Held {
    heard_at: Duration,
    started: bool,
    stop: watch::Sender<Option<Stop>>,
}

impl Leases {
    pub fn insert(&self, lease: LeaseId, started: bool, now: Duration) {
        let held = Held { heard_at: now, started, stop: watch::Sender::new(None) };
        let first = {
            let mut table = self.lock();
            table.insert(lease, held);
            table.len() == 1
        };
        if first {
            self.changed.notify_one();
        }
    }

    pub fn remove(&self, lease: LeaseId) {
        if let Some(held) = self.lock().remove(&lease) {
            // Whoever still waits for a stop learns that the lease is gone.
            held.stop.send_replace(Some(Stop::Stale));
        }
    }

    pub fn mark_started(&self, lease: LeaseId) {
        if let Some(held) = self.lock().get_mut(&lease) {
            held.started = true;
        }
    }

    /// True when the lease is held; its term begins anew.
    pub fn renew(&self, lease: LeaseId, now: Duration) -> bool {
        match self.lock().get_mut(&lease) {
            Some(held) => {
                held.heard_at = now;
                true
            }
            None => false,
        }
    }

    pub fn stop(&self, lease: LeaseId, by: String) {
        if let Some(held) = self.lock().get(&lease) {
            held.stop.send_replace(Some(Stop::Cancel { by }));
        }
    }

    /// A receiver of the stop; `None` when the lease is not held.
    pub fn watch(&self, lease: LeaseId) -> Option<watch::Receiver<Option<Stop>>> {
        self.lock().get(&lease).map(|held| held.stop.subscribe())
    }

    /// Leases whose holders have been silent for too long, and when the next one will be.
    pub fn lapsed(&self, now: Duration) -> (Vec<LeaseId>, Option<Duration>) {
        let mut lapsed = Vec::new();
        let mut next: Option<Duration> = None;
        for (lease, held) in &*self.lock() {
            let term = if held.started { LEASE_FOR + DISCONNECT_GRACE } else { LEASE_FOR };
            let ends_at = held.heard_at + term;
            if ends_at <= now {
                lapsed.push(*lease);
            } else {
                next = Some(next.map_or(ends_at, |soonest| soonest.min(ends_at)));
            }
        }
        lapsed.sort_unstable();
        (lapsed, next)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<LeaseId, Held>> {
        self.held.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use kiln_model::{AttemptId, Epoch, JobIndex, RunId};

    use super::*;

    const LEASE: LeaseId = LeaseId {
        attempt: AttemptId { run: RunId(1), job: JobIndex(0), attempt: 1 },
        epoch: Epoch(1),
    };

    #[test]
    fn a_silent_holder_lapses_after_its_term_and_a_heard_one_does_not() {
        let leases = Leases::default();
        leases.insert(LEASE, false, Duration::ZERO);
        assert_eq!(leases.lapsed(LEASE_FOR / 2), (vec![], Some(LEASE_FOR)));
        assert_eq!(leases.lapsed(LEASE_FOR), (vec![LEASE], None));
        assert!(leases.renew(LEASE, LEASE_FOR));
        assert_eq!(leases.lapsed(LEASE_FOR).0, vec![]);
    }

    #[test]
    fn a_started_attempt_has_the_grace_of_a_restart() {
        let leases = Leases::default();
        leases.insert(LEASE, false, Duration::ZERO);
        leases.mark_started(LEASE);
        assert_eq!(leases.lapsed(LEASE_FOR).0, vec![]);
        assert_eq!(leases.lapsed(LEASE_FOR + DISCONNECT_GRACE).0, vec![LEASE]);
    }

    #[test]
    fn whoever_waits_learns_that_the_lease_is_gone() {
        let leases = Leases::default();
        leases.insert(LEASE, true, Duration::ZERO);
        let heard = leases.watch(LEASE).unwrap();
        leases.remove(LEASE);
        assert_eq!(*heard.borrow(), Some(Stop::Stale));
        assert!(leases.watch(LEASE).is_none());
    }
}
