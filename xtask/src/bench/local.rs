//! `kiln run`: one job, many jobs, a long chain.

use std::path::Path;

use anyhow::{Result, ensure};
use kiln_it::World;
use kiln_it::world::ran;

use super::figure::{Figure, Goal, Limit, Samples, ms, time};
use crate::machine;
use kiln_stdx::clock::Stopwatch;

/// Many enough that the start of the program does not count.
const N_MANY: usize = 1_000;
const N_CHAIN: usize = 200;
/// Seconds each, so few of them.
const N_LONG: usize = 5;

/// The whole process, one job, one step `true`.
pub fn one_job() -> Result<Vec<Figure>> {
    let world = World::new();
    let repository =
        world.repository_with("one", &[(".kiln.yml", "jobs: { a: { steps: ['true'] } }\n")]);
    let samples = time(3, 40, || {
        let done = repository.kiln(["run"]);
        ensure!(done.code == Some(0), "`kiln run` failed: {}", done.said());
        Ok(())
    })?;
    let limit = time(3, 40, || {
        ran(world.command("sh").args(["-c", "true"])).success();
        Ok(())
    })?;
    Ok(vec![Figure {
        name: "one-job",
        unit: "ms",
        samples,
        limit: Limit::Measured { what: "sh -c true", samples: limit },
        goal: Goal::AtMost(25.0),
    }])
}

/// Independent jobs: jobs a second, and the time beside ninja's.
pub fn thousand_jobs() -> Result<Vec<Figure>> {
    let world = World::new();
    let jobs: String = (0..N_MANY).map(|n| format!("  j{n}: {{ steps: ['true'] }}\n")).collect();
    let repository = world.repository_with("many", &[(".kiln.yml", &format!("jobs:\n{jobs}"))]);
    let samples = time(1, N_LONG, || {
        let done = repository.kiln(["run"]);
        ensure!(done.code == Some(0), "`kiln run` failed: {}", done.said());
        Ok(())
    })?;
    let builds: String = (0..N_MANY).map(|n| format!("build j{n}: true\n")).collect();
    let limit = ninja(&world, &builds)?;
    let per_second = samples.map(|took_ms| N_MANY as f64 / took_ms * 1e3);
    Ok(vec![
        Figure {
            name: "thousand-jobs",
            unit: "jobs/s",
            samples: per_second,
            limit: Limit::Absent { why: "" },
            goal: Goal::AtLeast(500.0),
        },
        Figure { name: "thousand-jobs", unit: "ms", samples, limit, goal: Goal::AtMostTimes(2.0) },
    ])
}

/// Each job needs the one before: milliseconds a job.
pub fn chain() -> Result<Vec<Figure>> {
    let world = World::new();
    let job = |n: usize| match n {
        0 => "  j0: { steps: ['true'] }\n".to_owned(),
        n => format!("  j{n}: {{ needs: j{}, steps: ['true'] }}\n", n - 1),
    };
    let jobs: String = (0..N_CHAIN).map(job).collect();
    let repository = world.repository_with("chain", &[(".kiln.yml", &format!("jobs:\n{jobs}"))]);
    let samples = time(1, N_LONG, || {
        let done = repository.kiln(["run"]);
        ensure!(done.code == Some(0), "`kiln run` failed: {}", done.said());
        Ok(())
    })?;
    let build = |n: usize| match n {
        0 => "build j0: true\n".to_owned(),
        n => format!("build j{n}: true j{}\n", n - 1),
    };
    let per_job = |samples: &Samples| samples.map(|took_ms| took_ms / N_CHAIN as f64);
    let limit = match ninja(&world, &(0..N_CHAIN).map(build).collect::<String>())? {
        Limit::Measured { what, samples } => Limit::Measured { what, samples: per_job(&samples) },
        absent @ Limit::Absent { .. } => absent,
    };
    Ok(vec![Figure {
        name: "chain-of-200",
        unit: "ms",
        samples: per_job(&samples),
        limit,
        goal: Goal::AtMost(3.0),
    }])
}

/// The same commands under `ninja -j2`.
fn ninja(world: &World, builds: &str) -> Result<Limit> {
    if !machine::found("ninja") {
        return Ok(Limit::Absent { why: "ninja is not installed" });
    }
    let mut samples = Vec::new();
    for round in 0..=N_LONG {
        // A folder of its own each time: ninja skips what it remembers.
        let folder = world.at(&format!("ninja-{round}"));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(
            folder.join("build.ninja"),
            format!("rule true\n  command = true\n{builds}"),
        )?;
        let took = ninja_once(world, &folder);
        if round > 0 {
            samples.push(took);
        }
        std::fs::remove_dir_all(&folder)?;
    }
    Ok(Limit::Measured { what: "ninja -j2", samples: Samples::new(samples) })
}

fn ninja_once(world: &World, folder: &Path) -> f64 {
    let since = Stopwatch::start();
    ran(world.command("ninja").args(["-j2", "--quiet"]).current_dir(folder)).success();
    ms(since.elapsed())
}
