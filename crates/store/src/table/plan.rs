//! `plan`: the frozen plans of runs.

use kiln_model::plan::PLAN_VERSION;
use kiln_model::{Plan, RunId};

use crate::StoreError;
use crate::db::{Db, to_json, values};
use crate::store::Store;

impl Store {
    /// `None` when planning was refused. A plan of a newer kiln, or one that does not hold
    /// together, is an error.
    pub async fn plan(&self, id: RunId) -> Result<Option<Plan>, StoreError> {
        self.read_long(move |db| {
            Box::pin(async move {
                let sql = "SELECT body FROM plan WHERE run = ?1";
                let body: Option<String> = db.row(sql, &values![id], |row| row.get(0)).await?;
                body.map(|body| thaw(id, &body)).transpose()
            })
        })
        .await
    }
}

pub(super) async fn insert(db: &mut Db, run: RunId, plan: &Plan) -> Result<(), StoreError> {
    let sql = "INSERT INTO plan (run, body) VALUES (?1, ?2)";
    db.execute(sql, &values![run, to_json(plan)?]).await.map(drop)
}

fn thaw(run: RunId, body: &str) -> Result<Plan, StoreError> {
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let what = format!("the plan of run {run}");
    let refused = |cause: String| Err(StoreError::unreadable(&what, cause));
    // First its version: a newer form need not be one that this program can read at all.
    match serde_json::from_str(body) {
        Ok(Version { version }) if version > PLAN_VERSION => {
            return refused(format!(
                "its version is {version}, and this kiln reads {PLAN_VERSION}"
            ));
        }
        Ok(_) => {}
        Err(cause) => return refused(cause.to_string()),
    }
    let plan: Plan = match serde_json::from_str(body) {
        Ok(plan) => plan,
        Err(cause) => return refused(cause.to_string()),
    };
    match plan.check() {
        Ok(()) => Ok(plan),
        Err(cause) => refused(cause.to_string()),
    }
}
