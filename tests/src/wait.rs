//! Waiting for a fact, with a bound.

use std::time::Duration;

use kiln_stdx::clock::Stopwatch;

/// How long a story waits before it gives up. Not a speed limit: it is far above what any fact
/// takes on two busy cores, and only keeps a broken build from hanging.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Asks again and again until there is an answer; panics with `what` when patience ends.
pub fn until<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, ask)
}

/// As [`until`], with other patience.
pub fn until_within<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let since = Stopwatch::start();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(since.elapsed() < patience, "waited {patience:?} in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
