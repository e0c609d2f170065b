//! What is kept: rows in SQLite or PostgreSQL, logs and objects as files.
//!
//! One [`Store`] of named operations hides which database it is. Each operation is one async
//! function over a [`db::Db`], written once: SQLite runs it on its writer thread or in place, and
//! PostgreSQL on a connection of its pool. The bytes of logs ([`log::Logs`]) and of artifacts
//! ([`object::Objects`]) never pass through a database.
//!
//! Always: what an operation has acknowledged survives `kill -9` and a power cut; a run changes
//! only by [`Store::append`], which compares and sets its last sequence number.
//! Elsewhere: what events mean (`engine`); who writes a log (`executor`).

mod error;
mod rows;
mod lock;
mod claim;
mod migrate;
mod db;
mod sqlite;
mod postgres;
mod store;
mod table;
pub mod log;
pub mod object;

pub use error::StoreError;
pub use rows::*;
pub use store::Store;
