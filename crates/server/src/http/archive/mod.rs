//! Artifacts as one file, made while it is sent: nothing is kept, little is in memory, and who goes
//! away in the middle frees everything.
//!
//! An archive is a list of parts: headers made up before anything is sent, and files named by
//! digest. So its length is known, and the reader is the same for both formats. Files are stored as
//! they are: what jobs give is mostly packed already, and `.tar.zst` is there for the rest.

mod tar;
mod zip;
mod crc;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};

use kiln_model::layer::Digest;
use kiln_stdx::Timestamp;
use kiln_store::object::Objects;

use crc::Crc;

/// What an archive is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Tar,
    TarZst,
    Zip,
}

impl Format {
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Tar => "tar",
            Self::TarZst => "tar.zst",
            Self::Zip => "zip",
        }
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Self::Tar => "application/x-tar",
            Self::TarZst => "application/zstd",
            Self::Zip => "application/zip",
        }
    }
}

/// One file of an archive.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Relative, `/`-separated.
    pub path: String,
    pub n_bytes: u64,
    pub digest: Digest,
    pub executable: bool,
}

/// A piece of an archive.
enum Part {
    Bytes(Vec<u8>),
    /// A file as it is.
    File {
        digest: Digest,
        n_bytes: u64,
    },
    /// A file as deflate writes what it cannot make smaller: every reader of zip knows that, also
    /// one that cannot seek. Its checksum follows in what comes next.
    Deflated {
        digest: Digest,
        n_bytes: u64,
    },
    /// What says how the file before it came out: filled in while it is sent.
    Checked(zip::Checked),
}

/// An archive, to be read.
pub struct Archive {
    objects: Objects,
    parts: VecDeque<Part>,
    now: Now,
    crc: Crc,
    sums: Vec<u32>,
    /// Of the whole, before any compression.
    pub n_bytes: u64,
}

/// What is being read.
enum Now {
    Nothing,
    Bytes { bytes: Vec<u8>, at: usize },
    File { file: File, left: u64 },
    Deflated { file: File, left: u64, block: Vec<u8>, at: usize },
}

/// Most that a block of deflate holds as it is.
const BLOCK_BYTES: u64 = 65_535;

impl Archive {
    /// All entries bear the time `at`.
    pub fn new(format: Format, entries: &[Entry], at: Timestamp, objects: Objects) -> Self {
        let parts = match format {
            Format::Tar | Format::TarZst => tar::parts(entries, at),
            Format::Zip => zip::parts(entries, at),
        };
        let n_bytes = parts.iter().map(Part::n_bytes).sum();
        let (now, crc, sums) = (Now::Nothing, Crc::default(), Vec::new());
        Self { objects, parts: parts.into(), now, crc, sums, n_bytes }
    }

    fn open(&self, digest: &Digest, n_bytes: u64) -> io::Result<File> {
        let file = self.objects.open(digest)?;
        match file.metadata()?.len() == n_bytes {
            true => Ok(file),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "an object is damaged")),
        }
    }

    /// Begins with the next part; `false` when there is none.
    fn advance(&mut self) -> io::Result<bool> {
        if let Now::Deflated { .. } = self.now {
            self.sums.push(std::mem::take(&mut self.crc).sum());
        }
        self.now = match self.parts.pop_front() {
            None => return Ok(false),
            Some(Part::Bytes(bytes)) => Now::Bytes { bytes, at: 0 },
            Some(Part::Checked(checked)) => Now::Bytes { bytes: checked.fill(&self.sums), at: 0 },
            Some(Part::File { digest, n_bytes }) => {
                Now::File { file: self.open(&digest, n_bytes)?, left: n_bytes }
            }
            Some(Part::Deflated { digest, n_bytes }) => {
                let file = self.open(&digest, n_bytes)?;
                let mut block = Vec::new();
                // A file without bytes is one empty block.
                let left = next_block(&file, n_bytes, &mut block, &mut self.crc)?;
                Now::Deflated { file, left, block, at: 0 }
            }
        };
        Ok(true)
    }
}

/// Reads the next block of deflate; how much of the file is left after it.
fn next_block(mut file: &File, left: u64, block: &mut Vec<u8>, crc: &mut Crc) -> io::Result<u64> {
    let n = left.min(BLOCK_BYTES);
    // At most 65,535.
    let length = u16::try_from(n).unwrap_or(u16::MAX);
    block.clear();
    block.push(u8::from(n == left));
    block.extend(length.to_le_bytes());
    block.extend((!length).to_le_bytes());
    let read = file.by_ref().take(n).read_to_end(block)?;
    if read as u64 != n {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    crc.add(&block[5..]);
    Ok(left - n)
}

impl Read for Archive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = match &mut self.now {
                Now::Nothing => 0,
                Now::Bytes { bytes, at } => take(bytes, at, buffer),
                Now::File { left: 0, .. } => 0,
                Now::File { file, left } => {
                    let n = file.take(*left).read(buffer)?;
                    if n == 0 && !buffer.is_empty() {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    *left -= n as u64;
                    n
                }
                Now::Deflated { file, left, block, at } => {
                    if *at == block.len() && *left > 0 {
                        *left = next_block(file, *left, block, &mut self.crc)?;
                        *at = 0;
                    }
                    take(block, at, buffer)
                }
            };
            if n > 0 || buffer.is_empty() || !self.advance()? {
                return Ok(n);
            }
        }
    }
}

fn take(bytes: &[u8], at: &mut usize, buffer: &mut [u8]) -> usize {
    let n = buffer.len().min(bytes.len() - *at);
    buffer[..n].copy_from_slice(&bytes[*at..*at + n]);
    *at += n;
    n
}

impl Part {
    fn n_bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { n_bytes, .. } => *n_bytes,
            Self::Deflated { n_bytes, .. } => deflated(*n_bytes),
            Self::Checked(checked) => checked.n_bytes(),
        }
    }
}

/// Length of `n_bytes` bytes in blocks of deflate, each with five bytes before it.
fn deflated(n_bytes: u64) -> u64 {
    n_bytes + 5 * n_bytes.div_ceil(BLOCK_BYTES).max(1)
}

#[cfg(test)]
mod tests;
