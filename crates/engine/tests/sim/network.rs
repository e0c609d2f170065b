//! What is said between agents and server, and the network that loses, doubles and delays it.

use std::collections::BTreeMap;
use std::ops::Range;

use kiln_model::{EventKind, LeaseId};

use crate::rng::Rng;

#[derive(Clone, Debug)]
pub enum Message {
    /// To the server: this agent, started so often, is free. `sent_at` comes back with the answer.
    Take { agent: usize, boot: u64, sent_at: u64 },
    /// To the server: a fact about a lease.
    Fact { agent: usize, kind: EventKind },
    /// To the server: these live. `sent_at` comes back with the answer.
    Renew { agent: usize, boot: u64, leases: Vec<LeaseId>, sent_at: u64 },
    /// To the server: an agent found this among its papers after it had died.
    GiveUp { lease: LeaseId },
    /// To an agent.
    Assigned { agent: usize, boot: u64, lease: LeaseId, steps: Range<u32>, sent_at: u64 },
    /// To an agent: the fact is durable.
    Noted { agent: usize, kind: EventKind },
    /// To an agent: stop, discard.
    Stale { agent: usize, lease: LeaseId },
    /// To an agent.
    Renewed { agent: usize, boot: u64, leases: Vec<LeaseId>, stop: Vec<LeaseId>, sent_at: u64 },
}

/// How bad it is, of 1,000.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    pub lost: u64,
    pub doubled: u64,
    pub late: u64,
    pub late_by_ms: u64,
    pub server_crashes: u64,
    pub agent_dies: u64,
    pub clock_jumps: u64,
    pub people: u64,
}

impl Weather {
    /// Each world has a storm of its own.
    pub fn storm(rng: &mut Rng) -> Self {
        Self {
            lost: rng.below(250),
            doubled: rng.below(250),
            late: rng.below(300),
            late_by_ms: rng.between(1_000, 400_000),
            server_crashes: rng.below(25),
            agent_dies: rng.below(12),
            clock_jumps: rng.below(20),
            people: rng.below(15),
        }
    }
}

#[derive(Default)]
pub struct Network {
    /// By arrival, then by the order of sending.
    under_way: BTreeMap<(u64, u64), Message>,
    n_sent: u64,
    pub n_lost: u64,
    pub n_doubled: u64,
    pub n_late: u64,
}

impl Network {
    pub fn send(&mut self, message: Message, now: u64, weather: &Weather, rng: &mut Rng) {
        if rng.chance(weather.lost) {
            self.n_lost += 1;
            return;
        }
        let doubled = rng.chance(weather.doubled);
        self.n_doubled += u64::from(doubled);
        for _ in 0..=u64::from(doubled) {
            let mut after = rng.between(1, 200);
            if rng.chance(weather.late) {
                self.n_late += 1;
                after += rng.below(weather.late_by_ms);
            }
            self.n_sent += 1;
            self.under_way.insert((now + after, self.n_sent), message.clone());
        }
    }

    /// What has arrived, one at a time.
    pub fn arrived(&mut self, now: u64) -> Option<Message> {
        let entry = self.under_way.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }
}
