//! Random plans, agents that die, messages that are lost, doubled, late and out of order, a server
//! that crashes between any two events, clocks that jump: by seed, and every seed can be repeated.
//!
//! ```text
//! cargo test -p kiln-engine --test sim                          so many seeds as below
//! KILN_SIM_SEEDS=100000 cargo test -p kiln-engine --test sim    more
//! KILN_SIM_SEED=42 cargo test -p kiln-engine --test sim -- --nocapture    one, with its history
//! ```
//!
//! A world has one server (its journal of events is all that survives a crash), agents, a network
//! and people who cancel and rerun. First everything goes wrong, then it heals, and then all must
//! end. What must hold is checked after every event (`checks`) and when a run is over (`oracle`).

mod agent;
mod checks;
mod network;
mod oracle;
mod plans;
mod rng;
mod server;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use server::Sabotage;
use world::World;

/// Enough to meet each fault thousands of times, in some seconds of a debug build.
const SEEDS: u64 = 2_500;

/// What was wrong with a seed, and what had happened until then when that was asked for.
struct Failure {
    message: String,
    history: Vec<String>,
}

fn try_seed(seed: u64, sabotage: Option<Sabotage>, keep_history: bool) -> Result<World, Failure> {
    let mut world = World::new(seed, sabotage, keep_history);
    let ended = catch_unwind(AssertUnwindSafe(|| world.live()));
    let message = match ended {
        Ok(Ok(())) => return Ok(world),
        Ok(Err(message)) => message,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            format!("panicked: {}", text.unwrap_or_default())
        }
    };
    Err(Failure { message, history: world.take_history() })
}

fn report(seed: u64, failure: &Failure) -> String {
    format!(
        "{}\n\nseed {seed}: {}\nagain: KILN_SIM_SEED={seed} cargo test -p kiln-engine --test sim -- --nocapture\n",
        failure.history.join("\n"),
        failure.message
    )
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// The first seed below `n_seeds` that fails.
fn first_failure(n_seeds: u64, sabotage: Option<Sabotage>) -> Option<u64> {
    let (next, failed) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..n_threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= n_seeds.min(failed.load(Ordering::Relaxed)) {
                        return;
                    }
                    if try_seed(seed, sabotage, false).is_err() {
                        failed.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    Some(failed.into_inner()).filter(|seed| *seed != u64::MAX)
}

#[test]
fn whatever_goes_wrong_the_invariants_hold_and_everything_ends() {
    if let Some(seed) = number("KILN_SIM_SEED") {
        match try_seed(seed, None, true) {
            Ok(mut world) => println!("{}\n\nseed {seed}: fine", world.take_history().join("\n")),
            Err(failure) => panic!("{}", report(seed, &failure)),
        }
        return;
    }
    let n_seeds = number("KILN_SIM_SEEDS").unwrap_or(SEEDS);
    if let Some(seed) = first_failure(n_seeds, None) {
        match try_seed(seed, None, true) {
            Err(failure) => panic!("{}", report(seed, &failure)),
            Ok(_) => panic!("seed {seed} failed, and did not when it was repeated"),
        }
    }
}

#[test]
fn the_worlds_are_as_bad_as_they_should_be() {
    let mut met = std::collections::BTreeMap::new();
    for seed in 0..150 {
        if let Ok(world) = try_seed(seed, None, false) {
            for (what, n) in world.met() {
                *met.entry(what).or_insert(0) += n;
            }
        }
    }
    for what in world::FAULTS {
        assert!(met.get(what).is_some_and(|n| *n >= 10), "`{what}` is hardly met: {met:?}");
    }
}

#[test]
fn a_seed_always_gives_the_same_history() {
    for seed in 0..20 {
        let history = || match try_seed(seed, None, true) {
            Ok(mut world) => world.take_history(),
            Err(failure) => failure.history,
        };
        assert_eq!(history(), history(), "seed {seed}");
    }
}

/// The simulator would see a scheduler that is wrong in each of these ways, and by the right check.
#[test]
fn every_sabotage_is_found() {
    for sabotage in Sabotage::ALL {
        let seed = first_failure(400, Some(*sabotage));
        let seed = seed.unwrap_or_else(|| panic!("{sabotage:?} is not noticed in 400 seeds"));
        let Err(failure) = try_seed(seed, Some(*sabotage), true) else {
            panic!("{sabotage:?}: seed {seed} failed, and did not when it was repeated");
        };
        let message = &failure.message;
        assert!(message.contains(sabotage.is_noticed_by()), "{sabotage:?}: {message}");
        let told = report(seed, &failure);
        assert!(told.contains(&format!("KILN_SIM_SEED={seed} cargo test")), "{told}");
        assert!(!failure.history.is_empty());
    }
}
