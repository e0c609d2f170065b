//! Packed logs: the same bytes, before, during and after.

use std::fs;
use std::io::{ErrorKind, Read};

use kiln_model::log::Record;
use kiln_stdx::Timestamp;

use crate::log::{ATTEMPT, Sample, expected, records, text};

fn packed(sample: &Sample) -> std::path::PathBuf {
    sample.folder.path().join("7/3-2.log.zst")
}

#[test]
fn a_packed_log_reads_as_before() {
    for mut bytes in [b"x".to_vec(), text(10), text(100_000)] {
        bytes.extend_from_slice(b"\xff\0 no end");
        let sample = Sample::new(&bytes);
        let n = expected(&bytes, 0, 0).n_lines;
        let search = sample.logs.search(ATTEMPT, "LINE 7", 0, 500).unwrap();
        let time = sample.logs.time_at(ATTEMPT, bytes.len() as u64 / 2).unwrap();
        sample.logs.pack(ATTEMPT).unwrap();
        assert!(packed(&sample).exists() && !sample.logs.path(ATTEMPT).exists());

        assert_eq!(sample.logs.len(ATTEMPT).unwrap(), bytes.len() as u64);
        for from in [0, 1, bytes.len() / 2, bytes.len() - 1, bytes.len(), bytes.len() + 5] {
            let rest = bytes.get(from..).unwrap_or_default();
            let mut all = Vec::new();
            sample.logs.reader(ATTEMPT, from as u64).unwrap().read_to_end(&mut all).unwrap();
            assert!(all == rest, "{from}");
            let part = sample.logs.read(ATTEMPT, from as u64, 3_000_000).unwrap();
            assert!(part == rest[..rest.len().min(3_000_000)], "{from}");
        }
        for first in [0, n / 2, n - 1, n] {
            assert_eq!(sample.lines(first, 200), expected(&bytes, first, 200));
        }
        assert_eq!(sample.logs.search(ATTEMPT, "LINE 7", 0, 500).unwrap(), search);
        assert_eq!(sample.logs.time_at(ATTEMPT, bytes.len() as u64 / 2).unwrap(), time);
        // Packing again is harmless.
        sample.logs.pack(ATTEMPT).unwrap();
        assert_eq!(sample.logs.len(ATTEMPT).unwrap(), bytes.len() as u64);
    }
}

#[test]
fn packing_makes_it_smaller_in_a_format_that_others_read() {
    let bytes = text(100_000);
    let sample = Sample::new(&bytes);
    sample.logs.pack(ATTEMPT).unwrap();
    let file = fs::read(packed(&sample)).unwrap();
    assert!(file.len() < bytes.len() / 4, "{} of {}", file.len(), bytes.len());
    assert!(zstd::decode_all(&file[..]).unwrap() == bytes);
}

#[test]
fn whoever_reads_while_it_is_packed_gets_the_same_bytes() {
    let bytes = text(100_000);
    let sample = Sample::new(&bytes);
    let mut held = sample.logs.reader(ATTEMPT, 0).unwrap();
    std::thread::scope(|scope| {
        let packing = scope.spawn(|| sample.logs.pack(ATTEMPT).unwrap());
        let mut is_over = false;
        while !is_over {
            // Once more after the end.
            is_over = packing.is_finished();
            let part = sample.logs.read(ATTEMPT, 1_000_000, 100_000).unwrap();
            assert!(part == bytes[1_000_000..1_100_000]);
        }
    });
    let mut all = Vec::new();
    held.read_to_end(&mut all).unwrap();
    assert!(all == bytes);
    assert!(!sample.logs.path(ATTEMPT).exists());
}

#[test]
fn packing_completes_an_index_that_is_short() {
    let bytes = text(50_000);
    for kept in [0, 3] {
        let sample = Sample::without_index(&bytes);
        sample.write_index(&records(&bytes)[..kept]);
        sample.logs.pack(ATTEMPT).unwrap();
        let index = fs::read(sample.index()).unwrap();
        let records: Vec<Record> =
            index.chunks_exact(24).map(|bytes| Record::decode(bytes.try_into().unwrap())).collect();
        assert!(bytes.len() as u64 - records.last().unwrap().offset <= 64 << 10);
        for record in records {
            let before = &bytes[..record.offset as usize];
            assert_eq!(before.iter().filter(|byte| **byte == b'\n').count() as u64, record.line);
        }
        assert_eq!(sample.lines(40_000, 9), expected(&bytes, 40_000, 9));
        // Times that are not known are not invented to be 1970.
        let at = sample.logs.time_at(ATTEMPT, 2_000_000).unwrap().unwrap();
        assert!(kept > 0 || at > Timestamp::from_millis(1_700_000_000_000));
    }
}

#[test]
fn a_crash_between_the_two_files_loses_nothing() {
    let bytes = text(1000);
    let sample = Sample::new(&bytes);
    sample.logs.pack(ATTEMPT).unwrap();
    // As if the plain file had not been removed yet.
    fs::write(sample.logs.path(ATTEMPT), &bytes).unwrap();
    assert_eq!(sample.lines(500, 9), expected(&bytes, 500, 9));
    sample.logs.pack(ATTEMPT).unwrap();
    assert!(!sample.logs.path(ATTEMPT).exists());
    assert_eq!(sample.lines(500, 9), expected(&bytes, 500, 9));
    sample.logs.remove_run(ATTEMPT.run).unwrap();
    assert_eq!(sample.logs.len(ATTEMPT).unwrap(), 0);
}

#[test]
fn a_damaged_packed_log_is_an_error() {
    let sample = Sample::new(&text(100_000));
    sample.logs.pack(ATTEMPT).unwrap();
    let good = fs::read(packed(&sample)).unwrap();
    let mut flipped = good.clone();
    flipped[100] ^= 1;
    for bad in [&good[..good.len() - 1], &good[good.len() / 2..], &good[..3], b"", &flipped] {
        fs::write(packed(&sample), bad).unwrap();
        let failed = sample.logs.read(ATTEMPT, 0, 100);
        assert!(failed.is_err(), "{} bytes", bad.len());
    }
    fs::write(packed(&sample), &good[..good.len() - 1]).unwrap();
    let failed = sample.logs.len(ATTEMPT).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::InvalidData);
    assert!(failed.to_string().contains("3-2.log.zst"), "{failed}");
}

#[test]
fn the_logs_of_services_are_packed_and_removed_with_their_run() {
    let sample = Sample::new(b"of the job\n");
    let db = sample.logs.of_service("db");
    fs::write(db.path(ATTEMPT), b"of the service\n").unwrap();
    assert_eq!(sample.folder.path().join("7/3-2.db.log"), db.path(ATTEMPT));
    sample.logs.pack_run(ATTEMPT.run).unwrap();
    assert!(!db.path(ATTEMPT).exists() && db.is_there(ATTEMPT));
    assert_eq!(db.read(ATTEMPT, 3, 100).unwrap(), b"the service\n");
    assert_eq!(sample.logs.read(ATTEMPT, 0, 100).unwrap(), b"of the job\n");
    sample.logs.remove_run(ATTEMPT.run).unwrap();
    assert!(!db.is_there(ATTEMPT));
}
