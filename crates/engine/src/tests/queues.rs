use kiln_model::plan::Lock;
use kiln_model::{AttemptId, JobIndex, ProjectId, RunId};

use crate::queue::{Blocked, Offer, Queue};

const P: ProjectId = ProjectId(1);
const Q: ProjectId = ProjectId(2);

fn id(at: u32) -> AttemptId {
    AttemptId { run: RunId(1), job: JobIndex(at), attempt: 1 }
}

fn offer(at: u32) -> Offer {
    Offer { attempt: id(at), labels: Vec::new(), priority: 0, lock: None }
}

fn locked(at: u32, any: &[&str], limit: u32) -> Offer {
    let any = any.iter().map(|name| (*name).to_owned()).collect();
    Offer { lock: Some(Lock { any, limit }), ..offer(at) }
}

fn labelled(at: u32, labels: &[&str]) -> Offer {
    Offer { labels: names(labels), ..offer(at) }
}

fn names(labels: &[&str]) -> Vec<String> {
    labels.iter().map(|label| (*label).to_owned()).collect()
}

fn take(queue: &mut Queue) -> Option<u32> {
    queue.take(&[]).map(|(offer, _)| offer.attempt.job.0)
}

/// Takes until there is nothing left, releasing at once.
fn order(queue: &mut Queue) -> Vec<u32> {
    std::iter::from_fn(|| {
        let at = take(queue)?;
        queue.release(id(at));
        Some(at)
    })
    .collect()
}

#[test]
fn higher_priority_goes_first_and_then_whoever_came_first() {
    let mut queue = Queue::default();
    for (at, priority) in [(0, 0), (1, 5), (2, -3), (3, 5), (4, 0)] {
        queue.offer(P, Offer { priority, ..offer(at) });
    }
    assert_eq!(order(&mut queue), [1, 3, 0, 4, 2]);
    assert!(queue.is_empty());
}

#[test]
fn a_project_with_many_offers_does_not_starve_another() {
    let mut queue = Queue::default();
    (0..9_000).for_each(|at| queue.offer(P, offer(at)));
    (9_000..9_003).for_each(|at| queue.offer(Q, offer(at)));
    // One agent: turns.
    let first = order(&mut queue)[..6].to_vec();
    assert_eq!(first, [0, 9_000, 1, 9_001, 2, 9_002]);
}

#[test]
fn agents_are_shared_by_what_runs() {
    let mut queue = Queue::default();
    (0..4).for_each(|at| queue.offer(P, offer(at)));
    assert_eq!([take(&mut queue), take(&mut queue)], [Some(0), Some(1)]);
    (10..14).for_each(|at| queue.offer(Q, offer(at)));
    assert_eq!([take(&mut queue), take(&mut queue)], [Some(10), Some(11)]);
    queue.release(id(0));
    assert_eq!(take(&mut queue), Some(2), "the project that runs less goes first");
}

#[test]
fn an_agent_gets_only_what_it_has_all_labels_for() {
    let mut queue = Queue::default();
    queue.offer(P, labelled(0, &["gpu", "linux"]));
    queue.offer(P, labelled(1, &["linux"]));
    queue.offer(P, offer(2));
    assert_eq!(take(&mut queue), Some(2));
    assert_eq!(take(&mut queue), None);
    let (taken, _) = queue.take(&names(&["linux", "arm"])).expect("job 1 needs linux");
    assert_eq!(taken.attempt, id(1));
    assert_eq!(queue.blocked(id(0)), Some(Blocked::NoAgent { position: 1 }));
    let (taken, _) = queue.take(&names(&["linux", "gpu", "gpu"])).expect("it has both");
    assert_eq!(taken.attempt, id(0));
}

#[test]
fn labels_are_matched_also_when_they_come_later_than_the_agent() {
    let mut queue = Queue::default();
    let agent = names(&["a", "b"]);
    for at in 0..5 {
        assert_eq!(queue.take(&agent), None);
        queue.offer(P, labelled(at, &["b"]));
        assert_eq!(queue.take(&agent).map(|(offer, _)| offer.attempt), Some(id(at)));
    }
}

#[test]
fn a_lock_is_given_up_to_its_limit_and_comes_back() {
    let mut queue = Queue::default();
    (0..4).for_each(|at| queue.offer(P, locked(at, &["board"], 2)));
    queue.offer(Q, locked(9, &["board"], 1));
    let board = Some("board".to_owned());
    assert_eq!(queue.take(&[]), Some((locked(0, &["board"], 2), board.clone())));
    assert_eq!(queue.take(&[]), Some((locked(9, &["board"], 1), board)), "another project's");
    assert_eq!(take(&mut queue), Some(1));
    assert_eq!(take(&mut queue), None);
    let held_by = vec![id(0), id(1)];
    assert_eq!(queue.blocked(id(2)), Some(Blocked::Lock { lock: "board".to_owned(), held_by }));
    assert!(queue.release(id(1)), "somebody can go now");
    assert!(!queue.release(id(1)), "it holds nothing any more");
    assert_eq!(take(&mut queue), Some(2));
}

