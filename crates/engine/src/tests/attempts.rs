use kiln_model::plan::{Lock, Retry, RetryOn};
use kiln_model::{Epoch, JobState};

use super::*;
use crate::queue::Offer;
use crate::retry::LEASES_UNSTARTED_MAX;
use crate::run::Cause;

fn retried(attempts: u32, on: &[RetryOn]) -> Job {
    Job { retry: Retry { attempts, on: on.to_vec() }, ..job("a", &[]) }
}

fn stale(story: &mut Story, kind: EventKind) -> bool {
    matches!(story.try_apply(kind), Err(Refused::StaleLease { .. }))
}

#[test]
fn an_offer_carries_what_the_queue_must_know() {
    let lock = Some(Lock { any: vec!["board".to_owned()], limit: 2 });
    let labels = vec!["gpu".to_owned()];
    let offered = Job { labels: labels.clone(), priority: 5, lock: lock.clone(), ..job("a", &[]) };
    let story = story(vec![offered]);
    let offer = Offer { attempt: attempt_id(0, 1), labels, priority: 5, lock };
    assert_eq!(story.run.offers(), [offer]);
}

#[test]
fn the_life_of_an_attempt_step_by_step() {
    let mut story = story(vec![job("a", &[])]);
    let lease = story.lease(0);
    assert_eq!(story.run.leased(), [lease]);
    assert_eq!(story.attempt(0).agent, Some((AgentId(1), "forge-1".to_owned())));
    let changed = [Action::JobChanged(JobIndex(0))];
    let started = [Action::JobChanged(JobIndex(0)), Action::RunChanged];
    assert_eq!(story.apply(EventKind::started(lease)), started);
    assert_eq!(story.apply(EventKind::StepStarted { lease, step: 0, log_from: 0 }), changed);
    let exit = Exit::SUCCESS;
    assert_eq!(
        story.apply(EventKind::StepFinished { lease, step: 0, exit, log_to: 9, usage: None }),
        changed
    );
    let over = story.finish(0, Outcome::Success);
    let release = Action::Release(lease.attempt);
    assert_eq!(over, [Action::JobChanged(JobIndex(0)), Action::RunChanged, release]);
    assert_eq!(story.attempt(0).steps[0].log_to, Some(9));
    assert!(story.run.leased().is_empty());
}

#[test]
fn what_is_told_twice_changes_nothing() {
    let mut story = story(vec![job("a", &[])]);
    let lease = story.lease(0);
    let steps = |log_to| EventKind::StepFinished {
        lease,
        step: 0,
        exit: Exit::SUCCESS,
        log_to,
        usage: None,
    };
    for kind in [
        leased(lease, None),
        EventKind::started(lease),
        EventKind::StepStarted { lease, step: 0, log_from: 3 },
        steps(9),
        finished(lease, Outcome::Success),
    ] {
        let _ = story.try_apply(kind.clone());
        let seq = story.run.seq;
        assert_eq!(story.apply(kind), []);
        assert_eq!(story.run.seq, seq);
    }
    assert_eq!(story.states(), "success");
    assert!(stale(&mut story, finished(lease, exit(1))), "another result is no duplicate");
}

#[test]
fn a_result_told_again_after_the_retry_has_begun_is_still_known() {
    let mut story = story(vec![retried(2, &[RetryOn::Failed])]);
    let lease = story.start(0);
    story.apply(finished(lease, exit(1)));
    story.start(0);
    assert_eq!(story.apply(finished(lease, exit(1))), []);
    assert_eq!(story.states(), "running");
}

#[test]
fn an_older_epoch_is_stale() {
    let mut story = story(vec![job("a", &[])]);
    let old = story.lease(0);
    let offered_again = story.apply(lapsed(old));
    assert!(matches!(offered_again[..], [Action::JobChanged(_), Action::Offer(_)]));
    let new = story.lease(0);
    assert_eq!((old.epoch, new.epoch), (Epoch(1), Epoch(2)));
    for kind in [
        leased(old, None),
        EventKind::started(old),
        EventKind::StepStarted { lease: old, step: 0, log_from: 0 },
        finished(old, Outcome::Success),
        lapsed(old),
    ] {
        assert!(stale(&mut story, kind.clone()), "{kind:?}");
    }
    story.apply(EventKind::started(new));
    assert_eq!(story.run.jobs[0].attempts.len(), 1);
}

