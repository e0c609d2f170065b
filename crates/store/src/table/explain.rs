//! How SQLite would find the rows of a statement. Lists must not read what they do not show.

use crate::db::{Db, Engine, Value};
use crate::migrate;

/// The steps, a line each.
pub(super) fn explain(sql: &str, values: &[Value<'_>]) -> String {
    let memory = rusqlite::Connection::open_in_memory().unwrap();
    let mut db = Db { engine: Engine::Sqlite(memory), place: "memory".into() };
    Db::finish(migrate::up(&mut db, migrate::SQLITE)).unwrap();
    let sql = format!("EXPLAIN QUERY PLAN {sql}");
    let steps = Db::finish(db.rows(&sql, values, |row| row.get::<String>(3))).unwrap();
    steps.join("\n") + "\n"
}

/// Follows an index, in its order, and reads no table as a whole.
pub(super) fn follows(steps: &str, index: &str) {
    assert!(steps.contains(index), "{index} is not used:\n{steps}");
    assert!(!steps.contains("SCAN"), "it reads a whole table:\n{steps}");
    assert!(!steps.contains("TEMP B-TREE"), "it sorts:\n{steps}");
}
