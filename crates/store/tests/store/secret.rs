//! Sealed values.

use crate::on_both;
use crate::place::Place;
use crate::sample;

on_both!(a_secret_is_the_projects_own_before_that_of_all, secrets_are_listed_and_removed);

async fn a_secret_is_the_projects_own_before_that_of_all(place: Place) {
    let store = place.open().await;
    let a = sample::project(&store, "a").await.id;
    let b = sample::project(&store, "b").await.id;
    assert_eq!(store.secret(a, "S").await, Ok(None));
    store.set_secret(None, "S", b"of all\0\xff").await.unwrap();
    store.set_secret(Some(a), "S", b"first").await.unwrap();
    store.set_secret(Some(a), "S", b"second").await.unwrap();
    assert_eq!(store.secret(a, "S").await, Ok(Some(b"second".to_vec())));
    assert_eq!(store.secret(b, "S").await, Ok(Some(b"of all\0\xff".to_vec())));
    assert_eq!(store.secret(a, "s").await, Ok(None));
}

async fn secrets_are_listed_and_removed(place: Place) {
    let store = place.open().await;
    let a = sample::project(&store, "a").await.id;
    for (project, name) in [(None, "Z"), (None, "A"), (Some(a), "M")] {
        store.set_secret(project, name, b"x").await.unwrap();
    }
    let names = async |project| {
        let listed = store.secret_names(project).await.unwrap();
        listed.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(names(None).await, ["A", "Z"]);
    assert_eq!(names(Some(a)).await, ["M"]);
    assert_eq!(store.remove_secret(None, "M").await, Ok(false));
    assert_eq!(store.remove_secret(Some(a), "M").await, Ok(true));
    assert_eq!(store.remove_secret(Some(a), "M").await, Ok(false));
    assert!(names(Some(a)).await.is_empty());
}
