//! The shape of a log on disk, shared by who writes it and who reads it.
//!
//! A log is two append-only files: the bytes as the steps wrote them (after masking), and an index
//! of fixed records. The bytes are the truth: an index that is short or torn is extended by reading
//! the bytes after its last good record.
//!
//! Each record says: the byte at `offset` is the first of line `line` (from 0), and it was written
//! at `at_ms`. There is one record for each [`EVERY_BYTES`] of log at most, and one for each second
//! in which something was written, so that a reader finds a line, a byte or a moment by one binary
//! search and a scan of at most [`EVERY_BYTES`].

use std::path::{Path, PathBuf};

/// A record at least so often. A window of 200 lines then costs one read of 64 KiB.
pub const EVERY_BYTES: u64 = 64 << 10;

/// Size of one encoded record.
pub const RECORD_BYTES: usize = 24;

/// Where the log of a service lies: beside that of its attempt, `0-1.log`, as `0-1.db.log`.
///
/// The name is one of a service: no dot, no slash.
pub fn of_service(log: &Path, service: &str) -> PathBuf {
    log.with_extension(format!("{service}.log"))
}

/// One entry of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Position in the log, in bytes. The start of a line, or, inside a line longer than
    /// [`EVERY_BYTES`], some byte of it.
    pub offset: u64,
    /// Number of newlines before `offset`.
    pub line: u64,
    /// When the byte was written: milliseconds since the epoch.
    pub at_ms: i64,
}

impl Record {
    pub fn encode(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.line.to_le_bytes());
        bytes[16..].copy_from_slice(&self.at_ms.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; RECORD_BYTES]) -> Self {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            word
        };
        Self {
            offset: u64::from_le_bytes(word(0)),
            line: u64::from_le_bytes(word(8)),
            at_ms: i64::from_le_bytes(word(16)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_encoding() {
        let record = Record { offset: 1 << 40, line: 12_345, at_ms: -7 };
        assert_eq!(Record::decode(&record.encode()), record);
    }
}