#[test]
fn what_comes_out_of_order_is_refused_in_words() {
    let mut story = story(vec![job("a", &[])]);
    let lease = story.lease(0);
    let step = EventKind::StepStarted { lease, step: 0, log_from: 0 };
    let words = "7-0-1@1 cannot start step 1: the attempt is leased and has not started";
    assert_eq!(story.refused(step), words);
    let words = "7-0-1@1 cannot have run a step: the attempt is leased and has not started";
    assert_eq!(story.refused(finished(lease, Outcome::Success)), words);
    story.apply(EventKind::started(lease));
    let beyond = EventKind::StepStarted { lease, step: 1, log_from: 0 };
    assert_eq!(story.refused(beyond), "7-0-1@1: there is no step 1; the job has 1");
    let ended =
        EventKind::StepFinished { lease, step: 0, exit: Exit::SUCCESS, log_to: 0, usage: None };
    assert_eq!(story.refused(ended), "7-0-1@1: step 1 has not started or ended otherwise");
    let unknown = LeaseId { attempt: attempt_id(4, 1), epoch: Epoch(1) };
    let words = "run 7 has no attempt 7-4-1";
    assert_eq!(story.refused(EventKind::started(unknown)), words);
    let future = LeaseId { epoch: Epoch(9), ..lease };
    let words = "lease 7-0-1@9 was never given";
    assert_eq!(story.refused(EventKind::started(future)), words);
}

#[test]
fn a_success_has_no_step_that_failed() {
    let mut story = story(vec![job("a", &[])]);
    let lease = story.start(0);
    story.apply(EventKind::StepStarted { lease, step: 0, log_from: 0 });
    let exit = Exit::Code { code: 1 };
    story.apply(EventKind::StepFinished { lease, step: 0, exit, log_to: 0, usage: None });
    let words = "7-0-1@1 cannot be a success: a step of it has failed";
    assert_eq!(story.refused(finished(lease, Outcome::Success)), words);
}

#[test]
fn a_job_with_a_lock_is_leased_with_one_of_its_names() {
    let lock = Lock { any: vec!["x".to_owned(), "y".to_owned()], limit: 1 };
    let mut story = story(vec![Job { lock: Some(lock), ..job("a", &[]) }, job("b", &[])]);
    let (locked, free) = (story.attempt(0).next_lease(), story.attempt(1).next_lease());
    assert!(story.refused(leased(locked, None)).contains("with no lock"));
    assert!(story.refused(leased(locked, Some("z".into()))).contains("with lock `z`"));
    assert!(story.refused(leased(free, Some("x".into()))).contains("with lock `x`"));
    story.apply(leased(locked, Some("y".into())));
    assert_eq!(story.attempt(0).lock.as_deref(), Some("y"));
}

#[test]
fn an_attempt_that_never_started_goes_to_the_next_agent_whatever_the_budget() {
    let mut story = story(vec![job("a", &[])]);
    for _ in 0..3 {
        let lease = story.lease(0);
        story.apply(lapsed(lease));
        let lease = story.lease(0);
        story.apply(finished(lease, Outcome::Lost { message: "rebooted".to_owned() }));
    }
    assert_eq!(story.states(), "queued");
    story.succeed(&[0]);
    assert_eq!(story.run.jobs[0].attempts.len(), 1);
    assert_eq!(story.attempt(0).epoch, Epoch(7));
}

#[test]
fn a_job_that_kills_every_agent_that_takes_it_is_lost_in_the_end() {
    let mut story = story(vec![job("a", &[])]);
    for _ in 0..LEASES_UNSTARTED_MAX {
        assert_eq!(story.states(), "queued");
        let lease = story.lease(0);
        story.apply(lapsed(lease));
    }
    assert_eq!(story.states(), "lost");
    assert_eq!(story.reason(0), "it was lost: 50 agents took it and none started it");
}

#[test]
fn a_started_attempt_that_lapses_is_lost_and_so_is_the_run() {
    let mut story = story(vec![job("a", &[])]);
    let lease = story.start(0);
    story.apply(EventKind::StepStarted { lease, step: 0, log_from: 0 });
    story.apply(lapsed(lease));
    assert_eq!((story.states().as_str(), story.run.state), ("lost", RunState::Failed));
    assert_eq!(story.attempt(0).steps[0].exit, Some(Exit::HostGone { detail: "silent".into() }));
}

#[test]
fn a_failure_that_is_allowed_includes_a_lost_agent() {
    let mut story = story(vec![Job { allow_failure: true, ..job("a", &[]) }]);
    let lease = story.start(0);
    story.apply(lapsed(lease));
    assert_eq!((story.states().as_str(), story.run.state), ("warning", RunState::Warning));
}

