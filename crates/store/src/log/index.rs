//! From a line or a byte to a place near it.
//!
//! The index file is searched where it lies, by a few small reads. Its tail may be torn or be ahead
//! of the bytes after a power cut, so records at its end that cannot be right are passed over. What
//! it does not cover is counted from the bytes, and remembered for the next reader ([`Counted`]).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use kiln_model::log::{EVERY_BYTES, RECORD_BYTES, Record};

use crate::log::beside;
use crate::log::bytes::Bytes;

/// Logs whose counting is remembered; the one that was used longest ago makes room.
const COUNTED_MAX: usize = 8;

/// Bytes read at a time when lines are counted. Fits the processor's second cache.
const CHUNK_BYTES: usize = 256 << 10;

/// The start of every log.
const START: Record = Record { offset: 0, line: 0, at_ms: 0 };

/// Records that were counted beyond what index files say, by log.
#[derive(Debug, Default)]
pub(super) struct Counted {
    logs: Mutex<Vec<(PathBuf, Vec<Record>)>>,
}

impl Counted {
    fn take(&self, path: &Path) -> Vec<Record> {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let found = logs.iter().position(|(known, _)| known == path);
        found.map(|at| logs.remove(at).1).unwrap_or_default()
    }

    fn keep(&self, path: &Path, records: Vec<Record>) {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.retain(|(known, _)| known != path);
        if logs.len() == COUNTED_MAX {
            logs.remove(0);
        }
        logs.push((path.to_owned(), records));
    }
}

/// The index of one log, complete for the bytes that were there when it was opened.
pub(super) struct Index {
    file: Option<File>,
    /// Records of the file that are good.
    n_filed: u64,
    /// Those that follow, counted.
    counted: Vec<Record>,
    /// Newlines in the whole log.
    pub(super) n_newlines: u64,
    /// Whether the last byte is a newline (or there is none).
    pub(super) ends_line: bool,
}

impl Index {
    /// Counts what the file does not cover. `remember` saves the next reader that work.
    pub(super) fn open(path: &Path, log: &mut Bytes, remember: &Counted) -> io::Result<Self> {
        let file = match File::open(beside(path, ".idx")) {
            Ok(file) => Some(file),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => None,
            Err(cause) => return Err(cause),
        };
        let (n_filed, last) = match &file {
            Some(file) => good_records(file, log.len())?,
            None => (0, START),
        };
        let mut counted = remember.take(path);
        // Only what continues this file of this log is of use.
        let known = |record: &Record| record.offset > last.offset && record.offset <= log.len();
        counted.retain(known);
        let from = counted.last().copied().unwrap_or(last);
        let n_newlines = count(log, from, |record| counted.push(record))?;
        let mut end = [b'\n'];
        let ends_line = log.read_at(&mut end, log.len().saturating_sub(1))? == 0 || end == [b'\n'];
        if !counted.is_empty() {
            remember.keep(path, counted.clone());
        }
        Ok(Self { file, n_filed, counted, n_newlines, ends_line })
    }

    /// With the unfinished last one.
    pub(super) fn n_lines(&self) -> u64 {
        self.n_newlines + u64::from(!self.ends_line)
    }

    /// The last record that is before the start of `line`.
    pub(super) fn before_line(&self, line: u64) -> io::Result<Record> {
        // A record of the same line may be in the middle of it.
        Ok(self.last_where(|record| record.line < line)?.unwrap_or(START))
    }

    /// When the byte at `offset` was written; `None` when the index's file does not say.
    pub(super) fn at_ms(&self, offset: u64) -> io::Result<Option<i64>> {
        let Some(file) = &self.file else { return Ok(None) };
        let found = last_in_file(file, self.n_filed, |record| record.offset <= offset)?;
        Ok(found.map(|record| record.at_ms))
    }

    /// Records that the file lacks, in the times of its last one.
    pub(super) fn missing(&self) -> &[Record] {
        &self.counted
    }

    pub(super) fn n_filed(&self) -> u64 {
        self.n_filed
    }

    /// `holds` is true up to some record and false after it.
    fn last_where(&self, holds: impl Fn(&Record) -> bool) -> io::Result<Option<Record>> {
        let n = self.counted.partition_point(&holds);
        if n > 0 {
            return Ok(Some(self.counted[n - 1]));
        }
        match &self.file {
            Some(file) => last_in_file(file, self.n_filed, holds),
            None => Ok(None),
        }
    }
}

fn last_in_file(
    file: &File,
    n_records: u64,
    holds: impl Fn(&Record) -> bool,
) -> io::Result<Option<Record>> {
    let (mut low, mut high) = (0, n_records);
    let mut last = None;
    while low < high {
        let middle = low + (high - low) / 2;
        let record = record_at(file, middle)?;
        if holds(&record) {
            last = Some(record);
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(last)
}

/// How many records can be trusted, and the last of them.
///
/// The file only ever grows, so what a crash can spoil is its end: half a record, zeros, or records
/// of bytes that did not reach the disk.
fn good_records(file: &File, log_len: u64) -> io::Result<(u64, Record)> {
    let mut n = file.metadata()?.len() / RECORD_BYTES as u64;
    while n > 0 {
        let record = record_at(file, n - 1)?;
        let before = if n > 1 { record_at(file, n - 2)? } else { START };
        let follows = record.offset >= before.offset
            && record.line >= before.line
            && record.line - before.line <= record.offset - before.offset
            && (n == 1 || record.offset > before.offset);
        if follows && record.offset <= log_len {
            return Ok((n, record));
        }
        n -= 1;
    }
    Ok((0, START))
}

fn record_at(file: &File, at: u64) -> io::Result<Record> {
    let mut bytes = [0; RECORD_BYTES];
    file.read_exact_at(&mut bytes, at * RECORD_BYTES as u64)?;
    Ok(Record::decode(&bytes))
}

/// Newlines in the whole log, read from `from` on; gives a record after each [`EVERY_BYTES`].
fn count(log: &mut Bytes, from: Record, mut found: impl FnMut(Record)) -> io::Result<u64> {
    let mut line = from.line;
    let mut offset = from.offset;
    let mut buffer = Vec::new();
    while offset < log.len() {
        buffer.resize(CHUNK_BYTES.min((log.len() - offset) as usize), 0);
        let n = log.read_at(&mut buffer, offset)?;
        if n == 0 {
            break;
        }
        for piece in buffer[..n].chunks(EVERY_BYTES as usize) {
            line += memchr::memchr_iter(b'\n', piece).count() as u64;
            offset += piece.len() as u64;
            if piece.len() as u64 == EVERY_BYTES {
                found(Record { offset, line, at_ms: from.at_ms });
            }
        }
    }
    Ok(line)
}
