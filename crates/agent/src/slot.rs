//! How many jobs run now.

use std::sync::Arc;

use tokio::sync::watch;

/// Counts the jobs that run. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    n_busy: Arc<watch::Sender<usize>>,
    n_all: usize,
}

/// One of them, until this is dropped.
#[derive(Debug)]
pub(crate) struct Busy(Slots);

impl Slots {
    pub fn new(n_all: usize) -> Self {
        Self { n_busy: Arc::new(watch::Sender::new(0)), n_all }
    }

    /// For a job that runs, whether there was a slot for it or not: after a restart with fewer, what
    /// ran before goes on.
    pub fn busy(&self) -> Busy {
        self.n_busy.send_modify(|n_busy| *n_busy += 1);
        Busy(self.clone())
    }

    /// Waits for one.
    pub async fn take(&self) -> Busy {
        loop {
            self.free().await;
            let took = self.n_busy.send_if_modified(|n_busy| {
                let is_free = *n_busy < self.n_all;
                *n_busy += usize::from(is_free);
                is_free
            });
            if took {
                return Busy(self.clone());
            }
        }
    }

    /// Resolves when another job may run.
    pub async fn free(&self) {
        let mut n_busy = self.n_busy.subscribe();
        // Its sender is here.
        let _ = n_busy.wait_for(|n_busy| *n_busy < self.n_all).await;
    }
}

impl Busy {
    /// For a job that waits; it takes one again before it runs.
    pub fn give_back(self) -> Slots {
        self.0.clone()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.n_busy.send_modify(|n_busy| *n_busy -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn is_free(slots: &Slots) -> bool {
        pin!(slots.free()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_slot_is_free_when_fewer_run_than_there_are() {
        let slots = Slots::new(2);
        let held = [slots.busy(), slots.busy(), slots.busy()];
        let [first, second, _third] = held;
        drop(first);
        assert!(!is_free(&slots));
        drop(second);
        assert!(is_free(&slots));
    }
}
