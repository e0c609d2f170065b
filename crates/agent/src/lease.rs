//! The leases that this agent holds now.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use kiln_model::LeaseId;
use tokio::sync::watch;

/// Each with a flag that turns true when the source disowns it.
#[derive(Debug)]
pub(crate) struct Leases {
    held: Mutex<HashMap<LeaseId, watch::Sender<bool>>>,
    n_held: watch::Sender<usize>,
}

impl Default for Leases {
    fn default() -> Self {
        Self { held: Mutex::default(), n_held: watch::Sender::new(0) }
    }
}

impl Leases {
    pub fn insert(&self, lease: LeaseId) {
        let mut held = self.lock();
        held.insert(lease, watch::Sender::new(false));
        self.n_held.send_replace(held.len());
    }

    pub fn remove(&self, lease: LeaseId) {
        let mut held = self.lock();
        held.remove(&lease);
        self.n_held.send_replace(held.len());
    }

    pub fn all(&self) -> Vec<LeaseId> {
        self.lock().keys().copied().collect()
    }

    pub fn mark_stale(&self, lease: LeaseId) {
        if let Some(stale) = self.lock().get(&lease) {
            stale.send_replace(true);
        }
    }

    /// Resolves when the source has disowned the lease, or it is not held here.
    pub async fn stale(&self, lease: LeaseId) {
        let stale = self.lock().get(&lease).map(watch::Sender::subscribe);
        if let Some(mut stale) = stale {
            // An error means that it was removed: over, which the caller notices itself.
            let _ = stale.wait_for(|stale| *stale).await;
        }
    }

    pub async fn wait_for_some(&self) {
        let _ = self.n_held.subscribe().wait_for(|n| *n > 0).await;
    }

    pub async fn wait_for_none(&self) {
        let _ = self.n_held.subscribe().wait_for(|n| *n == 0).await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LeaseId, watch::Sender<bool>>> {
        self.held.lock().expect("no holder of this lock panics")
    }
}
