//! Trouble with the source that is tried again: said once, and known to the agent's owner when it
//! lasts.
//!
//! A server goes on trying, because what it could not write now it can when somebody has freed the
//! disk. A person at a terminal wants to be told, and have the prompt back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kiln_stdx::Clock;
use tokio::sync::watch;

use crate::agent::report;

/// From when on trouble counts as lasting. A database that is busy or a server that is started again
/// is back sooner.
const LASTS_AFTER: Duration = Duration::from_secs(5);

/// What lasts, for the agent's owner to hear.
pub(crate) type Lasting = watch::Sender<Option<String>>;

/// One act that is tried until it succeeds.
pub(crate) struct Tries<'a> {
    clock: &'a Arc<dyn Clock>,
    lasting: &'a Lasting,
    began_at: Option<Duration>,
    said: BTreeSet<String>,
}

impl<'a> Tries<'a> {
    pub fn new(clock: &'a Arc<dyn Clock>, lasting: &'a Lasting) -> Self {
        Self { clock, lasting, began_at: None, said: BTreeSet::new() }
    }

    /// A try has failed: `act` says which, `error` why.
    pub fn failed(&mut self, act: &str, error: &str) {
        let now = self.clock.monotonic();
        let began_at = *self.began_at.get_or_insert(now);
        let text = format!("{act}: {error}");
        if !self.said.contains(&text) {
            report(&text);
            self.said.insert(text);
        }
        if now.saturating_sub(began_at) >= LASTS_AFTER {
            self.lasting.send_replace(Some(error.to_owned()));
        }
    }

    /// The next one is another act.
    pub fn succeeded(&mut self) {
        (self.began_at, self.said) = (None, BTreeSet::new());
    }
}

#[cfg(test)]
mod tests {
    use kiln_stdx::ManualClock;

    use super::*;

    #[test]
    fn only_trouble_that_lasts_is_told_to_the_owner() {
        let manual = Arc::new(ManualClock::default());
        let clock: Arc<dyn Clock> = manual.clone();
        let lasting = Lasting::new(None);
        let mut tries = Tries::new(&clock, &lasting);
        tries.failed("cannot take a job", "the disk is full");
        manual.advance(LASTS_AFTER / 2);
        tries.failed("cannot take a job", "the disk is full");
        assert_eq!(*lasting.borrow(), None);
        tries.succeeded();
        manual.advance(LASTS_AFTER);
        tries.failed("cannot take a job", "the disk is full");
        assert_eq!(*lasting.borrow(), None);
        manual.advance(LASTS_AFTER);
        tries.failed("cannot take a job", "the disk is full");
        assert_eq!(lasting.borrow().as_deref(), Some("the disk is full"));
    }
}
