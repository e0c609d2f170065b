use super::*;

#[test]
fn what_no_agent_has_is_cancelled_at_once_and_the_rest_is_told_to_stop() {
    let always = Job { always: true, ..job("d", &[0]) };
    let mut story = story(vec![job("a", &[]), job("b", &[]), job("c", &[]), always]);
    let running = story.start(0);
    let leased = story.lease(1);
    let actions = story.cancel();
    assert_eq!(story.states(), "running queued cancelled cancelled");
    assert_eq!(story.reason(2), "cancelled by ada");
    let by = || "ada".to_owned();
    assert_eq!(
        actions,
        [
            Action::JobChanged(JobIndex(2)),
            Action::JobChanged(JobIndex(3)),
            Action::RunChanged,
            Action::Withdraw(attempt_id(2, 1)),
            Action::Stop { lease: running, by: by() },
            Action::Stop { lease: leased, by: by() },
        ]
    );
    assert_eq!(story.run.stops(), [(running, by()), (leased, by())]);
    story.finish(0, Outcome::Cancelled);
    story.finish(1, Outcome::Cancelled);
    assert_eq!(story.states(), "cancelled cancelled cancelled cancelled");
    assert_eq!(story.run.reason, Some(Reason::CancelAsked { by: by() }));
    assert!(story.offered().is_empty());
}

#[test]
fn a_job_that_succeeds_all_the_same_is_a_success() {
    let mut story = story(vec![job("a", &[]), job("b", &[0])]);
    story.start(0);
    story.cancel();
    story.finish(0, Outcome::Success);
    assert_eq!(story.states(), "success cancelled");
    assert_eq!(story.run.state, RunState::Cancelled);
}

#[test]
fn a_cancel_that_came_too_late_for_every_job_changes_nothing() {
    let mut story = story(vec![job("a", &[])]);
    story.start(0);
    story.cancel();
    story.finish(0, Outcome::Success);
    assert_eq!(story.run.state, RunState::Success);
}

#[test]
fn an_agent_that_goes_away_over_a_cancel_leaves_a_cancelled_job() {
    let gone = Exit::HostGone { detail: "off".to_owned() };
    let outcomes = [
        Outcome::Lost { message: "off".to_owned() },
        Outcome::StepFailed { step: 0, exit: gone },
        Outcome::StepFailed { step: 0, exit: Exit::Cancelled },
    ];
    for outcome in outcomes {
        let mut story = story(vec![job("a", &[])]);
        story.start(0);
        story.cancel();
        story.finish(0, outcome);
        assert_eq!(story.states(), "cancelled");
        assert_eq!(story.attempt(0).state, JobState::Cancelled);
    }
    for start in [true, false] {
        let mut story = story(vec![job("a", &[])]);
        let lease = if start { story.start(0) } else { story.lease(0) };
        story.cancel();
        story.apply(lapsed(lease));
        assert_eq!((story.states().as_str(), story.run.state), ("cancelled", RunState::Cancelled));
        assert!(story.offered().is_empty());
    }
}

#[test]
fn a_failure_of_its_own_is_not_hidden_by_a_cancel_and_not_retried() {
    let retry =
        kiln_model::plan::Retry { attempts: 3, on: vec![kiln_model::plan::RetryOn::Failed] };
    let mut story = story(vec![Job { retry, ..job("a", &[]) }]);
    story.start(0);
    story.cancel();
    story.finish(0, exit(1));
    assert_eq!((story.states().as_str(), story.run.state), ("failed", RunState::Failed));
}

#[test]
fn cancelling_twice_is_harmless_and_a_run_that_is_over_cannot_be_cancelled() {
    let mut story = story(vec![job("a", &[])]);
    story.start(0);
    story.cancel();
    assert_eq!(story.apply(EventKind::CancelAsked { by: "eve".to_owned() }), []);
    story.finish(0, Outcome::Cancelled);
    assert_eq!(story.reason(0), "cancelled by ada");
    let words = story.refused(EventKind::CancelAsked { by: "eve".to_owned() });
    assert_eq!(words, "the run is over already (cancelled); there is nothing to cancel");
}

#[test]
fn a_run_can_be_cancelled_before_it_has_a_plan() {
    let mut story = unplanned();
    assert_eq!(story.cancel(), [Action::RunChanged]);
    assert_eq!(story.run.state, RunState::Cancelled);
    story.run.set_plan(Arc::new(plan_of(vec![job("a", &[])])));
    assert_eq!(story.refused(EventKind::Planned), "run 7 is over (cancelled)");
}
