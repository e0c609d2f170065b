//! `kiln shell` for one command.

use anyhow::Result;
use kiln_it::World;
use kiln_it::world::ran;

use super::figure::{Figure, Goal, Limit, in_turns, took};

const N_SHELLS: usize = 30;

/// The whole process: find the job, make its place, run `true`, clear away.
pub fn start() -> Result<Vec<Figure>> {
    let world = World::new();
    let manifest = "jobs: { one: { steps: ['echo made > made'] } }\n";
    let tree = world.repository_with("past", &[(".kiln.yml", manifest)]);
    tree.kiln(["run"]).success();
    let shell = || {
        took(|| {
            tree.kiln(["shell", "#1/one", "--", "true"]).success();
            Ok(())
        })
    };
    let bare = || {
        took(|| {
            ran(world.command("sh").args(["-c", "true"])).success();
            Ok(())
        })
    };
    let (samples, limit) = in_turns(3, N_SHELLS, shell, bare)?;
    Ok(vec![Figure {
        name: "shell",
        unit: "ms",
        samples,
        limit: Limit::Measured { what: "sh -c true", samples: limit },
        goal: Goal::AtMost(100.0),
    }])
}
