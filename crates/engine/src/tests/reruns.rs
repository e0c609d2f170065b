use kiln_model::FromStep;
use kiln_model::plan::{Retry, RetryOn, Snapshots};

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

/// Ends a job's attempt at a step, with the files kept that these steps found.
fn fail_at(story: &mut Story, job: u32, step: u32, kept: &[u32]) {
    let lease = story.start(job);
    for at in story.attempt(job).first_step()..=step {
        story.apply(EventKind::StepStarted { lease, step: at, log_from: 0 });
        let exit = if at == step { Exit::Code { code: 1 } } else { Exit::SUCCESS };
        story.apply(EventKind::StepFinished { lease, step: at, exit, log_to: 0, usage: None });
    }
    let outcome = Outcome::StepFailed { step, exit: Exit::Code { code: 1 } };
    let EventKind::Finished { outputs, layer, artifacts, log_bytes, mut notes, .. } =
        finished(lease, outcome.clone())
    else {
        unreachable!("it is what `finished` makes")
    };
    notes.boundaries = kept.to_vec();
    let kind = EventKind::Finished { lease, outcome, outputs, layer, artifacts, log_bytes, notes };
    story.apply(kind);
}

fn from(job: u32, step: u32, attempt: u32) -> EventKind {
    let job = JobIndex(job);
    let from = Some(FromStep { job, step, attempt });
    EventKind::RerunAsked { jobs: vec![job], by: "bob".to_owned(), from }
}

fn with_steps(job: Job, n: usize) -> Job {
    Job { steps: vec![job.steps[0].clone(); n], ..job }
}

#[test]
fn a_rerun_from_a_step_takes_over_those_before_it() {
    let retry = Retry { attempts: 2, on: vec![RetryOn::Failed] };
    let a = Job { retry, ..with_steps(job("a", &[]), 4) };
    let mut story = story(vec![a, job("b", &[0])]);
    fail_at(&mut story, 0, 2, &[1, 2]);
    fail_at(&mut story, 0, 2, &[1]);
    assert_eq!(story.states(), "failed skipped");
    assert_eq!(story.run.begins_from(JobIndex(0), 2).map(|from| from.attempt), Ok(1));
    assert_eq!(story.run.begins_from(JobIndex(0), 1).map(|from| from.attempt), Ok(2));
    story.apply(from(0, 2, 1));
    assert_eq!(story.attempt(0).first_step(), 2);
    let begins = story.attempt(0).from.as_ref().map(|from| from.layer(story.run.id));
    assert_eq!(begins, Some(LayerId::Boundary("7-0-1.2".to_owned())));
    let lease = story.start(0);
    let words = story.refused(EventKind::StepStarted { lease, step: 1, log_from: 0 });
    assert!(words.contains("step 2 was taken over"), "{words}");
    story.finish(0, exit(1));
    assert_eq!(story.attempt(0).first_step(), 2, "a retry begins where its rerun did");
    story.run_job(0, exit(1));
    story.rerun(&[0]);
    assert_eq!(story.attempt(0).first_step(), 0, "another rerun does not");
}

#[test]
fn a_rerun_from_where_no_files_are_kept_is_refused_with_the_reason() {
    let off = Job { snapshots: Some(Snapshots::Off), ..with_steps(job("c", &[]), 2) };
    let mut story = story(vec![with_steps(job("a", &[]), 4), job("b", &[0]), off]);
    let none = "job `a` cannot begin from step 2: it has no attempt 3";
    fail_at(&mut story, 0, 2, &[2]);
    fail_at(&mut story, 2, 1, &[]);
    assert_eq!(story.refused(from(0, 1, 3)), none);
    let words = story.refused(from(0, 1, 1));
    assert!(words.contains("an earlier step had left a process running"), "{words}");
    let words = story.refused(from(0, 3, 1));
    assert!(words.ends_with("in attempt 1, step 3 ended with exit code 1"), "{words}");
    let words = story.refused(from(0, 4, 1));
    assert_eq!(words, "job `a` has 4 steps, so there is no step 5");
    let words = story.refused(from(2, 1, 1));
    assert!(words.ends_with("its manifest says `snapshots: off`"), "{words}");
}

#[test]
fn where_no_files_can_be_kept_between_steps_that_is_the_reason() {
    let (ssh, snapshots) = (Some("far".to_owned()), Some(Snapshots::Steps));
    let mut story = story(vec![with_steps(Job { ssh, snapshots, ..job("a", &[]) }, 3)]);
    fail_at(&mut story, 0, 1, &[]);
    let why = story.run.begins_from(JobIndex(0), 1).unwrap_err();
    assert!(why.ends_with("since its steps run on another machine"), "{why}");
}

#[test]
fn files_over_what_a_need_left_before_are_of_no_use() {
    let mut story = story(vec![job("a", &[]), with_steps(job("b", &[0]), 3)]);
    story.succeed(&[0]);
    fail_at(&mut story, 1, 1, &[1]);
    story.rerun(&[1]);
    fail_at(&mut story, 1, 1, &[]);
    assert_eq!(story.run.begins_from(JobIndex(1), 1).map(|from| from.attempt), Ok(1));
    let both = EventKind::RerunAsked {
        jobs: vec![JobIndex(0), JobIndex(1)],
        by: "bob".to_owned(),
        from: Some(FromStep { job: JobIndex(1), step: 1, attempt: 1 }),
    };
    let words = story.refused(both);
    assert!(words.contains("what it needs runs again"), "{words}");
    story.rerun(&[0]);
    story.succeed(&[0]);
    fail_at(&mut story, 1, 1, &[]);
    let words = story.refused(from(1, 1, 1));
    assert!(words.ends_with("attempt 1 saw what its needs left before they ran again"), "{words}");
}

#[test]
fn a_job_that_runs_again_alone_sees_what_its_needs_left_then() {
    let mut story = story(vec![job("a", &[]), job("b", &[0]), job("c", &[1])]);
    story.succeed(&[0, 1]);
    story.run_job(2, exit(1));
    let before = story.run.layers_below(JobIndex(2));
    assert_eq!(before, ["7-0-1", "7-1-1"].map(|id| LayerId::Attempt(id.to_owned())));
    story.rerun(&[2]);
    assert_eq!(story.run.layers_below(JobIndex(2)), before);
    assert_eq!(story.offered(), [2]);
}

#[test]
fn an_old_event_without_a_step_is_read() {
    let text = r#"{"event":"rerun_asked","jobs":[0],"by":"bob"}"#;
    assert_eq!(serde_json::from_str::<EventKind>(text).unwrap(), rerun_of(&[0]));
    assert_eq!(serde_json::to_string(&rerun_of(&[0])).unwrap(), text);
}
