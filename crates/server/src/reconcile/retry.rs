//! Deliveries that have failed are tried again, each after its own pause.
//!
//! Trouble of the network is tried for as long as it lasts. Anything else is tried a few times and
//! then set aside (quarantined), so that one bad delivery neither blocks nor busies anybody.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use kiln_git::GitError;
use kiln_model::ProjectId;
use kiln_store::{DeliveryRow, StoreError};
use tokio::task::JoinSet;

use super::delivery::{self, SettleError, TRIES_MAX};
use crate::report;
use crate::state::App;

/// Looked at in one pass. More only wait for the next.
const PASS_MAX: u32 = 1_000;
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Notes a failure and sees to another try.
pub(crate) async fn failed(app: &App, project: ProjectId, id: i64, error: &SettleError) {
    let tries_max = match error {
        SettleError::Git(git) if git.is_elsewhere() => u32::MAX,
        SettleError::Git(GitError::Missing) | SettleError::Store(_) => u32::MAX,
        SettleError::Git(_) | SettleError::Body(_) => TRIES_MAX,
    };
    let message = report::whole(error);
    report::say(&format!("delivery {id}: {message}"));
    app.reconcilers.set_problem(project, Some(message.clone()));
    match app.runs.store().delivery_failed(id, &message, tries_max).await {
        // The project was removed, and its deliveries with it.
        Ok(()) | Err(StoreError::NotFound(_)) => {}
        Err(error) => report::say(&format!("delivery {id}: {error}")),
    }
    app.reconcilers.inner.retry.notify_one();
}

/// Tries once what was left pending, as when the server before this one was killed.
pub(crate) async fn pass(app: &App) {
    for delivery in pending(app).await {
        one(app, &delivery).await;
    }
}

/// Sleeps while nothing is pending, and otherwise until the next is due. Each is tried in a task of
/// its own: one that hangs in a long fetch holds up no other.
pub(crate) async fn run(app: &App) {
    let mut due: HashMap<i64, Duration> = HashMap::new();
    let mut busy = HashSet::new();
    let mut tries = JoinSet::new();
    loop {
        let pending = pending(app).await;
        due.retain(|id, _| pending.iter().any(|delivery| delivery.id == *id));
        let now = app.clock.monotonic();
        for delivery in pending {
            let id = delivery.id;
            if busy.contains(&id) {
                continue;
            }
            if *due.entry(id).or_insert(now + pause(delivery.n_tries)) <= now {
                due.remove(&id);
                busy.insert(id);
                let app = app.clone();
                tries.spawn(async move {
                    one(&app, &delivery).await;
                    id
                });
            }
        }
        let next = due.iter().filter(|(id, _)| !busy.contains(*id)).map(|(_, due)| *due).min();
        let sleep = async {
            match next {
                Some(next) => tokio::time::sleep(next.saturating_sub(now)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => {}
            () = app.reconcilers.inner.retry.notified() => {}
            Some(done) = tries.join_next() => match done {
                Ok(id) => drop(busy.remove(&id)),
                // A bug of ours. It is not tried again before the next start.
                Err(panic) => report::say(&format!("delivery: {panic}")),
            }
        }
    }
}

async fn one(app: &App, delivery: &DeliveryRow) {
    match delivery::again(app, delivery).await {
        Ok(answer) => {
            let runs: Vec<String> = answer.runs.into_iter().map(|run| run.run).collect();
            report::say(&format!("delivery {}: taken ({})", delivery.id, runs.join(", ")));
        }
        Err(error) => failed(app, delivery.project, delivery.id, &error).await,
    }
}

async fn pending(app: &App) -> Vec<DeliveryRow> {
    app.runs.store().pending_deliveries(PASS_MAX).await.unwrap_or_else(|error| {
        report::say(&format!("deliveries: {error}"));
        Vec::new()
    })
}

/// 1 s, 2 s, 4 s … 5 min, each shortened by up to a quarter so that many do not come at once.
fn pause(n_tries: u32) -> Duration {
    let doubled = PAUSE_MIN.saturating_mul(1 << n_tries.saturating_sub(1).min(16)).min(PAUSE_MAX);
    doubled.mul_f64(1.0 - fastrand::f64() / 4.0)
}
