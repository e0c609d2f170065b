//! Opening `kiln.db`: what is refused, and how every connection is set up.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::StoreError;
use crate::db::{Db, Engine};
use crate::sqlite::error;

/// In the data folder.
pub(crate) const FILE_NAME: &str = "kiln.db";

/// Before 3.51.3, two connections that write and checkpoint at once can corrupt a WAL database.
const VERSION_MIN: i32 = 3_051_003;

/// `kiln` in ASCII, in the file's header: a database without it and with tables is not ours.
const APPLICATION_ID: i32 = 0x6b69_6c6e;

/// File systems on which WAL's shared memory does not work: NFS, SMB, CIFS, SMB2.
const NETWORK_FILE_SYSTEMS: [u32; 4] = [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42];

/// Statements kept ready on each connection: more than there are in this crate.
const STATEMENTS_MAX: usize = 128;

/// Longest wait for another process's transaction. The wait for one that is alive takes
/// milliseconds; this is for one that was stopped in the middle.
const BUSY_FOR: Duration = Duration::from_secs(30);
const BUSY_STEP_MAX: Duration = Duration::from_millis(10);

/// What the last one to leave does with the journal, `kiln.db-wal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// Folds it into the file, which then is all there is.
    FoldJournal,
    /// Leaves it to the next one. For processes that come and go: folding, and making the journal
    /// anew, is half of all that a short `kiln run` waits for the disk.
    KeepJournal,
}

/// Opens the file for writing, and makes it when it is not there. Tables come with the migrations.
pub(crate) fn open(path: &Path, closing: Closing) -> Result<Db, StoreError> {
    if rusqlite::version_number() < VERSION_MIN {
        return Err(StoreError::other(format!(
            "this kiln was built with SQLite {}, which can corrupt its databases; build it with \
             the bundled SQLite (3.51.3 or newer)",
            rusqlite::version()
        )));
    }
    let place = path.display().to_string();
    make_private(path)?;
    refuse_network_file_system(path)?;
    // No URI flag: a folder called `file:x?mode=memory` is a folder.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = connect(path, flags, closing).map_err(|e| error::named(&place, &e))?;
    refuse_strangers(&db, &place)?;
    write_ahead(&db).map_err(|e| error::named(&place, &e))?;
    Ok(Db { engine: Engine::Sqlite(db), place: place.into() })
}

/// A connection that cannot write.
pub(super) fn open_reader(path: &Path, place: &str, closing: Closing) -> Result<Db, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = connect(path, flags, closing)
        .and_then(|db| db.pragma_update(None, "query_only", true).map(|()| db))
        .map_err(|e| error::named(place, &e))?;
    Ok(Db { engine: Engine::Sqlite(db), place: place.into() })
}

/// The file, readable by its owner only: sealed secrets are in it. SQLite gives its companions
/// (`-wal`, `-shm`) the same rights.
fn make_private(path: &Path) -> Result<(), StoreError> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(_) => Ok(()),
        Err(cause) if cause.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(cause) => {
            Err(StoreError::other(format!("cannot create `{}`: {cause}", path.display())))
        }
    }
}

fn refuse_network_file_system(path: &Path) -> Result<(), StoreError> {
    // Where the question cannot be answered, opening will tell.
    let Ok(about) = rustix::fs::statfs(path) else { return Ok(()) };
    if NETWORK_FILE_SYSTEMS.contains(&(about.f_type as u32)) {
        return Err(StoreError::other(format!(
            "`{}` is on a network file system, where SQLite is not safe; choose a data folder on \
             a local disk, or use PostgreSQL",
            path.display()
        )));
    }
    Ok(())
}

fn connect(path: &Path, flags: OpenFlags, closing: Closing) -> rusqlite::Result<Connection> {
    let mut db = Connection::open_with_flags(path, flags)?;
    let keep = closing == Closing::KeepJournal;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep)?;
    db.busy_handler(Some(wait_for_others()))?;
    db.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // A small cache: the operating system has the file's pages in memory anyway. No mmap: an I/O
    // error would be a signal. The log of changes is cut back when it was large for once.
    db.execute_batch(
        "PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = ON;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -2000;
         PRAGMA mmap_size = 0;
         PRAGMA journal_size_limit = 67108864;",
    )?;
    Ok(db)
}

/// Sleeps a little longer each time; SQLite's own steps grow to 100 ms, which several `kiln run`
/// in one data folder would feel.
fn wait_for_others() -> impl FnMut(i32) -> bool + Send + 'static {
    let mut waited = Duration::ZERO;
    move |n_calls| {
        if n_calls == 0 {
            waited = Duration::ZERO;
        }
        let step = Duration::from_micros(250) * u32::try_from(n_calls).unwrap_or(0).min(40);
        let step = step.clamp(Duration::from_micros(250), BUSY_STEP_MAX);
        waited += step;
        thread::sleep(step);
        waited < BUSY_FOR
    }
}

/// Reads the header, so that a file of another kind is refused before it is touched.
fn refuse_strangers(db: &Connection, place: &str) -> Result<(), StoreError> {
    let number = |sql: &str| {
        db.query_row(sql, [], |row| row.get::<_, i32>(0)).map_err(|e| error::named(place, &e))
    };
    if number("PRAGMA application_id")? == APPLICATION_ID {
        return Ok(());
    }
    // Another process may have made the file and its tables between these two questions.
    if number("SELECT COUNT(*) FROM sqlite_schema")? > 0
        && number("PRAGMA application_id")? != APPLICATION_ID
    {
        return Err(StoreError::other(format!(
            "`{place}` is the database of another program; choose another data folder"
        )));
    }
    Ok(())
}

/// The journal's mode and the mark in the header: written once in a file's life.
fn write_ahead(db: &Connection) -> rusqlite::Result<()> {
    let mode: String = db.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if mode != "wal" {
        // Only heard by a file that has no tables yet: what is collected later gives its pages back.
        db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        // Changing it needs the file for oneself, and does not ask the busy handler.
        let mut wait = wait_for_others();
        let mut n_calls = 0;
        loop {
            let set = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0));
            match set {
                Ok(_) => break,
                Err(error) if is_busy(&error) && wait(n_calls) => n_calls += 1,
                Err(error) => return Err(error),
            }
        }
    }
    let id: i32 = db.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    if id != APPLICATION_ID {
        db.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    Ok(())
}

fn is_busy(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
    matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked))
}
