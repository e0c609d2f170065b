//! PostgreSQL, 15 or newer: a pool of connections, and queues that keep the order of a run.
//!
//! Each write is a transaction of its own; PostgreSQL groups the commits of several connections by
//! itself. Operations of one run go through one of [`LANES`] queues, so they happen in the order in
//! which they were asked for; all others start at once. Correctness rests on compare-and-set and
//! row locks, never on the isolation level.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use futures_util::future::try_join_all;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Config, NoTls, Row};

use crate::StoreError;
use crate::claim::Claim;
use crate::db::{Db, Engine, Value};
use crate::migrate;
use crate::store::{Op, Order};

const VERSION_MIN: i64 = 15;

/// Runs whose writes go on at the same time.
const LANES: usize = 8;

/// The lanes and as many readers. A server's default is 100 for all its clients.
const CONNECTIONS_MAX: usize = 2 * LANES;

/// How long a connection may take to be made.
const CONNECT_FOR: Duration = Duration::from_secs(10);

pub(crate) struct Postgres {
    pool: Pool,
    place: Arc<str>,
    runtime: Handle,
    lanes: Vec<UnboundedSender<Box<dyn Op>>>,
    _claim: Option<Claim>,
}

impl Postgres {
    pub(crate) async fn open(url: &str, exclusive: bool) -> Result<Self, StoreError> {
        let config = read_url(url)?;
        let place: Arc<str> = shown(&config).into();
        let pool = pool(config.clone())?;
        let mut db = connection(&pool, &place).await?;
        refuse_unfit(&mut db).await?;
        let claim = match exclusive {
            true => Some(Claim::take(config, place.to_string()).await?),
            false => None,
        };
        migrate::up(&mut db, migrate::POSTGRES).await?;
        let lane = |_| {
            let (queue, asked) = unbounded_channel();
            tokio::spawn(serve(pool.clone(), Arc::clone(&place), asked));
            queue
        };
        let lanes = (0..LANES).map(lane).collect();
        Ok(Self {
            pool: pool.clone(),
            place: Arc::clone(&place),
            runtime: Handle::current(),
            lanes,
            _claim: claim,
        })
    }

    pub(crate) async fn connection(&self) -> Result<Db, StoreError> {
        connection(&self.pool, &self.place).await
    }

    pub(crate) fn queue(&self, order: Order, op: Box<dyn Op>) {
        match order {
            Order::Run(run) => {
                let lane = run.0.rem_euclid(LANES as i64) as usize;
                // A runtime that has ended drops the operation: whoever waits is told so there.
                let _ = self.lanes[lane].send(op);
            }
            Order::Any => {
                let (pool, place) = (self.pool.clone(), Arc::clone(&self.place));
                self.runtime.spawn(async move { transact(&pool, &place, op).await });
            }
        }
    }
}

async fn serve(pool: Pool, place: Arc<str>, mut asked: UnboundedReceiver<Box<dyn Op>>) {
    while let Some(op) = asked.recv().await {
        transact(&pool, &place, op).await;
    }
}

/// Runs an operation in a transaction and answers it.
async fn transact(pool: &Pool, place: &Arc<str>, mut op: Box<dyn Op>) {
    let outcome = match begin(pool, place).await {
        Err(error) => Err(error),
        Ok(mut db) => match op.run(&mut db).await {
            Ok(()) => end(db, "COMMIT").await,
            // The operation's own error is the one to tell.
            Err(error) => end(db, "ROLLBACK").await.and(Err(error)),
        },
    };
    op.answer(outcome);
}

/// A connection that is in a transaction. Those that turn out to be dead are passed over: after the
/// server has restarted they all are.
async fn begin(pool: &Pool, place: &Arc<str>) -> Result<Db, StoreError> {
    let mut n_tries = 0;
    loop {
        let mut db = connection(pool, place).await?;
        match db.batch("BEGIN ISOLATION LEVEL READ COMMITTED").await {
            Ok(()) => return Ok(db),
            Err(error) if n_tries > CONNECTIONS_MAX => return Err(error),
            Err(_) => {
                discard(db);
                n_tries += 1;
            }
        }
    }
}

async fn end(mut db: Db, how: &str) -> Result<(), StoreError> {
    let ended = db.batch(how).await;
    if ended.is_err() {
        // Its state is not known: nobody else may have it.
        discard(db);
    }
    ended
}

fn discard(db: Db) {
    if let Engine::Postgres(connection) = db.engine {
        drop(Object::take(connection));
    }
}

async fn connection(pool: &Pool, place: &Arc<str>) -> Result<Db, StoreError> {
    use deadpool_postgres::PoolError;
    let connection = pool.get().await.map_err(|error| match error {
        PoolError::Backend(error) => named(place, &error),
        PoolError::Timeout(_) => StoreError::other(format!(
            "cannot connect to `{place}`: no answer in {} s",
            CONNECT_FOR.as_secs()
        )),
        error => StoreError::other(format!("cannot connect to `{place}`: {error}")),
    })?;
    Ok(Db { engine: Engine::Postgres(connection), place: Arc::clone(place) })
}

