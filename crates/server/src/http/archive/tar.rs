//! tar as POSIX.1-2001 has it: names and sizes that the old header cannot hold go before it.

use kiln_stdx::Timestamp;

use super::{Entry, Part};

const BLOCK: usize = 512;
const NAME_BYTES_MAX: usize = 100;
/// Eleven octal digits.
const SIZE_MAX: u64 = (1 << 33) - 1;

pub fn parts(entries: &[Entry], at: Timestamp) -> Vec<Part> {
    let seconds = u64::try_from(at.as_millis() / 1_000).unwrap_or(0);
    let mut parts = Vec::with_capacity(2 * entries.len() + 1);
    for entry in entries {
        parts.push(Part::Bytes(before(entry, seconds)));
        let (digest, n_bytes) = (entry.digest.clone(), entry.n_bytes);
        parts.push(Part::File { digest, n_bytes });
        let rest = usize::try_from(n_bytes % BLOCK as u64).unwrap_or(0);
        if rest > 0 {
            parts.push(Part::Bytes(vec![0; BLOCK - rest]));
        }
    }
    parts.push(Part::Bytes(vec![0; 2 * BLOCK]));
    parts
}

/// Everything before the bytes of a file.
fn before(entry: &Entry, seconds: u64) -> Vec<u8> {
    let mut more = Vec::new();
    let plain = entry.path.len() <= NAME_BYTES_MAX && entry.path.is_ascii();
    if !plain {
        record(&mut more, "path", &entry.path);
    }
    if entry.n_bytes > SIZE_MAX {
        record(&mut more, "size", &entry.n_bytes.to_string());
    }
    let mut bytes = Vec::new();
    if !more.is_empty() {
        let n_bytes = more.len() as u64;
        bytes.extend(header("././@PaxHeader", n_bytes, 0o644, seconds, b'x'));
        more.resize(more.len().next_multiple_of(BLOCK), 0);
        bytes.extend(more);
    }
    let mode = if entry.executable { 0o755 } else { 0o644 };
    let size = if entry.n_bytes > SIZE_MAX { 0 } else { entry.n_bytes };
    bytes.extend(header(&entry.path, size, mode, seconds, b'0'));
    bytes
}

/// `29 path=…\n`: a length that counts itself.
fn record(to: &mut Vec<u8>, key: &str, value: &str) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    to.extend(format!("{length} {key}={value}\n").bytes());
}

fn header(name: &str, n_bytes: u64, mode: u32, seconds: u64, kind: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    // Whole characters; the full name stands in the record before.
    let mut cut = name.len().min(NAME_BYTES_MAX);
    while !name.is_char_boundary(cut) {
        cut -= 1;
    }
    put(0, &name.as_bytes()[..cut]);
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{n_bytes:011o}").as_bytes());
    put(136, format!("{seconds:011o}").as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
