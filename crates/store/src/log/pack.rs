//! Finished logs as compressed frames that can be read from any offset.
//!
//! The file is in zstd's seekable format: independent frames of [`FRAME_BYTES`] each, the last one
//! shorter, then a skippable frame with the sizes of all. `zstd -d` reads it as it is.
//!
//!   frame │ frame │ … │ 0x184d2a5e, length, (packed, plain)… , n frames, 0, 0x8f92eab1

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use kiln_model::AttemptId;
use kiln_model::log::{RECORD_BYTES, Record};

use crate::log::bytes::Bytes;
use crate::log::index::{Counted, Index};
use crate::log::{Logs, beside};

/// Input of one frame. A window in the middle then costs about 1 ms, and logs still become a
/// tenth of their size.
const FRAME_BYTES: usize = 1 << 20;

const LEVEL: i32 = 3;

const SKIPPABLE_MAGIC: u32 = 0x184d_2a5e;
const SEEKABLE_MAGIC: u32 = 0x8f92_eab1;
const FOOTER_BYTES: usize = 9;

impl Logs {
    /// A finished log becomes zstd frames with a frame table; atomically; the bytes read are the
    /// same before, during and after. The index is completed and stays.
    ///
    /// No log, an empty one and one that is packed already are left as they are. A log that grows
    /// meanwhile is not finished: an error, and nothing has changed.
    pub fn pack(&self, attempt: AttemptId) -> io::Result<()> {
        let path = self.path(attempt);
        let Some(log @ Bytes::Plain { .. }) = Bytes::open(&path)? else { return Ok(()) };
        if log.len() == 0 {
            return Ok(());
        }
        let temporary = beside(&path, &format!(".{:016x}.tmp", fastrand::u64(..)));
        let packed = pack_into(log, &path, &temporary);
        if packed.is_err() {
            // The first error is the one to tell; the name is unique, so a left-over is harmless.
            let _ = fs::remove_file(&temporary);
        }
        packed
    }
}

fn pack_into(mut log: Bytes, path: &Path, temporary: &Path) -> io::Result<()> {
    let file = File::create_new(temporary)?;
    let mut out = BufWriter::new(file);
    write_frames(&mut log, &mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    complete_index(&mut log, path)?;
    if fs::metadata(path)?.len() != log.len() {
        return Err(io::Error::new(
            ErrorKind::ResourceBusy,
            format!("`{}` is still being written", path.display()),
        ));
    }
    // The packed file first: there is no moment without the one or the other.
    fs::rename(temporary, beside(path, ".zst"))?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    fs::remove_file(path)
}

fn write_frames(log: &mut Bytes, out: &mut impl Write) -> io::Result<()> {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
    compressor.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(true))?;
    let mut table = Vec::new();
    let mut buffer = vec![0; FRAME_BYTES];
    let mut offset = 0;
    while offset < log.len() {
        let n = log.read_at(&mut buffer, offset)?;
        if n == 0 {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "the log has become shorter"));
        }
        let frame = compressor.compress(&buffer[..n])?;
        out.write_all(&frame)?;
        table.push((frame.len() as u32, n as u32));
        offset += n as u64;
    }
    let n_bytes = table.len() * 8 + FOOTER_BYTES;
    out.write_all(&SKIPPABLE_MAGIC.to_le_bytes())?;
    out.write_all(&(n_bytes as u32).to_le_bytes())?;
    for (packed, plain) in &table {
        out.write_all(&packed.to_le_bytes())?;
        out.write_all(&plain.to_le_bytes())?;
    }
    out.write_all(&(table.len() as u32).to_le_bytes())?;
    out.write_all(&[0])?;
    out.write_all(&SEEKABLE_MAGIC.to_le_bytes())
}

/// Replaces an index that does not cover the whole log: counting in packed bytes is slow.
fn complete_index(log: &mut Bytes, path: &Path) -> io::Result<()> {
    let index = Index::open(path, log, &Counted::default())?;
    if index.missing().is_empty() {
        return Ok(());
    }
    let name = beside(path, ".idx");
    let good = index.n_filed() as usize * RECORD_BYTES;
    let mut bytes = match fs::read(&name) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == ErrorKind::NotFound => Vec::new(),
        Err(cause) => return Err(cause),
    };
    bytes.truncate(good);
    // Without any record the times are lost; the file's own is later than all of them.
    let mut missing = index.missing().to_vec();
    if good == 0 {
        let written = fs::metadata(path)?.modified()?.duration_since(UNIX_EPOCH);
        let at_ms = written.map_or(0, |since| since.as_millis() as i64);
        missing.insert(0, Record { offset: 0, line: 0, at_ms });
        missing.iter_mut().for_each(|record| record.at_ms = at_ms);
    }
    for record in missing {
        bytes.extend_from_slice(&record.encode());
    }
    kiln_stdx::fs::write_atomic(&name, &bytes).map_err(|e| e.cause)
}

