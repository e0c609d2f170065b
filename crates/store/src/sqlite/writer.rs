//! The thread through which every write goes, many in one commit.
//!
//! It sleeps on its queue. When an operation comes it takes all that have gathered, up to
//! [`BATCH_MAX`], and runs them in one transaction, each in a savepoint of its own: one that fails
//! undoes itself and nothing else. Everybody is answered after the commit. While one commit waits
//! for the disk the next batch gathers, so the more is asked the less each costs. A batch that need
//! not outlive a loss of power by itself does not wait for the disk ([`Lasts`]).

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use crate::StoreError;
use crate::db::{Db, Engine};
use crate::store::{Lasts, Op};

/// Most operations in one commit. Past this the disk is no longer what costs.
const BATCH_MAX: usize = 256;

pub(crate) struct Writer {
    /// Emptied to let the thread end.
    queue: Option<Sender<Box<dyn Op>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(mut db: Db) -> Result<Self, StoreError> {
        let (queue, asked) = channel();
        let thread = thread::Builder::new()
            .name("kiln-writer".to_owned())
            .spawn(move || serve(&mut db, &asked))
            .map_err(|e| StoreError::other(format!("cannot start the writer's thread: {e}")))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    pub(crate) fn queue(&self, op: Box<dyn Op>) {
        // A thread that is gone drops the operation, and with it the promise of an answer: whoever
        // waits is told so there.
        let _ = self.queue.as_ref().map(|queue| queue.send(op));
    }
}

impl Drop for Writer {
    /// Waits until what was queued is on disk and the file is closed.
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(db: &mut Db, asked: &Receiver<Box<dyn Op>>) {
    let mut batch = Vec::new();
    // As it was opened.
    let mut syncs = Lasts::Always;
    while let Ok(first) = asked.recv() {
        batch.push(first);
        batch.extend(asked.try_iter().take(BATCH_MAX - 1));
        let lasts = batch.iter().map(|op| op.lasts()).max().unwrap_or(Lasts::Always);
        let outcomes = match make_last(db, &mut syncs, lasts) {
            Ok(()) => commit(db, &mut batch),
            Err(error) => batch.iter().map(|_| Err(error.clone())).collect(),
        };
        for (op, outcome) in batch.drain(..).zip(outcomes) {
            op.answer(outcome);
        }
    }
}

/// Whether the next commits wait for the disk. One that does takes those with it that did not.
fn make_last(db: &mut Db, syncs: &mut Lasts, lasts: Lasts) -> Result<(), StoreError> {
    if *syncs != lasts {
        Db::finish(db.batch(match lasts {
            Lasts::Always => "PRAGMA synchronous = FULL",
            Lasts::UntilPowerFails => "PRAGMA synchronous = NORMAL",
        }))?;
        *syncs = lasts;
    }
    Ok(())
}

/// How each operation of the batch ended; what is `Ok` is on disk.
fn commit(db: &mut Db, batch: &mut [Box<dyn Op>]) -> Vec<Result<(), StoreError>> {
    let mut outcomes = Vec::with_capacity(batch.len());
    let done = (|| {
        Db::finish(db.execute("BEGIN IMMEDIATE", &[]))?;
        if let [op] = batch {
            // One alone needs no savepoint: the transaction is its own.
            Db::finish(op.run(db))?;
            outcomes.push(Ok(()));
            return Db::finish(db.execute("COMMIT", &[])).map(drop);
        }
        for op in batch.iter_mut() {
            let outcome = in_savepoint(db, op.as_mut());
            // A full disk or an I/O error may undo the whole transaction, not only this operation.
            if let (Err(error), false) = (&outcome, in_transaction(db)) {
                return Err(error.clone());
            }
            outcomes.push(outcome);
        }
        Db::finish(db.execute("COMMIT", &[])).map(drop)
    })();
    if let Err(error) = done {
        if in_transaction(db) {
            // Nothing can be done about an error here; the next BEGIN would tell.
            let _ = Db::finish(db.batch("ROLLBACK"));
        }
        return batch.iter().map(|_| Err(error.clone())).collect();
    }
    outcomes
}

fn in_savepoint(db: &mut Db, op: &mut dyn Op) -> Result<(), StoreError> {
    Db::finish(db.execute("SAVEPOINT op", &[]))?;
    match Db::finish(op.run(db)) {
        Ok(()) => Db::finish(db.execute("RELEASE op", &[])).map(drop),
        Err(error) => {
            if in_transaction(db) {
                Db::finish(db.batch("ROLLBACK TO op; RELEASE op"))?;
            }
            Err(error)
        }
    }
}

fn in_transaction(db: &Db) -> bool {
    match &db.engine {
        Engine::Sqlite(db) => !db.is_autocommit(),
        Engine::Postgres(_) => false,
    }
}
