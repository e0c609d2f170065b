//! One connection to either database, and what SQL is given and gives back.
//!
//! Statements are written once, with `?N`; for PostgreSQL they become `$N` (in rusqlite `$N` would
//! be bound in order of appearance). On SQLite every method here ends without suspending, so a
//! whole operation is one poll: see [`Db::finish`].

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use kiln_model::{AgentId, JobIndex, ProjectId, RunId, RunNumber};
use kiln_stdx::Timestamp;
use rusqlite::types::{FromSql as FromSqlite, ToSqlOutput, ValueRef};
use tokio_postgres::types::{FromSql as FromPostgres, IsNull, ToSql, Type};

use crate::StoreError;
use crate::{postgres, sqlite};

/// An operation on its way.
pub(crate) type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

pub(crate) struct Db {
    pub(crate) engine: Engine,
    /// How people call it: the file's path, or the URL without its password.
    pub(crate) place: Arc<str>,
}

pub(crate) enum Engine {
    Sqlite(rusqlite::Connection),
    Postgres(deadpool_postgres::Object),
}

impl Db {
    /// Runs an operation on SQLite to its end, in place.
    pub(crate) fn finish<T>(
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let suspended = || Err(StoreError::other("an operation on SQLite was suspended (a bug)"));
        work.now_or_never().unwrap_or_else(suspended)
    }

    /// Runs statements without parameters, separated by `;`.
    pub(crate) async fn batch(&mut self, sql: &str) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Sqlite(db) => {
                db.execute_batch(sql).map_err(|e| sqlite::error::named(&self.place, &e))
            }
            Engine::Postgres(db) => {
                db.batch_execute(sql).await.map_err(|e| postgres::named(&self.place, &e))
            }
        }
    }

    /// How many rows were written.
    pub(crate) async fn execute(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
    ) -> Result<u64, StoreError> {
        match &self.engine {
            Engine::Sqlite(db) => {
                sqlite::execute(db, sql, values).map_err(|e| sqlite::error::named(&self.place, &e))
            }
            Engine::Postgres(db) => postgres::execute(db, sql, values)
                .await
                .map_err(|e| postgres::named(&self.place, &e)),
        }
    }

    /// One statement for many rows: a loop, or a pipeline that costs one round trip.
    pub(crate) async fn execute_each(
        &mut self,
        sql: &str,
        rows: &[Vec<Value<'_>>],
    ) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Sqlite(db) => rows
                .iter()
                .try_for_each(|values| sqlite::execute(db, sql, values).map(drop))
                .map_err(|e| sqlite::error::named(&self.place, &e)),
            Engine::Postgres(db) => postgres::execute_each(db, sql, rows)
                .await
                .map_err(|e| postgres::named(&self.place, &e)),
        }
    }

    pub(crate) async fn rows<T: Send>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T, StoreError> + Send,
    ) -> Result<Vec<T>, StoreError> {
        match &self.engine {
            Engine::Sqlite(db) => sqlite::rows(db, &self.place, sql, values, read),
            Engine::Postgres(db) => {
                let rows = postgres::rows(db, sql, values)
                    .await
                    .map_err(|e| postgres::named(&self.place, &e))?;
                rows.iter().map(|row| read(&Row::Postgres(row))).collect()
            }
        }
    }

    /// The first row, if there is one.
    pub(crate) async fn row<T: Send>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        read: impl FnMut(&Row<'_>) -> Result<T, StoreError> + Send,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.rows(sql, values, read).await?.into_iter().next())
    }

    /// Whether there is a row.
    pub(crate) async fn exists(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
    ) -> Result<bool, StoreError> {
        Ok(self.row(sql, values, |_| Ok(())).await?.is_some())
    }
}

/// A parameter of a statement.
#[derive(Clone, Debug)]
pub(crate) enum Value<'a> {
    Null,
    Int(i64),
    Bool(bool),
    Text(Cow<'a, str>),
    Bytes(&'a [u8]),
}

/// `values![id, name, at]`
macro_rules! values {
    ($($value:expr),* $(,)?) => { [$($crate::db::Value::from($value)),*] };
}
pub(crate) use values;

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u32> for Value<'_> {
    fn from(value: u32) -> Self {
        Self::Int(value.into())
    }
}

