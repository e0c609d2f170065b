use kiln_model::plan::{PlanError, View};

use super::*;

#[test]
fn a_job_is_offered_when_the_last_of_its_needs_is_over() {
    let mut story =
        story(vec![job("a", &[]), job("b", &[0]), job("c", &[0]), job("d", &[1, 2, 1])]);
    assert_eq!(story.offered(), [0]);
    assert_eq!(story.reason(3), "waits for `b` and `c`");
    story.succeed(&[0]);
    assert_eq!(story.offered(), [1, 2]);
    story.succeed(&[2]);
    assert_eq!(story.reason(3), "waits for `b`");
    assert_eq!(story.offered(), [1]);
    story.succeed(&[1, 3]);
    assert_eq!((story.run.state, story.run.reason.clone()), (RunState::Success, None));
    assert_eq!(story.run.n_jobs_over(), 4);
}

#[test]
fn a_run_is_queued_until_a_job_starts() {
    let mut story = story(vec![job("a", &[])]);
    assert_eq!(story.run.state, RunState::Queued);
    let lease = story.lease(0);
    assert_eq!(story.run.state, RunState::Queued);
    story.apply(EventKind::started(lease));
    assert_eq!(story.run.state, RunState::Running);
    assert_eq!(story.run.started_at, Some(Timestamp::from_millis(3_000)));
}

#[test]
fn a_failed_need_skips_what_needs_it_and_so_on() {
    let mut story = story(vec![job("a", &[]), job("b", &[0]), job("c", &[1]), job("d", &[])]);
    story.run_job(0, exit(2));
    assert_eq!(story.states(), "failed skipped skipped queued");
    assert_eq!(story.reason(0), "step 1 `make a` ended with exit code 2");
    assert_eq!(story.reason(1), "its need `a` failed");
    assert_eq!(story.reason(2), "its need `b` was skipped");
    assert_eq!(story.run.state, RunState::Running);
    story.succeed(&[3]);
    assert_eq!(story.run.state, RunState::Failed);
    assert_eq!(story.run.reason, Some(Reason::Jobs { jobs: vec!["a".to_owned()] }));
}

#[test]
fn an_always_job_runs_after_a_failure_and_after_a_skip() {
    let always = |name, needs| Job { always: true, ..job(name, needs) };
    let mut story =
        story(vec![job("a", &[]), job("b", &[0]), always("c", &[0]), always("d", &[1])]);
    story.run_job(0, exit(1));
    assert_eq!(story.offered(), [2, 3]);
    story.succeed(&[2, 3]);
    assert_eq!(story.states(), "failed skipped success success");
    assert_eq!(story.run.state, RunState::Failed);
}

#[test]
fn what_needs_a_job_that_may_fail_goes_on() {
    let mut story = story(vec![Job { allow_failure: true, ..job("a", &[]) }, job("b", &[0])]);
    story.run_job(0, exit(1));
    story.succeed(&[1]);
    assert_eq!(story.states(), "warning success");
    assert_eq!(story.run.state, RunState::Warning);
    assert_eq!(story.attempt(0).state, JobState::Failed);
}

#[test]
fn a_false_condition_skips_the_job_and_shows_its_parts() {
    let jobs = vec![
        with_condition(job("a", &[]), "branch == \"dev\""),
        job("b", &[0]),
        with_condition(job("c", &[]), "branch == \"main\""),
    ];
    let mut story = story(jobs);
    assert_eq!(story.states(), "skipped skipped queued");
    assert_eq!(story.reason(0), "its condition `branch == \"dev\"` is false");
    let Some(Reason::Condition { trace, .. }) = &story.run.jobs[0].reason else {
        panic!("{:?}", story.run.jobs[0].reason);
    };
    assert!(trace.contains("branch is \"main\""), "{trace}");
    story.succeed(&[2]);
    assert_eq!(story.run.state, RunState::Success);
}

