//! From the pipe to the log file: read, mask, append, index.
//!
//! Always: `n_bytes` counts what is in the file. Bytes are appended before their index records, so
//! that the index never speaks of what is not there. When the log is full (`log_bytes_max`) or broken
//! (no space left), the pipe is still read, or else the step would hang.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use kiln_model::log::{EVERY_BYTES, Record};
use kiln_stdx::{Clock, SystemClock};

use crate::StepError;
use crate::contract::words;
use crate::host::wire::Opening;
use crate::mask::Masker;

/// What a pipe holds at first, so what one read can give.
const BUFFER_BYTES: usize = 64 << 10;

/// Pipe and buffer of a step that writes much: fewer and longer turns between it and init.
const BUFFER_BYTES_BUSY: usize = 1 << 20;

pub(super) struct Log {
    path: PathBuf,
    n_bytes_max: u64,
    masker: Option<Masker>,
    buffer: Vec<u8>,
    masked: Vec<u8>,
    state: LogState,
    file: Option<File>,
    /// Length of the log when the disk was last looked at.
    look_at_room_at: u64,
    index: Index,
}

enum LogState {
    Open,
    /// The marker is written; the rest is discarded.
    Full,
    Broken(StepError),
}

impl Log {
    pub(super) fn new(spec: &Opening) -> Self {
        Self::with(spec, vec![0; BUFFER_BYTES])
    }

    fn with(spec: &Opening, buffer: Vec<u8>) -> Self {
        Self {
            path: spec.log.clone(),
            n_bytes_max: spec.log_bytes_max,
            masker: Masker::new(spec.masked.iter().map(String::as_str)),
            buffer,
            masked: Vec::new(),
            state: LogState::Open,
            file: None,
            look_at_room_at: 0,
            index: Index::default(),
        }
    }

    /// The log of another job. A buffer of the usual size is all that stays.
    pub(super) fn renew(&mut self, spec: &Opening) {
        let buffer = std::mem::take(&mut self.buffer);
        *self = match buffer.len() {
            BUFFER_BYTES => Self::with(spec, buffer),
            _ => Self::new(spec),
        };
    }

    pub(super) fn n_bytes(&self) -> u64 {
        self.index.n_bytes
    }

    /// What went wrong with the file, if anything did.
    pub(super) fn trouble(&self) -> Option<&StepError> {
        match &self.state {
            LogState::Broken(error) => Some(error),
            LogState::Open | LogState::Full => None,
        }
    }

    /// Reads once from `pipe` and appends what came. Gives how much that was.
    pub(super) fn take(&mut self, pipe: BorrowedFd<'_>) -> usize {
        let Ok(n) = rustix::io::read(pipe, &mut self.buffer[..]) else { return 0 };
        let buffer = std::mem::take(&mut self.buffer);
        self.append(&buffer[..n]);
        self.buffer = buffer;
        if n == BUFFER_BYTES && self.buffer.len() == BUFFER_BYTES {
            // Refused when a user has many large pipes already; then it goes on with the small one.
            let _ = rustix::pipe::fcntl_setpipe_size(pipe, BUFFER_BYTES_BUSY);
            self.buffer.resize(BUFFER_BYTES_BUSY, 0);
        }
        n
    }

    /// Appends a line of kiln's own.
    pub(super) fn say(&mut self, text: &str) {
        self.flush();
        let start = if self.index.at_line_start() { "" } else { "\n" };
        self.append(format!("{start}kiln: {text}\n").as_bytes());
        self.flush();
    }

    /// Writes what is held back as the possible beginning of a secret.
    pub(super) fn flush(&mut self) {
        if let Some(masker) = &mut self.masker {
            let mut masked = std::mem::take(&mut self.masked);
            masker.flush(&mut masked);
            self.write(&masked);
            masked.clear();
            self.masked = masked;
        }
    }

    /// Makes what is written survive a loss of power.
    pub(super) fn sync(&mut self) -> Result<(), StepError> {
        let Some(file) = &self.file else { return Ok(()) };
        let synced = file.sync_data().and_then(|()| self.index.sync());
        synced.map_err(|cause| self.broken(&cause))
    }

    fn append(&mut self, bytes: &[u8]) {
        let Some(masker) = &mut self.masker else { return self.write(bytes) };
        let mut masked = std::mem::take(&mut self.masked);
        masker.feed(bytes, &mut masked);
        self.write(&masked);
        masked.clear();
        self.masked = masked;
    }

    fn write(&mut self, bytes: &[u8]) {
        if bytes.is_empty() || !matches!(self.state, LogState::Open) {
            return;
        }
        let room = self.n_bytes_max.saturating_sub(self.index.n_bytes);
        let fits = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        let written = self.write_to_file(&bytes[..fits]).and_then(|()| {
            if fits == bytes.len() {
                return Ok(());
            }
            self.state = LogState::Full;
            let start = if self.index.at_line_start() { "" } else { "\n" };
            let limit = kiln_stdx::bytes::show(self.n_bytes_max);
            let marker = format!("{start}kiln: the log is full ({limit}); the rest is not kept\n");
            self.write_to_file(marker.as_bytes())
        });
        if let Err(cause) = written {
            self.state = LogState::Broken(self.broken(&cause));
        }
    }

