//! What is kept, and how runs go.

use kiln_model::artifact::Artifact;
use kiln_model::layer::Digest;
use kiln_model::*;
use kiln_stdx::Timestamp;
use kiln_store::*;

use crate::on_both;
use crate::place::Place;
use crate::sample::{self, AT};

on_both!(
    a_pinned_run_loses_nothing,
    a_run_that_goes_on_loses_nothing,
    a_run_that_is_removed_is_not_seen_and_its_number_stays_taken,
    an_object_goes_when_the_last_row_that_names_it_does,
    old_runs_are_found_by_age_and_by_number,
);

fn digest(n: u8) -> Digest {
    Digest::from_bytes([n; 32])
}

/// A run that ended at `at` with these artifacts.
async fn over(store: &Store, project: ProjectId, at: i64, artifacts: &[u8]) -> RunRow {
    let run = sample::run(store, project).await;
    let attempt = AttemptId { run: run.id, job: JobIndex(0), attempt: 1 };
    let artifact = |n: &u8| {
        let path = format!("file-{n}");
        (attempt, Artifact { path, n_bytes: 10, digest: digest(*n), executable: false })
    };
    let update = RunUpdate {
        state: RunState::Success,
        reason: None,
        started_at: Some(AT),
        finished_at: Some(Timestamp::from_millis(at)),
        n_jobs_over: 2,
    };
    let row = Some(update);
    let artifacts = artifacts.iter().map(artifact).collect();
    store.append(Append { row, artifacts, ..sample::append(run.id, 2) }).await.unwrap();
    store.run(run.id).await.unwrap()
}

async fn a_pinned_run_loses_nothing(place: Place) {
    let store = place.open().await;
    let project = sample::project(&store, "a").await.id;
    let run = over(&store, project, 1_000, &[1]).await;
    assert!(store.pin(run.id, Some((AT, "me".into()))).await.unwrap());
    assert!(!store.pin(run.id, Some((AT, "you".into()))).await.unwrap());
    let pin = Some(Pin { at: AT, by: "me".into() });
    assert_eq!(store.run(run.id).await.unwrap().pinned, pin);
    assert_eq!(store.held_runs().await.unwrap(), [run.id].into());
    loses_nothing(&store, &run).await;
    assert!(store.pin(run.id, None).await.unwrap());
    assert!(store.hide_run(run.id, AT).await.unwrap());
    let error = store.pin(run.id, Some((AT, "me".into()))).await.unwrap_err();
    assert_eq!(error, StoreError::NotFound("run"));
}

async fn loses_nothing(store: &Store, run: &RunRow) {
    assert!(!store.hide_run(run.id, AT).await.unwrap());
    assert!(!store.collect_logs(run.id, AT).await.unwrap());
    assert_eq!(store.collect_artifacts(run.id, AT).await.unwrap(), []);
    assert!(store.artifacts(run.id).await.unwrap().iter().all(|row| row.collected_at.is_none()));
    assert_eq!(store.remove_hidden(run.id).await.unwrap(), (true, vec![]));
    assert!(store.run(run.id).await.is_ok());
}

async fn a_run_that_goes_on_loses_nothing(place: Place) {
    let store = place.open().await;
    let project = sample::project(&store, "a").await.id;
    let run = sample::run(&store, project).await;
    loses_nothing(&store, &run).await;
    assert_eq!(store.held_runs().await.unwrap(), [run.id].into());
    assert_eq!(store.active_since().await.unwrap(), Some(run.created_at));
}

async fn a_run_that_is_removed_is_not_seen_and_its_number_stays_taken(place: Place) {
    let store = place.open().await;
    let project = sample::project(&store, "a").await.id;
    let run = over(&store, project, 1_000, &[1]).await;
    // More events than go in one piece.
    for first in [3, 2_003, 4_003] {
        let events = (first..first + 2_000)
            .map(|seq| sample::event(seq, EventKind::CancelAsked { by: "me".into() }))
            .collect();
        store.append(Append { events, ..sample::append(run.id, first) }).await.unwrap();
    }
    assert!(store.hide_run(run.id, AT).await.unwrap());
    let gone = StoreError::NotFound("run");
    assert_eq!(store.run(run.id).await, Err(gone.clone()));
    assert_eq!(store.run_by_number(project, run.number).await, Err(gone.clone()));
    assert_eq!(store.runs(RunFilter { limit: 9, ..RunFilter::default() }).await, Ok(vec![]));
    assert_eq!(store.projects(5).await.unwrap()[0].1, []);
    let late = store.append(sample::append(run.id, 6_003)).await;
    assert_eq!(late, Err(gone));
    assert!(store.has_had_run(project, run.number).await.unwrap());
    assert!(!store.has_had_run(project, RunNumber(2)).await.unwrap());
    // As after a crash: it is found again, and goes piece by piece.
    assert_eq!(store.hidden_runs().await, Ok(vec![run.id]));
    let mut n_pieces = 1;
    let freed = loop {
        match store.remove_hidden(run.id).await.unwrap() {
            (true, freed) => break freed,
            (false, freed) => assert_eq!(freed, []),
        }
        n_pieces += 1;
    };
    assert_eq!((freed, n_pieces), (vec![digest(1)], 4));
    assert_eq!(store.hidden_runs().await, Ok(vec![]));
    assert_eq!(store.events(run.id, 0).await, Ok(vec![]));
    assert_eq!(sample::run(&store, project).await.number, RunNumber(2));
    while store.give_back_pages().await.unwrap() {}
}

