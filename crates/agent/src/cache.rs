//! The caches of a job: what it finds before its first step, and what is kept after its last.
//!
//! Nothing of it can fail a job. What was found, or why not, is said at the beginning of its log.

use std::path::PathBuf;
use std::sync::Arc;

use kiln_api::agent::Assignment;
use kiln_executor::Executor;
use kiln_model::layer::LayerId;
use kiln_model::{Notes, Outcome};
use kiln_workspace::{Base, CacheWish, Caches, TakenCaches, Using, Workspaces};

use crate::agent::{AgentOptions, Shared, report};

/// What a job finds. Blocking, and under [`Workspaces::using`] until it is noted.
pub(crate) fn find(options: &AgentOptions, assignment: &Assignment, base: &Base) -> Caches {
    let Some(project) = assignment.caches.project.filter(|_| !assignment.job.cache.is_empty())
    else {
        return Caches::default();
    };
    let scopes = &assignment.caches;
    let log = &assignment.log;
    let wish = CacheWish {
        project,
        number: assignment.number,
        rules: assignment.job.cache.clone(),
        read: if assignment.no_cache { Vec::new() } else { scopes.read.clone() },
        write: scopes.write.clone(),
        home: home(options, assignment),
        below: scopes.below.clone(),
        goes_on: !assignment.own.is_empty(),
        taken: vec![assignment.objects.clone(), log.parent().unwrap_or(log).to_owned()],
    };
    options.workspaces.find_caches(&wish, base, &assignment.layers, &assignment.own)
}

/// As the job's steps see it.
fn home(options: &AgentOptions, assignment: &Assignment) -> Option<PathBuf> {
    let machine = || options.machine_env.iter().find(|(name, _)| name == "HOME");
    let given = assignment.env.get("HOME").or_else(|| machine().map(|(_, value)| value));
    given.map(PathBuf::from)
}

/// What a job has left, on its way into its caches.
pub(crate) struct Taken {
    caches: TakenCaches,
    /// New pieces that no cache names yet must not be collected.
    using: Using,
}

/// Takes what a job that succeeded has left, before its workspace is sealed.
pub(crate) fn take(
    workspaces: &Workspaces,
    assignment: &Assignment,
    outcome: &Outcome,
    notes: &mut Notes,
) -> Option<Taken> {
    if assignment.job.cache.is_empty() || !outcome.is_success() {
        return None;
    }
    let attempt = assignment.lease.attempt;
    let taken = workspaces.using().and_then(|using| {
        let caches = workspaces.take_caches(attempt)?;
        Ok(Taken { caches, using })
    });
    taken.inspect_err(|error| notes.warnings.push(format!("caches were not kept: {error}"))).ok()
}

/// Keeps it. `layer` is what the workspace became.
pub(crate) async fn save<S, E: Executor>(
    shared: &Arc<Shared<S, E>>,
    taken: Option<Taken>,
    layer: Option<LayerId>,
    notes: &mut Notes,
) {
    let Some(Taken { caches, using }) = taken else { return };
    let (workspaces, now) = (shared.options.workspaces.clone(), shared.options.clock.now());
    let save = move || {
        let unkept = workspaces.save_caches(caches, layer.as_ref(), now);
        drop(using);
        unkept
    };
    match tokio::task::spawn_blocking(save).await {
        Ok(unkept) => notes.warnings.extend(unkept),
        Err(panic) => report(&format!("cannot keep caches: {panic}")),
    }
}

/// Merges what has come to many pieces, when the job's result is told.
pub(crate) async fn tidy<S, E: Executor>(shared: &Arc<Shared<S, E>>, assignment: &Assignment) {
    let scopes = &assignment.caches;
    let (Some(project), Some(scope)) = (scopes.project, scopes.write.clone()) else { return };
    let (workspaces, rules) = (shared.options.workspaces.clone(), assignment.job.cache.clone());
    if rules.is_empty() {
        return;
    }
    let tidy = move || workspaces.tidy_caches(project, &scope, &rules);
    match tokio::task::spawn_blocking(tidy).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => report(&format!("cannot merge the pieces of a cache: {error}")),
        Err(panic) => report(&format!("cannot merge the pieces of a cache: {panic}")),
    }
}
