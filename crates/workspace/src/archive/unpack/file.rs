//! Files, links and fifos, each made new.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use kiln_stdx::fs::Named;
use rustix::fs::{self as sys, AtFlags, FileType, Mode, OFlags};

use super::attributes::{attributes, named_attributes};
use super::{CHUNK, Unpack, hash};
use crate::archive::header::{BLOCK, Header};
use crate::archive::read::{Tar, path};
use crate::archive::{Bound, HOLES_MAX, UnpackError};

impl<R: Read> Unpack<'_, R> {
    pub(super) fn file(&mut self, entry: &Path, header: &Header) -> Result<(), UnpackError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = self.make(entry, |folder, name| {
            sys::openat(folder, name, flags | OFlags::NOFOLLOW, mode)
        })?;
        let file = File::from(file);
        match header.sparse {
            None => self.content(&file, 0, header.size, entry)?,
            Some(size) => self.holes(&file, size, entry)?,
        }
        let real = self.into.join(entry);
        attributes(file.as_fd(), header)
            .map_err(io::Error::from)
            .named("set the attributes of", &real)?;
        Ok(())
    }

    fn content(&mut self, file: &File, at: u64, n: u64, entry: &Path) -> Result<(), UnpackError> {
        let mut done = 0;
        while done < n {
            let part = usize::try_from(n - done).map_or(CHUNK, |left| left.min(CHUNK));
            self.tar.content(&mut self.buffer[..part])?;
            file.write_all_at(&self.buffer[..part], at + done)
                .named("write", &self.into.join(entry))?;
            done += part as u64;
        }
        Ok(())
    }

    /// The content of a file with holes: where its data is, then the data.
    fn holes(&mut self, file: &File, size: u64, entry: &Path) -> Result<(), UnpackError> {
        file.set_len(size).named("write", &self.into.join(entry))?;
        let mut map = Map { block: [0; BLOCK], at: BLOCK };
        let n = map.number(&mut self.tar)?;
        if n > HOLES_MAX as u64 {
            let (entry, bound) = (entry.to_owned(), Bound::Holes(HOLES_MAX));
            return Err(UnpackError::TooMuch { entry, bound });
        }
        let (mut parts, mut end, mut stored) = (Vec::new(), 0, 0_u64);
        for _ in 0..n {
            let (at, n) = (map.number(&mut self.tar)?, map.number(&mut self.tar)?);
            let ends = at.checked_add(n).filter(|ends| at >= end && *ends <= size);
            let Some(ends) = ends else {
                return Err(self.tar.damaged("its map of holes makes no sense".to_owned()));
            };
            end = ends;
            stored += n;
            parts.push((at, n));
        }
        if stored != self.tar.n_unread() {
            return Err(self.tar.damaged("its map of holes does not fit its size".to_owned()));
        }
        parts.into_iter().try_for_each(|(at, n)| self.content(file, at, n, entry))
    }

    pub(super) fn link(&mut self, entry: &Path, header: &Header) -> Result<(), UnpackError> {
        if header.link.is_empty() || header.link.contains(&0) {
            return Err(UnpackError::refused(entry, "it is a link to nothing"));
        }
        let target = path(&header.link);
        self.make(entry, |folder, name| {
            sys::symlinkat(&target, folder, name)?;
            named_attributes(folder, name, header)
        })
    }

    pub(super) fn fifo(&mut self, entry: &Path, header: &Header) -> Result<(), UnpackError> {
        let mode = Mode::from_raw_mode(header.mode & 0o777);
        self.make(entry, |folder, name| {
            sys::mknodat(folder, name, FileType::Fifo, mode, 0)?;
            named_attributes(folder, name, header)?;
            // Made under this process's mask. A fifo cannot be opened without waiting for its other
            // end, and a change by name could be led to another file.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = sys::openat(folder, name, flags, Mode::empty())?;
            sys::chmod(format!("/proc/self/fd/{}", made.as_raw_fd()), mode)
        })
    }

    /// Another name of a file that came before.
    pub(super) fn hard_link(&mut self, entry: &Path, header: &Header) -> Result<(), UnpackError> {
        let target = self.checked(&header.link)?;
        let (above, last) = (target.parent(), target.file_name());
        let (Some(above), Some(last)) = (above, last) else {
            return Err(UnpackError::refused(entry, "it is another name of nothing"));
        };
        let why = || {
            let target = target.display();
            UnpackError::refused(entry, format!("no file `{target}` came before, to be linked to"))
        };
        if !self.made.contains(&hash(&target)) || self.folders.contains_key(&target) {
            return Err(why());
        }
        let from = self.folder_of(above)?.try_clone_to_owned().named("open", self.into)?;
        let kind = sys::statat(&from, last, AtFlags::SYMLINK_NOFOLLOW);
        let kind = kind.map(|meta| FileType::from_raw_mode(meta.st_mode));
        match kind {
            Ok(FileType::RegularFile) => {}
            // The link itself gets another name; where it leads is nobody's business here.
            Ok(FileType::Symlink) if self.is_image() => {}
            _ => return Err(why()),
        }
        self.make(entry, |folder, name| sys::linkat(&from, last, folder, name, AtFlags::empty()))
    }
}

/// The numbers in front of a file with holes, one on each line, in whole blocks.
struct Map {
    block: [u8; BLOCK],
    at: usize,
}

impl Map {
    fn number<R: Read>(&mut self, tar: &mut Tar<R>) -> Result<u64, UnpackError> {
        let mut number = None::<u64>;
        loop {
            if self.at == BLOCK {
                tar.content(&mut self.block)?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            let digit = char::from(byte).to_digit(10).map(u64::from);
            number = match (byte, digit, number) {
                (b'\n', _, Some(number)) => return Ok(number),
                (_, Some(digit), number) => {
                    number.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add(digit))
                }
                _ => None,
            };
            if number.is_none() {
                return Err(tar.damaged("its map of holes makes no sense".to_owned()));
            }
        }
    }
}