async fn an_object_goes_when_the_last_row_that_names_it_does(place: Place) {
    let store = place.open().await;
    let project = sample::project(&store, "a").await.id;
    let one = over(&store, project, 1_000, &[1, 2]).await;
    let two = over(&store, project, 2_000, &[2, 3]).await;
    let others = store.named_by_others(vec![digest(1), digest(2)], [one.id].into()).await.unwrap();
    assert_eq!(others, [digest(2)].into());
    assert_eq!(store.collect_artifacts(one.id, AT).await.unwrap(), [digest(1)]);
    let rows = store.artifacts(one.id).await.unwrap();
    assert!(rows.len() == 2 && rows.iter().all(|row| row.collected_at == Some(AT)));
    assert_eq!(store.collect_artifacts(one.id, AT).await.unwrap(), []);
    let all = vec![digest(1), digest(2), digest(3)];
    assert_eq!(store.unnamed(all).await.unwrap(), [digest(1)]);
    let usage = store.usage().await.unwrap();
    assert_eq!(usage[0].artifacts, ArtifactUsage { n_objects: 2, n_bytes: 20 });
    assert!(store.hide_run(two.id, AT).await.unwrap());
    let (done, mut freed) = store.remove_hidden(two.id).await.unwrap();
    freed.sort();
    assert_eq!((done, freed), (true, vec![digest(2), digest(3)]));
}

async fn old_runs_are_found_by_age_and_by_number(place: Place) {
    let store = place.open().await;
    let project = sample::project(&store, "a").await.id;
    let other = sample::project(&store, "b").await.id;
    let mut runs = Vec::new();
    for at in 1..=6 {
        runs.push(over(&store, project, at * 1_000, &[]).await);
        over(&store, other, 1, &[]).await;
    }
    sample::run(&store, project).await;
    store.pin(runs[0].id, Some((AT, "me".into()))).await.unwrap();
    let which = |before, age_up_to, up_to, kind, limit| OldRuns {
        project,
        after: RunNumber(0),
        before: Timestamp::from_millis(before),
        age_up_to: RunNumber(age_up_to),
        up_to: RunNumber(up_to),
        kind,
        limit,
    };
    let numbers = async |which: OldRuns| {
        let found = store.old_runs(which).await.unwrap();
        found.iter().map(|row| row.number.0).collect::<Vec<_>>()
    };
    let rows = OldKind::Rows;
    assert_eq!(numbers(which(5_000, 99, 0, rows, 9)).await, [2, 3, 4]);
    assert_eq!(numbers(which(5_000, 3, 0, rows, 9)).await, [2, 3]);
    assert_eq!(numbers(which(i64::MIN, 99, 5, rows, 9)).await, [2, 3, 4, 5]);
    assert_eq!(numbers(which(5_000, 99, 0, rows, 2)).await, [2, 3]);
    let after = OldRuns { after: RunNumber(3), ..which(5_000, 99, 0, rows, 2) };
    assert_eq!(numbers(after).await, [4]);
    assert_eq!(numbers(which(5_000, 99, 0, OldKind::Artifacts, 9)).await, [0_i64; 0]);
    assert!(store.collect_logs(runs[2].id, AT).await.unwrap());
    assert_eq!(numbers(which(5_000, 99, 0, OldKind::Logs, 9)).await, [2, 4]);
    let unpacked: Vec<RunId> =
        store.unpacked_runs(2).await.unwrap().into_iter().map(|(run, _)| run).collect();
    assert_eq!(unpacked.len(), 2);
    store.set_packed(runs[1].id, 7).await.unwrap();
    assert!(store.unpacked_runs(99).await.unwrap().iter().all(|(run, _)| *run != runs[1].id));
}
