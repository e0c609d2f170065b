//! The handle: opens a database, and runs operations on it.
//!
//! Reading and writing are two doors. [`Store::read`] runs a short read in place and
//! [`Store::read_long`] one that may take milliseconds on a thread of its own; [`Store::write`]
//! queues an operation the moment it is called, runs it in a transaction, and answers when that is
//! durable. Dropping the answer does not cancel the write. The operations themselves are in
//! `table`, one file for each table.

use std::path::Path;
use std::sync::Arc;

use kiln_model::RunId;
use tokio::sync::oneshot;

use crate::StoreError;
use crate::db::{Db, Work};
use crate::lock::Lock;
use crate::migrate;
use crate::postgres::Postgres;
use crate::sqlite;

/// A handle; cheap to clone. SQLite: one writer thread with group commit and a few readers.
/// PostgreSQL: a pool.
///
/// When the last handle goes, what was queued is written and the file is closed.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

// Fields are dropped in this order: readers are closed before the writer, who then tidies the
// file, and the folder is free when that is done.
struct Inner {
    engine: Engine,
    _lock: Option<Lock>,
}

enum Engine {
    Sqlite { readers: sqlite::Readers, writer: sqlite::Writer },
    Postgres(Postgres),
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Engine::Sqlite { readers, .. } = &self.engine {
            readers.close();
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// An operation in a queue.
pub(crate) trait Op: Send {
    /// In a transaction. An error undoes it.
    fn run<'a>(&'a mut self, db: &'a mut Db) -> Work<'a, ()>;
    fn lasts(&self) -> Lasts;
    /// After the commit.
    fn answer(self: Box<Self>, outcome: Result<(), StoreError>);
}

/// Which operations must keep the order in which they were asked for.
#[derive(Clone, Copy)]
pub(crate) enum Order {
    Any,
    /// Those of one run.
    Run(RunId),
}

/// What an operation must outlive, by itself, before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lasts {
    /// The death of this process; a loss of power, from the next commit on that lasts always.
    UntilPowerFails,
    /// A loss of power.
    Always,
}

impl Store {
    /// Opens, and brings the tables up to date.
    ///
    /// `data` is made when it is not there. `url`: `None` is SQLite, `kiln.db` in `data`; else
    /// `postgres://…`. With `exclusive` a data folder that another server uses is refused, and its
    /// pid named; a PostgreSQL database that another server uses as well. Fails with [`StoreError::Other`] also for a newer schema, a file that is no
    /// database, and whatever the disk or the network says.
    pub async fn open(data: &Path, url: Option<&str>, exclusive: bool) -> Result<Self, StoreError> {
        make_folder(data)?;
        let lock = exclusive.then(|| Lock::take(data)).transpose()?;
        let engine = match url {
            None => open_sqlite(data, exclusive)?,
            Some(url) => Engine::Postgres(Postgres::open(url, exclusive).await?),
        };
        Ok(Self { inner: Arc::new(Inner { engine, _lock: lock }) })
    }

    /// A read that takes microseconds: on SQLite in place.
    pub(crate) async fn read<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send,
        F: for<'a> FnOnce(&'a mut Db) -> Work<'a, T> + Send,
    {
        match &self.inner.engine {
            Engine::Sqlite { readers, .. } => readers.with(|db| Db::finish(work(db))),
            Engine::Postgres(postgres) => work(&mut postgres.connection().await?).await,
        }
    }

    /// A read that may take milliseconds: on SQLite beside the runtime's own threads.
    pub(crate) async fn read_long<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut Db) -> Work<'a, T> + Send + 'static,
    {
        if let Engine::Postgres(postgres) = &self.inner.engine {
            return work(&mut postgres.connection().await?).await;
        }
        let inner = Arc::clone(&self.inner);
        let reading = tokio::task::spawn_blocking(move || match &inner.engine {
            Engine::Sqlite { readers, .. } => readers.with(|db| Db::finish(work(db))),
            Engine::Postgres(_) => {
                Err(StoreError::other("the store has changed its engine (a bug)"))
            }
        });
        reading.await.map_err(|e| StoreError::other(format!("a read did not end: {e}")))?
    }

    /// Queued when this is called; durable when the answer comes.
    pub(crate) fn write<T, F>(
        &self,
        order: Order,
        work: F,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + 'static + use<T, F>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut Db) -> Work<'a, T> + Send + 'static,
    {
        self.write_lasting(Lasts::Always, order, work)
    }

    pub(crate) fn write_lasting<T, F>(
        &self,
        lasts: Lasts,
        order: Order,
        work: F,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + 'static + use<T, F>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut Db) -> Work<'a, T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let op = Box::new(Asked { work: Some(work), value: None, lasts, reply });
        match &self.inner.engine {
            Engine::Sqlite { writer, .. } => writer.queue(op),
            Engine::Postgres(postgres) => postgres.queue(order, op),
        }
        async move {
            let gone = |_| StoreError::other("the store's writer has ended; restart kiln");
            answer.await.map_err(gone)?
        }
    }
}

struct Asked<T, F> {
    work: Option<F>,
    value: Option<T>,
    lasts: Lasts,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Op for Asked<T, F>
where
    T: Send,
    F: for<'a> FnOnce(&'a mut Db) -> Work<'a, T> + Send,
{
    fn run<'a>(&'a mut self, db: &'a mut Db) -> Work<'a, ()> {
        Box::pin(async move {
            let again = || StoreError::other("an operation was run twice (a bug)");
            let work = self.work.take().ok_or_else(again)?;
            self.value = Some(work(db).await?);
            Ok(())
        })
    }

    fn lasts(&self) -> Lasts {
        self.lasts
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { value, reply, .. } = *self;
        let none = || StoreError::other("an operation gave no value (a bug)");
        // Whoever asked may have gone.
        let _ = reply.send(outcome.and_then(|()| value.ok_or_else(none)));
    }
}

fn open_sqlite(data: &Path, exclusive: bool) -> Result<Engine, StoreError> {
    let path = data.join(sqlite::FILE_NAME);
    let closing = match exclusive {
        true => sqlite::Closing::FoldJournal,
        false => sqlite::Closing::KeepJournal,
    };
    let mut db = sqlite::open(&path, closing)?;
    Db::finish(migrate::up(&mut db, migrate::SQLITE))?;
    let readers = sqlite::Readers::new(&path, Arc::clone(&db.place), closing);
    Ok(Engine::Sqlite { readers, writer: sqlite::Writer::start(db)? })
}

fn make_folder(data: &Path) -> Result<(), StoreError> {
    if data.is_dir() {
        return Ok(());
    }
    if data.exists() {
        return Err(StoreError::other(format!(
            "`{}` is a file; the data folder must be a folder",
            data.display()
        )));
    }
    kiln_stdx::fs::create_private_dir(data).map_err(|e| {
        StoreError::other(format!(
            "cannot create the data folder `{}`: {}",
            e.path.display(),
            e.cause
        ))
    })
}
