//! What SQLite complains about, with the file's name and the way out.

use rusqlite::{Error, ErrorCode};

use crate::StoreError;

pub(crate) fn named(place: &str, error: &Error) -> StoreError {
    let text = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            format!(
                "cannot write to `{place}`: its disk is full; `kiln gc` makes room, or free some space, and try again"
            )
        }
        Some(ErrorCode::NotADatabase) => format!(
            "`{place}` is not a SQLite database; move it away, or choose another data folder"
        ),
        Some(ErrorCode::DatabaseCorrupt) => format!(
            "`{place}` is damaged ({error}); restore it from a backup, or save what can be read \
             with `sqlite3 {place} .recover`"
        ),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => format!(
            "`{place}` has been locked by another process for too long; see who holds it with \
             `fuser {place}`"
        ),
        Some(ErrorCode::CannotOpen) => {
            format!("cannot open `{place}`: it must be a file, in a folder that can be written to")
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            format!("cannot write to `{place}`: the file or its folder is read-only")
        }
        Some(ErrorCode::SystemIoFailure) => {
            format!("cannot read or write `{place}` ({error}); is its disk full or failing?")
        }
        _ => format!("`{place}`: {error}"),
    };
    StoreError::Other(text)
}
