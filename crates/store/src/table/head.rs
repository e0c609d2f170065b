//! `head`: the refs of a project as last seen.

use kiln_model::ProjectId;

use crate::StoreError;
use crate::db::{Db, values};
use crate::store::Store;

impl Store {
    /// By name: `refs/heads/main`, commit.
    pub async fn heads(&self, id: ProjectId) -> Result<Vec<(String, String)>, StoreError> {
        self.read_long(move |db| {
            Box::pin(async move {
                let sql = "SELECT ref, commit_id FROM head WHERE project = ?1";
                let read = |row: &crate::db::Row<'_>| Ok((row.get(0)?, row.get(1)?));
                let mut heads: Vec<(String, String)> = db.rows(sql, &values![id], read).await?;
                heads.sort();
                Ok(heads)
            })
        })
        .await
    }
}

/// Refs that are there now, and those that are gone (`None`).
pub(super) async fn set(
    db: &mut Db,
    project: ProjectId,
    heads: &[(String, Option<String>)],
) -> Result<(), StoreError> {
    // In order: a ref that is named twice ends as the later one says.
    for (name, commit) in heads {
        match commit {
            Some(commit) => {
                let sql = "INSERT INTO head (project, ref, commit_id) VALUES (?1, ?2, ?3) \
                           ON CONFLICT (project, ref) DO UPDATE SET commit_id = excluded.commit_id";
                db.execute(sql, &values![project, name, commit]).await?;
            }
            None => {
                let sql = "DELETE FROM head WHERE project = ?1 AND ref = ?2";
                db.execute(sql, &values![project, name]).await?;
            }
        }
    }
    Ok(())
}
