//! tar, as every tar reads it: the old header, and GNU's records for what it cannot hold.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

pub(super) const BLOCK: usize = 512;
const NAME_BYTES_MAX: usize = 100;
/// Eleven octal digits.
const SIZE_MAX: u64 = (1 << 33) - 1;

/// Writes everything below `root`. `each` hears of every path and may refuse to go on.
pub(super) fn pack(
    root: &OwnedFd,
    to: &mut impl Write,
    each: &mut impl FnMut(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let mut packer = Packer { to, each };
    packer.folder(root, Path::new("."))?;
    // The end, and the rest of a record of twenty blocks, which some readers insist on.
    packer.to.write_all(&[0; 20 * BLOCK])?;
    packer.to.flush()
}

struct Packer<'a, W, F> {
    to: &'a mut W,
    each: &'a mut F,
}

impl<W: Write, F: FnMut(&Path) -> io::Result<()>> Packer<'_, W, F> {
    fn folder(&mut self, folder: &OwnedFd, path: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let readable = rustix::fs::openat(folder, ".", flags, Mode::empty())?;
        for entry in Dir::new(readable)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                self.entry(folder, OsStr::from_bytes(name), &path.join(OsStr::from_bytes(name)))
                    .map_err(|cause| {
                        io::Error::new(
                            cause.kind(),
                            Named { path: path.join(OsStr::from_bytes(name)), cause },
                        )
                    })?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, folder: &OwnedFd, name: &OsStr, path: &Path) -> io::Result<()> {
        let stat = rustix::fs::statat(folder, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                (self.each)(path)?;
                self.header(path, &stat, b'5', 0, &[])?;
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner = rustix::fs::openat(folder, name, flags, Mode::empty())?;
                self.folder(&inner, path)
            }
            FileType::Symlink => {
                (self.each)(path)?;
                let target = rustix::fs::readlinkat(folder, name, Vec::new())?;
                self.header(path, &stat, b'2', 0, target.as_bytes())
            }
            FileType::RegularFile => {
                (self.each)(path)?;
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(folder, name, flags, Mode::empty())?;
                self.file(File::from(file), path)
            }
            // Sockets, pipes and devices are of this machine.
            _ => Ok(()),
        }
    }

    fn file(&mut self, file: File, path: &Path) -> io::Result<()> {
        let stat = rustix::fs::fstat(file.as_fd())?;
        let n_bytes = u64::try_from(stat.st_size).unwrap_or_default();
        self.header(path, &stat, b'0', n_bytes, &[])?;
        let copied = io::copy(&mut file.take(n_bytes), self.to)?;
        // Cut short by somebody meanwhile: the length is promised.
        let missing = n_bytes - copied;
        io::copy(&mut io::repeat(0).take(missing + padding(n_bytes)), self.to).map(drop)
    }

    fn header(
        &mut self,
        path: &Path,
        stat: &Stat,
        kind: u8,
        n_bytes: u64,
        link: &[u8],
    ) -> io::Result<()> {
        let mut name = path.as_os_str().as_bytes().to_vec();
        if kind == b'5' {
            name.push(b'/');
        }
        if link.len() > NAME_BYTES_MAX {
            self.long(b'K', link)?;
        }
        if name.len() > NAME_BYTES_MAX {
            self.long(b'L', &name)?;
        }
        let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
        self.to.write_all(&block(&name, stat.st_mode & 0o7777, n_bytes, seconds, kind, link))
    }

    /// A name that is too long for the header, in a file of its own before it.
    fn long(&mut self, kind: u8, name: &[u8]) -> io::Result<()> {
        let n_bytes = name.len() as u64 + 1;
        self.to.write_all(&block(b"././@LongLink", 0o644, n_bytes, 0, kind, &[]))?;
        self.to.write_all(name)?;
        io::copy(&mut io::repeat(0).take(1 + padding(n_bytes)), self.to).map(drop)
    }
}

/// An error and whose it is.
#[derive(Debug, thiserror::Error)]
#[error("`{}`: {}", .path.strip_prefix(".").unwrap_or(.path).display(), crate::contract::words(.cause))]
struct Named {
    path: PathBuf,
    cause: io::Error,
}

fn padding(n_bytes: u64) -> u64 {
    n_bytes.next_multiple_of(BLOCK as u64) - n_bytes
}

