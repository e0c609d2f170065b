//! `event`: the histories of runs.

use kiln_model::{Event, JobIndex, RunId};

use crate::StoreError;
use crate::db::{Db, to_json, values};
use crate::store::Store;

impl Store {
    /// In order, those whose `seq` is greater than `after_seq`.
    pub async fn events(&self, id: RunId, after_seq: u64) -> Result<Vec<Event>, StoreError> {
        self.read_long(move |db| {
            Box::pin(async move {
                let sql = "SELECT body FROM event WHERE run = ?1 AND seq > ?2 ORDER BY seq";
                db.rows(sql, &values![id, after_seq], |row| row.json(0)).await
            })
        })
        .await
    }

    /// Events of one job only: those that carry a lease of it, in order.
    pub async fn job_events(&self, id: RunId, job: JobIndex) -> Result<Vec<Event>, StoreError> {
        self.read(move |db| {
            Box::pin(async move {
                let sql = "SELECT body FROM event WHERE run = ?1 AND job = ?2 ORDER BY seq";
                db.rows(sql, &values![id, job], |row| row.json(0)).await
            })
        })
        .await
    }
}

/// Whether these are numbered from `first` without gaps.
pub(super) fn check_sequence(events: &[Event], first: u64) -> Result<(), StoreError> {
    match events.iter().zip(first..).find(|(event, seq)| event.seq != *seq) {
        None => Ok(()),
        Some((event, seq)) => Err(StoreError::other(format!(
            "events must be numbered without gaps: {} stands where {seq} belongs",
            event.seq
        ))),
    }
}

pub(super) async fn insert(db: &mut Db, run: RunId, events: &[Event]) -> Result<(), StoreError> {
    let sql = "INSERT INTO event (run, seq, job, body) VALUES (?1, ?2, ?3, ?4)";
    let mut rows = Vec::with_capacity(events.len());
    for event in events {
        let job = event.kind.lease().map(|lease| lease.attempt.job);
        rows.push(values![run, event.seq, job, to_json(event)?].into());
    }
    db.execute_each(sql, &rows).await
}