impl From<u64> for Value<'_> {
    /// Counts and offsets: those past 2^63 do not occur, and would be kept as 2^63 - 1.
    fn from(value: u64) -> Self {
        Self::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Value<'_> {
    fn from(value: usize) -> Self {
        Self::from(value as u64)
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(value.into())
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(value: &'a String) -> Self {
        Self::Text(value.into())
    }
}

impl From<String> for Value<'_> {
    fn from(value: String) -> Self {
        Self::Text(value.into())
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(value: &'a [u8]) -> Self {
        Self::Bytes(value)
    }
}

impl From<Timestamp> for Value<'_> {
    fn from(value: Timestamp) -> Self {
        Self::Int(value.as_millis())
    }
}

macro_rules! from_id {
    ($($id:ty),+) => {
        $(impl From<$id> for Value<'_> {
            fn from(value: $id) -> Self {
                Self::Int(value.0.into())
            }
        })+
    };
}
from_id!(ProjectId, RunId, RunNumber, AgentId, JobIndex);

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl rusqlite::ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(value) => ValueRef::Integer(*value),
            Self::Bool(value) => ValueRef::Integer((*value).into()),
            Self::Text(value) => ValueRef::Text(value.as_bytes()),
            Self::Bytes(value) => ValueRef::Blob(value),
        }))
    }
}

impl ToSql for Value<'_> {
    fn to_sql(
        &self,
        as_type: &Type,
        out: &mut tokio_postgres::types::private::BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            // Columns are BIGINT; a bare parameter next to a literal may be inferred as INTEGER.
            Self::Int(value) if *as_type == Type::INT4 => {
                i32::try_from(*value)?.to_sql(as_type, out)
            }
            Self::Int(value) => value.to_sql(as_type, out),
            Self::Bool(value) => value.to_sql(as_type, out),
            Self::Text(value) => value.as_ref().to_sql(as_type, out),
            Self::Bytes(value) => value.to_sql(as_type, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    tokio_postgres::types::to_sql_checked!();
}

/// One row of an answer; columns by position.
pub(crate) enum Row<'a> {
    Sqlite(&'a rusqlite::Row<'a>),
    Postgres(&'a tokio_postgres::Row),
}

impl Row<'_> {
    /// A value that both databases can give.
    pub(crate) fn get<T>(&self, at: usize) -> Result<T, StoreError>
    where
        T: FromSqlite + for<'r> FromPostgres<'r>,
    {
        match self {
            Self::Sqlite(row) => row.get(at).map_err(|e| StoreError::unreadable("a value", e)),
            Self::Postgres(row) => {
                row.try_get(at).map_err(|e| StoreError::unreadable("a value", e))
            }
        }
    }

    pub(crate) fn time(&self, at: usize) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.get::<Option<i64>>(at)?.map(Timestamp::from_millis))
    }

    /// A count that was written as one.
    pub(crate) fn count<T: TryFrom<i64>>(&self, at: usize) -> Result<T, StoreError> {
        let value: i64 = self.get(at)?;
        T::try_from(value).map_err(|_| StoreError::unreadable("a count", value))
    }

    pub(crate) fn optional_count<T: TryFrom<i64>>(
        &self,
        at: usize,
    ) -> Result<Option<T>, StoreError> {
        self.get::<Option<i64>>(at)?.map(|_| self.count(at)).transpose()
    }

    /// A word that its type can parse: a name, a state, a digest.
    pub(crate) fn word<T>(&self, at: usize) -> Result<T, StoreError>
    where
        T: std::str::FromStr,
        T::Err: std::fmt::Display,
    {
        let text: String = self.get(at)?;
        text.parse().map_err(|e| StoreError::unreadable("a word", e))
    }

    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, at: usize) -> Result<T, StoreError> {
        from_json(&self.get::<String>(at)?)
    }

    pub(crate) fn optional_json<T: serde::de::DeserializeOwned>(
        &self,
        at: usize,
    ) -> Result<Option<T>, StoreError> {
        self.get::<Option<String>>(at)?.as_deref().map(from_json).transpose()
    }
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| StoreError::unreadable(std::any::type_name::<T>(), e))
}

/// The text under which a value is frozen.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| {
        StoreError::other(format!("cannot write {} as JSON: {e}", std::any::type_name::<T>()))
    })
}