#[test]
fn any_of_several_locks_is_enough() {
    let mut queue = Queue::default();
    let any = ["b1", "b2"];
    (0..4).for_each(|at| queue.offer(P, locked(at, &any, 1)));
    queue.offer(P, locked(4, &["b2"], 1));
    let lock = |queue: &mut Queue| queue.take(&[]).and_then(|(_, lock)| lock);
    assert_eq!(lock(&mut queue).as_deref(), Some("b1"));
    assert_eq!(lock(&mut queue).as_deref(), Some("b2"));
    assert_eq!(lock(&mut queue), None);
    assert!(
        matches!(queue.blocked(id(2)), Some(Blocked::Lock { held_by, .. }) if held_by.len() == 2)
    );
    queue.release(id(0));
    assert_eq!(lock(&mut queue).as_deref(), Some("b1"), "job 4 needs the other");
    queue.release(id(2));
    queue.release(id(1));
    assert_eq!(take(&mut queue), Some(3));
    assert_eq!(take(&mut queue), Some(4), "one is left for the one who needs just that");
}

#[test]
fn who_waits_for_a_lock_is_passed_by() {
    let mut queue = Queue::default();
    (0..3).for_each(|at| queue.offer(P, Offer { priority: 9, ..locked(at, &["x"], 1) }));
    queue.offer(P, offer(7));
    assert_eq!([take(&mut queue), take(&mut queue)], [Some(0), Some(7)]);
}

#[test]
fn what_was_put_back_stands_where_it_stood_and_its_lock_is_free() {
    let mut queue = Queue::default();
    (0..3).for_each(|at| queue.offer(P, locked(at, &["x"], 1)));
    queue.offer(Q, offer(9));
    let (taken, _) = queue.take(&[]).expect("job 0");
    queue.put_back(P, taken);
    assert_eq!(queue.len(), 4);
    assert_eq!(take(&mut queue), Some(0), "not 1, and the turn is still its project's");
    queue.release(id(0));
    assert_eq!(order(&mut queue), [9, 1, 2]);
}

#[test]
fn what_is_held_from_before_a_restart_counts() {
    let mut queue = Queue::default();
    queue.hold(P, id(5), "x".to_owned());
    queue.resume(P, id(6), None);
    queue.offer(P, locked(0, &["x"], 1));
    queue.offer(P, offer(1));
    queue.offer(Q, offer(2));
    assert_eq!(queue.project_of(id(5)), Some(P));
    assert_eq!([take(&mut queue), take(&mut queue)], [Some(2), Some(1)]);
    assert!(queue.release(id(5)));
    assert_eq!(take(&mut queue), Some(0));
}

#[test]
fn what_is_withdrawn_is_gone_and_what_is_offered_twice_is_there_once() {
    let mut queue = Queue::default();
    (0..3).for_each(|at| queue.offer(P, offer(at)));
    queue.offer(P, Offer { priority: 1, ..offer(2) });
    queue.offer(P, offer(0));
    queue.withdraw(id(1));
    queue.withdraw(id(1));
    assert_eq!((queue.len(), queue.project_of(id(1)), queue.blocked(id(1))), (2, None, None));
    assert_eq!(order(&mut queue), [2, 0]);
}

#[test]
fn an_attempt_that_is_offered_again_is_taken_from_its_holder_and_stands_where_it_stood() {
    let mut queue = Queue::default();
    (0..3).for_each(|at| queue.offer(P, locked(at, &["x"], 1)));
    assert_eq!(take(&mut queue), Some(0));
    queue.offer(P, locked(0, &["x"], 1));
    assert_eq!(take(&mut queue), Some(0), "where it stood, with the lock");
    assert_eq!(queue.len(), 2);
}

#[test]
fn positions_are_counted_along_the_line() {
    let mut queue = Queue::default();
    (0..1_500).for_each(|at| queue.offer(P, offer(at)));
    let position = |at| queue.blocked(id(at));
    assert_eq!(position(0), Some(Blocked::NoAgent { position: 1 }));
    assert_eq!(position(41), Some(Blocked::NoAgent { position: 42 }));
    assert_eq!(position(1_400), Some(Blocked::NoAgent { position: 1_000 }));
}

/// Quadratic work would make this take minutes.
#[test]
fn a_hundred_thousand_offers_beside_what_waits_for_locks_and_labels() {
    let mut queue = Queue::default();
    for at in 0..20_000 {
        queue.offer(P, Offer { priority: 50, ..labelled(at, &["nobody-has-this"]) });
        let lone = format!("lone-{at}");
        queue.offer(P, Offer { priority: 50, ..labelled(100_000 + at, &[&lone]) });
        queue.offer(P, Offer { priority: 50, ..locked(200_000 + at, &["held"], 1) });
        queue.offer(P, Offer { priority: 50, ..locked(300_000 + at, &["held", "held-too"], 1) });
        queue.offer(Q, offer(400_000 + at));
    }
    queue.hold(P, id(1_000_000), "held".to_owned());
    queue.hold(P, id(1_000_001), "held-too".to_owned());
    assert_eq!(queue.len(), 100_000);
    let taken = order(&mut queue);
    assert_eq!(taken, (400_000..420_000).collect::<Vec<_>>());
    queue.release(id(1_000_000));
    assert!(take(&mut queue).is_some_and(|at| at >= 200_000));
    assert_eq!(take(&mut queue), None);
}
