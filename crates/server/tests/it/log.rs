use std::io::Write;

use kiln_api::agent::{Assignment, JobSource};
use kiln_model::Outcome;

use crate::world::{MANIFEST, World};

const LOG: &str = "/api/v1/projects/app/runs/1/jobs/build/log";

async fn running() -> (World, Assignment) {
    let world = World::new().await;
    let repository = world.project("app").await;
    repository.write(".kiln.yml", MANIFEST);
    repository.commit("one");
    world.tell("app", &repository.push(&["main"])).await;
    let job = world.take().await;
    (world, job)
}

/// Appends to the log, as the executor does, and says so.
fn write(world: &World, job: &Assignment, bytes: &[u8]) -> u64 {
    std::fs::create_dir_all(job.log.parent().unwrap()).unwrap();
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&job.log).unwrap();
    file.write_all(bytes).unwrap();
    let n_bytes = file.metadata().unwrap().len();
    world.server.runs().log_grew(job.lease, n_bytes);
    n_bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_sent_byte_for_byte_whole_and_in_part() {
    let (world, job) = running().await;
    let empty = world.get(LOG).await;
    assert_eq!((empty.status, empty.body.len()), (200, 0));
    let bytes: Vec<u8> = (0..3_000_000u32).flat_map(|n| n.to_le_bytes()).collect();
    write(&world, &job, &bytes);
    let whole = world.get(LOG).await;
    assert!(whole.body == bytes);
    assert_eq!(whole.header("content-length"), Some("12000000"));
    assert_eq!(whole.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(whole.header("x-content-type-options"), Some("nosniff"));
    let part = world.ask("GET", LOG, &[("Range", "bytes=1000-1009")], b"").await;
    assert_eq!((part.status, part.body.as_slice()), (206, &bytes[1000..1010]));
    assert_eq!(part.header("content-range"), Some("bytes 1000-1009/12000000"));
    let last = world.ask("GET", LOG, &[("Range", "bytes=-7")], b"").await;
    assert_eq!(last.body, bytes[bytes.len() - 7..]);
    let outside = world.ask("GET", LOG, &[("Range", "bytes=12000000-")], b"").await;
    assert_eq!((outside.status, outside.header("content-range")), (416, Some("bytes */12000000")));
    let download = world.get(&format!("{LOG}?download")).await;
    let disposition = download.header("content-disposition").unwrap();
    assert!(disposition.starts_with("attachment; filename=\"app-1-build.log\""), "{disposition}");
    let head = world.ask("HEAD", LOG, &[], b"").await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("12000000")));
    let missing = world.get(&format!("{LOG}?attempt=2")).await;
    assert_eq!(missing.error(), (404, "attempt_not_found".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_read_by_lines_and_searched() {
    let (world, job) = running().await;
    let mut text = (0..1_000).map(|n| format!("line {n}\n")).collect::<String>().into_bytes();
    text.extend_from_slice(b"bad \xff byte\n");
    text.extend_from_slice(&b"x".repeat(100_000));
    text.extend_from_slice(b"\nunfinished");
    write(&world, &job, &text);
    let window = world.get(&format!("{LOG}/lines?from=500&n=2")).await.json();
    assert_eq!((&window["first"], &window["n_lines"]), (&500.into(), &1_003.into()));
    assert_eq!(window["n_bytes"], text.len());
    assert_eq!(window["over"], false);
    let offset = text.windows(8).position(|eight| eight == b"line 500").unwrap();
    let expected = serde_json::json!([
        { "offset": offset, "text": "line 500" },
        { "offset": offset + 9, "text": "line 501" },
    ]);
    assert_eq!(window["lines"], expected);
    let end = world.get(&format!("{LOG}/lines?from=1000")).await.json();
    let lines = end["lines"].as_array().unwrap();
    assert_eq!(lines[0]["text"], "bad \u{fffd} byte");
    assert!(lines[1]["text"].as_str().unwrap().len() < 100_000);
    assert!(lines[1]["cut_from"].as_u64().unwrap() >= 100_000, "{}", lines[1]["cut_from"]);
    assert_eq!(lines[2], serde_json::json!({ "offset": text.len() - 10, "text": "unfinished" }));
    let hits = world.get(&format!("{LOG}/search?q=LINE%2099&from=100")).await.json();
    let numbers: Vec<_> = hits.as_array().unwrap().iter().map(|hit| hit["line"].clone()).collect();
    assert_eq!(numbers, (990..1_000).map(serde_json::Value::from).collect::<Vec<_>>());
    assert_eq!(world.get(&format!("{LOG}/search?q=")).await.text(), "[]");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_follows_a_log_and_resumes_where_it_was() {
    let (world, job) = running().await;
    let reader = world.stream(&format!("{LOG}/stream"), &[]).await;
    assert!(reader.head.contains("x-accel-buffering: no"), "{}", reader.head);
    write(&world, &job, b"foo");
    let (reader, event) = reader.next().await;
    assert_eq!(event, Some(("log".into(), "3".into(), "Zm9v".into())));
    drop(reader);
    write(&world, &job, b"bar");
    // Reconnected as a browser does.
    let reader = world.stream(&format!("{LOG}/stream"), &[("Last-Event-ID", "3")]).await;
    let (reader, event) = reader.next().await;
    assert_eq!(event, Some(("log".into(), "6".into(), "YmFy".into())));
    let n_bytes = write(&world, &job, b"\xff\0end");
    world.finish(job.lease, Outcome::Success, n_bytes).await;
    let (reader, event) = reader.next().await;
    assert_eq!(event, Some(("log".into(), "11".into(), "/wBlbmQ=".into())));
    let (reader, event) = reader.next().await;
    assert_eq!(event, Some(("end".into(), "11".into(), String::new())));
    assert_eq!(reader.next().await.1, None);
    // All of it afterwards, and nothing beyond its end.
    let late = world.stream(&format!("{LOG}/stream?from=9"), &[]).await;
    let (late, event) = late.next().await;
    assert_eq!(event, Some(("log".into(), "11".into(), "bmQ=".into())));
    assert_eq!(late.next().await.1.unwrap().0, "end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_log_comes_in_pieces_that_fit_together() {
    let (world, job) = running().await;
    let bytes = vec![b'a'; 1_000_000];
    write(&world, &job, &bytes);
    world.finish(job.lease, Outcome::Success, 1_000_000).await;
    let mut reader = world.stream(&format!("{LOG}/stream"), &[]).await;
    let mut at = 0;
    loop {
        let (next, event) = reader.next().await;
        reader = next;
        let (name, id, data) = event.unwrap();
        let id: usize = id.parse().unwrap();
        if name == "end" {
            break;
        }
        assert!(id - at <= 64 << 10, "{id} after {at}");
        assert_eq!(data.len(), (id - at).div_ceil(3) * 4);
        at = id;
    }
    assert_eq!(at, bytes.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_job_that_never_ran_ends_at_once() {
    let (world, job) = running().await;
    world.ask("POST", "/api/v1/projects/app/runs/1/cancel", &[], b"").await;
    world.finish(job.lease, Outcome::Cancelled, 0).await;
    let stream = LOG.replace("build", "test") + "/stream";
    let reader = world.stream(&stream, &[]).await;
    assert_eq!(reader.next().await.1, Some(("end".into(), "0".into(), String::new())));
}
