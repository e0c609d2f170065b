//! The program as a file, and how long it takes to make.

use anyhow::{Result, ensure};
use kiln_it::{World, binary};
use kiln_stdx::clock::Stopwatch;
use kiln_stdx::process;

use super::figure::{Figure, Goal, Limit, Samples};
use crate::check::cargo;

/// Size of the stripped release binary.
pub fn binary() -> Result<Vec<Figure>> {
    let world = World::new();
    let stripped = world.at("kiln");
    process::output(process::command("strip").arg("-o").arg(&stripped).arg(binary::kiln()))?;
    let n_bytes = std::fs::metadata(&stripped)?.len();
    Ok(vec![Figure {
        name: "binary-size",
        unit: "MB",
        samples: Samples::one(n_bytes as f64 / 1e6),
        limit: Limit::Absent { why: "release, stripped" },
        goal: Goal::AtMost(35.0),
    }])
}

/// A release build into an empty folder, with every dependency already fetched.
pub fn cold_build() -> Result<Vec<Figure>> {
    let world = World::new();
    ensure!(cargo(&["fetch", "--quiet"]).status()?.success(), "the dependencies cannot be fetched");
    let since = Stopwatch::start();
    let mut build = cargo(&["build", "--release", "--quiet", "--package", "kiln", "--offline"]);
    ensure!(build.arg("--target-dir").arg(world.at("cold")).status()?.success(), "no build");
    Ok(vec![Figure {
        name: "cold-build",
        unit: "min",
        samples: Samples::one(since.elapsed().as_secs_f64() / 60.0),
        limit: Limit::Absent { why: "nothing built before" },
        goal: Goal::AtMost(7.0),
    }])
}
