//! The one way in which a run changes.

use futures_util::future::join_all;
use kiln_model::artifact::Artifact;
use kiln_model::layer::Digest;
use kiln_model::*;
use kiln_store::{Append, ArtifactRow, JobRow, RunUpdate, StoreError};

use crate::on_both;
use crate::place::Place;
use crate::sample::{self, AT};

on_both!(
    an_append_writes_events_and_the_rows_that_follow,
    events_come_back_as_they_were,
    whoever_has_not_seen_the_last_event_is_refused,
    of_many_who_append_at_once_one_wins_each_round,
    appends_happen_in_the_order_in_which_they_were_asked_for,
    an_append_is_done_also_when_nobody_waits,
    one_that_fails_does_not_undo_its_neighbours,
    a_thousand_jobs_are_one_append,
    an_agent_is_made_once,
);

fn lease(run: RunId, job: u32) -> LeaseId {
    LeaseId { attempt: AttemptId { run, job: JobIndex(job), attempt: 1 }, epoch: Epoch(1) }
}

async fn an_append_writes_events_and_the_rows_that_follow(place: Place) {
    let store = place.open().await;
    let project = sample::project(&store, "a").await.id;
    let mut run = sample::run(&store, project).await;
    let (attempt, agent) = (lease(run.id, 1).attempt, AgentId(3));
    let job = JobRow {
        state: JobState::Failed,
        reason: Some(Reason::JobTimedOut { after_ms: 5 }),
        attempt: 1,
        started_at: Some(AT),
        finished_at: Some(AT),
        log_bytes: 1 << 40,
        ..sample::job_row(1, JobState::Queued)
    };
    let artifact = |path: &str| Artifact {
        path: path.into(),
        n_bytes: 7,
        digest: Digest::from_bytes([7; 32]),
        executable: path == "b",
    };
    let leased =
        EventKind::Leased { lease: lease(run.id, 1), agent, agent_name: "here".into(), lock: None };
    let events = vec![
        sample::event(2, leased),
        sample::event(3, EventKind::started(lease(run.id, 1))),
        sample::event(4, EventKind::started(lease(run.id, 0))),
    ];
    let update = RunUpdate {
        state: RunState::Running,
        reason: Some(Reason::NoAgent),
        started_at: Some(AT),
        finished_at: None,
        n_jobs_over: 1,
    };
    let append = Append {
        run: run.id,
        events: events.clone(),
        row: Some(update),
        jobs: vec![job.clone()],
        artifacts: vec![(attempt, artifact("ü/b")), (attempt, artifact("b"))],
        key: None,
    };
    store.append(append).await.unwrap();

    run.state = RunState::Running;
    run.reason = Some(Reason::NoAgent);
    (run.started_at, run.n_jobs_over, run.last_seq) = (Some(AT), 1, 4);
    assert_eq!(store.run(run.id).await, Ok(run.clone()));
    assert_eq!(store.events(run.id, 1).await, Ok(events.clone()));
    assert_eq!(store.events(run.id, 4).await, Ok(vec![]));
    assert_eq!(store.job_events(run.id, JobIndex(1)).await, Ok(events[..2].to_vec()));
    let first = sample::job_row(0, JobState::Queued);
    assert_eq!(store.jobs(run.id).await, Ok(vec![first, job.clone()]));
    let row = |path| ArtifactRow {
        attempt,
        job: job.name.clone(),
        artifact: artifact(path),
        collected_at: None,
    };
    assert_eq!(store.artifacts(run.id).await, Ok(vec![row("b"), row("ü/b")]));
}

async fn events_come_back_as_they_were(place: Place) {
    let store = place.open().await;
    let project = sample::project(&store, "a").await.id;
    let run = sample::run(&store, project).await.id;
    let lease = lease(run, 0);
    let kinds = [
        EventKind::StepStarted { lease, step: 0, log_from: u64::MAX },
        EventKind::StepFinished {
            lease,
            step: 0,
            exit: Exit::Killed { signal: 9 },
            log_to: 7,
            usage: None,
        },
        EventKind::Lapsed { lease, message: "nul \0, tab \t, 'quote', \u{10ffff}".into() },
        EventKind::RerunAsked { jobs: vec![JobIndex(1)], by: String::new(), from: None },
        EventKind::Finished {
            lease,
            outcome: Outcome::StepFailed { step: 0, exit: Exit::OutOfMemory { limit_bytes: None } },
            outputs: [("a".to_owned(), "b\n".repeat(100_000))].into(),
            layer: None,
            artifacts: vec![],
            log_bytes: 0,
            notes: Default::default(),
        },
    ];
    let events: Vec<Event> = (2..).zip(kinds).map(|(seq, kind)| sample::event(seq, kind)).collect();
    let append = Append { events: events.clone(), ..sample::append(run, 2) };
    store.append(append).await.unwrap();
    assert_eq!(store.events(run, 1).await, Ok(events));
}

