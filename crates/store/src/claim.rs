//! A PostgreSQL database has one server.
//!
//! The lock on the data folder (`lock`) does not help when two servers have a folder each and one
//! database between them: both would drive the same runs, with the logs in two places. So a server
//! holds an advisory lock of the database, on a connection of its own, for as long as it lives.
//!
//! PostgreSQL lets go of it when the connection ends, however it ends. When that is PostgreSQL's
//! doing, the lock is taken again as soon as there is a connection.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls};

use crate::StoreError;
use crate::postgres::named;

/// Any number that is always the same, and another than that of the migrations.
const ADVISORY_LOCK: i64 = 0x6b69_6c6e_0001;

/// How long the server before this one may take to let go: PostgreSQL notices the end of a killed
/// process's connection a moment after the end of the process.
const WAIT_FOR: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);
/// Between two tries to get the lock back.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The database is ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    keeper: JoinHandle<()>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Claim {
    pub(crate) async fn take(config: Config, place: String) -> Result<Self, StoreError> {
        let mut held = connect(&config).await.map_err(|error| named(&place, &error))?;
        let mut waited = Duration::ZERO;
        while !ask(&held.0).await.map_err(|error| named(&place, &error))? {
            if waited >= WAIT_FOR {
                return Err(StoreError::other(format!(
                    "the database `{place}` is in use by another kiln server; stop that one, or \
                     give this one another database with --database"
                )));
            }
            tokio::time::sleep(PAUSE).await;
            waited += PAUSE;
        }
        let keep = async move {
            loop {
                // Ends when the connection does.
                let _ = (&mut held.1).await;
                held = loop {
                    tokio::time::sleep(AGAIN_AFTER).await;
                    if let Ok(held) = connect(&config).await
                        && ask(&held.0).await.unwrap_or(false)
                    {
                        break held;
                    }
                };
            }
        };
        Ok(Self { keeper: tokio::spawn(keep) })
    }
}

/// The end of a connection: it is spoken on for as long as this is there.
struct Line(JoinHandle<()>);

impl Drop for Line {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Future for Line {
    type Output = ();
    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<()> {
        std::pin::Pin::new(&mut self.0).poll(context).map(drop)
    }
}

async fn connect(config: &Config) -> Result<(Client, Line), tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    // An error here is the end of the connection, and that is all that is to be known.
    let line = tokio::spawn(async move { drop(connection.await) });
    Ok((client, Line(line)))
}

async fn ask(client: &Client) -> Result<bool, tokio_postgres::Error> {
    let row = client.query_one("SELECT pg_try_advisory_lock($1)", &[&ADVISORY_LOCK]).await?;
    row.try_get(0)
}
