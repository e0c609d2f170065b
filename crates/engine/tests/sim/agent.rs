//! An agent: takes one job at a time, repeats itself until it is heard, and stops by itself before
//! the server may give its job to another (P6).

use std::collections::{BTreeMap, BTreeSet};

use kiln_model::layer::{Digest, LayerId};
use kiln_model::limit::{DISCONNECT_GRACE, RENEW_EVERY};
use kiln_model::{
    AttemptId, Earlier, EventKind, Exit, JobKey, JobName, LeaseId, Notes, Outcome, RunId, RunNumber,
};

use crate::network::Message;
use crate::rng::Rng;

/// It says everything again after so long without an answer.
const PATIENCE_MS: u64 = 4_000;
const POLL_MS: u64 = 5_000;

pub fn fence_ms() -> u64 {
    ms(DISCONNECT_GRACE) - 30_000
}

pub fn ms(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).expect("some minutes")
}

pub struct Agent {
    pub at: usize,
    pub labels: Vec<String>,
    pub boot: u64,
    /// `None`: it lives. Else: until when it is dead.
    pub dead_until: Option<u64>,
    pub work: Option<Work>,
    /// On its disk: what it had when it died.
    papers: Vec<LeaseId>,
    /// Begun since it lives. A second copy of an assignment must not begin one again that was
    /// given up meanwhile: the server would take its `Started` for a repetition.
    had: BTreeSet<LeaseId>,
    asked_at: Option<u64>,
    renewed_at: Option<u64>,
}

pub struct Work {
    pub lease: LeaseId,
    n_steps: u32,
    /// Steps whose files, as they found them, it has kept.
    kept: Vec<u32>,
    /// When it sent the renewal that was answered last.
    pub renewal_sent_at: u64,
    /// What it says until it is heard.
    saying: Option<(EventKind, Option<u64>)>,
    next: Next,
    /// The server has noted that it started: from here on processes of it may be there.
    begun: bool,
    stopping: bool,
}

/// How an agent begins with an attempt. Told from its lease, so that a repeated assignment is the same.
enum Opening {
    Start,
    /// Its result has a key, and nobody has one for it.
    Key,
    /// It waits for another with the same key, and takes its result.
    Reuse,
}

impl Opening {
    fn of(lease: LeaseId, first_step: u32) -> Self {
        let AttemptId { run, job, attempt } = lease.attempt;
        let n = u32::try_from(run.0).unwrap_or(0) + 3 * job.0 + 5 * attempt + 7 * lease.epoch.0;
        match n % 6 {
            // What begins in the middle has no key.
            _ if first_step > 0 => Self::Start,
            0 => Self::Reuse,
            1 => Self::Key,
            _ => Self::Start,
        }
    }
}

fn opening(lease: LeaseId, first_step: u32) -> EventKind {
    let digest = Digest::from_bytes([7; 32]);
    let key = JobKey { digest: digest.clone(), parts: digest };
    match Opening::of(lease, first_step) {
        Opening::Start => EventKind::started(lease),
        Opening::Key => EventKind::Keyed { lease, key, unfit: vec!["it is gone".to_owned()] },
        Opening::Reuse => EventKind::Keyed { lease, key, unfit: Vec::new() },
    }
}

enum Next {
    /// Says that it waits, then takes the result.
    Await,
    Reuse,
    StartStep(u32),
    /// A process runs until then.
    Step {
        step: u32,
        until: u64,
    },
    Finish(Outcome),
    Over,
}

/// A process is born: what others can see of an agent besides its messages.
#[derive(Debug)]
pub struct StepStarts {
    pub lease: LeaseId,
    pub step: u32,
}

impl Agent {
    pub fn new(at: usize, labels: Vec<String>) -> Self {
        Self {
            at,
            labels,
            boot: 1,
            dead_until: None,
            work: None,
            papers: Vec::new(),
            had: BTreeSet::new(),
            asked_at: None,
            renewed_at: None,
        }
    }

    pub fn die(&mut self, until: u64) {
        if let Some(work) = self.work.take() {
            self.papers.push(work.lease);
        }
        self.dead_until = Some(until);
        self.boot += 1;
        self.asked_at = None;
    }