fn block(name: &[u8], mode: u32, n_bytes: u64, seconds: u64, kind: u8, link: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, &name[..name.len().min(NAME_BYTES_MAX)]);
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    if n_bytes > SIZE_MAX {
        put(124, &[0x80, 0, 0, 0]);
        put(128, &n_bytes.to_be_bytes());
    } else {
        put(124, format!("{n_bytes:011o}").as_bytes());
    }
    put(136, format!("{:011o}", seconds.min(SIZE_MAX)).as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(157, &link[..link.len().min(NAME_BYTES_MAX)]);
    put(257, b"ustar  \0");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// What an archive says of one file, before its bytes.
#[derive(Debug)]
pub(super) struct Entry {
    /// Relative, without `.` and `..`.
    pub path: PathBuf,
    pub kind: Kind,
    pub mode: u32,
    pub seconds: i64,
    pub n_bytes: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    Link(Vec<u8>),
    /// Another name of a file that came before.
    Same(PathBuf),
    Pipe,
    /// Nothing that a workspace has.
    Other,
}

/// Names longer than this are an attack.
const LONG_BYTES_MAX: u64 = 64 << 10;

/// Reads the next header; `None` at the archive's end. Its bytes, padded to whole blocks, are the next to
/// be read.
pub(super) fn next(from: &mut impl Read) -> io::Result<Option<Entry>> {
    let (mut long_name, mut long_link) = (None, None);
    let mut long_size = None;
    loop {
        let mut block = [0; BLOCK];
        from.read_exact(&mut block)?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        check_sum(&block)?;
        let n_bytes = number(&block[124..136])?;
        match block[156] {
            b'L' => long_name = Some(long(from, n_bytes)?),
            b'K' => long_link = Some(long(from, n_bytes)?),
            b'x' => {
                for (key, value) in records(&long(from, n_bytes)?) {
                    match key {
                        b"path" => long_name = Some(value.to_vec()),
                        b"linkpath" => long_link = Some(value.to_vec()),
                        b"size" => {
                            long_size =
                                std::str::from_utf8(value).ok().and_then(|size| size.parse().ok())
                        }
                        _ => {}
                    }
                }
            }
            b'g' => drop(long(from, n_bytes)?),
            kind => {
                let name = long_name.unwrap_or_else(|| name_of(&block));
                let link = long_link.unwrap_or_else(|| until_zero(&block[157..257]).to_vec());
                let kind = match kind {
                    b'0' | 0 | b'7' => Kind::File,
                    b'5' => Kind::Folder,
                    b'2' => Kind::Link(link),
                    b'1' => Kind::Same(plain(&link)?),
                    b'6' => Kind::Pipe,
                    _ => Kind::Other,
                };
                let n_bytes = long_size.unwrap_or(n_bytes);
                let n_bytes = if matches!(kind, Kind::File | Kind::Other) { n_bytes } else { 0 };
                let mode = u32::try_from(number(&block[100..108])? & 0o7777).unwrap_or(0o644);
                let seconds = i64::try_from(number(&block[136..148])?).unwrap_or(0);
                return Ok(Some(Entry { path: plain(&name)?, kind, mode, seconds, n_bytes }));
            }
        }
    }
}

/// Reads over what follows the bytes of an entry.
pub(super) fn skip_padding(from: &mut impl Read, n_bytes: u64) -> io::Result<()> {
    io::copy(&mut from.take(padding(n_bytes)), &mut io::sink()).map(drop)
}

fn name_of(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_zero(&block[..100]);
    // Only in POSIX's form; GNU's has other things there.
    match until_zero(&block[345..500]) {
        prefix if block[257..263] == *b"ustar\0" && !prefix.is_empty() => {
            [prefix, b"/", name].concat()
        }
        _ => name.to_vec(),
    }
}

fn long(from: &mut impl Read, n_bytes: u64) -> io::Result<Vec<u8>> {
    if n_bytes > LONG_BYTES_MAX {
        return Err(odd("a name in it is too long"));
    }
    let mut bytes = vec![0; usize::try_from(n_bytes).unwrap_or_default()];
    from.read_exact(&mut bytes)?;
    skip_padding(from, n_bytes)?;
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

/// `29 path=…\n`, again and again.
fn records(mut bytes: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut found = Vec::new();
    while let Some(space) = memchr::memchr(b' ', bytes) {
        let length = std::str::from_utf8(&bytes[..space]).ok().and_then(|text| text.parse().ok());
        let Some(record) = length.and_then(|length: usize| bytes.get(space + 1..length)) else {
            break;
        };
        let record = record.strip_suffix(b"\n").unwrap_or(record);
        if let Some(at) = memchr::memchr(b'=', record) {
            found.push((&record[..at], &record[at + 1..]));
        }
        bytes = &bytes[length.unwrap_or_default().min(bytes.len())..];
    }
    found
}

fn number(field: &[u8]) -> io::Result<u64> {
    if field[0] & 0x80 != 0 {
        let tail = field[field.len() - 8..].try_into().expect("eight bytes");
        return Ok(u64::from_be_bytes(tail));
    }
    let text = std::str::from_utf8(field).map_err(|_| odd("a number in it is none"))?;
    let text = text.trim_matches(|letter| letter == ' ' || letter == '\0');
    match text.is_empty() {
        true => Ok(0),
        false => u64::from_str_radix(text, 8).map_err(|_| odd("a number in it is none")),
    }
}

fn check_sum(block: &[u8; BLOCK]) -> io::Result<()> {
    let told = number(&block[148..156])?;
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) })
        .sum();
    if sum == told { Ok(()) } else { Err(odd("a checksum in it is wrong")) }
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    &bytes[..memchr::memchr(0, bytes).unwrap_or(bytes.len())]
}

/// A path that stays inside.
pub(super) fn plain(bytes: &[u8]) -> io::Result<PathBuf> {
    use std::path::Component;
    let path = Path::new(OsStr::from_bytes(bytes));
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::CurDir => {}
            _ => {
                let shown = path.display();
                return Err(odd(&format!("the name `{shown}` in it leads out of the workspace")));
            }
        }
    }
    Ok(plain)
}

pub(super) fn odd(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the archive of files is damaged: {why}"))
}

/// Whether something is not there.
pub(super) fn is_absent(cause: Errno) -> bool {
    matches!(cause, Errno::NOENT | Errno::NOTDIR)
}
