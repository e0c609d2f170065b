//! Logs as whoever runs the steps leaves them: growing, torn, odd, huge.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use kiln_model::log::{EVERY_BYTES, Record};
use kiln_model::{AttemptId, JobIndex, RunId};
use kiln_stdx::Timestamp;
use kiln_store::log::{Logs, Window};
use tempfile::TempDir;

pub const ATTEMPT: AttemptId = AttemptId { run: RunId(7), job: JobIndex(3), attempt: 2 };

/// A folder of logs with one log in it.
pub struct Sample {
    pub folder: TempDir,
    pub logs: Logs,
}

impl Sample {
    /// With an index as the writer makes it: a record at the first line start after each
    /// [`EVERY_BYTES`], the n-th at n seconds.
    pub fn new(bytes: &[u8]) -> Self {
        let sample = Self::without_index(bytes);
        sample.write_index(&records(bytes));
        sample
    }

    pub fn without_index(bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::new(folder.path());
        fs::create_dir_all(logs.path(ATTEMPT).parent().unwrap()).unwrap();
        fs::write(logs.path(ATTEMPT), bytes).unwrap();
        Self { folder, logs }
    }

    pub fn write_index(&self, records: &[Record]) {
        let bytes: Vec<u8> = records.iter().flat_map(|record| record.encode()).collect();
        self.write_raw_index(&bytes);
    }

    pub fn write_raw_index(&self, bytes: &[u8]) {
        fs::write(self.index(), bytes).unwrap();
    }

    pub fn index(&self) -> std::path::PathBuf {
        self.folder.path().join("7/3-2.log.idx")
    }

    pub fn lines(&self, first: u64, n: u32) -> Window {
        self.logs.lines(ATTEMPT, first, n, 1 << 20).unwrap()
    }
}

pub fn records(bytes: &[u8]) -> Vec<Record> {
    let mut records = vec![Record { offset: 0, line: 0, at_ms: 0 }];
    let newlines = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    for (line, (at, _)) in (1..).zip(newlines) {
        let offset = at as u64 + 1;
        let n = records.len() as i64;
        if offset - records[records.len() - 1].offset >= EVERY_BYTES {
            records.push(Record { offset, line, at_ms: n * 1000 });
        }
    }
    records
}

/// Lines of many lengths, from `line 0` on.
pub fn text(n_lines: u64) -> Vec<u8> {
    let line = |at: u64| format!("line {at} {}\n", "x".repeat((at * 7919 % 97) as usize));
    (0..n_lines).flat_map(|at| line(at).into_bytes()).collect()
}

/// What a window must be, by the simplest means.
pub fn expected(bytes: &[u8], first: u64, n: u32) -> Window {
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let first = (first as usize).min(lines.len());
    let last = (first + n as usize).min(lines.len());
    let start = |line: usize| lines[..line].iter().map(|line| line.len() as u64).sum::<u64>();
    Window {
        first: first as u64,
        offset: start(first),
        bytes: lines[first..last].concat(),
        starts: (first..last).map(start).collect(),
        end: start(last),
        n_lines: lines.len() as u64,
        n_bytes: bytes.len() as u64,
    }
}

fn check_windows(sample: &Sample, bytes: &[u8]) {
    let n = expected(bytes, 0, 0).n_lines;
    for first in [0, 1, n / 3, n / 2, n.saturating_sub(2), n.saturating_sub(1), n, n + 9, u64::MAX]
    {
        for count in [0, 1, 200] {
            assert_eq!(
                sample.lines(first, count),
                expected(bytes, first, count),
                "{first} {count}"
            );
        }
    }
    let tail = sample.logs.tail(ATTEMPT, 5, 1 << 20).unwrap();
    assert_eq!(tail, expected(bytes, n.saturating_sub(5), 5));
}

#[test]
fn a_log_that_is_not_there_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let logs = Logs::new(folder.path());
    assert_eq!(logs.path(ATTEMPT), folder.path().join("7/3-2.log"));
    assert_eq!(logs.len(ATTEMPT).unwrap(), 0);
    assert_eq!(logs.read(ATTEMPT, 0, 9).unwrap(), b"");
    assert_eq!(logs.lines(ATTEMPT, 0, 9, 9).unwrap(), expected(b"", 0, 0));
    assert_eq!(logs.tail(ATTEMPT, 9, 9).unwrap(), expected(b"", 0, 0));
    assert_eq!(logs.time_at(ATTEMPT, 0).unwrap(), None);
    assert_eq!(logs.search(ATTEMPT, "x", 0, 9).unwrap(), []);
    assert_eq!(logs.reader(ATTEMPT, 0).unwrap().read(&mut [0]).unwrap(), 0);
    logs.pack(ATTEMPT).unwrap();
    logs.remove_run(ATTEMPT.run).unwrap();
}

