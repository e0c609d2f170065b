//! Windows on a log: by byte, by line, from its end; and the whole of it, for sending.

use std::io;

use kiln_model::AttemptId;
use kiln_stdx::Timestamp;

use crate::log::Logs;
use crate::log::bytes::Bytes;
use crate::log::index::Index;

/// Bytes read at a time while lines are looked for.
const CHUNK_BYTES: usize = 64 << 10;

/// Lines of a log. `first` is the number of the first line given, from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub first: u64,
    /// Where that line begins.
    pub offset: u64,
    /// Whole lines with their newlines; those that are too long are cut, and then end in a newline
    /// too. Only an unfinished last line has none.
    pub bytes: Vec<u8>,
    /// Where each of the lines begins in the log: what was cut off stays reachable.
    pub starts: Vec<u64>,
    /// Where the line after the last one begins: the log's length at its end.
    pub end: u64,
    /// As of now, the unfinished last line included.
    pub n_lines: u64,
    pub n_bytes: u64,
}

impl Logs {
    /// Bytes from `offset`, at most `max`; short at the end.
    pub fn read(&self, attempt: AttemptId, offset: u64, max: usize) -> io::Result<Vec<u8>> {
        let Some(mut log) = self.open(attempt)? else { return Ok(Vec::new()) };
        let rest = usize::try_from(log.len().saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; rest.min(max)];
        let n = log.read_at(&mut bytes, offset)?;
        bytes.truncate(n);
        Ok(bytes)
    }

    /// A whole log or a part of it, for sending without holding it in memory.
    ///
    /// Plain ones are a file, at its place; packed ones are decoded frame by frame. A log that
    /// still grows is read as far as it goes: who has promised a length must `take` it.
    pub fn reader(&self, attempt: AttemptId, offset: u64) -> io::Result<Box<dyn io::Read + Send>> {
        match self.open(attempt)? {
            Some(log) => log.into_reader(offset),
            None => Ok(Box::new(io::empty())),
        }
    }

    /// `n` lines from line `first`; a line longer than `line_max` bytes is cut.
    pub fn lines(
        &self,
        attempt: AttemptId,
        first: u64,
        n: u32,
        line_max: usize,
    ) -> io::Result<Window> {
        self.window(attempt, line_max, n, |_| first)
    }

    /// The last `n` lines, an unfinished one included.
    pub fn tail(&self, attempt: AttemptId, n: u32, line_max: usize) -> io::Result<Window> {
        self.window(attempt, line_max, n, |n_lines| n_lines.saturating_sub(n.into()))
    }

    /// When the byte at `offset` was written (to the index's precision); `None` when there is no
    /// such byte, or its time was not kept.
    pub fn time_at(&self, attempt: AttemptId, offset: u64) -> io::Result<Option<Timestamp>> {
        let Some(mut log) = self.open(attempt)? else { return Ok(None) };
        if offset >= log.len() {
            return Ok(None);
        }
        let index = Index::open(&self.path(attempt), &mut log, &self.counted)?;
        Ok(index.at_ms(offset)?.map(Timestamp::from_millis))
    }

    fn window(
        &self,
        attempt: AttemptId,
        line_max: usize,
        n: u32,
        first: impl FnOnce(u64) -> u64,
    ) -> io::Result<Window> {
        let mut window = Window {
            first: 0,
            offset: 0,
            bytes: Vec::new(),
            starts: Vec::new(),
            end: 0,
            n_lines: 0,
            n_bytes: 0,
        };
        let Some(mut log) = self.open(attempt)? else { return Ok(window) };
        let index = Index::open(&self.path(attempt), &mut log, &self.counted)?;
        window.n_lines = index.n_lines();
        window.n_bytes = log.len();
        window.first = first(window.n_lines).min(window.n_lines);
        let mut lines = Lines::at(&mut log, &index, window.first)?;
        window.offset = lines.offset;
        for _ in 0..n {
            let start = lines.offset;
            if !lines.next(line_max, &mut window.bytes)? {
                break;
            }
            window.starts.push(start);
        }
        window.end = lines.offset;
        Ok(window)
    }
}

