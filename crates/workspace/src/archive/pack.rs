//! A view into an archive.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use kiln_stdx::fs::{FsError, Named};

use super::header::{BLOCK, Header};
use super::{HOLES_MAX, OPAQUE, WHITE_OUT};
use crate::view::{Entry, View, What};
use crate::{sparse, xattr};

/// The fastest level that is worth its bytes: twice as small as none, at a gigabyte a second on two
/// cores.
const LEVEL: i32 = 1;

/// What goes to the compressor at once.
const CHUNK: usize = 256 << 10;

#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
    #[error("`{}` became shorter while it was packed", .0.display())]
    Changed(PathBuf),
    #[error(transparent)]
    Fs(#[from] FsError),
}

/// What an archive holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    pub n_entries: u64,
    /// Before compression.
    pub n_bytes: u64,
    /// Sockets and devices, which no archive holds.
    pub n_left_out: u64,
}

/// Packs a view, compressed by zstd on all cores.
pub(crate) fn pack(view: &View, to: impl Write) -> Result<Packed, PackError> {
    let mut encoder = zstd::Encoder::new(to, LEVEL).map_err(PackError::Write)?;
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    encoder
        .include_checksum(true)
        .and_then(|()| encoder.multithread(u32::try_from(n_threads).unwrap_or(1)))
        .map_err(PackError::Write)?;
    let mut pack = Pack {
        to: encoder,
        waiting: Vec::with_capacity(2 * CHUNK),
        names: HashMap::new(),
        packed: Packed::default(),
    };
    view.walk(|entry| pack.entry(entry))?;
    pack.put(&[0; 2 * BLOCK])?;
    pack.flush()?;
    let packed = pack.packed;
    pack.to.finish().and_then(|mut to| to.flush()).map_err(PackError::Write)?;
    Ok(packed)
}

struct Pack<W: Write> {
    to: W,
    /// Small entries go to the compressor together.
    waiting: Vec<u8>,
    /// By device and inode: the first name of a file with several.
    names: HashMap<(u64, u64), Vec<u8>>,
    packed: Packed,
}

impl<W: Write> Pack<W> {
    fn entry(&mut self, entry: Entry) -> Result<(), PackError> {
        let path = entry.path.as_os_str().as_bytes();
        match entry.what {
            What::WhiteOut => {
                let name = entry.path.file_name().unwrap_or_default();
                let marked = [WHITE_OUT, name.as_bytes()].concat();
                self.mark(entry.path.with_file_name(OsStr::from_bytes(&marked)))
            }
            What::Folder { real, meta, opaque } => {
                let header =
                    Header { path: [b"./", path].concat(), kind: b'5', ..of(&real, &meta)? };
                let path = if path.is_empty() { header.path } else { [path, b"/"].concat() };
                self.header(&Header { path, plain: looks_marked(&entry.path), ..header })?;
                if opaque {
                    self.mark(entry.path.join(OsStr::from_bytes(OPAQUE)))?;
                }
                Ok(())
            }
            What::Leaf { real, meta } => {
                let plain = looks_marked(&entry.path);
                let header = Header { path: path.to_vec(), plain, ..of(&real, &meta)? };
                self.leaf(header, &real, &meta)
            }
        }
    }

    fn leaf(&mut self, header: Header, real: &Path, meta: &Metadata) -> Result<(), PackError> {
        let kind = meta.file_type();
        if kind.is_symlink() {
            let link = fs::read_link(real).named("read", real)?.into_os_string();
            return self.header(&Header { kind: b'2', link: link.as_bytes().to_vec(), ..header });
        }
        if kind.is_fifo() {
            return self.header(&Header { kind: b'6', ..header });
        }
        if !kind.is_file() {
            self.packed.n_left_out += 1;
            return Ok(());
        }
        if meta.nlink() > 1 {
            let inode = (meta.dev(), meta.ino());
            if let Some(first) = self.names.get(&inode) {
                let link = first.clone();
                return self.header(&Header { kind: b'1', link, xattrs: [].into(), ..header });
            }
            self.names.insert(inode, header.path.clone());
        }
        self.file(Header { kind: b'0', ..header }, real, meta)
    }

