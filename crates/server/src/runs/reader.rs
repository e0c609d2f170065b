//! Reading runs: from memory while they are driven, else from their events.

use std::sync::Arc;

use kiln_engine::run::Run;
use kiln_model::RunId;
use kiln_store::{RunRow, StoreError};

use super::{Runs, live, lock};

impl Runs {
    /// The run as folded up to now, and its row with the changing columns as of the same moment.
    pub async fn view(&self, id: RunId) -> Result<(RunRow, Arc<Run>), StoreError> {
        let live = self.load(id).await?;
        let run = Arc::new(lock(&live.run).clone());
        let update = live::run_update(&run);
        let row = RunRow {
            state: update.state,
            reason: update.reason,
            started_at: update.started_at,
            finished_at: update.finished_at,
            n_jobs_over: update.n_jobs_over,
            last_seq: run.seq,
            ..live.row.clone()
        };
        Ok((row, run))
    }
}
