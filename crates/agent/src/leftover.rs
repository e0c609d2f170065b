//! What attempts left on this machine that nobody will come back for.
//!
//! An attempt may outlive its lease: the server was away for so long that the lease lapsed, or its
//! rows were taken back to an older copy. Then its processes and its files are nobody's, and the
//! start of the agent is the moment when that can be told for sure: every live lease is known, and
//! no new one has been given.
//!
//! Elsewhere: attempts that are held and cannot be gone on with (`job::resume`).

use std::collections::HashSet;
use std::sync::Arc;

use kiln_executor::Executor;
use kiln_model::AttemptId;

use crate::agent::{Shared, report};

/// Ends and removes every attempt on disk that is not `held`. Trouble is told and keeps nobody from
/// taking jobs.
pub(crate) async fn clear<S: Send + Sync + 'static, E: Executor>(
    shared: &Arc<Shared<S, E>>,
    held: HashSet<AttemptId>,
) {
    let shared = shared.clone();
    let clear = move || {
        let workspaces = &shared.options.workspaces;
        let found = match workspaces.attempts() {
            Ok(found) => found,
            Err(error) => return report(&format!("cannot look for attempts left here: {error}")),
        };
        for attempt in found.into_iter().filter(|attempt| !held.contains(attempt)) {
            // Processes first: they would go on writing into what is being removed.
            shared.executor.reap(attempt, &workspaces.attempt_dir(attempt));
            if let Err(error) = workspaces.discard(attempt) {
                report(&format!("cannot remove the files of {attempt}: {error}"));
            }
        }
    };
    if let Err(panic) = tokio::task::spawn_blocking(clear).await {
        report(&format!("cannot clear away attempts left here: {panic}"));
    }
}