    fn write_to_file(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None if bytes.is_empty() => return Ok(()),
            None => {
                let mut file = open_to_append(&self.path)?;
                self.index.open(&self.path, &mut file)?;
                file
            }
        };
        let at_ms = SystemClock.now().as_millis();
        let room = room_for(&file, &mut self.look_at_room_at, self.index.n_bytes);
        let result = loop {
            if room.is_err() {
                break room;
            }
            if bytes.is_empty() {
                break Ok(());
            }
            match file.write(bytes) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.index.note(&bytes[..n], at_ms);
                    bytes = &bytes[n..];
                }
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => break Err(cause),
            }
        };
        self.file = Some(file);
        // Also after an error: what was written is there.
        let indexed = self.index.write();
        result.and(indexed)
    }

    fn broken(&self, cause: &io::Error) -> StepError {
        StepError::Log { path: self.path.display().to_string(), cause: words(cause) }
    }
}

/// The last of a disk is not for logs: with it, whoever keeps the results can still say why the job
/// failed. Large enough for the journal of some thousand events.
const DISK_RESERVE_BYTES: u64 = 8 << 20;
/// How much is written between two looks at the disk.
const LOOK_EVERY_BYTES: u64 = 1 << 20;

/// An error when the log has grown and the disk is down to its reserve.
fn room_for(log: &File, look_at: &mut u64, n_bytes: u64) -> io::Result<()> {
    if n_bytes < *look_at + LOOK_EVERY_BYTES {
        return Ok(());
    }
    *look_at = n_bytes;
    let disk = rustix::fs::fstatvfs(log)?;
    match disk.f_bavail.saturating_mul(disk.f_frsize) < DISK_RESERVE_BYTES {
        true => Err(rustix::io::Errno::NOSPC.into()),
        false => Ok(()),
    }
}

fn open_to_append(path: &std::path::Path) -> io::Result<File> {
    let open = || OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
    match (open(), path.parent()) {
        (Err(cause), Some(folder)) if cause.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(folder)?;
            open()
        }
        (opened, _) => opened,
    }
}

/// Where lines begin, and when.
#[derive(Default)]
struct Index {
    file: Option<File>,
    n_bytes: u64,
    n_newlines: u64,
    /// Position after the last newline, and how many there are before it.
    line_start: (u64, u64),
    last: Option<Record>,
    /// Encoded, to be written.
    pending: Vec<u8>,
}

impl Index {
    /// Opens the file beside the log. A log that is there already is counted first.
    fn open(&mut self, log_path: &std::path::Path, log: &mut File) -> io::Result<()> {
        let mut path = log_path.as_os_str().to_owned();
        path.push(".idx");
        self.file = Some(open_to_append(path.as_ref())?);
        // By its length: reading a device to its end would take for ever.
        let n_bytes = log.metadata()?.len();
        let mut before = log.take(n_bytes);
        let mut bytes = vec![0; BUFFER_BYTES];
        loop {
            match before.read(&mut bytes)? {
                0 => break,
                n => self.count(&bytes[..n]),
            }
        }
        // The reader extends a short index by itself; here it goes on from the end.
        self.last = (self.n_bytes > 0).then_some(Record {
            offset: self.n_bytes,
            line: self.n_newlines,
            at_ms: 0,
        });
        Ok(())
    }

    fn at_line_start(&self) -> bool {
        self.line_start.0 == self.n_bytes
    }

    /// Takes note of bytes that have just been written.
    fn note(&mut self, bytes: &[u8], at_ms: i64) {
        let new_second = self.last.is_none_or(|last| last.at_ms / 1000 != at_ms / 1000);
        if new_second {
            self.note_second(bytes, at_ms);
        }
        let mut rest = bytes;
        while let Some(last) = self.last
            && self.n_bytes + rest.len() as u64 >= last.offset + EVERY_BYTES
        {
            // The window ends where the next record must be at the latest.
            let window_end = last.offset + EVERY_BYTES;
            let (window, after) = rest.split_at((window_end.saturating_sub(self.n_bytes)) as usize);
            self.count(window);
            rest = after;
            let (offset, line) = match self.line_start {
                start if start.0 > last.offset => start,
                _ => (window_end, self.n_newlines),
            };
            // The byte that a record speaks of must be there.
            if offset == self.n_bytes && rest.is_empty() {
                break;
            }
            self.push(Record { offset, line, at_ms });
        }
        self.count(rest);
    }

    /// A record at the first line that begins in these bytes.
    fn note_second(&mut self, bytes: &[u8], at_ms: i64) {
        if self.at_line_start() {
            self.push(Record { offset: self.n_bytes, line: self.n_newlines, at_ms });
        } else if let Some(at) = memchr::memchr(b'\n', bytes).filter(|at| at + 1 < bytes.len()) {
            let offset = self.n_bytes + at as u64 + 1;
            // Not across the place where a record is due anyway.
            if self.last.is_none_or(|last| offset < last.offset + EVERY_BYTES) {
                self.push(Record { offset, line: self.n_newlines + 1, at_ms });
            }
        }
    }

    fn push(&mut self, record: Record) {
        if self.last.is_none_or(|last| record.offset > last.offset || last.at_ms == 0) {
            self.pending.extend_from_slice(&record.encode());
            self.last = Some(record);
        }
    }

    fn count(&mut self, bytes: &[u8]) {
        let n_newlines = memchr::memchr_iter(b'\n', bytes).count() as u64;
        if let Some(at) = memchr::memrchr(b'\n', bytes) {
            self.line_start = (self.n_bytes + at as u64 + 1, self.n_newlines + n_newlines);
        }
        self.n_newlines += n_newlines;
        self.n_bytes += bytes.len() as u64;
    }

    fn write(&mut self) -> io::Result<()> {
        if let Some(file) = &mut self.file
            && !self.pending.is_empty()
        {
            file.write_all(&self.pending)?;
            self.pending.clear();
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }
}
