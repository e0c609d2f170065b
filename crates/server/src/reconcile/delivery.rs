//! One push, from being told to its runs.
//!
//!   told ──row──▶ Pending ──planned, one transaction──▶ Settled
//!                  │    ▲
//!                  └────┴── git failed: again later; the fifth time ──▶ Quarantined
//!
//! Always: the row is there before anybody is told that the push was taken. The runs, the heads and
//! the end of the delivery are one transaction, so a crash anywhere leaves either all or a pending
//! row.

use std::cell::OnceCell;

use kiln_api::user::{Push, PushAnswer, RefUpdate, StartedRun};
use kiln_forge::plain::{self, Pushed};
use kiln_git::{GitError, Mirror, refs};
use kiln_model::ProjectName;
use kiln_model::layer::Source;
use kiln_model::policy::JobPolicy;
use kiln_store::{NewDelivery, NewRun, ProjectRow, StoreError};

use super::plan::{self, Outcome};
use crate::report;
use crate::runs::new_run;
use crate::state::App;

/// So often a delivery may fail through its own fault.
pub(crate) const TRIES_MAX: u32 = 5;

/// Why a push was not taken. It is not recorded then.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    #[error("there is no project `{0}`")]
    NoProject(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What settling will write.
struct Prepared {
    runs: Vec<NewRun>,
    notes: Vec<String>,
    heads: Vec<(String, Option<String>)>,
}

/// Records a push and starts its runs. When git fails it stays recorded, is tried again, and a note
/// says so.
pub async fn take(app: &App, push: Push) -> Result<PushAnswer, DeliveryError> {
    let project = project(app, &push.project).await?;
    let _turn = app.reconcilers.turn(project.id).await;
    take_in_turn(app, &project, push).await
}

/// As [`take`], for a caller who holds the project's turn.
pub(crate) async fn take_in_turn(
    app: &App,
    project: &ProjectRow,
    push: Push,
) -> Result<PushAnswer, DeliveryError> {
    let body = serde_json::to_string(&push).expect("a push is plain data");
    let new = NewDelivery { project: project.id, key: key(&push), body, at: app.clock.now() };
    // The disk and git work at the same time; nothing of the plan is kept unless the row is.
    let (recorded, prepared) =
        tokio::join!(app.runs.store().add_delivery(new), prepare(app, project, push));
    let (id, is_new) = recorded?;
    if !is_new {
        let notes = vec!["this push was already taken".to_owned()];
        return Ok(PushAnswer { runs: Vec::new(), notes });
    }
    match settle(app, project, id, prepared).await {
        Ok(answer) => Ok(answer),
        Err(error) => {
            super::retry::failed(app, project.id, id, &error).await;
            let notes =
                vec![format!("recorded, and will be tried again: {}", report::whole(&error))];
            Ok(PushAnswer { runs: Vec::new(), notes })
        }
    }
}

/// Tries a recorded delivery again.
pub(crate) async fn again(
    app: &App,
    delivery: &kiln_store::DeliveryRow,
) -> Result<PushAnswer, SettleError> {
    let project = app.runs.store().project_by_id(delivery.project).await?;
    let _turn = app.reconcilers.turn(project.id).await;
    let push: Push = serde_json::from_str(&delivery.body)
        .map_err(|error| SettleError::Body(error.to_string()))?;
    let prepared = prepare(app, &project, push).await;
    settle(app, &project, delivery.id, prepared).await
}

/// Why a recorded delivery could not be settled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettleError {
    #[error(transparent)]
    Git(#[from] GitError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the recorded push cannot be read: {0}")]
    Body(String),
}

async fn settle(
    app: &App,
    project: &ProjectRow,
    id: i64,
    prepared: Result<Prepared, SettleError>,
) -> Result<PushAnswer, SettleError> {
    let Prepared { runs, notes, heads } = prepared?;
    let store = app.runs.store();
    let note = notes.join("\n");
    let rows = store.settle_delivery(Some(id), project.id, &note, runs, heads).await?;
    let started = |row: &kiln_store::RunRow| StartedRun {
        run: format!("{}#{}", row.project_name, row.number),
        state: row.state,
        reason: row.reason.as_ref().map(ToString::to_string),
        url: format!("{}/p/{}/{}", app.url, row.project_name, row.number),
    };
    let answer = PushAnswer { runs: rows.iter().map(started).collect(), notes };
    app.runs.adopt(rows).await?;
    app.reconcilers.set_problem(project.id, None);
    super::pin::soon(app, project);
    Ok(answer)
}

/// Reads what the push is about.
async fn prepare(app: &App, project: &ProjectRow, push: Push) -> Result<Prepared, SettleError> {
    let heads = app.runs.store().heads(project.id).await?;
    let at = app.clock.now();
    let policy = app.runs.governor().of(project.name.as_str());
    let prepared = app
        .mirrors
        .with(project, move |mirror| {
            let mut prepared = Prepared { runs: Vec::new(), notes: Vec::new(), heads: Vec::new() };
            // The refs of the repository as it is now, asked for at most once.
            let now = OnceCell::new();
            for update in &push.refs {
                let seen = heads.iter().find(|(name, _)| *name == update.name);
                let seen = seen.map(|(_, id)| id.as_str());
                let outrun = is_outrun(update, seen, || {
                    let refs = now.get_or_init(|| mirror.remote_refs());
                    let at = refs.as_ref().ok()?.iter().find(|(name, _)| *name == update.name)?;
                    Some(at.1.clone())
                });
                let pushed =
                    plain::read(&update.name, &update.old, &update.new, push.actor.as_deref());
                prepared.add(mirror, &policy, pushed, seen, outrun, at)?;
            }
            Ok(prepared)
        })
        .await?;
    Ok(prepared)
}

/// Whether a younger push of the same ref has been taken before this one: hooks of two pushes run
/// at the same time, and a push may have waited in the inbox or for another try. It has its run all
/// the same, but must not move the head back: the next look at the refs would find the younger one
/// again.
///
/// Who came first is told by the repository: the head that was seen last is where the ref stands.
fn is_outrun(update: &RefUpdate, seen: Option<&str>, now: impl FnOnce() -> Option<String>) -> bool {
    seen.is_some_and(|seen| seen != update.old && now().is_some_and(|now| now == seen))
}

impl Prepared {
    fn add(
        &mut self,
        mirror: &Mirror,
        policy: &JobPolicy,
        pushed: Pushed,
        seen: Option<&str>,
        outrun: bool,
        at: kiln_stdx::Timestamp,
    ) -> Result<(), GitError> {
        let (ref_name, trigger) = match pushed {
            Pushed::Head { ref_name, trigger } => (ref_name, trigger),
            Pushed::Gone { ref_name } => {
                if !outrun {
                    self.heads.push((ref_name, None));
                }
                return Ok(());
            }
            Pushed::Ignored { ref_name, why } => {
                self.note(&ref_name, why);
                return Ok(());
            }
        };
        if let Err(error) = refs::check_ref(&ref_name) {
            self.note(&ref_name, &error.to_string());
            return Ok(());
        }
        let id = trigger.commit.clone();
        plan::read_ahead(mirror, &trigger);
        if !mirror.has(&id)? {
            mirror.fetch()?;
        }
        if mirror.has(&id)? && matches!(mirror.commit(&id), Err(GitError::NotFound { .. })) {
            self.heads.push((ref_name.clone(), Some(id)));
            self.note(&ref_name, "it is not a commit");
            return Ok(());
        }
        let (trigger, commit, outcome) = plan::plan(mirror, *trigger)?;
        if seen == Some(commit.commit.as_str()) {
            self.note(&ref_name, "this commit was already seen there");
            return Ok(());
        }
        if !outrun {
            self.heads.push((ref_name.clone(), Some(commit.commit.clone())));
        }
        if let Some(word) = commit.asks_to_skip() {
            self.note(&ref_name, &format!("its commit says `{word}`"));
            return Ok(());
        }
        let planned = match outcome {
            Outcome::Plan(plan) => policy.check(&plan).map(|()| plan),
            Outcome::Wrong(message) => Err(message),
            Outcome::Nothing(why) => {
                self.note(&ref_name, &why);
                return Ok(());
            }
        };
        let source = Source::Git { commit: commit.commit, tree: commit.tree };
        self.runs.push(new_run(trigger, source, planned, at));
        Ok(())
    }

    fn note(&mut self, ref_name: &str, why: &str) {
        self.notes.push(format!("no run for `{}`: {why}", ref_name.escape_debug()));
    }
}

async fn project(app: &App, name: &str) -> Result<ProjectRow, DeliveryError> {
    let unknown = || DeliveryError::NoProject(name.escape_debug().to_string());
    let name = ProjectName::new(name).map_err(|_| unknown())?;
    match app.runs.store().project(&name).await {
        Err(StoreError::NotFound(_)) => Err(unknown()),
        found => Ok(found?),
    }
}

/// What tells this push from every other.
fn key(push: &Push) -> String {
    let mut hash = blake3::Hasher::new();
    let nonce = match push.nonce.as_str() {
        "" => format!("{:016x}", fastrand::u64(..)),
        given => given.to_owned(),
    };
    // Each part with its length, so that no two pushes read the same.
    let mut add = |part: &str| {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    };
    add(&push.project);
    add(&nonce);
    for update in &push.refs {
        [&update.name, &update.old, &update.new].into_iter().for_each(|part| add(part));
    }
    hash.finalize().to_hex()[..32].to_owned()
}