#[test]
fn windows_are_right_wherever_they_lie() {
    for n_lines in [0, 1, 2, 1000, 20_000] {
        let bytes = text(n_lines);
        check_windows(&Sample::new(&bytes), &bytes);
        let unfinished = [&bytes[..], b"no end"].concat();
        check_windows(&Sample::new(&unfinished), &unfinished);
    }
    let newlines = vec![b'\n'; 200_000];
    check_windows(&Sample::new(&newlines), &newlines);
}

#[test]
fn bytes_that_are_no_text_are_kept() {
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let sample = Sample::new(&bytes);
    check_windows(&sample, &bytes);
    assert_eq!(sample.logs.read(ATTEMPT, 1000, 5000).unwrap(), bytes[1000..6000]);
    assert_eq!(sample.logs.read(ATTEMPT, 299_990, 5000).unwrap(), bytes[299_990..]);
    assert_eq!(sample.logs.read(ATTEMPT, 300_001, 5000).unwrap(), b"");
    let mut all = Vec::new();
    sample.logs.reader(ATTEMPT, 17).unwrap().read_to_end(&mut all).unwrap();
    assert_eq!(all, bytes[17..]);
}

#[test]
fn an_index_that_is_missing_short_or_torn_changes_no_answer() {
    let bytes = text(20_000);
    let full: Vec<u8> = records(&bytes).iter().flat_map(|record| record.encode()).collect();
    let sample = Sample::without_index(&bytes);
    check_windows(&sample, &bytes);
    for torn in [0, 1, 24, 25, 24 * 5 + 23, full.len() - 1] {
        // A fresh one, which remembers nothing.
        let sample = Sample::without_index(&bytes);
        sample.write_raw_index(&full[..torn]);
        check_windows(&sample, &bytes);
        // A crash may leave zeros, or records of bytes that were lost.
        sample.write_raw_index(&[&full[..torn / 24 * 24], &[0; 24 * 7 + 3]].concat());
        check_windows(&sample, &bytes);
        let beyond = Record { offset: 1 << 40, line: 1 << 30, at_ms: 5 }.encode();
        sample.write_raw_index(&[&full[..torn / 24 * 24], &beyond[..], &[0xff; 48]].concat());
        check_windows(&sample, &bytes);
    }
}

#[test]
fn a_log_is_read_while_it_grows() {
    let bytes = text(30_000);
    let all = records(&bytes);
    let sample = Sample::without_index(b"");
    let mut file = File::options().append(true).open(sample.logs.path(ATTEMPT)).unwrap();
    let mut n = 0;
    for piece in bytes.chunks(99_991) {
        file.write_all(piece).unwrap();
        n += piece.len();
        // The index is sometimes behind.
        let known = all.iter().take_while(|record| record.offset + 150_000 < n as u64);
        sample.write_index(&known.copied().collect::<Vec<_>>());
        check_windows(&sample, &bytes[..n]);
    }
}

#[test]
fn a_line_that_is_too_long_is_cut_and_the_next_ones_are_right() {
    let long = b"y".repeat(5 << 20);
    let bytes = [b"first\n", &long[..], b"\nthird\n", &long[..]].concat();
    let start = 6 + long.len() as u64 + 1;
    let expected = Window {
        first: 0,
        offset: 0,
        bytes: b"first\nyyyyyyyyyy\nthird\nyyyyyyyyyy\n".to_vec(),
        starts: vec![0, 6, start, start + 6],
        end: bytes.len() as u64,
        n_lines: 4,
        n_bytes: bytes.len() as u64,
    };
    let sample = Sample::new(&bytes);
    assert_eq!(sample.logs.lines(ATTEMPT, 0, 9, 10).unwrap(), expected);
    // Records may also lie within the long lines.
    let within = |offset, line| Record { offset, line, at_ms: 0 };
    let records = [within(0, 0), within(70_000, 1), within(4 << 20, 1), within(6 << 20, 3)];
    sample.write_index(&records);
    assert_eq!(sample.logs.lines(ATTEMPT, 0, 9, 10).unwrap(), expected);
    let third = sample.logs.lines(ATTEMPT, 2, 1, 5).unwrap();
    assert_eq!((third.bytes, third.offset), (b"third\n".to_vec(), start));
    let fourth = sample.logs.lines(ATTEMPT, 3, 1, 0).unwrap();
    assert_eq!((fourth.bytes, fourth.offset), (b"\n".to_vec(), start + 6));
}

