//! The inbox, and the numbers that it gives.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use kiln_model::layer::Source;
use kiln_model::{EventKind, Reason, RunState};
use kiln_store::{DeliveryRow, NewRun, RunFilter, StoreError};

use crate::on_both;
use crate::place::Place;
use crate::sample::{self, AT};

on_both!(
    the_same_push_told_twice_is_one_delivery,
    three_hundred_deliveries_at_once_are_all_kept,
    settling_makes_runs_and_moves_heads_in_one_go,
    a_delivery_is_settled_once,
    a_delivery_that_fails_too_often_is_quarantined,
    numbers_have_no_gaps_when_many_create_runs_at_once,
    a_settlement_that_fails_leaves_no_gap_and_nothing_else,
    a_refused_plan_makes_a_run_that_is_over,
);

async fn the_same_push_told_twice_is_one_delivery(place: Place) {
    let store = place.open().await;
    let a = sample::project(&store, "a").await.id;
    let b = sample::project(&store, "b").await.id;
    let (first, new) = store.add_delivery(sample::delivery(a, "k")).await.unwrap();
    assert!(new);
    assert_eq!(store.add_delivery(sample::delivery(a, "k")).await, Ok((first, false)));
    let (other, new) = store.add_delivery(sample::delivery(b, "k")).await.unwrap();
    assert!(new && other != first);
    let row = DeliveryRow {
        id: first,
        project: a,
        key: "k".into(),
        body: "{\"key\":\"k\"}".into(),
        at: AT,
        n_tries: 0,
    };
    assert_eq!(store.pending_deliveries(1).await, Ok(vec![row]));
}

async fn three_hundred_deliveries_at_once_are_all_kept(place: Place) {
    let store = place.open().await;
    let project = sample::project(&store, "a").await.id;
    let tell = |at: usize| {
        let store = store.clone();
        tokio::spawn(async move {
            // Every third is told twice at the same time.
            let key = format!("k{}", at % 200);
            store.add_delivery(sample::delivery(project, &key)).await.unwrap()
        })
    };
    let told = join_all((0..300).map(tell)).await;
    let new = told.iter().filter(|told| told.as_ref().unwrap().1).count();
    let ids: BTreeSet<i64> = told.iter().map(|told| told.as_ref().unwrap().0).collect();
    assert_eq!((new, ids.len()), (200, 200));
    let pending = store.pending_deliveries(1000).await.unwrap();
    assert!(pending.is_sorted_by_key(|row| row.id));
    assert_eq!(pending.into_iter().map(|row| row.id).collect::<BTreeSet<_>>(), ids);
}