#[test]
fn a_condition_that_asks_for_failure_is_asked_when_needs_failed() {
    let jobs = || {
        vec![
            job("a", &[]),
            with_condition(job("mend", &[0]), "failure()"),
            with_condition(job("say", &[0]), "always() && branch == \"main\""),
            with_condition(job("ship", &[0]), "branch == \"main\""),
        ]
    };
    let mut bad = story(jobs());
    bad.run_job(0, exit(1));
    assert_eq!(bad.states(), "failed queued queued skipped");
    assert_eq!(bad.reason(3), "its need `a` failed");
    let mut good = story(jobs());
    good.succeed(&[0]);
    assert_eq!(good.states(), "success skipped queued queued");
}

#[test]
fn a_condition_sees_states_and_outputs_of_needs_and_of_whole_matrices() {
    let group = |job: Job, group: &str| Job { group: group.parse().expect("a name"), ..job };
    let jobs = vec![
        group(Job { allow_failure: true, ..job("t:1", &[]) }, "t"),
        group(job("t:2", &[]), "t"),
        with_condition(job("c", &[0, 1]), "needs.t.state == \"warning\""),
        with_condition(job("d", &[0, 1]), "needs[\"t:2\"].state == \"success\""),
        with_condition(job("e", &[1]), "needs.t.outputs.job == \"1\""),
        with_condition(job("f", &[1]), "needs.t.outputs.other == \"1\""),
    ];
    let mut story = story(jobs);
    story.run_job(0, exit(1));
    story.succeed(&[1]);
    assert_eq!(story.states(), "warning success queued queued queued skipped");
}

#[test]
fn a_run_whose_jobs_are_all_skipped_is_a_success_and_says_so() {
    let story = story(vec![with_condition(job("a", &[]), "false"), job("b", &[0])]);
    assert_eq!(story.run.state, RunState::Success);
    assert_eq!(story.run.reason, Some(Reason::AllSkipped));
    assert_eq!(story.run.finished_at, Some(Timestamp::from_millis(1_000)));
}

#[test]
fn a_job_to_approve_waits_and_the_run_with_it_when_nothing_else_can_go_on() {
    let approve = Job { approve: Some(vec!["ops".to_owned()]), ..job("b", &[0]) };
    let mut story = story(vec![job("a", &[]), approve, job("c", &[1])]);
    assert_eq!(story.run.state, RunState::Queued);
    story.succeed(&[0]);
    assert_eq!(story.states(), "success waiting queued");
    assert_eq!(story.run.state, RunState::Waiting);
    story.cancel();
    assert_eq!(story.states(), "success cancelled cancelled");
    assert_eq!(story.run.state, RunState::Cancelled);
}

#[test]
fn a_run_without_a_plan_has_failed() {
    let mut story = unplanned();
    let refused = EventKind::PlanRefused { message: "line 3: …".to_owned() };
    assert_eq!(story.apply(refused.clone()), [Action::RunChanged]);
    assert_eq!(story.run.state, RunState::Failed);
    assert_eq!(story.apply(refused), []);
    story.run.set_plan(Arc::new(plan_of(vec![job("a", &[])])));
    assert_eq!(story.refused(EventKind::Planned), "run 7 is over (failed)");
    assert!(story.refused(rerun_of(&[0])).contains("start a new run"));
}

#[test]
fn a_plan_that_goes_round_in_a_circle_ends_the_run_with_words() {
    for (jobs, words) in [
        (vec![job("a", &[1]), job("b", &[0])], PlanError::Cycle(vec![]).to_string()),
        (vec![], "it has no jobs".to_owned()),
    ] {
        let story = story(jobs);
        assert_eq!(story.run.state, RunState::Failed);
        let Some(Reason::NoPlan { message }) = &story.run.reason else {
            panic!("{:?}", story.run.reason);
        };
        assert!(message.starts_with(&words), "{message}");
    }
}

#[test]
fn an_event_out_of_turn_is_refused() {
    let mut story = story(vec![job("a", &[])]);
    let cancel = EventKind::CancelAsked { by: "ada".to_owned() };
    let late = Event { seq: 3, at: Timestamp::EPOCH, kind: cancel };
    let refused = story.run.apply(&late).unwrap_err().to_string();
    assert_eq!(refused, "event 3 cannot follow event 1 of run 7");
    assert_eq!(story.apply(EventKind::Planned), []);
    assert_eq!(story.run.seq, 1);
}