/// A packed log, with one frame of it decoded.
pub(super) struct Packed {
    path: PathBuf,
    file: File,
    /// Where each frame begins, packed and plain; the ends of the last one at the end.
    starts: Vec<(u64, u64)>,
    /// The frame that `plain` holds.
    held: Option<usize>,
    plain: Vec<u8>,
    packed: Vec<u8>,
    decoder: zstd::bulk::Decompressor<'static>,
}

impl Packed {
    pub(super) fn open(file: File, path: &Path) -> io::Result<Self> {
        Ok(Self {
            starts: read_table(&file).map_err(|e| damaged(path, &e))?,
            path: path.to_owned(),
            file,
            held: None,
            plain: Vec::new(),
            packed: Vec::new(),
            decoder: zstd::bulk::Decompressor::new()?,
        })
    }

    pub(super) fn len(&self) -> u64 {
        self.starts.last().map_or(0, |(_, plain)| *plain)
    }

    /// Some bytes from `offset` on, at most those of one frame; 0 at the end.
    pub(super) fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset >= self.len() || buffer.is_empty() {
            return Ok(0);
        }
        let frame = self.starts.partition_point(|(_, plain)| *plain <= offset) - 1;
        self.hold(frame)?;
        let from = (offset - self.starts[frame].1) as usize;
        let n = buffer.len().min(self.plain.len() - from);
        buffer[..n].copy_from_slice(&self.plain[from..from + n]);
        Ok(n)
    }

    pub(super) fn into_reader(self, offset: u64) -> impl Read + Send {
        PackedReader { packed: self, offset }
    }

    fn hold(&mut self, frame: usize) -> io::Result<()> {
        if self.held == Some(frame) {
            return Ok(());
        }
        self.held = None;
        let (from, to) = (self.starts[frame], self.starts[frame + 1]);
        self.packed.resize((to.0 - from.0) as usize, 0);
        self.file.read_exact_at(&mut self.packed, from.0)?;
        let n_plain = (to.1 - from.1) as usize;
        self.plain.resize(n_plain, 0);
        let n = self.decoder.decompress_to_buffer(&self.packed, &mut self.plain[..]);
        if n.map_err(|e| damaged(&self.path, &e))? != n_plain {
            return Err(damaged(&self.path, &"a frame is shorter than its table says"));
        }
        self.held = Some(frame);
        Ok(())
    }
}

struct PackedReader {
    packed: Packed,
    offset: u64,
}

impl Read for PackedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.packed.read_at(buffer, self.offset)?;
        self.offset += n as u64;
        Ok(n)
    }
}

fn read_table(file: &File) -> Result<Vec<(u64, u64)>, String> {
    let len = file.metadata().map_err(|e| e.to_string())?.len();
    let mut footer = [0; FOOTER_BYTES];
    let at = len.checked_sub(FOOTER_BYTES as u64).ok_or("it has no frame table")?;
    file.read_exact_at(&mut footer, at).map_err(|e| e.to_string())?;
    if word(&footer[5..]) != SEEKABLE_MAGIC || footer[4] != 0 {
        return Err("it has no frame table".to_owned());
    }
    let n_bytes = u64::from(word(&footer)) * 8;
    let at = at.checked_sub(n_bytes).ok_or("its frame table is too long")?;
    let mut table = vec![0; n_bytes as usize];
    file.read_exact_at(&mut table, at).map_err(|e| e.to_string())?;
    let mut starts = Vec::with_capacity(table.len() / 8 + 1);
    let mut end = (0, 0);
    starts.push(end);
    for entry in table.chunks_exact(8) {
        let (packed, plain) = (word(entry), word(&entry[4..]));
        if plain == 0 || plain as usize > FRAME_BYTES {
            return Err("its frame table has an impossible size".to_owned());
        }
        end = (end.0 + u64::from(packed), end.1 + u64::from(plain));
        starts.push(end);
    }
    // Before the table stands the header of its skippable frame.
    if end.0 + 8 != at {
        return Err("its frames do not fill it".to_owned());
    }
    Ok(starts)
}

fn word(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

fn damaged(path: &Path, how: &dyn std::fmt::Display) -> io::Error {
    let text = format!("the packed log `{}` is damaged: {how}", path.display());
    io::Error::new(ErrorKind::InvalidData, text)
}
