//! A tar, entry by entry, with bounds on everything that is kept.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::header::{BLOCK, Header, Records, decode_records};
use super::{Bound, UnpackError};

/// Longest PAX header or long name. Extended attributes are 64 KiB each, a path 4 KiB.
const RECORDS_BYTES_MAX: u64 = 1 << 20;

/// How much padding may follow the end; tar writes up to 10 KB.
const PADDING_BYTES_MAX: u64 = 1 << 20;

pub(super) struct Tar<R> {
    from: R,
    /// Bytes that may still be read.
    left: u64,
    max: u64,
    /// Of the present entry: what has not been read of its content, and the padding behind it.
    content: u64,
    padding: u64,
    entry: Option<PathBuf>,
    end: End,
}

/// How strictly the end of an archive is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Two blocks of zeros, and nothing but zeros after: so that a cut is noticed.
    Marked,
    /// As builders of images leave it: also none, and anything after it. Their digest tells a cut.
    Any,
}

impl<R: Read> Tar<R> {
    pub fn new(from: R, bytes_max: u64, end: End) -> Self {
        Self { from, left: bytes_max, max: bytes_max, content: 0, padding: 0, entry: None, end }
    }

    /// The next entry; `None` at the end, after which only padding was found.
    pub fn next(&mut self) -> Result<Option<Header>, UnpackError> {
        self.skip(self.content + self.padding)?;
        (self.content, self.padding) = (0, 0);
        let mut records = Records::new();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let mut block = [0; BLOCK];
            if self.end == End::Any && !self.begin(&mut block)? {
                return Ok(None);
            }
            let from = if self.end == End::Any { 1 } else { 0 };
            self.fill(&mut block[from..])?;
            let header = Header::decode(&block).map_err(|what| self.damaged(what))?;
            let Some(mut header) = header else {
                self.end()?;
                return Ok(None);
            };
            match header.kind {
                b'x' => records = self.records(header.size)?,
                // It speaks for all entries that follow; nothing that we need is said there.
                b'g' => drop(self.records(header.size)?),
                b'L' => long_name = Some(self.long(header.size)?),
                b'K' => long_link = Some(self.long(header.size)?),
                _ => {
                    header.path = long_name.unwrap_or(header.path);
                    header.link = long_link.unwrap_or(header.link);
                    self.entry = Some(path(&header.path));
                    header.amend(records).map_err(|what| self.damaged(what))?;
                    self.entry = Some(path(&header.path));
                    self.content = header.size;
                    self.padding = header.size.next_multiple_of(BLOCK as u64) - header.size;
                    return Ok(Some(header));
                }
            }
        }
    }

    /// Reads the first byte of a block; `false` when there is none.
    fn begin(&mut self, block: &mut [u8]) -> Result<bool, UnpackError> {
        let n = self.from.read(&mut block[..1]).map_err(|cause| self.read_error(cause))?;
        self.left = self.left.saturating_sub(n as u64);
        Ok(n == 1)
    }

    /// Fills `buffer` with content of the present entry.
    pub fn content(&mut self, buffer: &mut [u8]) -> Result<(), UnpackError> {
        match self.content.checked_sub(buffer.len() as u64) {
            Some(left) => self.content = left,
            None => return Err(self.damaged("its map of holes is too long".to_owned())),
        }
        self.fill(buffer)
    }

    /// How many bytes of the present entry were not read yet.
    pub fn n_unread(&self) -> u64 {
        self.content
    }

    fn records(&mut self, size: u64) -> Result<Records, UnpackError> {
        let bytes = self.long(size)?;
        decode_records(&bytes).map_err(|what| self.damaged(what))
    }

    fn long(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        if size > RECORDS_BYTES_MAX {
            return Err(self.damaged("a name or a record is longer than 1 MiB".to_owned()));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0).next_multiple_of(BLOCK)];
        self.fill(&mut bytes)?;
        bytes.truncate(usize::try_from(size).unwrap_or(0));
        // GNU's long names end with a zero.
        if bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(bytes)
    }

    /// After the first block of zeros: only more of them.
    fn end(&mut self) -> Result<(), UnpackError> {
        let mut n_read = 0;
        let mut buffer = [0; 8192];
        loop {
            let n = self.from.read(&mut buffer).map_err(|cause| self.read_error(cause))?;
            n_read += n as u64;
            if n == 0 && self.end == End::Any {
                return Ok(());
            }
            if n == 0 {
                // The second block of zeros.
                let ends = n_read >= BLOCK as u64;
                return if ends {
                    Ok(())
                } else {
                    Err(self.damaged("it ends too early".to_owned()))
                };
            }
            if self.end == End::Any {
                continue;
            }
            if n_read > PADDING_BYTES_MAX || buffer[..n].iter().any(|byte| *byte != 0) {
                return Err(self.damaged("something follows its end".to_owned()));
            }
        }
    }

    fn skip(&mut self, n: u64) -> Result<(), UnpackError> {
        let mut left = n;
        let mut buffer = [0; 8192];
        while left > 0 {
            let part = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            self.fill(&mut buffer[..part])?;
            left -= part as u64;
        }
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), UnpackError> {
        let Some(left) = self.left.checked_sub(buffer.len() as u64) else {
            let entry = self.entry.clone().unwrap_or_default();
            return Err(UnpackError::TooMuch { entry, bound: Bound::Bytes(self.max) });
        };
        self.left = left;
        self.from.read_exact(buffer).map_err(|cause| self.read_error(cause))
    }

    fn read_error(&self, cause: std::io::Error) -> UnpackError {
        UnpackError::read(self.entry.as_deref(), cause)
    }

    pub fn damaged(&self, what: String) -> UnpackError {
        UnpackError::Damaged { entry: self.entry.clone(), what }
    }
}

pub(super) fn path(bytes: &[u8]) -> PathBuf {
    Path::new(OsStr::from_bytes(bytes)).to_owned()
}
