//! `agent`: processes that take jobs.

use kiln_model::AgentId;

use crate::StoreError;
use crate::db::{to_json, values};
use crate::store::{Order, Store};

impl Store {
    /// The agent of this name, made when it is new; its labels are those given last.
    pub async fn agent(&self, name: &str, labels: &[String]) -> Result<AgentId, StoreError> {
        let (name, labels) = (name.to_owned(), to_json(&labels)?);
        self.write(Order::Any, move |db| {
            Box::pin(async move {
                let sql = "INSERT INTO agent (name, labels) VALUES (?1, ?2) \
                           ON CONFLICT (name) DO UPDATE SET labels = excluded.labels RETURNING id";
                let id = db.row(sql, &values![&name, &labels], |row| row.get(0)).await?;
                id.map(AgentId).ok_or_else(|| StoreError::other("the database gave no agent"))
            })
        })
        .await
    }
}
