//! From any older schema to this program's, by numbered files.
//!
//! `schema_version` has a row for each migration that was applied: its checksum, and which kiln did
//! it. All that are missing are applied in one transaction, by one process at a time. Going back is
//! refused: an older program does not know what the newer tables mean.

use sha2::{Digest, Sha256};

use kiln_stdx::{Clock, SystemClock};

use crate::StoreError;
use crate::db::{Db, Engine, values};

/// One file of `migrations/`; its number is its place in the list, from 1.
pub(crate) struct Migration {
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
}

macro_rules! migrations {
    ($folder:literal: $($name:literal),+ $(,)?) => {
        &[$(Migration {
            name: $name,
            sql: include_str!(concat!("../migrations/", $folder, "/", $name, ".sql")),
        }),+]
    };
}

pub(crate) const SQLITE: &[Migration] =
    migrations!("sqlite": "0001_first_light", "0002_job_key", "0003_keeping");
pub(crate) const POSTGRES: &[Migration] =
    migrations!("postgres": "0001_first_light", "0002_job_key", "0003_keeping");

const KILN: &str = env!("CARGO_PKG_VERSION");

/// Any number that is always the same: whoever migrates a PostgreSQL database holds this lock.
const ADVISORY_LOCK: i64 = 0x6b69_6c6e;

/// A row of `schema_version`.
struct Applied {
    version: usize,
    checksum: String,
    kiln: String,
}

/// Applies what is missing. When nothing is, this only reads.
pub(crate) async fn up(db: &mut Db, all: &[Migration]) -> Result<(), StoreError> {
    if n_applied(db, all).await? == all.len() {
        return Ok(());
    }
    match db.engine {
        Engine::Sqlite(_) => db.batch("BEGIN IMMEDIATE").await?,
        Engine::Postgres(_) => {
            let lock = format!("BEGIN; SELECT pg_advisory_xact_lock({ADVISORY_LOCK})");
            db.batch(&lock).await?;
        }
    }
    let done = apply_missing(db, all).await;
    let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = db.batch(end).await;
    done.and(ended)
}

/// In a transaction that no other process can enter at the same time.
async fn apply_missing(db: &mut Db, all: &[Migration]) -> Result<(), StoreError> {
    // Another process may have done it while this one waited.
    let done = n_applied(db, all).await?;
    let integer = match db.engine {
        Engine::Sqlite(_) => "INTEGER",
        Engine::Postgres(_) => "BIGINT",
    };
    db.batch(&format!(
        "CREATE TABLE IF NOT EXISTS schema_version (
            version {integer} NOT NULL PRIMARY KEY,
            name TEXT NOT NULL,
            checksum TEXT NOT NULL,
            kiln TEXT NOT NULL,
            applied_at {integer} NOT NULL
        )"
    ))
    .await?;
    for (at, migration) in all.iter().enumerate().skip(done) {
        let version = at + 1;
        db.batch(migration.sql).await.map_err(|cause| {
            StoreError::other(format!("cannot apply migration `{}`: {cause}", migration.name))
        })?;
        let row =
            values![version, migration.name, checksum(migration.sql), KILN, SystemClock.now()];
        db.execute("INSERT INTO schema_version VALUES (?1, ?2, ?3, ?4, ?5)", &row).await?;
    }
    Ok(())
}

/// How many of these migrations the database has. Refuses one that has others.
async fn n_applied(db: &mut Db, all: &[Migration]) -> Result<usize, StoreError> {
    let there = match db.engine {
        Engine::Sqlite(_) => "SELECT 1 FROM sqlite_schema WHERE name = 'schema_version'",
        // Not `to_regclass`: within a transaction it may still answer as before it began.
        Engine::Postgres(_) => {
            "SELECT 1 FROM pg_catalog.pg_class \
             WHERE relname = 'schema_version' AND pg_catalog.pg_table_is_visible(oid)"
        }
    };
    if !db.exists(there, &[]).await? {
        return Ok(0);
    }
    let list = "SELECT version, checksum, kiln FROM schema_version ORDER BY version";
    let applied = db
        .rows(list, &[], |row| {
            Ok(Applied { version: row.count(0)?, checksum: row.get(1)?, kiln: row.get(2)? })
        })
        .await?;
    check(&db.place, &applied, all)?;
    Ok(applied.len())
}

fn check(place: &str, applied: &[Applied], all: &[Migration]) -> Result<(), StoreError> {
    if let Some(newest) = applied.last().filter(|newest| newest.version > all.len()) {
        let (theirs, kiln, ours) = (newest.version, &newest.kiln, all.len());
        return Err(StoreError::other(format!(
            "`{place}` has schema {theirs}, made by kiln {kiln}; this is kiln {KILN}, which knows \
             schemas up to {ours}: use kiln {kiln} or newer, or another data folder"
        )));
    }
    for (at, (row, known)) in applied.iter().zip(all).enumerate() {
        if row.version != at + 1 || row.checksum != checksum(known.sql) {
            return Err(StoreError::other(format!(
                "schema {} of `{place}`, made by kiln {}, is not what this kiln {KILN} means by \
                 `{}`: it comes from another build; use that one, or another data folder",
                row.version, row.kiln, known.name
            )));
        }
    }
    Ok(())
}

fn checksum(sql: &str) -> String {
    Sha256::digest(sql).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Migration =
        Migration { name: "0001_a", sql: "-- Why.\nCREATE TABLE a (x INTEGER) STRICT" };
    const SECOND: Migration =
        Migration { name: "0002_b", sql: "-- Why.\nALTER TABLE a ADD COLUMN y TEXT DEFAULT 'old'" };
    const BROKEN: Migration =
        Migration { name: "0003_c", sql: "CREATE TABLE c (x INTEGER); CREATE TABLE a (x)" };

    fn memory() -> Db {
        let memory = rusqlite::Connection::open_in_memory().unwrap();
        Db { engine: Engine::Sqlite(memory), place: "memory".into() }
    }

    #[test]
    fn a_later_migration_keeps_what_an_older_kiln_wrote() {
        let mut db = memory();
        Db::finish(up(&mut db, &[FIRST])).unwrap();
        Db::finish(db.batch("INSERT INTO a (x) VALUES (7)")).unwrap();
        Db::finish(up(&mut db, &[FIRST, SECOND])).unwrap();
        Db::finish(up(&mut db, &[FIRST, SECOND])).unwrap();
        let read = |row: &crate::db::Row<'_>| Ok((row.get::<i64>(0)?, row.get::<String>(1)?));
        let rows = Db::finish(db.rows("SELECT x, y FROM a", &[], read)).unwrap();
        assert_eq!(rows, [(7, "old".to_owned())]);
        let refused = Db::finish(up(&mut db, &[FIRST])).unwrap_err().to_string();
        assert!(refused.starts_with("`memory` has schema 2, made by kiln "), "{refused}");
    }

    #[test]
    fn a_migration_that_fails_leaves_the_schema_as_it_was() {
        let mut db = memory();
        Db::finish(up(&mut db, &[FIRST])).unwrap();
        let failed = Db::finish(up(&mut db, &[FIRST, SECOND, BROKEN])).unwrap_err().to_string();
        assert!(failed.starts_with("cannot apply migration `0003_c`: "), "{failed}");
        assert_eq!(Db::finish(n_applied(&mut db, &[FIRST, SECOND])), Ok(1));
        assert!(Db::finish(db.batch("SELECT y FROM a")).is_err());
        Db::finish(up(&mut db, &[FIRST, SECOND])).unwrap();
    }
}
