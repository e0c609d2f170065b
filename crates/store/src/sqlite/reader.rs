//! Connections for reading, opened when they are first needed.
//!
//! A short read runs where it is asked for: a point read costs less than a hand-over to another
//! thread. Nobody waits for a connection: when all kept ones are in use another is opened, and it
//! is closed again when there are enough.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::StoreError;
use crate::db::Db;
use crate::sqlite::open::{Closing, open_reader};

/// Connections kept between reads: more would only cost memory on the machines that run on SQLite.
const KEPT_MAX: usize = 3;

pub(crate) struct Readers {
    path: PathBuf,
    place: Arc<str>,
    closing: Closing,
    kept: Mutex<Vec<Db>>,
}

impl Readers {
    pub(crate) fn new(path: &Path, place: Arc<str>, closing: Closing) -> Self {
        Self { path: path.to_owned(), place, closing, kept: Mutex::new(Vec::new()) }
    }

    /// Lends a connection for the time of `work`.
    pub(crate) fn with<T>(
        &self,
        work: impl FnOnce(&mut Db) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        // The lock is held to take and to give back only.
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut db = match kept {
            Some(db) => db,
            None => open_reader(&self.path, &self.place, self.closing)?,
        };
        let answer = work(&mut db);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_MAX {
            kept.push(db);
        }
        answer
    }

    /// Closes what is kept. The last connection of a file that closes also tidies it.
    pub(crate) fn close(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
