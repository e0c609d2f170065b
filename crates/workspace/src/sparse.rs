//! Content of files, and the holes in it.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Where there is data, at `from` or after it; `None` when there is none up to the end.
pub(crate) fn next_data(file: &File, from: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        // A file system that knows no holes.
        Err(Errno::INVAL) => Ok(Some(from)),
        Err(error) => Err(error.into()),
    }
}

/// Where the data at `from` ends.
pub(crate) fn end_of_data(file: &File, from: u64, size: u64) -> io::Result<u64> {
    match rustix::fs::seek(file, SeekFrom::Hole(from)) {
        Ok(at) => Ok(at.min(size)),
        Err(Errno::INVAL | Errno::NXIO) => Ok(size),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|chunk| *chunk == ZEROS[..chunk.len()])
}

/// A new file with the content of another: the same blocks where the file system shares them,
/// otherwise a copy of what is data.
pub(crate) fn copy(from: &Path, meta: &Metadata, to: &Path) -> io::Result<()> {
    let old = File::open(from)?;
    let mut new = OpenOptions::new();
    // Never through a link that lies there, and nobody else's until it has its own mode.
    let new = new.write(true).create_new(true).mode(0o600).open(to)?;
    if meta.len() == 0 || rustix::fs::ioctl_ficlone(&new, &old).is_ok() {
        return Ok(());
    }
    if meta.blocks() * 512 >= meta.len() {
        return io::copy(&mut &old, &mut &new).map(drop);
    }
    new.set_len(meta.len())?;
    let mut at = 0;
    while let Some(start) = next_data(&old, at)?.filter(|start| *start < meta.len()) {
        at = end_of_data(&old, start, meta.len())?;
        copy_range(&old, &new, start, at)?;
    }
    Ok(())
}

fn copy_range(old: &File, new: &File, from: u64, to: u64) -> io::Result<()> {
    let (mut read_at, mut write_at) = (from, from);
    while read_at < to {
        let n = usize::try_from(to - read_at).unwrap_or(usize::MAX);
        let n = rustix::fs::copy_file_range(old, Some(&mut read_at), new, Some(&mut write_at), n)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}
