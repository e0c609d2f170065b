//! The rows of a run that does not exist yet.

use std::sync::Arc;

use kiln_engine::run::Run;
use kiln_model::layer::Source;
use kiln_model::{Event, EventKind, Plan, RunId, Trigger};
use kiln_stdx::Timestamp;
use kiln_store::NewRun;

use super::live;

/// Rows for a run with a plan, or, with the rendered complaints instead, for one that has none and
/// is over at once.
///
/// The run's id is not known before it is written; nothing in its rows depends on it.
pub fn new_run(
    trigger: Trigger,
    source: Source,
    planned: Result<Plan, String>,
    at: Timestamp,
) -> NewRun {
    let mut run = Run::new(RunId(0), Arc::new(trigger.clone()), at);
    let (plan, kind) = match planned {
        Ok(plan) => (Some(plan), EventKind::Planned),
        Err(message) => (None, EventKind::PlanRefused { message }),
    };
    if let Some(plan) = &plan {
        run.set_plan(Arc::new(plan.clone()));
    }
    let first = Event { seq: 1, at, kind };
    run.apply(&first).expect("the first event of a run is always accepted");
    // From the run, which has no jobs when it found the plan unsound.
    let jobs = match run.jobs.is_empty() {
        true => Vec::new(),
        false => plan.iter().flat_map(Plan::indices).map(|job| live::job_row(&run, job)).collect(),
    };
    NewRun {
        trigger,
        source,
        plan,
        at,
        first: vec![first],
        state: run.state,
        reason: run.reason,
        jobs,
    }
}