    fn file(&mut self, header: Header, real: &Path, meta: &Metadata) -> Result<(), PackError> {
        let file = File::open(real).named("open", real)?;
        let size = meta.len();
        // Cheaper than asking: a file without holes has a block for every byte.
        if meta.blocks() * 512 < size {
            let parts = data_of(&file, size).named("read", real)?;
            if parts != [(0, size)] && parts.len() < HOLES_MAX {
                return self.holes(header, &file, &parts, size, real);
            }
        }
        self.header(&Header { size, ..header })?;
        self.content(&file, 0, size, real)?;
        self.pad(size)
    }

    /// The map of what is data, then the data.
    fn holes(
        &mut self,
        header: Header,
        file: &File,
        parts: &[(u64, u64)],
        size: u64,
        real: &Path,
    ) -> Result<(), PackError> {
        let mut map = format!("{}\n", parts.len() + 1);
        for (at, n) in parts.iter().chain(&[(size, 0)]) {
            map += &format!("{at}\n{n}\n");
        }
        let mut map = map.into_bytes();
        map.resize(map.len().next_multiple_of(BLOCK), 0);
        let stored = map.len() as u64 + parts.iter().map(|(_, n)| n).sum::<u64>();
        self.header(&Header { size: stored, sparse: Some(size), ..header })?;
        self.put(&map)?;
        for (at, n) in parts {
            self.content(file, *at, *n, real)?;
        }
        self.pad(stored)
    }

    fn content(&mut self, file: &File, at: u64, n: u64, real: &Path) -> Result<(), PackError> {
        let mut done = 0;
        while done < n {
            let part = usize::try_from(n - done).map_or(CHUNK, |left| left.min(CHUNK));
            let start = self.waiting.len();
            self.waiting.resize(start + part, 0);
            match file.read_exact_at(&mut self.waiting[start..], at + done) {
                Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(PackError::Changed(real.to_owned()));
                }
                other => other.named("read", real)?,
            }
            done += part as u64;
            self.packed.n_bytes += part as u64;
            if self.waiting.len() >= CHUNK {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn mark(&mut self, path: PathBuf) -> Result<(), PackError> {
        let path = path.into_os_string().as_bytes().to_vec();
        self.header(&Header { path, kind: b'0', mode: 0o600, ..Header::default() })
    }

    fn header(&mut self, header: &Header) -> Result<(), PackError> {
        let before = self.waiting.len();
        header.encode(&mut self.waiting);
        self.packed.n_entries += 1;
        self.packed.n_bytes += (self.waiting.len() - before) as u64;
        if self.waiting.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    fn pad(&mut self, n: u64) -> Result<(), PackError> {
        let zeros = n.next_multiple_of(BLOCK as u64) - n;
        self.put(&[0; BLOCK][..usize::try_from(zeros).unwrap_or(0)])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), PackError> {
        self.waiting.extend(bytes);
        self.packed.n_bytes += bytes.len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), PackError> {
        self.to.write_all(&self.waiting).map_err(PackError::Write)?;
        self.waiting.clear();
        Ok(())
    }
}

fn looks_marked(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(WHITE_OUT))
}

/// Attributes; who packs is 0, so that an archive does not depend on whose it was.
fn of(real: &Path, meta: &Metadata) -> Result<Header, FsError> {
    let own = |id, mine| if id == mine { 0 } else { id };
    let link = meta.file_type().is_symlink();
    Ok(Header {
        mode: meta.mode() & 0o7777,
        uid: own(meta.uid(), rustix::process::geteuid().as_raw()),
        gid: own(meta.gid(), rustix::process::getegid().as_raw()),
        mtime: (meta.mtime(), u32::try_from(meta.mtime_nsec()).unwrap_or(0)),
        xattrs: if link { [].into() } else { xattr::of(real)? },
        ..Header::default()
    })
}

/// Where a file has data: places and lengths, of no more than [`HOLES_MAX`].
fn data_of(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let (mut parts, mut at) = (Vec::new(), 0);
    while at < size && parts.len() < HOLES_MAX {
        let Some(start) = sparse::next_data(file, at)? else { break };
        at = sparse::end_of_data(file, start, size)?;
        parts.push((start, at - start));
    }
    Ok(parts)
}
