//! What a pull says while a job waits for it: lines in its log, before there is a session that writes there.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use kiln_image::Progress;
use kiln_stdx::{Clock, SystemClock, bytes, duration};
use tokio::sync::watch;

use crate::explain;

/// A pull that is over by then says nothing until it is.
const SAY_AFTER: Duration = Duration::from_secs(1);
/// So often at most, and so many percent at least lie between two lines: a log is not a terminal.
const SAY_EVERY: Duration = Duration::from_secs(2);
const SAY_EVERY_PERCENT: u64 = 10;

/// Says how far it is, as long as this is awaited. `grew` is told the length of the log.
pub(crate) async fn tell(
    mut progress: watch::Receiver<Progress>,
    (image, log): (&str, &Path),
    grew: impl Fn(u64),
) -> Infallible {
    // Nothing is fetched until it begins to change.
    if progress.wait_for(|now| now.of_bytes > 0).await.is_err() {
        return std::future::pending().await;
    }
    tokio::time::sleep(SAY_AFTER).await;
    let mut said = None;
    loop {
        let now = *progress.borrow_and_update();
        let percent = now.n_bytes.saturating_mul(100) / now.of_bytes.max(1);
        let line = match said {
            None => Some(format!("pulling `{image}`: {}", words(now))),
            Some(before) if percent >= before + SAY_EVERY_PERCENT => Some(words(now)),
            Some(_) => None,
        };
        if let Some(line) = line {
            grew(explain::say(log, &line));
            said = Some(percent);
            tokio::time::sleep(SAY_EVERY).await;
        }
        if progress.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Once it is there; nothing when there was nothing to fetch.
pub(crate) fn told(
    progress: Progress,
    (image, log): (&str, &Path),
    began: Duration,
    grew: impl Fn(u64),
) {
    if progress.n_fetched > 0 {
        let took = duration::show(SystemClock.monotonic().saturating_sub(began));
        let n = bytes::show(progress.n_fetched);
        grew(explain::say(log, &format!("pulled `{image}`: {n} in {took}")));
    }
}

fn words(now: Progress) -> String {
    let (n, of) = (bytes::show(now.n_bytes), bytes::show(now.of_bytes));
    let layers = if now.n_layers == 1 { "1 layer" } else { &format!("{} layers", now.n_layers) };
    let percent = now.n_bytes.saturating_mul(100) / now.of_bytes.max(1);
    format!("{percent} % ({n} of {of}, {layers})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_words() {
        let now =
            Progress { n_layers: 5, n_bytes: 51_200_000, of_bytes: 512_000_000, n_fetched: 1 };
        assert_eq!(words(now), "10 % (51.2 MB of 512.0 MB, 5 layers)");
        assert_eq!(
            words(Progress { n_layers: 1, ..Progress::default() }),
            "0 % (0 B of 0 B, 1 layer)"
        );
    }
}
