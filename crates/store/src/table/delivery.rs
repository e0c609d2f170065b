//! `delivery`: the inbox. What was acknowledged is a row before anybody acts on it.
//!
//!   pending ──settled──────────────▶ done
//!     │  ▲ └───failed too often───┐    ▲
//!     └──┘ failed                 ▼    │ settled by hand
//!                            quarantined
//!
//! Always: `done` is final.

use kiln_model::ProjectId;

use crate::db::{Db, Row, values};
use crate::store::{Order, Store};
use crate::table::{head, project, run};
use crate::{DeliveryRow, NewDelivery, NewRun, RunRow, StoreError};

macro_rules! select_deliveries {
    ($tail:literal) => {
        concat!("SELECT id, project, key, body, received_at, n_tries, note FROM delivery ", $tail)
    };
}

// The conditions are those of the partial indexes, word for word, so that both databases see it.
const PENDING: &str = select_deliveries!("WHERE state = 'pending' ORDER BY id LIMIT ?1");
const QUARANTINED: &str =
    select_deliveries!("WHERE state = 'quarantined' ORDER BY id DESC LIMIT ?1");

impl Store {
    /// Durable when it returns. The same `key` again gives the first row's id and `false`.
    pub async fn add_delivery(&self, new: NewDelivery) -> Result<(i64, bool), StoreError> {
        self.write(Order::Any, move |db| Box::pin(async move { add(db, &new).await })).await
    }

    /// Those to be tried, the oldest first.
    pub async fn pending_deliveries(&self, limit: u32) -> Result<Vec<DeliveryRow>, StoreError> {
        self.read(move |db| Box::pin(async move { db.rows(PENDING, &values![limit], read).await }))
            .await
    }

    /// Those that were given up, the newest first, each with its last failure.
    pub async fn quarantined_deliveries(
        &self,
        limit: u32,
    ) -> Result<Vec<(DeliveryRow, String)>, StoreError> {
        self.read(move |db| {
            Box::pin(async move {
                db.rows(QUARANTINED, &values![limit], |row| Ok((read(row)?, row.get(6)?))).await
            })
        })
        .await
    }

    /// One transaction: the delivery is done (with a note), the runs exist (numbered, gap-free),
    /// the heads are as given (`None`: the ref is gone).
    ///
    /// A delivery that is done already stays as it is and gives no runs, so that two who settle the
    /// same one make its runs once. Without a delivery (`None`) runs are always made.
    pub async fn settle_delivery(
        &self,
        id: Option<i64>,
        project: ProjectId,
        note: &str,
        runs: Vec<NewRun>,
        heads: Vec<(String, Option<String>)>,
    ) -> Result<Vec<RunRow>, StoreError> {
        let note = note.to_owned();
        self.write(Order::Any, move |db| {
            Box::pin(async move {
                if let Some(id) = id
                    && !mark_done(db, id, project, &note).await?
                {
                    return Ok(Vec::new());
                }
                head::set(db, project, &heads).await?;
                run::add(db, project, runs).await
            })
        })
        .await
    }

    /// Counts a failed try; after `tries_max` the delivery is quarantined: kept, shown, not tried
    /// again.
    pub async fn delivery_failed(
        &self,
        id: i64,
        message: &str,
        tries_max: u32,
    ) -> Result<(), StoreError> {
        let message = message.to_owned();
        self.write(Order::Any, move |db| {
            Box::pin(async move {
                let sql = "UPDATE delivery SET n_tries = n_tries + 1, note = ?2, state = CASE \
                           WHEN n_tries + 1 >= ?3 THEN 'quarantined' ELSE state END \
                           WHERE id = ?1 AND state = 'pending'";
                match db.execute(sql, &values![id, &message, tries_max]).await? {
                    0 => Err(StoreError::NotFound("pending delivery")),
                    _ => Ok(()),
                }
            })
        })
        .await
    }
}

async fn add(db: &mut Db, new: &NewDelivery) -> Result<(i64, bool), StoreError> {
    project::must_exist(db, new.project).await?;
    let sql = "INSERT INTO delivery (project, key, body, received_at) VALUES (?1, ?2, ?3, ?4) \
               ON CONFLICT (project, key) DO NOTHING RETURNING id";
    let row = values![new.project, &new.key, &new.body, new.at];
    if let Some(id) = db.row(sql, &row, |row| row.get(0)).await? {
        return Ok((id, true));
    }
    let sql = "SELECT id FROM delivery WHERE project = ?1 AND key = ?2";
    let first = db.row(sql, &values![new.project, &new.key], |row| row.get(0)).await?;
    Ok((first.ok_or(StoreError::NotFound("delivery"))?, false))
}

/// Whether it was not done before.
async fn mark_done(
    db: &mut Db,
    id: i64,
    project: ProjectId,
    note: &str,
) -> Result<bool, StoreError> {
    let sql = "UPDATE delivery SET state = 'done', note = ?3 \
               WHERE id = ?1 AND project = ?2 AND state <> 'done'";
    if db.execute(sql, &values![id, project, note]).await? > 0 {
        return Ok(true);
    }
    let sql = "SELECT id FROM delivery WHERE id = ?1 AND project = ?2";
    match db.exists(sql, &values![id, project]).await? {
        true => Ok(false),
        false => Err(StoreError::NotFound("delivery")),
    }
}

fn read(row: &Row<'_>) -> Result<DeliveryRow, StoreError> {
    Ok(DeliveryRow {
        id: row.get(0)?,
        project: ProjectId(row.get(1)?),
        key: row.get(2)?,
        body: row.get(3)?,
        at: row.time(4)?.unwrap_or_default(),
        n_tries: row.count(5)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::explain::explain;

    #[test]
    fn what_is_to_be_done_is_found_without_reading_what_is_done() {
        for (sql, index) in [(PENDING, "pending"), (QUARANTINED, "quarantined")] {
            // An index of nothing else, read in order as far as the limit.
            let steps = explain(sql, &values![9_u32]);
            assert_eq!(steps, format!("SCAN delivery USING INDEX delivery_{index}\n"));
        }
    }
}
