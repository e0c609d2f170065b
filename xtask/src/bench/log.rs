//! A job that prints 200 MB, and reading that log.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result, ensure};
use kiln_it::world::ran;
use kiln_it::{Server, World, http};
use kiln_stdx::clock::Stopwatch;

use super::figure::{Figure, Goal, Limit, Samples, ms, time};
use super::idle::{memory, peak};

/// `seq` up to here prints 200,388,897 bytes.
const LAST: &str = "23500000";
const N_BYTES: u64 = 200_388_897;
const N_RUNS: i64 = 3;
const N_LINES: u64 = 23_500_000;
/// What the window may cost, with a fresh connection for each.
const N_WINDOWS: usize = 50;

pub fn big() -> Result<Vec<Figure>> {
    let world = World::new();
    let bare = world.bare("big.git");
    let clone = world.clone_of(&bare, "big");
    clone.write(".kiln.yml", format!("jobs: {{ print: {{ steps: [seq {LAST}] }} }}\n"));
    clone.commit("pipeline");
    let server = world.serve();
    world.watch("big", &bare);
    let before = memory(server.pid())?;
    let mut walls = Vec::new();
    for number in 1..=N_RUNS {
        clone.commit("again");
        let since = Stopwatch::start();
        clone.push(["main"]);
        let run = server.over("big", number);
        walls.push(ms(since.elapsed()));
        ensure!(run["state"] == "success", "the run is {}", run["state"]);
        let n_bytes = &run["jobs"][0]["log_bytes"];
        ensure!(*n_bytes == N_BYTES, "the log has {n_bytes} bytes instead of {N_BYTES}");
    }
    let grown = peak(server.pid())?.saturating_sub(before);
    let mut n_piped = 0;
    let limit = time(1, N_RUNS as usize, || {
        // A new file each time, as a new log is one: cutting an old one of this size off first
        // doubles the time, and the limit would flatter us.
        n_piped += 1;
        let piped = format!("seq {LAST} | cat > piped-{n_piped}");
        ran(world.command("sh").args(["-c", &piped])).success();
        Ok(())
    })?;
    let mut figures = vec![
        Figure {
            name: "log-200mb",
            unit: "ms",
            samples: Samples::new(walls),
            limit: Limit::Measured { what: "seq | cat > file", samples: limit },
            goal: Goal::AtMostTimes(1.5),
        },
        Figure {
            name: "log-memory",
            unit: "MB",
            samples: Samples::one(grown as f64 / 1e6),
            limit: Limit::Absent { why: "growth of the server" },
            goal: Goal::AtMost(16.0),
        },
    ];
    figures.extend(read(&server)?);
    Ok(figures)
}

fn read(server: &Server) -> Result<Vec<Figure>> {
    let log = format!("/api/v1/projects/big/runs/{N_RUNS}/jobs/print/log");
    let mut n_bytes = 0;
    let whole = time(1, 5, || {
        n_bytes = drain(server.address, &log)?;
        Ok(())
    })?;
    ensure!(n_bytes == N_BYTES, "{n_bytes} bytes were served instead of {N_BYTES}");
    let speed = |samples: &Samples| samples.map(|took_ms| n_bytes as f64 / 1e3 / took_ms);
    let (bare_address, served) = plain_server(n_bytes, 6)?;
    let limit = time(1, 5, || drain(bare_address, "/").map(drop))?;
    served.join().expect("the plain server does not panic")?;
    let middle = N_LINES / 2;
    let expected = (middle + 1).to_string();
    let window = time(3, N_WINDOWS, || {
        let answer = http::get(server.address, &format!("{log}/lines?from={middle}&n=200"))?;
        let window = answer.json();
        let lines = window["lines"].as_array().context("a window has lines")?;
        ensure!(lines.len() == 200, "{} lines instead of 200", lines.len());
        ensure!(lines[0]["text"] == expected.as_str(), "the wrong line: {}", lines[0]);
        Ok(())
    })?;
    let none = time(3, N_WINDOWS, || {
        let answer = http::get(server.address, "/api/v1/projects")?;
        ensure!(answer.status == 200, "the projects answer {}", answer.status);
        Ok(())
    })?;
    Ok(vec![
        Figure {
            name: "log-whole",
            unit: "MB/s",
            samples: speed(&whole),
            limit: Limit::Measured { what: "memory to a socket", samples: speed(&limit) },
            goal: Goal::AtLeast(500.0),
        },
        Figure {
            name: "log-window",
            unit: "ms",
            samples: window,
            limit: Limit::Measured { what: "GET of the projects", samples: none },
            goal: Goal::AtMost(5.0),
        },
    ])
}

/// Reads an answer to its end and keeps nothing of it; gives the body's length.
fn drain(address: SocketAddr, path: &str) -> Result<u64> {
    let mut from = http::send(address, "GET", path, &[], b"")?;
    let (status, headers) = http::head(&mut from)?;
    ensure!(status == 200, "{path}: {status}");
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: u64 = length.context("a whole log has a length")?.1.parse()?;
    let mut buffer = vec![0; 256 << 10];
    let mut left = length;
    while left > 0 {
        let n = from.read(&mut buffer)? as u64;
        ensure!(n > 0, "the log ended early");
        left -= n;
    }
    Ok(length)
}

/// Answers `n_requests` with so many bytes out of memory: the fastest that a client here can read.
fn plain_server(
    n_bytes: u64,
    n_requests: usize,
) -> Result<(SocketAddr, std::thread::JoinHandle<Result<()>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let serve = move || -> Result<()> {
        let block = vec![b'x'; 256 << 10];
        for _ in 0..n_requests {
            let (mut stream, _) = listener.accept()?;
            let mut request = [0; 1024];
            let _ = stream.read(&mut request)?;
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {n_bytes}\r\n\r\n")?;
            let mut left = n_bytes as usize;
            while left > 0 {
                let n = left.min(block.len());
                stream.write_all(&block[..n])?;
                left -= n;
            }
        }
        Ok(())
    };
    Ok((address, std::thread::spawn(serve)))
}
