//! Everything together, and time.

use std::collections::BTreeMap;

use kiln_model::{EventKind, FromStep, JobIndex, LeaseId, ProjectId, RunId, RunState};
use kiln_stdx::Timestamp;

use kiln_engine::run::Refused;

use crate::agent::{Agent, StepStarts};
use crate::checks::Checks;
use crate::network::{Message, Network, Weather};
use crate::oracle::{SILENT, closure};
use crate::plans;
use crate::rng::Rng;
use crate::server::{Kept, Sabotage, Server};

/// Moments of storm.
const STORM: u64 = 160;
/// Moments after which everything must have ended in good weather: a job lasts at most some minutes,
/// a lease that was left behind another six.
const HEALED: u64 = 3_000;

/// What the worlds are made to meet.
pub const FAULTS: &[&str] = &[
    "server crashes",
    "agent deaths",
    "messages lost",
    "messages doubled",
    "messages late",
    "clock jumps",
    "leases lapsed",
    "stale writes refused",
    "cancels",
    "reruns",
    "reruns refused",
    "reruns from a step",
    "reruns from a step refused",
    "retries",
    "skips",
    "results reused",
    "runs judged",
    "runs waiting for approval",
];

pub struct World {
    rng: Rng,
    weather: Weather,
    server: Server,
    agents: Vec<Agent>,
    network: Network,
    checks: Checks,
    /// Steady; both sides measure with it.
    now: u64,
    /// What the wall clock is off by.
    off: i64,
    /// Steps that were started, wherever.
    steps: BTreeMap<(LeaseId, u32), usize>,
    judged: Vec<u64>,
    history: Option<Vec<String>>,
    met: BTreeMap<&'static str, u64>,
}

impl World {
    pub fn new(seed: u64, sabotage: Option<Sabotage>, keep_history: bool) -> Self {
        let mut rng = Rng::new(seed);
        let n_runs = rng.between(1, 3);
        let kept: Vec<Kept> = (0..n_runs)
            .map(|at| {
                let (plan, says) = plans::random(&mut rng);
                let project = ProjectId(i64::try_from(rng.below(2)).expect("small"));
                Kept::new(RunId(i64::try_from(at).expect("small") + 1), project, plan, says)
            })
            .collect();
        let all = ["gpu", "linux"].map(str::to_owned).to_vec();
        let n_agents = usize::try_from(rng.between(1, 4)).expect("few");
        let agents = (0..n_agents).map(|at| {
            // The first can do everything, so that everything can end.
            let labels = if at == 0 { all.clone() } else { all[..rng.index(3)].to_vec() };
            Agent::new(at, labels)
        });
        let agents = agents.collect();
        let weather = Weather::storm(&mut rng);
        let judged = vec![0; kept.len()];
        Self {
            rng,
            weather,
            server: Server::new(kept, sabotage),
            agents,
            network: Network::default(),
            checks: Checks::default(),
            now: 1_000,
            off: 0,
            steps: BTreeMap::new(),
            judged,
            history: keep_history.then(Vec::new),
            met: BTreeMap::new(),
        }
    }

    pub fn take_history(&mut self) -> Vec<String> {
        self.history.take().unwrap_or_default()
    }

