//! What a step writes, and the log that it makes.

use std::process::Stdio;
use std::sync::OnceLock;

use kiln_executor::Session;
use kiln_model::Exit;
use kiln_model::log::{EVERY_BYTES, RECORD_BYTES, Record};
use kiln_stdx::process;

use crate::bench::{Bench, Case, Subject, code, command, secrets, sh, step, text};
use crate::cases;

pub fn cases<E: Subject>() -> Vec<Case<E>> {
    cases![
        output_is_byte_exact,
        output_and_errors_are_interleaved_as_written,
        two_hundred_megabytes_arrive_whole,
        a_silent_step_makes_no_log,
        the_index_finds_lines,
        the_first_bytes_are_announced_at_once,
        a_full_log_says_so_once_and_the_step_goes_on,
        secrets_are_masked_also_when_written_in_pieces,
        a_message_of_kiln_is_masked_too,
    ]
}

async fn output_is_byte_exact<E: Subject>(bench: Bench<E>) {
    let mut bytes: Vec<u8> = (0..=255).collect();
    bytes.extend(b"\r\n\x1b[31mred\x1b[0m no newline at the end");
    std::fs::write(bench.path("work/bytes"), &bytes).unwrap();
    let (_, log) = bench.run(command(["cat", "bytes"])).await;
    assert_eq!(log, bytes);
}

async fn output_and_errors_are_interleaved_as_written<E: Subject>(bench: Bench<E>) {
    let script = "i=0; while [ $i -lt 300 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done";
    let (_, log) = bench.run(sh(script)).await;
    let expected: String = (0..300).map(|i| format!("o{i}\ne{i}\n")).collect();
    assert_eq!(text(&log), expected);
}

/// Two hundred megabytes in which no two lines are the same.
const MUCH: [&str; 3] = ["seq", "1", "23700000"];

async fn two_hundred_megabytes_arrive_whole<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    assert_eq!(step(&mut session, command(MUCH)).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
    let n_bytes = bench.path("log").metadata().unwrap().len();
    assert!(n_bytes > 200_000_000, "{n_bytes}");
    static EXPECTED: OnceLock<String> = OnceLock::new();
    let expected = EXPECTED.get_or_init(|| {
        let mut seq = process::command(MUCH[0]);
        let seq = seq.args(&MUCH[1..]).stdout(Stdio::piped()).spawn();
        let mut seq = seq.expect("it is part of coreutils");
        let sum = sha256sum(Stdio::from(seq.stdout.take().expect("it is a pipe")));
        seq.wait().unwrap();
        sum
    });
    let log = std::fs::File::open(bench.path("log")).unwrap();
    assert_eq!(sha256sum(Stdio::from(log)), *expected);
}

/// By a program: ours would be ten times slower in a build for tests.
fn sha256sum(of: Stdio) -> String {
    let sum = process::command("sha256sum").stdin(of).stdout(Stdio::piped()).spawn();
    let said = sum.expect("it is part of coreutils").wait_with_output().unwrap();
    assert!(said.status.success());
    text(&said.stdout)
}

async fn a_silent_step_makes_no_log<E: Subject>(bench: Bench<E>) {
    let (exit, _) = bench.run(command(["true"])).await;
    assert_eq!(exit, Exit::SUCCESS);
    assert!(!bench.path("log").exists() && !bench.path("log.idx").exists());
}

async fn the_index_finds_lines<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let script = "seq 1 200000; head -c 300000 /dev/zero | tr '\\0' x; echo; seq 1 50000; \
                  sleep 1.1; printf 'no '; printf 'newline'";
    step(&mut session, sh(script)).await.unwrap();
    session.close().await.unwrap();
    let (log, index) = (bench.log(), std::fs::read(bench.path("log.idx")).unwrap());
    let records: Vec<Record> = index
        .chunks(RECORD_BYTES)
        .map(|bytes| Record::decode(bytes.try_into().expect("whole records")))
        .collect();
    assert_eq!((records[0].offset, records[0].line), (0, 0));
    let mut n_inside = 0;
    for record in &records {
        let before = &log[..record.offset as usize];
        assert!(before.len() < log.len(), "{record:?} speaks of a byte that is there");
        let n_lines = before.iter().filter(|byte| **byte == b'\n').count() as u64;
        assert_eq!(record.line, n_lines, "{record:?}");
        n_inside += usize::from(!before.is_empty() && !before.ends_with(b"\n"));
    }
    // Only inside the line of 300,000 bytes.
    assert!((3..=5).contains(&n_inside), "{n_inside}");
    let mut ends: Vec<u64> = records.iter().map(|record| record.offset).collect();
    ends.push(log.len() as u64);
    assert!(ends.windows(2).all(|two| two[0] < two[1] && two[1] - two[0] <= EVERY_BYTES));
    let at: Vec<i64> = records.iter().map(|record| record.at_ms).collect();
    assert!(at.is_sorted() && at[at.len() - 1] - at[0] >= 1000, "{at:?}");
}

async fn the_first_bytes_are_announced_at_once<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open().await;
    let mut position = session.log();
    let running =
        step(&mut session, sh("echo first; while [ ! -e go ]; do sleep 0.01; done; seq 9"));
    let heard = async {
        let heard = position.wait_for(|position| position.n_bytes == 6).await.unwrap().n_bytes;
        assert_eq!(text(&bench.log()), "first\n");
        std::fs::write(bench.seen("go"), "").unwrap();
        heard
    };
    let (exit, heard) = tokio::join!(running, heard);
    assert_eq!((exit, heard), (Ok(Exit::SUCCESS), 6));
    assert_eq!(session.log().borrow().n_bytes, 6 + 18);
    session.close().await.unwrap();
}

async fn a_full_log_says_so_once_and_the_step_goes_on<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open_with(|spec| spec.log_bytes_max = 10).await;
    assert_eq!(step(&mut session, sh("seq 1 100000; touch on")).await, Ok(Exit::SUCCESS));
    assert_eq!(step(&mut session, sh("seq 1 10; exit 3")).await, Ok(code(3)));
    session.close().await.unwrap();
    assert!(bench.path("work/on").exists());
    let expected = "1\n2\n3\n4\n5\nkiln: the log is full (10 B); the rest is not kept\n";
    assert_eq!(text(&bench.log()), expected);
}

async fn secrets_are_masked_also_when_written_in_pieces<E: Subject>(bench: Bench<E>) {
    let masked = secrets(["hunter2", "abc", "-----BEGIN-----\nline one\nline two\n-----END-----"]);
    let mut session = bench.open_with(|spec| spec.masked = masked).await;
    let script = "printf 'a hunt'; sleep 0.1; printf 'er2b\\n'; echo abc; \
                  printf hunter2 | base64; echo line two; printf hunt";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    assert_eq!(text(&bench.log()), "a ***b\nabc\n***==\n***\nhunt");
    assert_eq!(step(&mut session, sh("echo er2 hunter2hunter2")).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), "a ***b\nabc\n***==\n***\nhunter2 ******\n");
}

async fn a_message_of_kiln_is_masked_too<E: Subject>(bench: Bench<E>) {
    let mut session = bench.open_with(|spec| spec.masked = secrets(["hunter2"])).await;
    assert_eq!(step(&mut session, command(["./hunter2"])).await, Ok(code(127)));
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), "kiln: cannot run `./***`: command not found\n");
}