    /// A process of this lease runs here.
    pub fn runs(&self, now: u64) -> Option<LeaseId> {
        let work = self.work.as_ref()?;
        let fenced = now.saturating_sub(work.renewal_sent_at) > fence_ms();
        let runs = matches!(work.next, Next::Step { .. });
        (self.dead_until.is_none() && !fenced && runs).then_some(work.lease)
    }

    /// Lets time do its work. Gives what it says and does.
    pub fn tick(&mut self, now: u64, rng: &mut Rng) -> (Vec<Message>, Vec<StepStarts>) {
        let (mut say, mut did) = (Vec::new(), Vec::new());
        match self.dead_until {
            Some(until) if now < until => return (say, did),
            Some(_) => {
                self.dead_until = None;
                // Not every agent finds its papers.
                let found =
                    std::mem::take(&mut self.papers).into_iter().filter(|_| rng.chance(700));
                say.extend(found.map(|lease| Message::GiveUp { lease }));
            }
            None => {}
        }
        let fenced = |work: &Work| now.saturating_sub(work.renewal_sent_at) > fence_ms();
        if self.work.as_ref().is_some_and(fenced) {
            self.work = None;
        }
        let agent = self.at;
        match &mut self.work {
            None => {
                if self.asked_at.is_none_or(|at| now - at >= POLL_MS) {
                    self.asked_at = Some(now);
                    say.push(Message::Take { agent, boot: self.boot, sent_at: now });
                }
            }
            Some(work) => {
                if self.renewed_at.is_none_or(|at| now - at >= ms(RENEW_EVERY)) {
                    self.renewed_at = Some(now);
                    let (boot, leases) = (self.boot, vec![work.lease]);
                    say.push(Message::Renew { agent, boot, leases, sent_at: now });
                }
                work.go_on(now, rng, &mut did);
                if let Some((kind, said_at)) = &mut work.saying
                    && said_at.is_none_or(|at| now - at >= PATIENCE_MS)
                {
                    *said_at = Some(now);
                    say.push(Message::Fact { agent, kind: kind.clone() });
                }
            }
        }
        (say, did)
    }

    pub fn hear(&mut self, message: &Message) {
        match message {
            Message::Assigned { boot, lease, steps, sent_at, .. } => {
                if self.work.is_none() && *boot == self.boot && self.had.insert(*lease) {
                    self.work = Some(Work {
                        lease: *lease,
                        n_steps: steps.end,
                        kept: Vec::new(),
                        // The grant counts from when it was asked for, as a renewal does.
                        renewal_sent_at: *sent_at,
                        begun: false,
                        saying: Some((opening(*lease, steps.start), None)),
                        next: match Opening::of(*lease, steps.start) {
                            Opening::Reuse => Next::Await,
                            Opening::Key | Opening::Start => Next::StartStep(steps.start),
                        },
                        stopping: false,
                    });
                }
            }
            Message::Noted { kind, .. } => {
                let Some(work) = &mut self.work else { return };
                if work.saying.as_ref().is_some_and(|(said, _)| said == kind) {
                    work.saying = None;
                    work.begun |= matches!(kind, EventKind::Started { .. });
                    if matches!(kind, EventKind::Finished { .. } | EventKind::Reused { .. }) {
                        self.work = None;
                    }
                }
            }
            Message::Stale { lease, .. } => {
                if self.work.as_ref().is_some_and(|work| work.lease == *lease) {
                    self.work = None;
                }
            }
            Message::Renewed { boot, leases, stop, sent_at, .. } => {
                let Some(work) = self.work.as_mut().filter(|_| *boot == self.boot) else { return };
                if leases.contains(&work.lease) {
                    work.renewal_sent_at = work.renewal_sent_at.max(*sent_at);
                    work.stopping |= stop.contains(&work.lease);
                }
            }
            _ => unreachable!("no such message goes to an agent"),
        }
    }
}

