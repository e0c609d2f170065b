use kiln_model::layer::Digest;
use kiln_model::{Earlier, EarlierStep, JobKey, JobName, Notes, RunNumber};

use super::*;

fn keyed(lease: LeaseId, unfit: &[&str]) -> EventKind {
    let digest = Digest::from_bytes([1; 32]);
    let key = JobKey { digest: digest.clone(), parts: digest };
    EventKind::Keyed { lease, key, unfit: unfit.iter().map(|why| (*why).to_owned()).collect() }
}

fn earlier() -> Earlier {
    let attempt = AttemptId { run: RunId(3), job: JobIndex(4), attempt: 2 };
    let job = JobName::new("a").expect("a lawful name");
    Earlier { attempt, number: RunNumber(8), job, took_ms: 3_200 }
}

fn reused(lease: LeaseId) -> EventKind {
    EventKind::Reused {
        lease,
        from: earlier(),
        outputs: BTreeMap::from([("n".to_owned(), "5".to_owned())]),
        layer: Some(LayerId::Attempt("3-4-2".to_owned())),
        artifacts: Vec::new(),
        log_bytes: 10,
        steps: vec![EarlierStep { exit: Some(Exit::SUCCESS), log_from: 0, log_to: 10, took_ms: 3 }],
        notes: Notes::default(),
    }
}

#[test]
fn an_earlier_result_is_a_success_without_a_step_and_later_jobs_see_what_it_left() {
    let mut story = story(vec![job("a", &[]), job("b", &[0])]);
    let lease = story.lease(0);
    story.apply(keyed(lease, &[]));
    let over = story.apply(reused(lease));
    assert!(over.contains(&Action::Release(lease.attempt)), "{over:?}");
    assert_eq!(story.states(), "success queued");
    assert_eq!(story.reason(0), "reused from run #8, saved 3.2s");
    assert_eq!(story.attempt(0).started_at, None);
    assert_eq!(story.attempt(0).steps[0].log_to, Some(10));
    assert_eq!(story.offered(), [1]);
    assert_eq!(story.run.layers_below(JobIndex(1)), [LayerId::Attempt("3-4-2".to_owned())]);
    assert_eq!(story.run.needs_outputs(JobIndex(1))[0].2, "5");
    assert_eq!(story.run.state, RunState::Running);
    // Told twice.
    assert_eq!(story.apply(reused(lease)), []);
    story.succeed(&[1]);
    assert_eq!(story.run.state, RunState::Success);
}

#[test]
fn who_waits_for_another_says_so_and_can_be_cancelled_or_run_after_all() {
    let mut story = story(vec![job("a", &[])]);
    let lease = story.lease(0);
    story.apply(EventKind::Awaited { lease, from: earlier() });
    assert_eq!(story.reason(0), "waits for `#8/a`, which does the same");
    assert_eq!(story.attempt(0).reused_from(), None);
    story.apply(keyed(lease, &["its files are gone"]));
    story.apply(EventKind::started(lease));
    assert_eq!((story.reason(0).as_str(), story.states().as_str()), ("", "running"));
    assert!(story.refused(reused(lease)).contains("take an earlier result"));
    story.finish(0, Outcome::Success);
    assert_eq!(story.attempt(0).reused_from(), None);
    assert_eq!(story.reason(0), "");

    let mut other = self::story(vec![job("a", &[])]);
    let lease = other.lease(0);
    other.apply(EventKind::Awaited { lease, from: earlier() });
    other.cancel();
    other.finish(0, Outcome::Cancelled);
    assert_eq!(other.states(), "cancelled");
}

#[test]
fn what_an_agent_had_found_out_is_forgotten_with_its_lease() {
    let mut story = story(vec![job("a", &[])]);
    let lease = story.lease(0);
    story.apply(keyed(lease, &["gone"]));
    story.apply(EventKind::Awaited { lease, from: earlier() });
    story.apply(lapsed(lease));
    let attempt = story.attempt(0);
    assert_eq!((&attempt.key, &attempt.earlier, attempt.unfit.len()), (&None, &None, 0));
    assert!(matches!(story.try_apply(reused(lease)), Err(Refused::StaleLease { .. })));
}
