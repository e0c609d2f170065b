//! `secret`: sealed values. The server seals and opens them; nobody here can read one.

use kiln_model::ProjectId;
use kiln_stdx::{Clock, SystemClock, Timestamp};

use crate::StoreError;
use crate::db::values;
use crate::store::{Order, Store};
use crate::table::project;

impl Store {
    /// Sets or replaces. `project`: `None` is for every project.
    pub async fn set_secret(
        &self,
        project: Option<ProjectId>,
        name: &str,
        sealed: &[u8],
    ) -> Result<(), StoreError> {
        let (name, sealed) = (name.to_owned(), sealed.to_owned());
        self.write(Order::Any, move |db| {
            Box::pin(async move {
                if let Some(id) = project {
                    project::must_exist(db, id).await?;
                }
                let sql = "INSERT INTO secret (project, name, sealed, set_at) \
                           VALUES (?1, ?2, ?3, ?4) ON CONFLICT (COALESCE(project, 0), name) \
                           DO UPDATE SET sealed = excluded.sealed, set_at = excluded.set_at";
                let row = values![project, &name, sealed.as_slice(), SystemClock.now()];
                db.execute(sql, &row).await.map(drop)
            })
        })
        .await
    }

    /// The project's own, else the one for every project.
    pub async fn secret(
        &self,
        project: ProjectId,
        name: &str,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let name = name.to_owned();
        self.read(move |db| {
            Box::pin(async move {
                let sql = "SELECT sealed FROM secret WHERE COALESCE(project, 0) IN (?1, 0) \
                           AND name = ?2 ORDER BY COALESCE(project, 0) DESC LIMIT 1";
                db.row(sql, &values![project, &name], |row| row.get(0)).await
            })
        })
        .await
    }

    /// By name, with when each was set; `None`: those for every project.
    pub async fn secret_names(
        &self,
        project: Option<ProjectId>,
    ) -> Result<Vec<(String, Timestamp)>, StoreError> {
        self.read(move |db| {
            Box::pin(async move {
                let sql = "SELECT name, set_at FROM secret WHERE COALESCE(project, 0) = ?1";
                let owner = project.unwrap_or(ProjectId(0));
                let mut names = db
                    .rows(sql, &values![owner], |row| {
                        Ok((row.get(0)?, row.time(1)?.unwrap_or_default()))
                    })
                    .await?;
                names.sort();
                Ok(names)
            })
        })
        .await
    }

    /// Whether there was one.
    pub async fn remove_secret(
        &self,
        project: Option<ProjectId>,
        name: &str,
    ) -> Result<bool, StoreError> {
        let name = name.to_owned();
        self.write(Order::Any, move |db| {
            Box::pin(async move {
                let sql = "DELETE FROM secret WHERE COALESCE(project, 0) = ?1 AND name = ?2";
                let owner = project.unwrap_or(ProjectId(0));
                Ok(db.execute(sql, &values![owner, &name]).await? > 0)
            })
        })
        .await
    }
}