#[test]
fn each_kind_of_failure_is_retried_by_its_own_word_only() {
    let step = |exit| Outcome::StepFailed { step: 0, exit };
    let message = || "…".to_owned();
    let cases = [
        (exit(1), RetryOn::Failed),
        (step(Exit::Killed { signal: 9 }), RetryOn::Failed),
        (step(Exit::OutOfMemory { limit_bytes: None }), RetryOn::Failed),
        (step(Exit::TimedOut { after_ms: 1 }), RetryOn::Timeout),
        (Outcome::TimedOut { after_ms: 1 }, RetryOn::Timeout),
        (step(Exit::HostGone { detail: message() }), RetryOn::Lost),
        (Outcome::Lost { message: message() }, RetryOn::Lost),
        (Outcome::Error { message: message() }, RetryOn::Error),
    ];
    for (outcome, word) in cases {
        for on in [RetryOn::Failed, RetryOn::Timeout, RetryOn::Lost, RetryOn::Error] {
            let mut story = story(vec![retried(2, &[on])]);
            story.run_job(0, outcome.clone());
            let over = story.run.jobs[0].state.is_over();
            assert_eq!(over, on != word, "{outcome:?} with {on:?}");
        }
    }
}

#[test]
fn a_retry_is_a_new_attempt_until_the_budget_is_used_up() {
    let mut story = story(vec![retried(3, &[RetryOn::Failed])]);
    let first = story.run_job(0, exit(1));
    let offer = Offer { attempt: attempt_id(0, 2), labels: vec![], priority: 0, lock: None };
    let release = Action::Release(attempt_id(0, 1));
    assert_eq!(first, [Action::JobChanged(JobIndex(0)), release, Action::Offer(offer)]);
    assert_eq!(story.attempt(0).cause, Cause::Retry);
    assert!(story.run.jobs[0].outputs.is_empty(), "outputs are those of the last attempt");
    story.run_job(0, exit(1));
    story.run_job(0, exit(3));
    assert_eq!(story.states(), "failed");
    assert_eq!(story.run.jobs[0].attempts.len(), 3);
    assert_eq!(story.reason(0), "step 1 `make a` ended with exit code 3");
}

#[test]
fn an_attempt_that_its_agent_cancels_unasked_is_cancelled_by_that_agent() {
    let mut story = story(vec![job("a", &[]), job("b", &[0])]);
    story.run_job(0, Outcome::Cancelled);
    assert_eq!(story.states(), "cancelled skipped");
    assert_eq!(story.reason(0), "cancelled by agent forge-1");
    assert_eq!(story.run.state, RunState::Cancelled);
    assert_eq!(story.run.reason, Some(Reason::Jobs { jobs: vec!["a".to_owned()] }));
    assert_eq!(story.attempt(0).state, JobState::Cancelled);
}

#[test]
fn what_becomes_of_a_service_is_known_and_none_outlives_its_job() {
    use kiln_model::{ServiceChange, ServiceEnd, ServiceState};

    let mut story = story(vec![job("a", &[])]);
    let lease = story.lease(0);
    let of = |name: &str, change| EventKind::Service { lease, service: name.to_owned(), change };
    let words = story.refused(of("db", ServiceChange::Started));
    assert!(
        words.ends_with("cannot have the service `db`: the attempt is leased and has not started")
    );
    story.apply(EventKind::started(lease));
    story.refused(of("db", ServiceChange::Ready));
    for (name, change) in [
        ("db", ServiceChange::Started),
        ("web", ServiceChange::Started),
        ("web", ServiceChange::Ready),
        ("db", ServiceChange::Ready),
    ] {
        story.apply(of(name, change.clone()));
        assert_eq!(story.apply(of(name, change)), [], "told again");
    }
    let end = ServiceEnd::Exited { exit: Exit::Code { code: 3 } };
    story.apply(of("db", ServiceChange::Ended { end, log_bytes: 7 }));
    let late = ServiceChange::Ended { end: ServiceEnd::Stopped, log_bytes: 9 };
    assert_eq!(story.apply(of("db", late)), [], "it ended once");
    story.finish(0, Outcome::Success);
    let states = story
        .attempt(0)
        .services
        .iter()
        .map(|(name, service)| (name.as_str(), service.state(), service.log_bytes));
    let states: Vec<_> = states.collect();
    assert_eq!(states, [("db", ServiceState::Ended, 7), ("web", ServiceState::Stopped, 0)]);
}