/// Walks from line to line, holding one chunk of the log.
pub(super) struct Lines<'a> {
    log: &'a mut Bytes,
    index: &'a Index,
    /// The number of the line that comes next.
    pub(super) line: u64,
    /// Where it begins.
    pub(super) offset: u64,
    chunk: Vec<u8>,
    /// Where the chunk begins in the log.
    chunk_at: u64,
}

impl<'a> Lines<'a> {
    /// At the start of `line`, or at the log's end when it has fewer.
    pub(super) fn at(log: &'a mut Bytes, index: &'a Index, line: u64) -> io::Result<Self> {
        let mut lines = Self { log, index, line: 0, offset: 0, chunk: Vec::new(), chunk_at: 0 };
        lines.go_to(line)?;
        Ok(lines)
    }

    /// Appends the next line, cut at `max` bytes. False at the log's end.
    fn next(&mut self, max: usize, out: &mut Vec<u8>) -> io::Result<bool> {
        if self.offset >= self.log.len() {
            return Ok(false);
        }
        let mut n_kept = 0;
        loop {
            let chunk = self.chunk_at(self.offset)?;
            if chunk.is_empty() {
                // The end without a newline.
                self.line += 1;
                return Ok(true);
            }
            let newline = memchr::memchr(b'\n', chunk);
            let piece = &chunk[..newline.unwrap_or(chunk.len())];
            let fits = piece.len().min(max - n_kept);
            out.extend_from_slice(&piece[..fits]);
            n_kept += fits;
            let (is_cut, n_passed) = (fits < piece.len(), piece.len() as u64);
            match newline {
                Some(_) => {
                    out.push(b'\n');
                    self.offset += n_passed + 1;
                    self.line += 1;
                    return Ok(true);
                }
                None if is_cut => {
                    out.push(b'\n');
                    self.go_to(self.line + 1)?;
                    return Ok(true);
                }
                None => self.offset += n_passed,
            }
        }
    }

    /// Moves to the start of `line`, with the help of the index.
    fn go_to(&mut self, line: u64) -> io::Result<()> {
        if line > self.index.n_newlines {
            (self.offset, self.line) = (self.log.len(), line.min(self.index.n_lines()));
            return Ok(());
        }
        let near = self.index.before_line(line)?;
        (self.offset, self.line) = (near.offset, near.line);
        while self.line < line {
            let missing = line - self.line;
            let chunk = self.chunk_at(self.offset)?;
            if chunk.is_empty() {
                break;
            }
            let skip = usize::try_from(missing - 1).unwrap_or(usize::MAX);
            let (n_lines, n_bytes) = match memchr::memchr_iter(b'\n', chunk).nth(skip) {
                Some(at) => (missing, at + 1),
                None => (memchr::memchr_iter(b'\n', chunk).count() as u64, chunk.len()),
            };
            self.line += n_lines;
            self.offset += n_bytes as u64;
        }
        Ok(())
    }

    /// What is held of the log from `offset` on; reads more when that is nothing. Empty at the end.
    fn chunk_at(&mut self, offset: u64) -> io::Result<&[u8]> {
        let end = self.chunk_at + self.chunk.len() as u64;
        if !(self.chunk_at..end).contains(&offset) {
            let rest = usize::try_from(self.log.len().saturating_sub(offset));
            self.chunk.resize(rest.unwrap_or(usize::MAX).min(CHUNK_BYTES), 0);
            let n = self.log.read_at(&mut self.chunk, offset)?;
            self.chunk.truncate(n);
            self.chunk_at = offset;
        }
        Ok(&self.chunk[(offset - self.chunk_at) as usize..])
    }
}