async fn whoever_has_not_seen_the_last_event_is_refused(place: Place) {
    let store = place.open().await;
    let project = sample::project(&store, "a").await.id;
    let run = sample::run(&store, project).await.id;
    store.append(sample::append(run, 2)).await.unwrap();
    for seq in [0, 1, 2, 4] {
        let refused = store.append(sample::append(run, seq)).await;
        assert_eq!(refused, Err(StoreError::Conflict(run)), "{seq}");
    }
    let mut gap = sample::append(run, 3);
    gap.events.push(sample::event(5, EventKind::Planned));
    let refused = store.append(gap).await.unwrap_err().to_string();
    assert_eq!(refused, "events must be numbered without gaps: 5 stands where 4 belongs");
    assert_eq!(store.run(run).await.unwrap().last_seq, 2);
    let unknown = RunId(run.0 + 1);
    for append in
        [sample::append(unknown, 1), Append { events: vec![], ..sample::append(unknown, 1) }]
    {
        assert_eq!(store.append(append).await, Err(StoreError::NotFound("run")));
    }
}

async fn of_many_who_append_at_once_one_wins_each_round(place: Place) {
    // Two handles, as of two processes.
    let stores = [place.open().await, place.open().await];
    let project = sample::project(&stores[0], "a").await.id;
    let run = sample::run(&stores[0], project).await.id;
    for seq in 2..12 {
        let race = join_all((0..8).map(|at| {
            let store = stores[at % 2].clone();
            tokio::spawn(async move { store.append(sample::append(run, seq)).await })
        }));
        let ends: Vec<_> = race.await.into_iter().map(Result::unwrap).collect();
        assert_eq!(ends.iter().filter(|end| end.is_ok()).count(), 1);
        let lost = ends.iter().filter(|end| **end == Err(StoreError::Conflict(run))).count();
        assert_eq!(lost, 7);
    }
    let seqs: Vec<u64> =
        stores[1].events(run, 0).await.unwrap().iter().map(|event| event.seq).collect();
    assert_eq!(seqs, (1..12).collect::<Vec<_>>());
}

async fn appends_happen_in_the_order_in_which_they_were_asked_for(place: Place) {
    let store = place.open().await;
    let project = sample::project(&store, "a").await.id;
    let mut runs = Vec::new();
    for _ in 0..10 {
        runs.push(sample::run(&store, project).await.id);
    }
    // All are asked for before the first answer is awaited, and awaited from the last on.
    let mut answers = Vec::new();
    for seq in 2..52 {
        answers.extend(runs.iter().map(|run| store.append(sample::append(*run, seq))));
    }
    answers.reverse();
    for answer in answers {
        assert_eq!(answer.await, Ok(()));
    }
    for run in runs {
        assert_eq!(store.run(run).await.unwrap().last_seq, 51);
    }
}

async fn an_append_is_done_also_when_nobody_waits(place: Place) {
    let store = place.open().await;
    let project = sample::project(&store, "a").await.id;
    let run = sample::run(&store, project).await.id;
    drop(store.append(sample::append(run, 2)));
    // Of the same run, so it comes after it.
    store.append(sample::append(run, 3)).await.unwrap();
    assert_eq!(store.events(run, 1).await.unwrap().len(), 2);
}

async fn one_that_fails_does_not_undo_its_neighbours(place: Place) {
    let store = place.open().await;
    let project = sample::project(&store, "a").await.id;
    let run = sample::run(&store, project).await.id;
    let mut broken = sample::append(run, 3);
    broken.jobs = vec![sample::job_row(0, JobState::Lost)];
    broken.events.push(sample::event(9, EventKind::Planned));
    let answers = [sample::append(run, 2), broken, sample::append(run, 3), sample::append(run, 3)]
        .map(|append| store.append(append));
    let mut ends = Vec::new();
    for answer in answers {
        ends.push(answer.await);
    }
    assert_eq!(ends[0], Ok(()));
    assert!(matches!(ends[1], Err(StoreError::Other(_))), "{:?}", ends[1]);
    assert_eq!(ends[2..], [Ok(()), Err(StoreError::Conflict(run))]);
    assert_eq!(store.events(run, 0).await.unwrap().len(), 3);
    assert_eq!(store.jobs(run).await.unwrap()[0].state, JobState::Queued);
}

async fn a_thousand_jobs_are_one_append(place: Place) {
    let store = place.open().await;
    let project = sample::project(&store, "a").await.id;
    let run = sample::run(&store, project).await.id;
    let started = |at: u32| EventKind::started(lease(run, at));
    let append = Append {
        run,
        events: (0..1000).map(|at| sample::event(2 + u64::from(at), started(at))).collect(),
        row: None,
        jobs: (0..1000).map(|at| sample::job_row(at, JobState::Running)).collect(),
        artifacts: vec![],
        key: None,
    };
    store.append(append.clone()).await.unwrap();
    assert_eq!(store.jobs(run).await, Ok(append.jobs));
    assert_eq!(store.events(run, 1).await, Ok(append.events));
}

async fn an_agent_is_made_once(place: Place) {
    let store = place.open().await;
    let labels = ["linux".to_owned()];
    let made = join_all((0..8).map(|_| store.agent("here", &labels))).await;
    let first = made[0].clone().unwrap();
    assert!(made.iter().all(|id| *id == Ok(first)));
    assert_ne!(store.agent("there", &[]).await.unwrap(), first);
}
