//! What need not be done: a job whose inputs are as before, a cache that is there.

use anyhow::Result;
use kiln_it::world::ran;
use kiln_it::{WorkTree, World};

use super::figure::{Figure, Goal, Limit, Samples, in_turns, took};
use super::workspace::{events, texts};

const N_INPUTS: usize = 10_000;
const N_HITS: usize = 21;

/// 850 MB: as many files, and as big, as a build's folder of dependencies has.
const N_CACHED: usize = 20_000;
const CACHED_BYTES: usize = 42_500;
const N_RESTORED: usize = 15;
/// Seconds each.
const N_UNTARRED: usize = 3;

/// `kiln run` of a job that has nothing to do, beside `git status`.
pub fn hit() -> Result<Vec<Figure>> {
    let world = World::new();
    let manifest = "jobs: { build: { inputs: ['src/**'], steps: ['cat src/d00/f00 > out'] } }\n";
    let tree = world.repository_with("inputs", &[(".kiln.yml", manifest)]);
    for n in 0..N_INPUTS {
        tree.write(&format!("src/d{:02}/f{:02}", n / 100, n % 100), format!("input {n}\n"));
    }
    tree.commit("inputs");
    tree.git(["status"]).success();
    // Files that are younger than a clock's tick are read again.
    let run = || tree.kiln(["run"]).success();
    run();
    kiln_it::wait::until("a run takes what an earlier one made", || {
        run().stdout.contains("reused").then_some(())
    });
    let ours = || {
        took(|| {
            run();
            Ok(())
        })
    };
    let status = || {
        took(|| {
            tree.git(["--no-optional-locks", "status", "--porcelain"]).success();
            Ok(())
        })
    };
    let (ours, status) = in_turns(3, N_HITS, ours, status)?;
    Ok(vec![Figure {
        name: "hit-10k-inputs",
        unit: "ms",
        samples: ours,
        limit: Limit::Measured { what: "git status", samples: status },
        goal: Goal::AtMostTimes(1.5),
    }])
}

/// `kiln run` of a job that looks at a cache of 850 MB, and of one that has none.
pub fn cache() -> Result<Vec<Figure>> {
    let world = World::new();
    let fill = format!(
        "mkdir -p deps && cd deps && head -c {} /dev/zero | split -a 4 -b {CACHED_BYTES}",
        N_CACHED * CACHED_BYTES
    );
    let manifest = format!(
        "jobs:\n\
         \x20 fill: {{ cache: [deps], steps: ['{fill}'] }}\n\
         \x20 with: {{ cache: [deps], steps: ['test -s deps/xaaaa'] }}\n\
         \x20 without: {{ steps: ['test -s .kiln.yml'] }}\n"
    );
    let tree = world.repository_with("cached", &[(".kiln.yml", &manifest)]);
    tree.kiln(["run", "fill"]).success();
    let said = texts(&events(&tree, &["run", "--json", "with"])?);
    anyhow::ensure!(said.contains("850.0 MB"), "the cache was not found: {said}");
    let run = |job: &str| {
        took(|| {
            tree.kiln(["run", job]).success();
            Ok(())
        })
    };
    let (with, without) = in_turns(1, N_RESTORED, || run("with"), || run("without"))?;
    let figure = |what, limit, goal| Figure {
        name: "cache-850mb",
        unit: "ms",
        samples: with.clone(),
        limit: Limit::Measured { what, samples: limit },
        goal,
    };
    Ok(vec![
        figure("without the cache", without, Goal::AtMostAbove(10.0)),
        figure("tar xf", untarred(&world, &tree, &fill)?, Goal::None),
    ])
}

fn untarred(world: &World, tree: &WorkTree, fill: &str) -> Result<Samples> {
    ran(world.command("sh").args(["-c", fill]).current_dir(&tree.path)).success();
    ran(world.command("tar").args(["cf", "../deps.tar", "deps"]).current_dir(&tree.path)).success();
    let into = world.at("untarred");
    let mut values = Vec::new();
    for _ in 0..N_UNTARRED {
        std::fs::create_dir(&into)?;
        values.push(took(|| {
            ran(world.command("tar").args(["xf", "../deps.tar"]).current_dir(&into)).success();
            Ok(())
        })?);
        std::fs::remove_dir_all(&into)?;
    }
    Ok(Samples::new(values))
}
