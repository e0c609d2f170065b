use super::*;
use crate::explain::{history, job_summary, summary};

fn told(story: &Story, job: Option<u32>) -> Vec<String> {
    let job = job.map(JobIndex);
    let about = |event: &&Event| match (job, event.kind.lease()) {
        (Some(job), Some(lease)) => lease.attempt.job == job,
        _ => true,
    };
    // As a store gives them: the job's own and those of the whole run.
    let events: Vec<Event> = story.events.iter().filter(about).cloned().collect();
    history(&story.run, &events, job).into_iter().map(|(_, text)| text).collect()
}

#[test]
fn a_job_tells_what_it_went_through() {
    let retry =
        kiln_model::plan::Retry { attempts: 2, on: vec![kiln_model::plan::RetryOn::Failed] };
    let mut story = story(vec![Job { retry, ..job("a", &[]) }, job("b", &[0])]);
    let lease = story.lease(0);
    story.apply(lapsed(lease));
    let lease = story.start(0);
    story.apply(EventKind::StepStarted { lease, step: 0, log_from: 0 });
    let exit_2 = Exit::Code { code: 2 };
    story.apply(EventKind::StepFinished { lease, step: 0, exit: exit_2, log_to: 1, usage: None });
    story.finish(0, exit(2));
    story.run_job(0, Outcome::Lost { message: "unplugged".to_owned() });
    assert_eq!(
        told(&story, Some(0)),
        [
            "planned; it needs no other job",
            "attempt 1 was taken by agent `forge-1`",
            "attempt 1 was given up before it started: silent",
            "attempt 1 is offered to other agents again",
            "attempt 1 was taken by agent `forge-1`",
            "attempt 1 started",
            "step 1 `make a` ended with exit code 2",
            "attempt 1 failed: step 1 `make a` ended with exit code 2",
            "attempt 1 is retried: up to 2 attempts on failed",
            "attempt 2 was taken by agent `forge-1`; it is a retry",
            "attempt 2 started",
            "attempt 2 was lost: unplugged",
        ]
    );
    assert_eq!(told(&story, Some(1)), ["planned; it needs `a`", "skipped: its need `a` was lost"]);
    assert_eq!(job_summary(&story.run, JobIndex(0)), "it was lost: unplugged");
    assert_eq!(summary(&story.run), "failed after 6.0s: `a`");
}

#[test]
fn cancels_and_reruns_are_told_to_those_whom_they_reach() {
    let mut story = story(vec![job("a", &[]), job("b", &[0]), job("c", &[])]);
    story.succeed(&[2]);
    story.start(0);
    story.cancel();
    story.finish(0, Outcome::Cancelled);
    story.rerun(&[0]);
    assert_eq!(
        told(&story, Some(1)),
        [
            "planned; it needs `a`",
            "a cancel was asked by ada",
            "a rerun of jobs that it needs was asked by bob",
            "queued: waits for `a`",
        ]
    );
    let of_c = told(&story, Some(2));
    assert_eq!(of_c.last().map(String::as_str), Some("attempt 1 succeeded"), "{of_c:?}");
    let of_run = told(&story, None);
    assert!(of_run.contains(&"`a`, attempt 1, was cancelled".to_owned()), "{of_run:?}");
    assert!(of_run.contains(&"a rerun of `a` was asked by bob".to_owned()), "{of_run:?}");
    assert_eq!(summary(&story.run), "running: 1 of 3 jobs are over");
}

#[test]
fn every_state_has_its_sentence() {
    let mut story = story(vec![
        job("a", &[]),
        Job { allow_failure: true, ..job("b", &[]) },
        with_condition(job("c", &[]), "false"),
    ]);
    let of = |story: &Story, at| job_summary(&story.run, JobIndex(at));
    assert_eq!(of(&story, 0), "queued: waits for a free agent");
    assert_eq!(of(&story, 2), "skipped: its condition `false` is false");
    let lease = story.lease(0);
    assert_eq!(of(&story, 0), "queued: it is being prepared on agent `forge-1`");
    story.apply(EventKind::started(lease));
    story.apply(EventKind::StepStarted { lease, step: 0, log_from: 0 });
    assert_eq!(of(&story, 0), "running on agent `forge-1`: step 1 `make a`");
    story.finish(0, Outcome::Success);
    assert_eq!(of(&story, 0), "success on agent `forge-1` after 2.0s");
    story.run_job(1, exit(1));
    assert_eq!(
        of(&story, 1),
        "warning: it failed on agent `forge-1`, and is allowed to: step 1 `make b` ended with exit code 1"
    );
    assert_eq!(summary(&story.run), "warning after 5.0s: `b`");
    assert_eq!(of(&story, 9), "there is no such job");
}