    /// How often each of [`FAULTS`] was met.
    pub fn met(&self) -> BTreeMap<&'static str, u64> {
        let mut met = self.met.clone();
        met.insert("server crashes", self.server.n_crashes);
        met.insert("leases lapsed", self.server.n_lapsed);
        met.insert("stale writes refused", self.server.n_stale);
        met.insert("messages lost", self.network.n_lost);
        met.insert("messages doubled", self.network.n_doubled);
        met.insert("messages late", self.network.n_late);
        met.insert("retries", self.checks.n_retries);
        met.insert("skips", self.checks.n_skips);
        met.insert("results reused", self.checks.n_reused);
        met
    }

    /// A storm, then good weather until all is over.
    pub fn live(&mut self) -> Result<(), String> {
        if self.history.is_some() {
            for at in 0..self.server.kept.len() {
                let jobs = self.server.kept[at].plan.jobs.iter().map(|job| {
                    let text = serde_json::to_string(job).unwrap_or_default();
                    format!("  {text}")
                });
                let jobs: Vec<String> = jobs.collect();
                self.note(|| format!("run {}:\n{}", at + 1, jobs.join("\n")));
            }
        }
        for at in 0..self.server.kept.len() {
            self.event(at, EventKind::Planned)?
                .map_err(|refused| format!("not planned: {refused}"))?;
        }
        for _ in 0..STORM {
            self.moment()?;
        }
        self.note(|| "-- the weather is good".to_owned());
        self.weather = Weather::default();
        for _ in 0..HEALED {
            self.moment()?;
            for at in 0..self.server.runs.len() {
                if self.server.runs[at].state == RunState::Waiting {
                    // Nobody approves in this world; somebody gives up in the end.
                    self.count("runs waiting for approval");
                    self.cancel(at)?;
                }
            }
            if self.server.runs.iter().all(|run| run.state.is_over()) {
                return Ok(());
            }
        }
        let states: Vec<String> =
            self.server.runs.iter().map(|r| format!("{:?}", r.jobs)).collect();
        Err(format!("not everything has ended: {}", states.join("\n")))
    }

    /// Some time passes, messages arrive, everyone acts.
    fn moment(&mut self) -> Result<(), String> {
        // A pause of everything now and then, as when a laptop naps.
        let nap = self.rng.chance(self.weather.clock_jumps);
        self.now += if nap { self.rng.below(400_000) } else { self.rng.between(50, 6_000) };
        if self.rng.chance(self.weather.clock_jumps) {
            self.count("clock jumps");
            let hour = 3_600_000;
            self.off = i64::try_from(self.rng.below(48 * hour)).expect("two days") - 24 * 3_600_000;
        }
        if self.rng.chance(self.weather.server_crashes) {
            self.note(|| "the server crashes".to_owned());
            self.server.crash(self.now, &self.checks)?;
        }
        for at in 0..self.agents.len() {
            if self.agents[at].dead_until.is_none() && self.rng.chance(self.weather.agent_dies) {
                self.count("agent deaths");
                self.note(|| format!("agent {at} dies"));
                let until = self.now + self.rng.below(600_000);
                self.agents[at].die(until);
            }
        }
        while let Some(message) = self.network.arrived(self.now) {
            self.deliver(message)?;
        }
        for at in 0..self.agents.len() {
            let (say, did) = self.agents[at].tick(self.now, &mut self.rng);
            for birth in did {
                self.witness(at, &birth)?;
            }
            for message in say {
                self.send(message);
            }
        }
        self.server.expire(self.when(), &mut self.checks)?;
        for at in 0..self.server.runs.len() {
            if self.rng.chance(self.weather.people) {
                if self.rng.chance(300) { self.cancel(at)? } else { self.rerun(at)? }
            }
            self.judge(at)?;
        }
        Ok(())
    }

    /// Nobody else may run a process of the same job, and none is born twice.
    fn witness(&mut self, agent: usize, birth: &StepStarts) -> Result<(), String> {
        let StepStarts { lease, step } = birth;
        self.note(|| format!("agent {agent} runs step {step} of {lease}"));
        let attempt_steps =
            self.steps.range((LeaseId { epoch: kiln_model::Epoch(0), ..*lease }, 0)..);
        let twice = attempt_steps
            .take_while(|((known, _), _)| known.attempt == lease.attempt)
            .any(|((_, known), _)| known == step);
        if twice {
            return Err(format!("step {step} of {} starts twice", lease.attempt));
        }
        self.steps.insert((*lease, *step), agent);
        for other in self.agents.iter().filter(|other| other.at != agent) {
            if let Some(held) = other.runs(self.now)
                && (held.attempt.run, held.attempt.job) == (lease.attempt.run, lease.attempt.job)
            {
                return Err(format!(
                    "{lease} runs on agent {agent} while {held} does on {}",
                    other.at
                ));
            }
        }
        Ok(())
    }

    fn deliver(&mut self, message: Message) -> Result<(), String> {
        self.note(|| format!("arrives: {message:?}"));
        match message {
            Message::Take { agent, boot, sent_at } => {
                let crash = self.rng.chance(self.weather.server_crashes);
                let labels = self.agents[agent].labels.clone();
                let when = self.when();
                let taken = self.server.take(agent, &labels, when, crash, &mut self.checks)?;
                if let Some((lease, steps)) = taken {
                    self.send(Message::Assigned { agent, boot, lease, steps, sent_at });
                }
            }
            Message::Fact { agent, kind } => {
                let Some(lease) = kind.lease() else { return Ok(()) };
                let at = self.server.run_of(lease.attempt.run);
                match self.event(at, kind.clone())? {
                    Ok(true) => self.send(Message::Noted { agent, kind }),
                    Ok(false) => {}
                    Err(Refused::StaleLease { lease }) => {
                        self.send(Message::Stale { agent, lease });
                    }
                    // An old message, late: nobody waits for the answer.
                    Err(Refused::Illegal(_)) => {}
                }
            }
            Message::Renew { agent, boot, leases, sent_at } => {
                let (leases, stop) = self.server.renew(&leases, self.now);
                self.send(Message::Renewed { agent, boot, leases, stop, sent_at });
            }
            Message::GiveUp { lease } => {
                let at = self.server.run_of(lease.attempt.run);
                let kind = EventKind::Lapsed { lease, message: SILENT[1].to_owned() };
                // Refused: it is over by now.
                let _ = self.event(at, kind)?;
            }
            Message::Assigned { agent, .. }
            | Message::Noted { agent, .. }
            | Message::Stale { agent, .. }
            | Message::Renewed { agent, .. } => {
                if self.agents[agent].dead_until.is_none() {
                    self.agents[agent].hear(&message);
                }
            }
        }
        Ok(())
    }

    fn cancel(&mut self, at: usize) -> Result<(), String> {
        let over = self.server.runs[at].state.is_over();
        self.note(|| format!("somebody cancels run {}", at + 1));
        let asked = self.event(at, EventKind::CancelAsked { by: "ada".to_owned() })?;
        if asked.is_ok() == over {
            return Err(format!("cancel of a run that is over ({over}): {asked:?}"));
        }
        self.met.entry("cancels").and_modify(|n| *n += u64::from(!over)).or_insert(0);
        Ok(())
    }

    fn rerun(&mut self, at: usize) -> Result<(), String> {
        let n_jobs = self.server.kept[at].plan.jobs.len();
        let n_named = 1 + self.rng.index(2);
        let mut named: Vec<JobIndex> = (0..n_named)
            .map(|_| JobIndex(u32::try_from(self.rng.index(n_jobs)).expect("few")))
            .collect();
        let told = self.checks.told.entry(at).or_default();
        let jobs = self.server.kept[at].plan.indices();
        let keeps: Vec<JobIndex> = jobs.filter(|job| told.kept_of(*job).next().is_some()).collect();
        if !keeps.is_empty() && self.rng.chance(500) {
            named = vec![keeps[self.rng.index(keeps.len())]];
        }
        let from = self.rng.chance(600).then(|| self.somewhere_in(at, named[0]));
        let begins = from.as_ref().is_none_or(|from| self.may_begin(at, from, &named));
        let lawful = begins && self.may_rerun(at, &named);
        self.note(|| format!("somebody reruns {named:?} of run {} from {from:?}", at + 1));
        let kind =
            EventKind::RerunAsked { jobs: named.clone(), by: "ada".to_owned(), from: from.clone() };
        let asked = self.event(at, kind)?;
        if asked.is_ok() != lawful {
            return Err(format!(
                "a rerun of {named:?} from {from:?} is lawful ({lawful}): {asked:?}"
            ));
        }
        self.count(if lawful { "reruns" } else { "reruns refused" });
        if from.is_some_and(|from| from.step > 0) {
            self.count(if lawful { "reruns from a step" } else { "reruns from a step refused" });
        }
        Ok(())
    }

    /// Often a step whose files are kept.
    fn somewhere_in(&mut self, at: usize, job: JobIndex) -> FromStep {
        let told = self.checks.told.entry(at).or_default();
        let kept: Vec<(u32, u32)> = told.kept_of(job).collect();
        if !kept.is_empty() && self.rng.chance(800) {
            let (attempt, step) = kept[self.rng.index(kept.len())];
            return FromStep { job, step, attempt };
        }
        let small = |n: u64| u32::try_from(n).expect("small");
        let step = small(self.rng.below(4));
        FromStep { job, step, attempt: small(self.rng.below(4)) }
    }

    fn may_begin(&self, at: usize, from: &FromStep, named: &[JobIndex]) -> bool {
        let kept = &self.server.kept[at];
        let planned = kept.plan.job(from.job);
        let again = closure(named, kept);
        let same_layers = !planned.needs.iter().any(|need| again.contains(need));
        let told = self.checks.told.get(&at);
        let keeps = told.is_some_and(|told| told.keeps(from));
        (from.step as usize) < planned.steps.len() && (from.step == 0 || (same_layers && keeps))
    }

    fn may_rerun(&self, at: usize, named: &[JobIndex]) -> bool {
        let (run, kept) = (&self.server.runs[at], &self.server.kept[at]);
        let again = closure(named, kept);
        let cancelling = !run.state.is_over() && run.cancel_asked_by().is_some();
        let over = again.iter().all(|job| run.jobs[job.at()].state.is_over());
        let useful = named.iter().all(|job| {
            let planned = kept.plan.job(*job);
            let met = |need: &JobIndex| again.contains(need) || run.jobs[need.at()].is_met();
            planned.always || kept.says[job.at()].asks_needs() || planned.needs.iter().all(met)
        });
        !cancelling && over && useful
    }

    /// An event for a run. `Ok(false)`: accepted, and the server died before it could say so.
    fn event(&mut self, at: usize, kind: EventKind) -> Result<Result<bool, Refused>, String> {
        let crash = self.rng.chance(self.weather.server_crashes);
        let told = if self.history.is_some() { format!("{kind:?}") } else { String::new() };
        let applied = self.server.apply(at, kind, self.when(), crash, &mut self.checks)?;
        self.note(|| format!("run {}: {told} -> {applied:?}", at + 1));
        self.judge(at)?;
        Ok(applied.map(|()| !crash))
    }

    /// Once for each time that a run is over.
    fn judge(&mut self, at: usize) -> Result<(), String> {
        let run = &self.server.runs[at];
        if run.state.is_over() && self.judged[at] != run.seq {
            self.judged[at] = run.seq;
            let shown = self.server.shown(at);
            let told = self.checks.told.entry(at).or_default();
            told.judge(&shown, &self.server.kept[at])?;
            self.count("runs judged");
        }
        Ok(())
    }

    fn when(&self) -> (u64, Timestamp) {
        let wall = i64::try_from(self.now).expect("some days") + self.off;
        (self.now, Timestamp::from_millis(wall))
    }

    fn send(&mut self, message: Message) {
        self.network.send(message, self.now, &self.weather, &mut self.rng);
    }

    fn count(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(history) = &mut self.history {
            history.push(format!("{:>9} ms  {}", self.now, line()));
        }
    }
}
