//! Logs of runs that have been over for a while are packed: a tenth of the room, and read as before.

use std::time::Duration;

use kiln_stdx::Timestamp;

use super::Collector;
use super::rows::text;
use crate::report;

/// A run is looked at most, and run again, right after it is over.
const AFTER: Duration = Duration::from_secs(600);
const AT_ONCE: u32 = 20;

impl Collector {
    /// Packs what is due, for who comes only now and then.
    pub async fn pack_now(&self) {
        self.pack().await;
    }

    /// Packs what is due, one log after another. When the next will be; `None`: none is waiting.
    pub(super) async fn pack(&self) -> Option<Duration> {
        loop {
            let unpacked = match self.store.unpacked_runs(AT_ONCE).await {
                Ok(unpacked) => unpacked,
                Err(error) => {
                    report::say(&format!("cannot look for logs to pack: {error}"));
                    return Some(AFTER);
                }
            };
            let (_, oldest) = *unpacked.first()?;
            let now = self.clock.now();
            let is_due = |at: &Timestamp| now.since(*at) >= AFTER;
            if !is_due(&oldest) {
                return Some(AFTER.saturating_sub(now.since(oldest)));
            }
            let due = unpacked.into_iter().take_while(|(_, at)| is_due(at)).map(|(run, _)| run);
            for run in due {
                let logs = self.logs.clone();
                let packed = tokio::task::spawn_blocking(move || text(logs.pack_run(run))).await;
                let n_bytes = match packed.unwrap_or_else(|panic| Err(panic.to_string())) {
                    Ok(n_bytes) => n_bytes,
                    Err(error) => {
                        // As on a full disk. They can be read as they are, and are tried again later.
                        report::say(&format!("cannot pack the logs of a run: {error}"));
                        return Some(AFTER);
                    }
                };
                if let Err(error) = self.store.set_packed(run, n_bytes).await {
                    report::say(&format!("cannot note that logs are packed: {error}"));
                    return Some(AFTER);
                }
            }
        }
    }
}
