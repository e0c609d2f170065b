//! Local runs whose process died: what ran is lost, what waited is cancelled, and both say why.

use kiln_executor::host::reap;
use kiln_model::{EventKind, LeaseId};
use kiln_server::runs::{ApplyError, Runs};
use kiln_store::{RunRow, StoreError};
use kiln_workspace::Workspaces;

use super::Local;
use super::owner::{Gate, Owner};
use crate::error::{Failure, Result};

/// Why the run ended, for its history.
const GONE: &str = "the process that ran it is gone";

/// Settles every local run that nobody drives and that is not over.
pub async fn settle_dead(local: &Local) -> Result<()> {
    let active = local.store.active_runs().await?;
    if active.is_empty() {
        return Ok(());
    }
    let dead = {
        let _gate = Gate::alone(&local.data)?;
        let mut dead = Vec::new();
        for row in active {
            if let Some(owner) = Owner::claim(&local.data, row.id)? {
                dead.push((row, owner));
            }
        }
        dead
    };
    if dead.is_empty() {
        return Ok(());
    }
    let runs = local.runs().await?;
    for (row, _owner) in dead {
        settle(&runs, &row, &format!("kiln: {GONE}")).await?;
    }
    Ok(())
}

/// Ends a run that this process owns and nobody runs any more.
pub async fn settle(runs: &Runs, row: &RunRow, by: &str) -> Result<()> {
    let (_, run) = runs.view(row.id).await?;
    if run.state.is_over() {
        return Ok(());
    }
    let leased = run.leased();
    clear(runs, &leased);
    for lease in leased {
        let message = GONE.to_owned();
        apply(runs, row, EventKind::Lapsed { lease, message }).await?;
    }
    // What waited, and what a retry has made of what was lost.
    let (_, run) = runs.view(row.id).await?;
    if !run.state.is_over() {
        apply(runs, row, EventKind::CancelAsked { by: by.to_owned() }).await?;
    }
    Ok(())
}

/// Removes what attempts that were cut short have left. Their sessions have ended with the process
/// that drove them; what one could not finish is reaped.
fn clear(runs: &Runs, leased: &[LeaseId]) {
    // Trouble with it must not keep the run from being settled: the files are only in the way.
    let Ok(workspaces) = Workspaces::open(&runs.places().layers(), None) else { return };
    for lease in leased {
        reap(lease.attempt, &workspaces.attempt_dir(lease.attempt));
        let _ = workspaces.discard(lease.attempt);
    }
}

async fn apply(runs: &Runs, row: &RunRow, event: EventKind) -> Result<()> {
    match runs.apply(row.id, event).await {
        // It is so already; or another process was faster, and what it did is the truth.
        Ok(()) | Err(ApplyError::Refused(_)) => Ok(()),
        Err(ApplyError::Store(StoreError::Conflict(_))) => Ok(()),
        Err(ApplyError::Store(error)) => Err(Failure::from(error)),
    }
}
