//! URLs of databases that are refused.

use kiln_store::Store;

use crate::server;

async fn refusal(url: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    Store::open(folder.path(), Some(url), false).await.unwrap_err().to_string()
}

#[tokio::test]
async fn tls_is_refused_and_never_dropped_silently() {
    for mode in ["require", "verify-ca", "verify-full"] {
        let said = refusal(&format!("postgres://me:geheim@127.0.0.1/x?sslmode={mode}")).await;
        let expected = format!(
            "the database's URL asks for TLS (`sslmode={mode}`), which this kiln cannot do yet: \
             use a PostgreSQL on this machine or behind a tunnel, and leave `sslmode` out"
        );
        assert_eq!(said, expected);
    }
}

#[tokio::test]
async fn another_kind_of_database_is_refused() {
    assert_eq!(
        refusal("mysql://me:geheim@127.0.0.1/x").await,
        "the database's URL must begin with `postgres://`, and not with `mysql://`"
    );
    assert_eq!(refusal("geheim").await, "the database's URL must begin with `postgres://`");
}

#[tokio::test]
async fn a_password_is_never_shown() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let said = refusal(&format!("postgres://me:geheim@127.0.0.1:{port}/x")).await;
    let expected = format!("cannot reach `postgres://me@127.0.0.1:{port}/x`: ");
    assert!(said.starts_with(&expected), "{said}");
    assert!(said.contains("refused") && !said.contains("geheim"), "{said}");
    let said = refusal("postgres://me:geheim@127.0.0.1:port/x").await;
    assert!(said.starts_with("cannot read the database's URL: "), "{said}");
    assert!(!said.contains("geheim"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_there_is_named() {
    let url = server::database().await + "_not";
    let said = refusal(&url).await;
    assert!(said.ends_with("_not\" does not exist"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_another_encoding_is_refused() {
    let url = server::database().await;
    let sql = "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0";
    server::execute(&url, sql).await;
    let (server, _) = url.rsplit_once('/').unwrap();
    let said = refusal(&format!("{server}/latin")).await;
    assert!(said.contains("has the encoding LATIN1; make one with `createdb -E UTF8"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_were_cut_are_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let url = server::database().await;
    let store = Store::open(folder.path(), Some(&url), false).await.unwrap();
    let project = crate::sample::project(&store, "a").await.id;
    server::execute(&url, server::CUT).await;
    assert_eq!(crate::sample::run(&store, project).await.number.0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_has_one_server() {
    let url = server::database().await;
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let open = |at: usize| Store::open(folders[at].path(), Some(&url), true);
    let first = open(0).await.unwrap();
    let said = open(1).await.unwrap_err().to_string();
    assert!(said.contains("in use by another kiln server"), "{said}");
    // PostgreSQL ends the connection that says whose it is; its server takes the lock back.
    server::execute(&url, server::CUT).await;
    let locks = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory'";
    while server::query(&url, locks).await.is_empty() {
        tokio::task::yield_now().await;
    }
    open(1).await.unwrap_err();
    drop(first);
    open(1).await.unwrap();
}
