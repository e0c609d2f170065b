//! zip with the bytes as they are, names in UTF-8, and 64-bit numbers where they are needed.
//!
//! A file's checksum is known when it has been sent: it stands behind the file and in the directory
//! at the end, which are filled in on the way.

use kiln_stdx::Timestamp;

use super::{Entry, Part, deflated};

/// Sizes and checksum follow the file; the name is UTF-8.
const FLAGS: u16 = 1 << 3 | 1 << 11;
const DEFLATE: u16 = 8;
/// From here on a number stands in its 64-bit form and this in its place.
const MAX_32: u64 = u32::MAX as u64;
const MAX_16: usize = u16::MAX as usize;
const VERSION: u16 = 20;
const VERSION_64: u16 = 45;
/// Made on Unix, so that the mode counts.
const UNIX: u16 = 3 << 8;

/// Bytes with places for checksums.
pub struct Checked {
    bytes: Vec<u8>,
    /// Where in `bytes`, and of which file.
    places: Vec<(usize, usize)>,
}

impl Checked {
    pub fn n_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub fn fill(mut self, sums: &[u32]) -> Vec<u8> {
        for (at, file) in self.places {
            let sum = sums.get(file).copied().unwrap_or(0);
            self.bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
        }
        self.bytes
    }
}

pub fn parts(entries: &[Entry], at: Timestamp) -> Vec<Part> {
    let when = dos_time(at);
    let mut parts = Vec::with_capacity(3 * entries.len() + 1);
    let mut directory = Checked { bytes: Vec::new(), places: Vec::new() };
    let mut offset = 0;
    for (file, entry) in entries.iter().enumerate() {
        central(&mut directory, file, entry, when, offset);
        let before = local(entry, when);
        let after = descriptor(file, entry);
        let packed = deflated(entry.n_bytes);
        offset += before.len() as u64 + packed + after.n_bytes();
        let (digest, n_bytes) = (entry.digest.clone(), entry.n_bytes);
        parts.push(Part::Bytes(before));
        parts.push(Part::Deflated { digest, n_bytes });
        parts.push(Part::Checked(after));
    }
    let n_bytes = directory.n_bytes();
    parts.push(Part::Checked(directory));
    parts.push(Part::Bytes(end(entries.len(), n_bytes, offset)));
    parts
}

fn is_64(entry: &Entry) -> bool {
    deflated(entry.n_bytes) >= MAX_32
}

/// Names are bounded far below this by the file system they came from.
fn name(entry: &Entry) -> &[u8] {
    &entry.path.as_bytes()[..entry.path.len().min(MAX_16)]
}

fn local(entry: &Entry, when: [u8; 4]) -> Vec<u8> {
    let mut out = Out::default();
    out.four(0x0403_4b50);
    out.two(if is_64(entry) { VERSION_64 } else { VERSION });
    out.two(FLAGS).two(DEFLATE);
    out.bytes(&when);
    // Checksum and sizes: behind the file.
    out.four(0).four(0).four(0);
    out.two(name(entry).len() as u16);
    out.two(if is_64(entry) { 20 } else { 0 });
    out.bytes(name(entry));
    if is_64(entry) {
        out.two(1).two(16).eight(0).eight(0);
    }
    out.0
}

fn descriptor(file: usize, entry: &Entry) -> Checked {
    let mut out = Out::default();
    out.four(0x0807_4b50).four(0);
    for size in [deflated(entry.n_bytes), entry.n_bytes] {
        match is_64(entry) {
            true => out.eight(size),
            false => out.four(size as u32),
        };
    }
    Checked { bytes: out.0, places: vec![(4, file)] }
}

fn central(to: &mut Checked, file: usize, entry: &Entry, when: [u8; 4], offset: u64) {
    let packed = deflated(entry.n_bytes);
    // In this order, each only when its own field cannot hold it.
    let large: Vec<u64> =
        [entry.n_bytes, packed, offset].into_iter().filter(|n| *n >= MAX_32).collect();
    let version = if large.is_empty() && !is_64(entry) { VERSION } else { VERSION_64 };
    let mode: u32 = if entry.executable { 0o100_755 } else { 0o100_644 };
    let mut out = Out(std::mem::take(&mut to.bytes));
    out.four(0x0201_4b50).two(UNIX | version).two(version).two(FLAGS).two(DEFLATE);
    out.bytes(&when);
    to.places.push((out.0.len(), file));
    out.four(0).four(short(packed)).four(short(entry.n_bytes));
    out.two(name(entry).len() as u16);
    out.two(if large.is_empty() { 0 } else { 4 + 8 * large.len() as u16 });
    out.two(0).two(0).two(0).four(mode << 16).four(short(offset));
    out.bytes(name(entry));
    if !large.is_empty() {
        out.two(1).two(8 * large.len() as u16);
        large.iter().for_each(|n| {
            out.eight(*n);
        });
    }
    to.bytes = out.0;
}

fn end(n_entries: usize, n_bytes: u64, offset: u64) -> Vec<u8> {
    let mut out = Out::default();
    if n_entries >= MAX_16 || n_bytes >= MAX_32 || offset >= MAX_32 {
        out.four(0x0606_4b50).eight(44).two(UNIX | VERSION_64).two(VERSION_64);
        out.four(0).four(0).eight(n_entries as u64).eight(n_entries as u64);
        out.eight(n_bytes).eight(offset);
        out.four(0x0706_4b50).four(0).eight(offset + n_bytes).four(1);
    }
    let count = n_entries.min(MAX_16) as u16;
    out.four(0x0605_4b50).two(0).two(0).two(count).two(count);
    out.four(short(n_bytes)).four(short(offset)).two(0);
    out.0
}

/// A number, or what says that it stands elsewhere.
fn short(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Time and date as MS-DOS kept them: two seconds fine, from 1980. In UTC: it knows no zones.
fn dos_time(at: Timestamp) -> [u8; 4] {
    let text = at.to_string();
    let field = |at: usize, n: usize| -> u16 {
        text.get(at..at + n).and_then(|digits| digits.parse().ok()).unwrap_or(0)
    };
    let year = field(0, 4).clamp(1980, 2107) - 1980;
    let date = (year << 9) | (field(5, 2) << 5) | field(8, 2);
    let time = (field(11, 2) << 11) | (field(14, 2) << 5) | (field(17, 2) / 2);
    let ([a, b], [c, d]) = (time.to_le_bytes(), date.to_le_bytes());
    [a, b, c, d]
}

/// Little-endian numbers in a row.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn two(&mut self, n: u16) -> &mut Self {
        self.bytes(&n.to_le_bytes())
    }

    fn four(&mut self, n: u32) -> &mut Self {
        self.bytes(&n.to_le_bytes())
    }

    fn eight(&mut self, n: u64) -> &mut Self {
        self.bytes(&n.to_le_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }
}
