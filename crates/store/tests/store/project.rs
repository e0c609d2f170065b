//! Projects and what hangs on them.

use kiln_model::{ProjectId, ProjectName, RunId};
use kiln_store::{RunFilter, StoreError};

use crate::on_both;
use crate::place::Place;
use crate::sample;

on_both!(
    a_project_is_found_by_name_and_by_id,
    a_name_is_taken_once,
    an_unknown_project_is_named_as_such,
    projects_come_by_name_with_their_newest_runs,
    removing_a_project_removes_what_belongs_to_it,
    ids_are_never_used_again,
    two_processes_open_a_new_store_at_once,
    everything_is_there_after_reopening,
);

async fn a_project_is_found_by_name_and_by_id(place: Place) {
    let store = place.open().await;
    let row = sample::project(&store, "a").await;
    assert_eq!(row.repo, "/srv/a.git");
    assert_eq!(store.project(&row.name).await, Ok(row.clone()));
    assert_eq!(store.project_by_id(row.id).await, Ok(row.clone()));
    store.set_poll(row.id, Some(60)).await.unwrap();
    assert_eq!(store.project_by_id(row.id).await.unwrap().poll_every_s, Some(60));
    store.set_poll(row.id, None).await.unwrap();
    assert_eq!(store.project_by_id(row.id).await, Ok(row));
}

async fn a_name_is_taken_once(place: Place) {
    let store = place.open().await;
    let first = sample::project(&store, "a").await;
    let again = store.add_project(sample::new_project("a")).await;
    assert_eq!(again, Err(StoreError::Exists("the project `a`".into())));
    assert_eq!(store.project(&first.name).await, Ok(first));
}

async fn an_unknown_project_is_named_as_such(place: Place) {
    let store = place.open().await;
    let (id, none) = (ProjectId(77), StoreError::NotFound("project"));
    assert_eq!(store.project_by_id(id).await, Err(none.clone()));
    assert_eq!(store.project(&ProjectName::new("x").unwrap()).await, Err(none.clone()));
    assert_eq!(store.set_poll(id, None).await, Err(none.clone()));
    assert_eq!(store.remove_project(id).await, Err(none.clone()));
    assert_eq!(store.add_delivery(sample::delivery(id, "k")).await, Err(none.clone()));
    assert_eq!(store.settle_delivery(None, id, "", vec![], vec![]).await, Err(none.clone()));
    assert_eq!(store.set_secret(Some(id), "S", b"x").await, Err(none));
    assert_eq!(store.heads(id).await, Ok(vec![]));
}

async fn projects_come_by_name_with_their_newest_runs(place: Place) {
    let store = place.open().await;
    let b = sample::project(&store, "b").await;
    let a = sample::project(&store, "a").await;
    let upper = sample::project(&store, "B").await;
    let mut of_b = Vec::new();
    for _ in 0..4 {
        of_b.insert(0, sample::run(&store, b.id).await);
    }
    let of_a = sample::run(&store, a.id).await;
    of_b.truncate(3);
    let expected = vec![(upper, vec![]), (a, vec![of_a]), (b, of_b)];
    assert_eq!(store.projects(3).await, Ok(expected));
    assert!(store.projects(0).await.unwrap().iter().all(|(_, runs)| runs.is_empty()));
}

async fn removing_a_project_removes_what_belongs_to_it(place: Place) {
    let store = place.open().await;
    let kept = sample::project(&store, "kept").await;
    let gone = sample::project(&store, "gone").await;
    let of_kept = sample::run(&store, kept.id).await;
    let of_gone = sample::run(&store, gone.id).await;
    store.add_delivery(sample::delivery(gone.id, "k")).await.unwrap();
    store.set_secret(Some(gone.id), "S", b"x").await.unwrap();
    let heads = vec![("refs/heads/main".to_owned(), Some("c".repeat(40)))];
    store.settle_delivery(None, gone.id, "", vec![], heads).await.unwrap();
    store.remove_project(gone.id).await.unwrap();

    assert_eq!(store.run(of_gone.id).await, Err(StoreError::NotFound("run")));
    assert_eq!(store.events(of_gone.id, 0).await, Ok(vec![]));
    assert_eq!(store.jobs(of_gone.id).await, Ok(vec![]));
    assert_eq!(store.plan(of_gone.id).await, Ok(None));
    assert_eq!(store.pending_deliveries(9).await, Ok(vec![]));
    assert_eq!(store.secret(gone.id, "S").await, Ok(None));
    assert_eq!(store.heads(gone.id).await, Ok(vec![]));
    let append = store.append(sample::append(of_gone.id, 2)).await;
    assert_eq!(append, Err(StoreError::NotFound("run")));
    assert_eq!(store.active_runs().await, Ok(vec![of_kept]));
}

async fn ids_are_never_used_again(place: Place) {
    let store = place.open().await;
    let first = sample::project(&store, "a").await;
    let run = sample::run(&store, first.id).await;
    store.remove_project(first.id).await.unwrap();
    let second = sample::project(&store, "a").await;
    let second_run = sample::run(&store, second.id).await;
    assert!(second.id > first.id && second_run.id > run.id);
    assert_eq!(second_run.number.0, 1);
}

async fn two_processes_open_a_new_store_at_once(place: Place) {
    let stores = futures_util::future::join_all((0..8).map(|_| place.open())).await;
    for (at, store) in stores.iter().enumerate() {
        sample::project(store, &format!("p{at}")).await;
    }
    assert_eq!(stores[0].projects(1).await.unwrap().len(), 8);
}

async fn everything_is_there_after_reopening(place: Place) {
    let store = place.open().await;
    let project = sample::project(&store, "a").await;
    let run = sample::run(&store, project.id).await;
    drop(store);
    let store = place.open().await;
    let filter = RunFilter { limit: 9, ..RunFilter::default() };
    assert_eq!(store.runs(filter).await, Ok(vec![run.clone()]));
    assert_eq!(store.plan(run.id).await, Ok(Some(sample::plan(2))));
    assert_eq!(store.run(RunId(run.id.0 + 1)).await, Err(StoreError::NotFound("run")));
}
