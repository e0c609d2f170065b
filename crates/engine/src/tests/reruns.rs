use kiln_model::plan::{Retry, RetryOn};

use super::*;
use crate::run::Cause;

#[test]
fn a_rerun_takes_along_what_needs_the_job() {
    let mut story = story(vec![job("a", &[]), job("b", &[0]), job("c", &[1]), job("d", &[])]);
    story.succeed(&[0, 3]);
    story.run_job(1, exit(1));
    assert_eq!(story.run.state, RunState::Failed);
    story.rerun(&[1]);
    assert_eq!(story.states(), "success queued queued success");
    assert_eq!(story.reason(2), "waits for `b`");
    assert_eq!((story.run.state, story.run.finished_at), (RunState::Running, None));
    assert_eq!(story.attempt(1).cause, Cause::Rerun { by: "bob".to_owned() });
    story.succeed(&[1, 2]);
    assert_eq!(story.run.state, RunState::Success);
    assert_eq!(story.attempt(1).id, attempt_id(1, 2));
    assert_eq!(story.attempt(2).id, attempt_id(2, 1));
    let newest = ["7-0-1", "7-1-2"].map(|id| LayerId::Attempt(id.to_owned()));
    assert_eq!(story.run.layers_below(JobIndex(2)), newest);
}

#[test]
fn a_rerun_brings_a_new_budget() {
    let retry = Retry { attempts: 2, on: vec![RetryOn::Failed] };
    let mut story = story(vec![Job { retry, ..job("a", &[]) }]);
    for n_attempts in [2, 4] {
        story.run_job(0, exit(1));
        story.run_job(0, exit(1));
        assert_eq!(story.states(), "failed");
        assert_eq!(story.run.jobs[0].attempts.len(), n_attempts);
        story.rerun(&[0]);
    }
}

#[test]
fn a_job_can_run_again_while_others_still_run() {
    let mut story = story(vec![job("a", &[]), job("b", &[]), job("c", &[1])]);
    story.run_job(0, exit(1));
    story.start(1);
    story.rerun(&[0]);
    assert_eq!(story.states(), "queued running queued");
    let words = story.refused(rerun_of(&[1]));
    assert_eq!(words, "job `b` is running; rerun when it is over, or cancel first");
    story.succeed(&[0]);
    story.finish(1, Outcome::Success);
    story.start(2);
    let words = story.refused(rerun_of(&[1]));
    assert_eq!(words, "job `c` is running; rerun when it is over, or cancel first");
}

#[test]
fn a_job_whose_need_failed_is_refused_and_the_way_out_named() {
    let always = Job { always: true, ..job("c", &[0]) };
    let mut story = story(vec![job("a", &[]), job("b", &[0]), always]);
    story.run_job(0, exit(1));
    story.succeed(&[2]);
    let words = story.refused(rerun_of(&[1]));
    assert_eq!(words, "job `b` needs `a`, which is failed; rerun `a`, and `b` follows");
    story.rerun(&[2]);
    assert_eq!(story.states(), "failed skipped queued");
    story.succeed(&[2]);
    story.rerun(&[1, 0]);
    assert_eq!(story.states(), "queued queued queued");
}

#[test]
fn a_cancelled_run_goes_on_where_it_is_rerun() {
    let mut story = story(vec![job("a", &[]), job("b", &[0]), job("c", &[])]);
    story.start(0);
    story.cancel();
    let words = story.refused(rerun_of(&[2]));
    assert_eq!(words, "the run is being cancelled; rerun it when it is over");
    story.finish(0, Outcome::Cancelled);
    story.rerun(&[0]);
    assert_eq!(story.states(), "queued queued cancelled");
    assert_eq!(story.run.reason, None);
    story.succeed(&[0, 1]);
    assert_eq!(story.run.state, RunState::Cancelled);
    assert_eq!(story.run.reason, Some(Reason::Jobs { jobs: vec!["c".to_owned()] }));
    story.rerun(&[2]);
    story.succeed(&[2]);
    assert_eq!(story.run.state, RunState::Success);
}

#[test]
fn conditions_are_asked_again() {
    let mut story = story(vec![
        job("a", &[]),
        with_condition(job("b", &[0]), "failure()"),
        with_condition(job("c", &[0]), "success()"),
    ]);
    story.run_job(0, exit(1));
    story.succeed(&[1]);
    assert_eq!(story.states(), "failed success skipped");
    story.rerun(&[0]);
    story.succeed(&[0, 2]);
    assert_eq!(story.states(), "success skipped success");
    assert_eq!(story.run.state, RunState::Success);
}

#[test]
fn a_rerun_must_name_jobs_that_there_are() {
    let mut story = story(vec![job("a", &[])]);
    assert_eq!(story.refused(rerun_of(&[])), "no job was named to run again");
    assert_eq!(story.refused(rerun_of(&[1])), "there is no job 1; the run has 1 jobs");
}
