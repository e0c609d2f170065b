//! SQLite: one file, one writer thread with group commit, a few readers.
//!
//! Always: everything that writes goes through the one writer, under `BEGIN IMMEDIATE`; other
//! processes may use the same file at the same time and then take turns. A commit is on disk before
//! anybody is told (`synchronous=FULL`), unless all that it holds is to be carried by a later one.

pub(crate) mod error;
mod open;
mod reader;
mod writer;

pub(crate) use open::{Closing, FILE_NAME, open};
pub(crate) use reader::Readers;
pub(crate) use writer::Writer;

use rusqlite::Connection;

use crate::StoreError;
use crate::db::{Row, Value};

/// How many rows were written.
pub(crate) fn execute(db: &Connection, sql: &str, values: &[Value<'_>]) -> rusqlite::Result<u64> {
    let mut statement = db.prepare_cached(sql)?;
    Ok(statement.execute(rusqlite::params_from_iter(values))? as u64)
}

pub(crate) fn rows<T>(
    db: &Connection,
    place: &str,
    sql: &str,
    values: &[Value<'_>],
    mut read: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let named = |e| error::named(place, &e);
    let mut statement = db.prepare_cached(sql).map_err(named)?;
    let mut found = statement.query(rusqlite::params_from_iter(values)).map_err(named)?;
    let mut all = Vec::new();
    while let Some(row) = found.next().map_err(named)? {
        all.push(read(&Row::Sqlite(row))?);
    }
    Ok(all)
}