#[test]
fn one_line_of_a_gigabyte_is_cut_and_passed() {
    // A hole in the file: zeros, which take no room on disk.
    let sample = Sample::without_index(b"");
    let file = File::options().write(true).open(sample.logs.path(ATTEMPT)).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    file.write_all_at(b"\nlast\n", 1 << 30).unwrap();
    let window = sample.logs.lines(ATTEMPT, 0, 2, 5).unwrap();
    assert_eq!(window.bytes, b"begin\nlast\n");
    assert_eq!(window.starts, [0, (1 << 30) + 1]);
    let tail = sample.logs.tail(ATTEMPT, 1, 100).unwrap();
    assert_eq!((tail.first, tail.bytes), (1, b"last\n".to_vec()));
    assert_eq!(sample.logs.search(ATTEMPT, "LAST", 0, 9).unwrap(), [(1, (1 << 30) + 1)]);
    assert_eq!(sample.logs.search(ATTEMPT, "\0", 0, 9).unwrap(), [(0, 0)]);
}

#[test]
fn a_byte_has_the_time_of_its_record() {
    let bytes = text(20_000);
    let sample = Sample::new(&bytes);
    let second = records(&bytes)[2];
    let at = |offset| sample.logs.time_at(ATTEMPT, offset).unwrap();
    assert_eq!(at(0), Some(Timestamp::from_millis(0)));
    assert_eq!(at(second.offset - 1), Some(Timestamp::from_millis(1000)));
    assert_eq!(at(second.offset), Some(Timestamp::from_millis(2000)));
    assert_eq!(at(bytes.len() as u64), None);
    fs::remove_file(sample.index()).unwrap();
    assert_eq!(at(0), None);
}

#[test]
fn a_search_finds_each_line_once_in_either_case() {
    let mut bytes = text(20_000);
    // Across the border of the chunks in which it is read, and twice in one line.
    let border = 256 << 10;
    bytes[border - 3..border + 4].copy_from_slice(b"ErRor 7");
    let line = bytes[..border].iter().filter(|byte| **byte == b'\n').count() as u64;
    bytes.extend_from_slice(b"error and Error\nno newline, ERROR");
    let sample = Sample::new(&bytes);
    let starts = expected(&bytes, 0, 30_000).starts;
    let at = |line: u64| (line, starts[line as usize]);
    let found =
        |needle: &str, from, limit| sample.logs.search(ATTEMPT, needle, from, limit).unwrap();
    let n = starts.len() as u64;
    assert_eq!(found("error", 0, 9), [at(line), at(n - 2), at(n - 1)]);
    assert_eq!(found("ERROR", line + 1, 9), [at(n - 2), at(n - 1)]);
    assert_eq!(found("error", 0, 1), [at(line)]);
    assert_eq!(found("error", 0, 0), []);
    assert_eq!(found("error", n, 9), []);
    assert_eq!(found("", 0, 9), []);
    assert_eq!(found("x\nline", 0, 9), []);
    assert_eq!(found(&"z".repeat(1 << 20), 0, 9), []);
    // One newline was overwritten above.
    assert_eq!(found("line 12345 ", 0, 9), [at(12344)]);
    assert_eq!(found("line ", 0, 100).len(), 100);
}

#[test]
fn a_search_agrees_with_the_simplest_one() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..200 {
        let n = random.usize(..2000);
        let bytes: Vec<u8> = (0..n).map(|_| *random.choice(b"aAbB\n").unwrap()).collect();
        let n = random.usize(1..5);
        let needle: String = (0..n).map(|_| random.choice(['a', 'A', 'b']).unwrap()).collect();
        let sample = Sample::new(&bytes);
        let mut expected = Vec::new();
        let mut start = 0;
        for (line, text) in (0..).zip(bytes.split_inclusive(|byte| *byte == b'\n')) {
            let text_lower = String::from_utf8_lossy(text).to_lowercase();
            if text_lower.contains(&needle.to_lowercase()) {
                expected.push((line, start));
            }
            start += text.len() as u64;
        }
        assert_eq!(sample.logs.search(ATTEMPT, &needle, 0, 9999).unwrap(), expected, "{needle}");
    }
}
