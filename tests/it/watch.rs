//! A person watches a log while it grows.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use kiln_it::sse::{Sse, unbase64};
use kiln_it::world::ran;
use kiln_it::{Site, http, wait};
use serde_json::Value;

/// A job that prints what a test writes into a pipe, when the test writes it.
fn told(pipe: &Path) -> String {
    format!("jobs: {{ speak: {{ steps: [\"cat < '{}'\"] }} }}\n", pipe.display())
}

fn pipe(site: &Site) -> std::path::PathBuf {
    let pipe = site.world.at("pipe");
    ran(site.world.command("mkfifo").arg(&pipe)).success();
    pipe
}

/// Follows a log until `n_bytes` have come; gives them and the id to go on from.
fn follow(stream: &mut Sse, bytes: &mut Vec<u8>, n_bytes: usize) -> String {
    let mut last = String::new();
    while bytes.len() < n_bytes {
        let event = stream.next_event().expect("the stream holds").expect("the log is not over");
        if event.name != "log" {
            continue;
        }
        bytes.extend(unbase64(&event.data));
        last = event.id.expect("a chunk says where it ends");
        assert_eq!(last, bytes.len().to_string(), "the id is the offset after the chunk");
    }
    last
}

#[test]
fn a_log_is_followed_over_broken_connections_without_a_gap() {
    let mut site = Site::with("");
    let pipe = pipe(&site);
    site.tree.write(".kiln.yml", told(&pipe));
    site.push();
    let mut to = OpenOptions::new().write(true).open(&pipe).expect("the job opens the other end");
    let path = "/api/v1/projects/site/runs/1/jobs/speak/log/stream";
    let mut written = Vec::new();
    let mut seen = Vec::new();
    let mut last: Option<String> = None;
    // Bytes that are no text, a line of 100 kB, colours, a carriage return, no last newline.
    let long = "x".repeat(100_000);
    let parts: [&[u8]; 6] = [
        b"first\n",
        b"\xff\xfe\x00 no text\n",
        b"\x1b[31mred\x1b[0m\n",
        long.as_bytes(),
        b"\n10%\r20%\r100%\n",
        b"the end",
    ];
    for part in parts {
        to.write_all(part).expect("the job reads");
        written.extend_from_slice(part);
        let mut stream = Sse::open(site.server.address, path, last.as_deref()).expect("it opens");
        last = Some(follow(&mut stream, &mut seen, written.len()));
        assert_eq!(seen, written);
    }
    drop(to);
    let mut stream = Sse::open(site.server.address, path, last.as_deref()).expect("it opens");
    let end = stream.next_event().expect("the stream holds").expect("an event");
    assert_eq!(end.name, "end");
    assert_eq!(site.server.over("site", 1)["state"], "success");
    assert_eq!(site.server.log("site", 1, "speak"), written, "the raw log");
    // The same after a restart, when nothing is in memory any more.
    site.server.signal(rustix::process::Signal::KILL);
    site.again();
    assert_eq!(site.server.log("site", 1, "speak"), written, "the raw log after a restart");
    let mut stream = Sse::open(site.server.address, path, None).expect("it opens");
    let mut again = Vec::new();
    follow(&mut stream, &mut again, written.len());
    assert_eq!(again, written, "the stream from the start");
}

#[test]
fn any_part_of_a_log_can_be_read() {
    let site = Site::with("jobs: { count: { steps: [seq 100000] } }\n");
    site.run(1);
    let whole: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    let log = "/api/v1/projects/site/runs/1/jobs/count/log";
    assert_eq!(site.log(1, "count"), whole);
    let range = [("Range", "bytes=1000-1099")];
    let part = http::request(site.server.address, "GET", log, &range, b"").expect("an answer");
    assert_eq!(part.status, 206);
    assert_eq!(part.text(), whole[1000..1100]);
    let tail = [("Range", "bytes=-7")];
    let part = http::request(site.server.address, "GET", log, &tail, b"").expect("an answer");
    assert_eq!(part.text(), "100000\n");
    let beyond = [("Range", "bytes=99999999-")];
    let part = http::request(site.server.address, "GET", log, &beyond, b"").expect("an answer");
    assert_eq!(part.status, 416);
    let window = site.server.get(&format!("{log}/lines?from=49999&n=3")).json();
    assert_eq!(window["first"], 49_999);
    assert_eq!(window["n_lines"], 100_000);
    assert_eq!(window["over"], true);
    let texts: Vec<&Value> =
        window["lines"].as_array().expect("lines").iter().map(|line| &line["text"]).collect();
    assert_eq!(texts, ["50000", "50001", "50002"]);
    let found = site.server.get(&format!("{log}/search?q=99999&from=0"));
    assert_eq!(found.status, 200);
    assert!(found.text().contains("99998"), "the line's number, from 0: {}", found.text());
}

#[test]
fn a_change_is_told_to_who_follows_the_run() {
    let site = Site::with("");
    let pipe = pipe(&site);
    site.tree.write(".kiln.yml", told(&pipe));
    let mut lists = site.server.sse("/live");
    site.push();
    let told = wait::until("the lists hear of the run", || {
        let event = lists.next_event().expect("the stream holds").expect("an event");
        let told: Value = serde_json::from_str(&event.data).ok()?;
        (event.name == "changed" && told["number"] == 1).then_some(told)
    });
    assert_eq!(told["project"], "site");
    let mut live = site.server.sse("/projects/site/runs/1/live");
    std::fs::write(&pipe, "bye\n").expect("the job reads");
    wait::until("the run's end is told", || {
        let event = live.next_event().expect("the stream holds").expect("an event");
        let state = site.now(1)["state"].clone();
        (event.name == "changed" && state == "success").then_some(())
    });
}
