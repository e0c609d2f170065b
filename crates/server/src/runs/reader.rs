//! Reading runs: from memory while they are driven, else from their events.

use std::sync::Arc;

use kiln_engine::run::Run;
use kiln_model::RunId;
use kiln_store::{RunRow, StoreError};

use super::{Runs, live, lock};

impl Runs {
    /// The run as folded up to now, and its row with the changing columns as of the same moment.
    ///
    /// What is shown is durable: nobody sees a state that a crash could take back.
    pub async fn view(&self, id: RunId) -> Result<(RunRow, Arc<Run>), StoreError> {
        for _ in 0..READS_MAX {
            let live = self.load(id).await?;
            let run = lock(&live.run).clone();
            if live.written.wait(run.seq).await.is_ok() {
                let update = live::run_update(&run);
                let row = RunRow {
                    state: update.state,
                    reason: update.reason,
                    started_at: update.started_at,
                    finished_at: update.finished_at,
                    n_jobs_over: update.n_jobs_over,
                    last_seq: run.seq,
                    pinned: lock(&live.pinned).clone(),
                    ..live.row.clone()
                };
                return Ok((row, Arc::new(run)));
            }
        }
        Err(StoreError::Other("the run cannot be written at the moment; try again".to_owned()))
    }

    /// Whether a run that is driven here has come to its end. Cheaper than a look at it.
    pub fn is_over(&self, id: RunId) -> bool {
        lock(&self.inner.live).get(&id).is_some_and(|live| lock(&live.run).state.is_over())
    }
}

/// Each failure of the store makes the run in memory be read again from its rows.
const READS_MAX: usize = 3;