#[test]
fn layers_come_in_the_order_of_needs_each_once_and_lowest_first() {
    let mut story = story(vec![
        job("a", &[]),
        job("b", &[0]),
        job("c", &[0]),
        with_condition(job("none", &[2]), "false"),
        Job { always: true, ..job("d", &[1, 3, 2, 1]) },
    ]);
    story.succeed(&[0, 1, 2]);
    let layers = story.run.layers_below(JobIndex(4));
    let names = ["7-0-1", "7-1-1", "7-2-1"].map(|id| LayerId::Attempt(id.to_owned()));
    assert_eq!(layers, names);
    let outputs = story.run.needs_outputs(JobIndex(4));
    let outputs: Vec<_> = outputs.iter().map(|(job, _, v)| format!("{job}={v}")).collect();
    assert_eq!(outputs, ["b=1", "c=2"]);
}

#[test]
fn a_job_sees_only_what_it_asks_for_and_passes_only_that_on() {
    let seeing = |name, needs, workspace| Job { workspace, ..job(name, needs) };
    let mut story = story(vec![
        job("a", &[]),
        job("b", &[0]),
        seeing("none", &[1], View::Nothing),
        seeing("fresh", &[1], View::Fresh),
        seeing("of-a", &[1, 0], View::From { jobs: vec![JobIndex(0)] }),
        job("all", &[2, 3, 4]),
    ]);
    story.succeed(&[0, 1, 2, 3, 4]);
    let seen = |at| {
        let layers = story.run.layers_below(JobIndex(at));
        layers.iter().map(|layer| format!("{layer:?}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!((seen(2), seen(3)), (String::new(), String::new()));
    assert_eq!(seen(4), "Attempt(\"7-0-1\")");
    let all = ["7-2-1", "7-3-1", "7-0-1", "7-4-1"].map(|id| format!("Attempt({id:?})"));
    assert_eq!(seen(5), all.join(" "));
    // What it needs gives its outputs, whatever it sees of the files.
    assert_eq!(story.run.needs_outputs(JobIndex(2)).len(), 1);
}

#[test]
fn a_layer_knows_through_which_needs_it_came() {
    let mut story = story(vec![
        job("base", &[]),
        job("a", &[0]),
        job("b", &[0]),
        job("both", &[1, 2]),
        job("c", &[0]),
        job("end", &[3, 4]),
    ]);
    story.succeed(&[0, 1, 2, 3, 4]);
    let through = |at| {
        let below = story.run.below(JobIndex(at));
        below.iter().map(|below| (below.of.0, below.through[0])).collect::<Vec<_>>()
    };
    assert_eq!(through(3), [(0, 0b11), (1, 0b01), (2, 0b10)]);
    // `a` and `b` have met in `both` already.
    assert_eq!(through(5), [(0, 0b11), (1, 0b01), (2, 0b01), (3, 0b01), (4, 0b10)]);
}

#[test]
fn the_layers_of_a_deep_plan_with_many_paths_are_found() {
    let mut jobs = vec![job("j0", &[]), job("k0", &[])];
    for at in 1..2_000u32 {
        let both = [2 * at - 2, 2 * at - 1];
        jobs.extend([job(&format!("j{at}"), &both), job(&format!("k{at}"), &both)]);
    }
    let last = u32::try_from(jobs.len() - 1).expect("few");
    let mut story = story(jobs);
    for at in 0..last {
        story.run_job(at, Outcome::Success);
    }
    assert_eq!(story.run.layers_below(JobIndex(last)).len(), last as usize - 1);
}

#[test]
fn a_large_join_names_some_of_its_needs_and_always_some_that_are_not_over() {
    let mut jobs: Vec<Job> = (0..3_000).map(|at| job(&format!("j{at}"), &[])).collect();
    jobs.push(job("join", &(0..3_000).collect::<Vec<_>>()));
    let mut story = story(jobs);
    for at in 0..3_000 {
        let Some(Reason::Needs { jobs }) = story.run.jobs[3_000].reason.clone() else {
            panic!("the join waits");
        };
        assert!(jobs.len() <= 8 && jobs.contains(&format!("j{at}")), "{jobs:?}");
        story.run_job(at, Outcome::Success);
    }
    assert_eq!(story.offered(), [3_000]);
}