fn pool(config: Config) -> Result<Pool, StoreError> {
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    Pool::builder(Manager::from_config(config, NoTls, recycling))
        .max_size(CONNECTIONS_MAX)
        .runtime(Runtime::Tokio1)
        .create_timeout(Some(CONNECT_FOR))
        .build()
        .map_err(|e| StoreError::other(format!("cannot make a pool of connections: {e}")))
}

/// Never quotes the URL: it has a password in it.
fn read_url(url: &str) -> Result<Config, StoreError> {
    if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
        let scheme = url.split("://").next().filter(|scheme| url.len() > scheme.len());
        return Err(StoreError::other(format!(
            "the database's URL must begin with `postgres://`{}",
            scheme.map(|scheme| format!(", and not with `{scheme}://`")).unwrap_or_default()
        )));
    }
    for mode in ["require", "verify-ca", "verify-full"] {
        if url.contains(&format!("sslmode={mode}")) {
            return Err(no_tls(mode));
        }
    }
    let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
        StoreError::other(format!("cannot read the database's URL: {}", chain(&error)))
    })?;
    if config.get_ssl_mode() == SslMode::Require {
        return Err(no_tls("require"));
    }
    if config.get_application_name().is_none() {
        config.application_name("kiln");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_FOR);
    }
    Ok(config)
}

fn no_tls(mode: &str) -> StoreError {
    StoreError::other(format!(
        "the database's URL asks for TLS (`sslmode={mode}`), which this kiln cannot do yet: use a \
         PostgreSQL on this machine or behind a tunnel, and leave `sslmode` out"
    ))
}

/// `postgres://user@host:port/name`
fn shown(config: &Config) -> String {
    let mut text = "postgres://".to_owned();
    if let Some(user) = config.get_user() {
        let _ = write!(text, "{user}@");
    }
    match config.get_hosts().first() {
        Some(Host::Tcp(host)) => text.push_str(host),
        Some(Host::Unix(path)) => {
            let _ = write!(text, "{}", path.display());
        }
        None => {}
    }
    if let Some(port) = config.get_ports().first() {
        let _ = write!(text, ":{port}");
    }
    let _ = write!(text, "/{}", config.get_dbname().unwrap_or_default());
    text
}

async fn refuse_unfit(db: &mut Db) -> Result<(), StoreError> {
    let ask = "SELECT current_setting('server_version_num')::BIGINT, \
               current_setting('server_encoding')";
    let about = db.row(ask, &[], |row| Ok((row.get::<i64>(0)?, row.get::<String>(1)?))).await?;
    let Some((version, encoding)) = about else {
        return Err(StoreError::other(format!("`{}` does not say its version", db.place)));
    };
    if version / 10_000 < VERSION_MIN {
        return Err(StoreError::other(format!(
            "`{}` is PostgreSQL {}; kiln needs {VERSION_MIN} or newer",
            db.place,
            version / 10_000
        )));
    }
    if encoding != "UTF8" {
        return Err(StoreError::other(format!(
            "the database `{}` has the encoding {encoding}; make one with `createdb -E UTF8 -T \
             template0`",
            db.place
        )));
    }
    Ok(())
}

pub(crate) async fn execute(
    db: &Object,
    sql: &str,
    values: &[Value<'_>],
) -> Result<u64, tokio_postgres::Error> {
    let statement = db.prepare_cached(&dollars(sql)).await?;
    db.execute_raw(&statement, values.iter().map(erased)).await
}

/// All are sent before the first answer is awaited.
pub(crate) async fn execute_each(
    db: &Object,
    sql: &str,
    rows: &[Vec<Value<'_>>],
) -> Result<(), tokio_postgres::Error> {
    let statement = db.prepare_cached(&dollars(sql)).await?;
    let sent = rows.iter().map(|row| db.execute_raw(&statement, row.iter().map(erased)));
    try_join_all(sent).await.map(drop)
}

pub(crate) async fn rows(
    db: &Object,
    sql: &str,
    values: &[Value<'_>],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let statement = db.prepare_cached(&dollars(sql)).await?;
    let values: Vec<_> = values.iter().map(erased).collect();
    db.query(&statement, &values).await
}

fn erased<'a>(value: &'a Value<'_>) -> &'a (dyn ToSql + Sync) {
    value
}

fn dollars(sql: &str) -> String {
    sql.replace('?', "$")
}

pub(crate) fn named(place: &str, error: &tokio_postgres::Error) -> StoreError {
    let text = match error.as_db_error() {
        Some(said) => format!("`{place}`: {}", said.message()),
        None => format!("cannot reach `{place}`: {}", chain(error)),
    };
    StoreError::Other(text)
}

/// An error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
