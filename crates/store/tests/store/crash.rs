//! A process that is killed while it writes: what it was told is done is there.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use kiln_model::{JobState, RunId};
use kiln_store::{Append, Store};

use crate::on_both;
use crate::place::Place;
use crate::{role, sample, server};

on_both!(what_was_acknowledged_survives_being_killed, processes_that_write_at_once_take_turns);

const N_KILLS: usize = 12;
const N_RUNS: usize = 4;

async fn what_was_acknowledged_survives_being_killed(place: Place) {
    let store = place.open().await;
    let project = sample::project(&store, "a").await.id;
    let mut runs = Vec::new();
    for _ in 0..N_RUNS {
        runs.push(sample::run(&store, project).await.id);
    }
    drop(store);
    for _ in 0..N_KILLS {
        let acknowledged = kill_while_it_appends(&place, &runs, fastrand::usize(1..400));
        if let Some(url) = &place.url {
            // PostgreSQL may still be at work for the client that is gone.
            server::execute(url, server::CUT).await;
        }
        let store = place.open().await;
        for (run, acknowledged) in runs.iter().zip(acknowledged) {
            let row = store.run(*run).await.unwrap();
            let events = store.events(*run, 0).await.unwrap();
            let seqs: Vec<u64> = events.iter().map(|event| event.seq).collect();
            assert!(row.last_seq >= acknowledged, "{} lost: {acknowledged}", row.last_seq);
            assert_eq!(seqs, (1..=row.last_seq).collect::<Vec<_>>());
            // Written by the same append as the last event.
            let job = &store.jobs(*run).await.unwrap()[0];
            assert!(row.last_seq == 1 || job.log_bytes == row.last_seq, "half an append");
        }
        drop(store);
        if place.url.is_none() {
            let db = rusqlite::Connection::open(place.folder.path().join("kiln.db")).unwrap();
            let check: String =
                db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(check, "ok");
        }
    }
}

async fn processes_that_write_at_once_take_turns(place: Place) {
    let store = place.open().await;
    let project = sample::project(&store, "a").await.id;
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(sample::run(&store, project).await.id);
    }
    let append_to = |run| kill_while_it_appends(&place, &[run], 200)[0];
    let acknowledged: Vec<u64> = std::thread::scope(|scope| {
        let writing: Vec<_> = runs.iter().map(|run| scope.spawn(move || append_to(*run))).collect();
        writing.into_iter().map(|one| one.join().unwrap()).collect()
    });
    for (run, acknowledged) in runs.iter().zip(acknowledged) {
        assert!(acknowledged > 200 && store.run(*run).await.unwrap().last_seq >= acknowledged);
    }
}

/// Kills it after `n_lines` acknowledgements; for each run the last `seq` that was acknowledged.
fn kill_while_it_appends(place: &Place, runs: &[RunId], n_lines: usize) -> Vec<u64> {
    let mut command = role::command("appender");
    command.env("KILN_DATA", place.folder.path());
    command.env("KILN_URL", place.url.as_deref().unwrap_or_default());
    let ids: Vec<String> = runs.iter().map(ToString::to_string).collect();
    command.env("KILN_RUNS", ids.join(" "));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(child.stdout.take().unwrap());
    let mut acknowledged = vec![0; runs.len()];
    let mut n_seen = 0;
    for line in said.lines().map_while(Result::ok) {
        let Some(words) = line.strip_prefix("done ") else { continue };
        let (at, seq) = words.split_once(' ').unwrap();
        acknowledged[at.parse::<usize>().unwrap()] = seq.parse().unwrap();
        n_seen += 1;
        if n_seen == n_lines {
            // The lines that it still wrote are read too: they count.
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(n_seen >= n_lines, "it ended by itself after {n_seen} appends");
    acknowledged
}

/// The child: says `done <run> <seq>` after each append.
#[tokio::main]
pub async fn append_for_ever() {
    let variable = |name| std::env::var(name).unwrap();
    let (data, url) = (variable("KILN_DATA"), variable("KILN_URL"));
    let url = (!url.is_empty()).then_some(url);
    let store = Store::open(data.as_ref(), url.as_deref(), false).await.unwrap();
    let runs: Vec<i64> = variable("KILN_RUNS").split(' ').map(|id| id.parse().unwrap()).collect();
    let all = runs.into_iter().enumerate().map(|(at, id)| append_to(&store, at, RunId(id)));
    futures_util::future::join_all(all).await;
}

async fn append_to(store: &Store, at: usize, run: RunId) {
    let mut seq = store.run(run).await.unwrap().last_seq;
    loop {
        seq += 1;
        let mut job = sample::job_row(0, JobState::Running);
        job.log_bytes = seq;
        store.append(Append { jobs: vec![job], ..sample::append(run, seq) }).await.unwrap();
        std::io::stdout().write_all(format!("done {at} {seq}\n").as_bytes()).unwrap();
    }
}