async fn settling_makes_runs_and_moves_heads_in_one_go(place: Place) {
    let store = place.open().await;
    let project = sample::project(&store, "a").await;
    let (id, _) = store.add_delivery(sample::delivery(project.id, "k")).await.unwrap();
    let heads = |main: Option<&str>| {
        let head = |name: &str, to: Option<&str>| (format!("refs/{name}"), to.map(str::to_owned));
        vec![head("heads/old", None), head("heads/main", main), head("tags/v1", Some("t"))]
    };
    let runs = vec![sample::new_run("main"), sample::new_run("dev")];
    let note = "2 runs";
    let made =
        store.settle_delivery(Some(id), project.id, note, runs, heads(Some("m"))).await.unwrap();
    assert_eq!(made.iter().map(|run| run.number.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(made[0].project_name, project.name);
    assert_eq!((made[0].n_jobs, made[0].n_jobs_over, made[0].last_seq), (2, 0, 1));
    for run in &made {
        assert_eq!(store.run(run.id).await.as_ref(), Ok(run));
        assert_eq!(store.run_by_number(project.id, run.number).await.as_ref(), Ok(run));
        assert_eq!(store.events(run.id, 0).await, Ok(sample::new_run("").first));
        assert_eq!(store.jobs(run.id).await, Ok(sample::new_run("").jobs));
    }
    assert_eq!(store.pending_deliveries(9).await, Ok(vec![]));
    let pair = |name: &str, to: &str| (name.to_owned(), to.to_owned());
    let both = vec![pair("refs/heads/main", "m"), pair("refs/tags/v1", "t")];
    assert_eq!(store.heads(project.id).await, Ok(both));
    store.settle_delivery(None, project.id, "", vec![], heads(None)).await.unwrap();
    assert_eq!(store.heads(project.id).await, Ok(vec![pair("refs/tags/v1", "t")]));
}

async fn a_delivery_is_settled_once(place: Place) {
    let store = place.open().await;
    let project = sample::project(&store, "a").await.id;
    let (id, _) = store.add_delivery(sample::delivery(project, "k")).await.unwrap();
    let settle = || {
        let runs = vec![sample::new_run("main")];
        store.settle_delivery(Some(id), project, "", runs, vec![])
    };
    let made = join_all((0..10).map(|_| settle())).await;
    let made: Vec<usize> = made.into_iter().map(|runs| runs.unwrap().len()).collect();
    assert_eq!(made.iter().sum::<usize>(), 1);
    assert_eq!(store.active_runs().await.unwrap().len(), 1);
    // Told again after that, it is still the first one, and stays done.
    assert_eq!(store.add_delivery(sample::delivery(project, "k")).await, Ok((id, false)));
    assert_eq!(store.pending_deliveries(9).await, Ok(vec![]));
    let unknown = store.settle_delivery(Some(id + 1), project, "", vec![], vec![]).await;
    assert_eq!(unknown, Err(StoreError::NotFound("delivery")));
}

async fn a_delivery_that_fails_too_often_is_quarantined(place: Place) {
    let store = place.open().await;
    let project = sample::project(&store, "a").await.id;
    let (id, _) = store.add_delivery(sample::delivery(project, "k")).await.unwrap();
    store.delivery_failed(id, "no mirror", 3).await.unwrap();
    store.delivery_failed(id, "no mirror", 3).await.unwrap();
    assert_eq!(store.pending_deliveries(9).await.unwrap()[0].n_tries, 2);
    assert_eq!(store.quarantined_deliveries(9).await, Ok(vec![]));
    store.delivery_failed(id, "still no mirror", 3).await.unwrap();
    assert_eq!(store.pending_deliveries(9).await, Ok(vec![]));
    let kept = store.quarantined_deliveries(9).await.unwrap();
    assert_eq!((kept[0].0.id, kept[0].0.n_tries, kept[0].1.as_str()), (id, 3, "still no mirror"));
    let again = store.delivery_failed(id, "x", 3).await;
    assert_eq!(again, Err(StoreError::NotFound("pending delivery")));
    // By hand it can still be settled.
    let runs = vec![sample::new_run("main")];
    let made = store.settle_delivery(Some(id), project, "", runs, vec![]).await.unwrap();
    assert_eq!(made.len(), 1);
    assert_eq!(store.quarantined_deliveries(9).await, Ok(vec![]));
}

async fn numbers_have_no_gaps_when_many_create_runs_at_once(place: Place) {
    // Two handles, as of two processes.
    let stores = [place.open().await, place.open().await];
    let a = sample::project(&stores[0], "a").await.id;
    let b = sample::project(&stores[0], "b").await.id;
    let make = |at: usize| {
        let (store, project) = (stores[at % 2].clone(), if at.is_multiple_of(3) { b } else { a });
        let runs = (0..1 + at % 2).map(|_| sample::new_run("main")).collect();
        tokio::spawn(async move { store.settle_delivery(None, project, "", runs, vec![]).await })
    };
    let made = join_all((0..60).map(make)).await;
    assert!(made.into_iter().all(|made| made.unwrap().is_ok()));
    for (project, n) in [(a, 60), (b, 30)] {
        let filter = RunFilter { project: Some(project), limit: 1000, ..RunFilter::default() };
        let runs = stores[0].runs(filter).await.unwrap();
        let numbers: Vec<i64> = runs.iter().map(|run| run.number.0).rev().collect();
        assert_eq!(numbers, (1..=n).collect::<Vec<_>>());
    }
}

async fn a_settlement_that_fails_leaves_no_gap_and_nothing_else(place: Place) {
    let store = place.open().await;
    let project = sample::project(&store, "a").await.id;
    let (id, _) = store.add_delivery(sample::delivery(project, "k")).await.unwrap();
    let mut bad = sample::new_run("main");
    bad.first[0].seq = 5;
    let runs = vec![sample::new_run("main"), bad];
    let heads = vec![("refs/heads/main".to_owned(), Some("m".to_owned()))];
    let failed = store.settle_delivery(Some(id), project, "", runs, heads).await.unwrap_err();
    assert_eq!(
        failed.to_string(),
        "events must be numbered without gaps: 5 stands where 1 belongs"
    );
    assert_eq!(store.pending_deliveries(9).await.unwrap().len(), 1);
    assert_eq!(store.heads(project).await, Ok(vec![]));
    assert_eq!(store.active_runs().await, Ok(vec![]));
    assert_eq!(sample::run(&store, project).await.number.0, 1);
}

async fn a_refused_plan_makes_a_run_that_is_over(place: Place) {
    let store = place.open().await;
    let project = sample::project(&store, "a").await.id;
    let refused = EventKind::PlanRefused { message: "there is no manifest".into() };
    let reason = Some(Reason::NoPlan { message: "there is no manifest".into() });
    let new = NewRun {
        source: Source::WorkingTree { path: "/home/me/x".into() },
        plan: None,
        first: vec![sample::event(1, refused)],
        state: RunState::Failed,
        reason: reason.clone(),
        jobs: vec![],
        ..sample::new_run("main")
    };
    let made = store.settle_delivery(None, project, "", vec![new], vec![]).await.unwrap();
    assert_eq!(made[0].finished_at, Some(AT));
    assert_eq!((made[0].state, &made[0].reason), (RunState::Failed, &reason));
    assert_eq!(store.run(made[0].id).await.as_ref(), Ok(&made[0]));
    assert_eq!(store.plan(made[0].id).await, Ok(None));
    assert_eq!(store.active_runs().await, Ok(vec![]));
}
