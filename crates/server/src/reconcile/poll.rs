//! Pushes that nobody told, found by comparing a repository's refs with the heads last seen.
//!
//! Done once for every repository on this machine when the server starts, and at their interval for
//! the projects that poll. Who does not poll costs no timer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kiln_api::user::{Push, PushAnswer, RefUpdate};
use kiln_git::Location;
use kiln_model::ProjectId;
use kiln_store::ProjectRow;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::delivery;
use crate::report;
use crate::state::App;

/// Pause after a look that failed, doubled each time; never shorter than the interval.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// Looks at the same time.
const LOOKS_MAX: usize = 8;

/// Looks at every repository on this machine.
pub(crate) async fn missed(app: &App) {
    for project in projects(app).await {
        if matches!(Location::parse(&project.repo), Ok(Location::Path(_))) {
            let _ = look(app, &project).await;
        }
    }
}

/// When a project is looked at next.
struct Poll {
    due: Duration,
    every: Duration,
    n_failed: u32,
    /// A look is on its way.
    busy: bool,
}

/// Looks at each polled project when it is due. Each look is a task of its own: a host that does not
/// answer holds up no other.
pub(crate) async fn run(app: &App) {
    let mut polls: HashMap<ProjectId, Poll> = HashMap::new();
    let mut looks = JoinSet::new();
    let at_once = Arc::new(Semaphore::new(LOOKS_MAX));
    loop {
        let projects = projects(app).await;
        plan(&mut polls, &projects, app.clock.monotonic());
        let now = app.clock.monotonic();
        for project in projects {
            let Some(poll) = polls.get_mut(&project.id) else { continue };
            if poll.due <= now && !poll.busy {
                poll.busy = true;
                let (app, at_once) = (app.clone(), at_once.clone());
                looks.spawn(async move {
                    let _permit = at_once.acquire().await;
                    (project.id, look(&app, &project).await.is_ok())
                });
            }
        }
        let next = polls.values().filter(|poll| !poll.busy).map(|poll| poll.due).min();
        let sleep = async {
            match next {
                Some(due) => tokio::time::sleep(due.saturating_sub(now)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => {}
            () = app.reconcilers.inner.projects_changed.notified() => {}
            Some(looked) = looks.join_next() => match looked {
                Ok((id, is_ok)) => {
                    if let Some(poll) = polls.get_mut(&id) {
                        poll.looked(is_ok, app.clock.monotonic());
                    }
                }
                // A bug of ours. The project is not polled before the next start.
                Err(panic) => report::say(&format!("poll: {panic}")),
            }
        }
    }
}

/// Brings the polls to what the projects want.
fn plan(polls: &mut HashMap<ProjectId, Poll>, projects: &[ProjectRow], now: Duration) {
    let every = |project: &ProjectRow| project.poll_every_s.map(|s| Duration::from_secs(s.into()));
    polls.retain(|id, _| projects.iter().any(|p| p.id == *id && every(p).is_some()));
    for project in projects {
        let Some(every) = every(project) else { continue };
        let new = || Poll { due: now, every, n_failed: 0, busy: false };
        let poll = polls.entry(project.id).or_insert_with(new);
        if poll.every != every {
            poll.every = every;
            poll.due = now + every;
        }
    }
}

impl Poll {
    fn looked(&mut self, is_ok: bool, now: Duration) {
        self.busy = false;
        self.n_failed = if is_ok { 0 } else { self.n_failed.saturating_add(1) };
        let pause = self.every.saturating_mul(1 << self.n_failed.min(10));
        self.due = now + pause.min(PAUSE_MAX.max(self.every));
    }
}

/// Compares once. What differs becomes one delivery.
pub async fn look(app: &App, project: &ProjectRow) -> Result<PushAnswer, String> {
    let _turn = app.reconcilers.turn(project.id).await;
    let found = app.mirrors.with(project, |mirror| mirror.remote_refs()).await;
    let refs = match found {
        Ok(refs) => refs,
        Err(error) => {
            let message = report::whole(&error);
            report::say(&format!("project {}: {message}", project.name));
            app.reconcilers.set_problem(project.id, Some(message.clone()));
            return Err(message);
        }
    };
    app.reconcilers.set_problem(project.id, None);
    let heads = app.runs.store().heads(project.id).await.map_err(|error| error.to_string())?;
    let refs = differing(&heads, &refs);
    if refs.is_empty() {
        return Ok(PushAnswer::default());
    }
    let nonce = format!("{:032x}", fastrand::u128(..));
    let push = Push { project: project.name.to_string(), actor: None, nonce, refs };
    delivery::take_in_turn(app, project, push).await.map_err(|error| error.to_string())
}

/// What must have been pushed between two lists of `(ref, commit)`.
fn differing(seen: &[(String, String)], now: &[(String, String)]) -> Vec<RefUpdate> {
    let find = |refs: &[(String, String)], name: &str| {
        refs.iter().find(|(other, _)| other == name).map(|(_, id)| id.clone())
    };
    let width = now.iter().chain(seen).next().map_or(40, |(_, id)| id.len());
    let zero = "0".repeat(width);
    let came = now.iter().map(|(name, new)| {
        let old = find(seen, name).unwrap_or_else(|| zero.clone());
        RefUpdate { name: name.clone(), old, new: new.clone() }
    });
    let gone = seen
        .iter()
        .filter(|(name, _)| find(now, name).is_none())
        .map(|(name, old)| RefUpdate { name: name.clone(), old: old.clone(), new: zero.clone() });
    came.filter(|update| update.old != update.new).chain(gone).collect()
}

async fn projects(app: &App) -> Vec<ProjectRow> {
    match app.runs.store().projects(0).await {
        Ok(rows) => rows.into_iter().map(|(project, _)| project).collect(),
        Err(error) => {
            report::say(&format!("projects: {error}"));
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_fails_is_asked_less_often_and_an_hour_is_the_longest() {
        let s = Duration::from_secs;
        let mut poll = Poll { due: s(0), every: s(60), n_failed: 0, busy: true };
        let mut pauses = Vec::new();
        for is_ok in [true, false, false, false, false, false, false, false, true] {
            poll.looked(is_ok, s(0));
            pauses.push(poll.due.as_secs());
        }
        assert_eq!(pauses, [60, 120, 240, 480, 960, 1920, 3600, 3600, 60]);
    }

    #[test]
    fn refs_that_moved_came_or_went_are_a_push() {
        let list = |refs: &[(&str, char)]| -> Vec<(String, String)> {
            refs.iter().map(|(n, c)| ((*n).to_owned(), c.to_string().repeat(40))).collect()
        };
        let seen = list(&[("refs/heads/a", '1'), ("refs/heads/b", '2'), ("refs/heads/c", '3')]);
        let now = list(&[("refs/heads/a", '1'), ("refs/heads/b", '4'), ("refs/heads/d", '5')]);
        let found: Vec<_> = differing(&seen, &now)
            .into_iter()
            .map(|update| format!("{} {}>{}", update.name, &update.old[..1], &update.new[..1]))
            .collect();
        assert_eq!(found, ["refs/heads/b 2>4", "refs/heads/d 0>5", "refs/heads/c 3>0"]);
        assert_eq!(differing(&[], &[]), []);
    }
}
