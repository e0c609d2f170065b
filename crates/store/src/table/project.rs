//! `project`: repositories that are watched.

use kiln_model::{ProjectId, ProjectName, RunNumber};

use crate::db::{Db, Row, values};
use crate::store::{Order, Store};
use crate::table::run;
use crate::{NewProject, ProjectRow, RunRow, StoreError};

macro_rules! select_projects {
    ($tail:literal) => {
        concat!(
            "SELECT id, name, repo, default_branch, poll_every_s, created_at FROM project ",
            $tail
        )
    };
}

impl Store {
    /// Fails with `Exists` when the name is taken.
    pub async fn add_project(&self, new: NewProject) -> Result<ProjectRow, StoreError> {
        self.write(Order::Any, move |db| Box::pin(async move { add(db, new).await })).await
    }

    pub async fn project(&self, name: &ProjectName) -> Result<ProjectRow, StoreError> {
        let name = name.clone();
        self.read(move |db| {
            Box::pin(async move {
                let sql = select_projects!("WHERE name = ?1");
                let found = db.row(sql, &values![name.as_str()], read).await?;
                found.ok_or(StoreError::NotFound("project"))
            })
        })
        .await
    }

    pub async fn project_by_id(&self, id: ProjectId) -> Result<ProjectRow, StoreError> {
        self.read(move |db| {
            Box::pin(async move {
                let found = db.row(select_projects!("WHERE id = ?1"), &values![id], read).await?;
                found.ok_or(StoreError::NotFound("project"))
            })
        })
        .await
    }

    /// By name; each with its newest runs (at most `n_runs`), the newest first.
    pub async fn projects(
        &self,
        n_runs: u32,
    ) -> Result<Vec<(ProjectRow, Vec<RunRow>)>, StoreError> {
        self.read(move |db| {
            Box::pin(async move {
                let mut projects = db.rows(select_projects!(""), &[], read).await?;
                projects.sort_by(|a, b| a.name.cmp(&b.name));
                let mut runs = run::newest(db, n_runs).await?;
                let mut with_own = Vec::with_capacity(projects.len());
                for project in projects {
                    let own = runs.remove(&project.id).unwrap_or_default();
                    with_own.push((project, own));
                }
                Ok(with_own)
            })
        })
        .await
    }

    /// With its runs, events and rows; files are the caller's.
    pub async fn remove_project(&self, id: ProjectId) -> Result<(), StoreError> {
        self.write(Order::Any, move |db| {
            Box::pin(async move {
                found(db.execute("DELETE FROM project WHERE id = ?1", &values![id]).await?)
            })
        })
        .await
    }

    /// How often it is asked what is new; `None`: never.
    pub async fn set_poll(&self, id: ProjectId, every_s: Option<u32>) -> Result<(), StoreError> {
        self.write(Order::Any, move |db| {
            Box::pin(async move {
                let sql = "UPDATE project SET poll_every_s = ?2 WHERE id = ?1";
                found(db.execute(sql, &values![id, every_s]).await?)
            })
        })
        .await
    }
}

/// Fails when there is no such project.
pub(super) async fn must_exist(db: &mut Db, id: ProjectId) -> Result<(), StoreError> {
    match db.exists("SELECT id FROM project WHERE id = ?1", &values![id]).await? {
        true => Ok(()),
        false => Err(StoreError::NotFound("project")),
    }
}

/// Takes the next `n` numbers and gives the first. The row stays locked until the transaction ends,
/// and the numbers return if it fails: so there are no gaps.
pub(super) async fn take_numbers(
    db: &mut Db,
    id: ProjectId,
    n: usize,
) -> Result<RunNumber, StoreError> {
    let sql = "UPDATE project SET last_number = last_number + ?2 WHERE id = ?1 \
               RETURNING last_number - ?2 + 1";
    let first = db.row(sql, &values![id, n], |row| row.get(0)).await?;
    first.map(RunNumber).ok_or(StoreError::NotFound("project"))
}

async fn add(db: &mut Db, new: NewProject) -> Result<ProjectRow, StoreError> {
    let sql = "INSERT INTO project (name, repo, default_branch, poll_every_s, created_at) \
               VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (name) DO NOTHING RETURNING id";
    let NewProject { name, repo, default_branch, poll_every_s, at } = new;
    let row = values![name.as_str(), &repo, default_branch.as_ref(), poll_every_s, at];
    let id = db.row(sql, &row, |row| row.get(0)).await?;
    let id = id.ok_or_else(|| StoreError::Exists(format!("the project `{name}`")))?;
    let id = ProjectId(id);
    Ok(ProjectRow { id, name, repo, default_branch, poll_every_s, created_at: at })
}

fn found(n_rows: u64) -> Result<(), StoreError> {
    if n_rows == 0 { Err(StoreError::NotFound("project")) } else { Ok(()) }
}

fn read(row: &Row<'_>) -> Result<ProjectRow, StoreError> {
    Ok(ProjectRow {
        id: ProjectId(row.get(0)?),
        name: row.word(1)?,
        repo: row.get(2)?,
        default_branch: row.get(3)?,
        poll_every_s: row.optional_count(4)?,
        created_at: row.time(5)?.unwrap_or_default(),
    })
}