impl Work {
    fn go_on(&mut self, now: u64, rng: &mut Rng, did: &mut Vec<StepStarts>) {
        let (lease, before_start) = (self.lease, !self.begun);
        if self.stopping
            && !matches!(self.next, Next::Over)
            && (before_start || self.saying.is_none())
        {
            self.next = Next::Over;
            return self.say_finished(Outcome::Cancelled);
        }
        if before_start && !matches!(self.next, Next::Over) && rng.chance(20) {
            // No workspace, or the machine goes down in good order.
            let message = "no room".to_owned();
            let error = rng.chance(500);
            self.next = Next::Over;
            return self.say_finished(if error {
                Outcome::Error { message }
            } else {
                Outcome::Lost { message }
            });
        }
        if self.saying.is_some() {
            return;
        }
        match &mut self.next {
            Next::Await => {
                let from = earlier(lease);
                self.saying = Some((EventKind::Awaited { lease, from }, None));
                self.next = Next::Reuse;
            }
            Next::Reuse => {
                let kind = EventKind::Reused {
                    lease,
                    from: earlier(lease),
                    outputs: outputs(lease),
                    layer: Some(LayerId::Attempt("99-0-1".to_owned())),
                    artifacts: Vec::new(),
                    log_bytes: 100,
                    steps: Vec::new(),
                    notes: Notes::default(),
                };
                self.saying = Some((kind, None));
                self.next = Next::Over;
            }
            Next::StartStep(_) if before_start => {
                self.saying = Some((EventKind::started(lease), None));
            }
            Next::StartStep(step) => {
                let (step, log_from) = (*step, u64::from(*step) * 10);
                did.push(StepStarts { lease, step });
                self.saying = Some((EventKind::StepStarted { lease, step, log_from }, None));
                self.next = Next::Step { step, until: now + rng.below(60_000) };
            }
            Next::Step { step, until } if now >= *until => {
                let (step, exit) = (*step, exit(rng));
                let log_to = u64::from(step) * 10 + 10;
                self.next = match &exit {
                    exit if !exit.is_success() => {
                        Next::Finish(Outcome::StepFailed { step, exit: exit.clone() })
                    }
                    _ if rng.chance(15) => Next::Finish(Outcome::TimedOut { after_ms: 1 }),
                    _ if step + 1 == self.n_steps => Next::Finish(Outcome::Success),
                    _ => {
                        if rng.chance(800) {
                            self.kept.push(step + 1);
                        }
                        Next::StartStep(step + 1)
                    }
                };
                self.saying = Some((
                    EventKind::StepFinished { lease, step, exit, log_to, usage: None },
                    None,
                ));
            }
            Next::Step { .. } | Next::Over => {}
            Next::Finish(outcome) => {
                let outcome = outcome.clone();
                self.next = Next::Over;
                self.say_finished(outcome);
            }
        }
    }

    fn say_finished(&mut self, outcome: Outcome) {
        let kind = EventKind::Finished {
            lease: self.lease,
            outcome,
            outputs: outputs(self.lease),
            layer: Some(LayerId::Attempt(self.lease.attempt.to_string())),
            artifacts: Vec::new(),
            log_bytes: 100,
            notes: Notes { boundaries: self.kept.clone(), ..Notes::default() },
        };
        self.saying = Some((kind, None));
    }
}

fn outputs(lease: LeaseId) -> BTreeMap<String, String> {
    let value = if lease.attempt.job.0.is_multiple_of(2) { "1" } else { "0" };
    BTreeMap::from([("v".to_owned(), value.to_owned())])
}

fn earlier(lease: LeaseId) -> Earlier {
    let attempt = AttemptId { run: RunId(99), ..lease.attempt };
    let job = JobName::new("earlier").expect("a lawful name");
    Earlier { attempt, number: RunNumber(99), job, took_ms: 5 }
}

fn exit(rng: &mut Rng) -> Exit {
    match rng.below(100) {
        0..80 => Exit::SUCCESS,
        80..88 => Exit::Code { code: 2 },
        88..92 => Exit::Killed { signal: 9 },
        92..95 => Exit::TimedOut { after_ms: 1 },
        95..97 => Exit::OutOfMemory { limit_bytes: None },
        _ => Exit::HostGone { detail: "gone".to_owned() },
    }
}
