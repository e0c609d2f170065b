//! What the agent of a past attempt was told.
//!
//! A run's history is kept, so what was true when an attempt was leased (the layers and outputs of
//! its needs, its lock) can be had again: by folding the events up to that lease.

use std::collections::BTreeMap;

use kiln_api::agent::Assignment;
use kiln_model::{AttemptId, Epoch, EventKind, LeaseId};
use kiln_stdx::Secret;
use kiln_store::{RunRow, StoreError};

use super::assign::{AssignError, secret_names};
use super::{Runs, live};

/// An attempt's assignment as it was, and the secrets that it had.
pub struct Past {
    /// Without secrets.
    pub assignment: Assignment,
    pub secrets: BTreeMap<String, Secret<String>>,
    /// Names of secrets that were not asked for, or that are not set.
    pub without: Vec<String>,
}

impl Runs {
    /// What an attempt's agent was told with the last lease, or would be told now if there was none.
    /// The run must have a plan, and the job be one of its jobs. `secrets`: their values too.
    pub async fn past(
        &self,
        row: RunRow,
        attempt: AttemptId,
        secrets: bool,
    ) -> Result<Past, StoreError> {
        let mut events = self.store().events(row.id, 0).await?;
        let leases = |kind: &EventKind| match kind {
            EventKind::Leased { lease, .. } if lease.attempt == attempt => Some(*lease),
            _ => None,
        };
        let last = events.iter().rposition(|event| leases(&event.kind).is_some());
        if let Some(last) = last {
            events.truncate(last + 1);
        }
        let lease = last.and_then(|last| leases(&events[last].kind));
        let lease = lease.unwrap_or(LeaseId { attempt, epoch: Epoch(1) });
        let live = live::fold(self.store(), row, &events).await?;
        let (mut values, mut without) = (BTreeMap::new(), Vec::new());
        for name in secret_names(&live, lease) {
            let asked = std::slice::from_ref(&name);
            match secrets {
                true => match self.secrets_for(&live, asked).await {
                    Ok(found) => values.extend(found),
                    Err(AssignError::Store(error)) => return Err(error),
                    Err(_) => without.push(name),
                },
                false => without.push(name),
            }
        }
        let assignment = self.assignment_with(&live, lease, BTreeMap::new()).await;
        let assignment = assignment.map_err(|error| match error {
            AssignError::Store(error) => error,
            other => StoreError::Other(other.to_string()),
        })?;
        Ok(Past { assignment, secrets: values, without })
    }
}
