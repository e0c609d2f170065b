//! Lines that contain a text.
//!
//! The log is read once, in chunks that overlap by the length of the text less one byte. In each,
//! the text's rarest byte is looked for, in both cases, and its neighbours compared; lines are
//! counted only between the places that were found.

use std::io;

use kiln_model::AttemptId;

use crate::log::Logs;
use crate::log::bytes::Bytes;
use crate::log::index::Index;
use crate::log::read::Lines;

const CHUNK_BYTES: usize = 256 << 10;

impl Logs {
    /// Numbers and starts of lines that contain `needle` (bytes, ASCII letters in either case),
    /// from line `from`, at most `limit`. An empty needle, or one with a newline, is in no line.
    pub fn search(
        &self,
        attempt: AttemptId,
        needle: &str,
        from: u64,
        limit: u32,
    ) -> io::Result<Vec<(u64, u64)>> {
        let needle = needle.as_bytes();
        if needle.is_empty() || needle.contains(&b'\n') || limit == 0 {
            return Ok(Vec::new());
        }
        let Some(mut log) = self.open(attempt)? else { return Ok(Vec::new()) };
        let index = Index::open(&self.path(attempt), &mut log, &self.counted)?;
        let start = Lines::at(&mut log, &index, from)?;
        let scan = Scan { line: start.line, start: start.offset, at: start.offset };
        scan.run(&mut log, &Needle::new(needle), limit as usize)
    }
}

/// A place in the log, and the line that it is in.
struct Scan {
    line: u64,
    /// Where the line begins.
    start: u64,
    /// All before this has been searched.
    at: u64,
}

impl Scan {
    fn run(
        mut self,
        log: &mut Bytes,
        needle: &Needle<'_>,
        limit: usize,
    ) -> io::Result<Vec<(u64, u64)>> {
        let mut found: Vec<(u64, u64)> = Vec::new();
        let mut buffer = vec![0; CHUNK_BYTES + needle.text.len()];
        while self.at < log.len() && found.len() < limit {
            let n = log.read_at(&mut buffer, self.at)?;
            if n < needle.text.len() {
                break;
            }
            let chunk = &buffer[..n];
            let base = self.at;
            let mut from = 0;
            while let Some(place) = needle.find(chunk, from) {
                self.pass(&chunk[(self.at - base) as usize..place], base + place as u64);
                if found.last().is_none_or(|(line, _)| *line != self.line) {
                    found.push((self.line, self.start));
                }
                if found.len() == limit {
                    return Ok(found);
                }
                // The rest of this line, as far as it is here.
                let rest = memchr::memchr(b'\n', &chunk[place..]);
                from = rest.map_or(n, |newline| place + newline);
            }
            // The end is looked at again, with what follows it.
            let next = n - (needle.text.len() - 1);
            let seen = (self.at - base) as usize;
            if seen < next {
                self.pass(&chunk[seen..next], base + next as u64);
            }
        }
        Ok(found)
    }

    /// Counts the lines of what lies between the last place and `to`.
    fn pass(&mut self, bytes: &[u8], to: u64) {
        self.line += memchr::memchr_iter(b'\n', bytes).count() as u64;
        if let Some(last) = memchr::memrchr(b'\n', bytes) {
            self.start = self.at + last as u64 + 1;
        }
        self.at = to;
    }
}

struct Needle<'a> {
    text: &'a [u8],
    /// The byte to look for, and its place in the text.
    rare: u8,
    rare_at: usize,
}

impl<'a> Needle<'a> {
    fn new(text: &'a [u8]) -> Self {
        let rare_at = (0..text.len()).min_by_key(|at| commonness(text[*at])).unwrap_or(0);
        Self { text, rare: text[rare_at], rare_at }
    }

    /// The first place at or after `from`.
    fn find(&self, chunk: &[u8], from: usize) -> Option<usize> {
        let (lower, upper) = (self.rare.to_ascii_lowercase(), self.rare.to_ascii_uppercase());
        let first = from + self.rare_at;
        memchr::memchr2_iter(lower, upper, chunk.get(first..)?).map(|place| from + place).find(
            |place| {
                let there = chunk.get(*place..*place + self.text.len());
                there.is_some_and(|there| there.eq_ignore_ascii_case(self.text))
            },
        )
    }
}

/// How often a byte occurs in logs, roughly.
fn commonness(byte: u8) -> u8 {
    match byte.to_ascii_lowercase() {
        b' ' | b'e' | b't' | b'a' | b'o' | b'i' | b'n' | b's' | b'r' => 4,
        b'0'..=b'9' | b'.' | b'/' | b'-' | b'_' | b':' => 3,
        b'l' | b'd' | b'c' | b'u' | b'p' | b'm' | b'h' | b'g' | b'f' => 2,
        b'a'..=b'z' => 1,
        _ => 0,
    }
}
