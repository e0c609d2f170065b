//! The bytes of one log, plain or packed, by position.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::log::beside;
use crate::log::pack::Packed;

/// One log as it was when it was opened: what is written later is not seen.
pub(super) enum Bytes {
    Plain { file: File, len: u64 },
    Packed(Packed),
}

impl Bytes {
    /// `None` when there is no log.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        // Packing makes the packed file before it removes the plain one: whoever misses the second
        // finds the first.
        match File::open(path) {
            Ok(file) => {
                let len = file.metadata()?.len();
                return Ok(Some(Self::Plain { file, len }));
            }
            Err(cause) if cause.kind() == ErrorKind::NotFound => {}
            Err(cause) => return Err(cause),
        }
        match File::open(beside(path, ".zst")) {
            Ok(file) => Ok(Some(Self::Packed(Packed::open(file, &beside(path, ".zst"))?))),
            Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Plain { len, .. } => *len,
            Self::Packed(packed) => packed.len(),
        }
    }

    /// Fills `buffer` from `offset` on; short only at the end.
    pub(super) fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(self.len().saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = rest.min(buffer.len());
        let buffer = &mut buffer[..wanted];
        let mut n_read = 0;
        while n_read < buffer.len() {
            let at = offset + n_read as u64;
            let n = match self {
                Self::Plain { file, .. } => match file.read_at(&mut buffer[n_read..], at) {
                    Err(cause) if cause.kind() == ErrorKind::Interrupted => continue,
                    n => n?,
                },
                Self::Packed(packed) => packed.read_at(&mut buffer[n_read..], at)?,
            };
            if n == 0 {
                break;
            }
            n_read += n;
        }
        Ok(n_read)
    }

    /// Everything from `offset` on.
    pub(super) fn into_reader(self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        match self {
            Self::Plain { mut file, len } => {
                file.seek(SeekFrom::Start(offset.min(len)))?;
                Ok(Box::new(file))
            }
            Self::Packed(packed) => Ok(Box::new(packed.into_reader(offset))),
        }
    }
}
