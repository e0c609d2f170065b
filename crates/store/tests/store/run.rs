//! Lists of runs.

use kiln_model::{RunNumber, RunState};
use kiln_store::{Append, RunFilter, RunRow, RunUpdate, Store};

use crate::on_both;
use crate::place::Place;
use crate::sample::{self, AT};

on_both!(lists_hold_what_their_filter_says, active_runs_are_those_that_are_not_over);

/// Runs on `main` and `dev` in turn, some of them over.
async fn fill(store: &Store) -> (Vec<RunRow>, Vec<RunRow>) {
    let a = sample::project(store, "a").await.id;
    let b = sample::project(store, "b").await.id;
    let mut all = (Vec::new(), Vec::new());
    for at in 0..8 {
        for (project, runs) in [(a, &mut all.0), (b, &mut all.1)] {
            let new = sample::new_run(if at % 2 == 0 { "main" } else { "dev" });
            let made = store.settle_delivery(None, project, "", vec![new], vec![]).await;
            let mut row = made.unwrap().remove(0);
            if at < 4 {
                row.state = RunState::Failed;
                row.n_jobs_over = 2;
                row.finished_at = Some(AT);
                store.append(end(&row)).await.unwrap();
            }
            runs.insert(0, row);
        }
    }
    all
}

/// Makes the stored row what this one is.
fn end(row: &RunRow) -> Append {
    let RunRow { state, started_at, finished_at, n_jobs_over, .. } = *row;
    let reason = row.reason.clone();
    let update = RunUpdate { state, reason, started_at, finished_at, n_jobs_over };
    Append { events: vec![], row: Some(update), ..sample::append(row.id, 1) }
}

async fn lists_hold_what_their_filter_says(place: Place) {
    let store = place.open().await;
    let (a, b) = fill(&store).await;
    let mut both: Vec<RunRow> = a.iter().chain(&b).cloned().collect();
    both.sort_by_key(|run| std::cmp::Reverse(run.id));
    let all = RunFilter { limit: 100, ..RunFilter::default() };
    let of_a = RunFilter { project: Some(a[0].project), ..all.clone() };
    let branch = Some("dev".to_owned());
    let state = Some(RunState::Failed);
    let on_dev = |run: &&RunRow| run.trigger.branch.as_deref() == Some("dev");
    let has_failed = |run: &&RunRow| run.state == RunState::Failed;

    let expect = async |filter: &RunFilter, runs: Vec<RunRow>| {
        assert!(!runs.is_empty());
        assert_eq!(store.runs(filter.clone()).await, Ok(runs), "{filter:?}");
    };
    expect(&all, both.clone()).await;
    expect(&of_a, a.clone()).await;
    expect(&RunFilter { limit: 3, ..of_a.clone() }, a[..3].to_vec()).await;
    let filter = RunFilter { before: Some(RunNumber(3)), ..of_a.clone() };
    expect(&filter, a[6..].to_vec()).await;
    let filter = RunFilter { branch: branch.clone(), ..of_a.clone() };
    expect(&filter, a.iter().filter(on_dev).cloned().collect()).await;
    let filter = RunFilter { state, ..of_a.clone() };
    expect(&filter, a.iter().filter(has_failed).cloned().collect()).await;
    let filter = RunFilter { state, branch: branch.clone(), ..of_a.clone() };
    expect(&filter, a.iter().filter(on_dev).filter(has_failed).cloned().collect()).await;
    let filter = RunFilter { branch: branch.clone(), ..all.clone() };
    expect(&filter, both.iter().filter(on_dev).cloned().collect()).await;
    let filter = RunFilter { state, limit: 3, ..all.clone() };
    expect(&filter, both.iter().filter(has_failed).take(3).cloned().collect()).await;
    let filter = RunFilter { before_id: Some(both[4].id), limit: 4, ..all.clone() };
    expect(&filter, both[5..9].to_vec()).await;
    let filter = RunFilter { branch: Some("x'; DROP TABLE run; --".into()), ..all.clone() };
    assert_eq!(store.runs(filter).await, Ok(vec![]));
}

async fn active_runs_are_those_that_are_not_over(place: Place) {
    let store = place.open().await;
    let (a, b) = fill(&store).await;
    let mut active: Vec<RunRow> = a[..4].iter().chain(&b[..4]).cloned().collect();
    active.sort_by_key(|run| run.id);
    assert_eq!(store.active_runs().await, Ok(active.clone()));
    for (row, state) in active.iter_mut().zip([RunState::Running, RunState::Waiting]) {
        row.state = state;
        store.append(end(row)).await.unwrap();
    }
    assert_eq!(store.active_runs().await, Ok(active));
}
