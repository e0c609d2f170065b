//! A job's files into an archive and out of it, beside tar and zstd.

use std::path::Path;

use anyhow::Result;
use kiln_it::world::ran;
use kiln_it::{WorkTree, World};

use super::figure::{Figure, Goal, Limit, in_turns, took};
use crate::machine;

const N_FILES: usize = 20_000;
/// Of text, which becomes about a third.
const FILE_WORDS: usize = 1_600;
const N_TURNS: usize = 7;

/// At least 0.8 times the speed.
const GOAL: Goal = Goal::AtMostTimes(1.25);

pub fn both_ways() -> Result<Vec<Figure>> {
    let world = World::new();
    let tree = text(&world)?;
    tree.kiln(["run"]).success();
    let all = ["workspace", "pack", "#1/one", "--all", "-o", "../ours.tar.zst"];
    let pack = || {
        let _ = std::fs::remove_file(world.at("ours.tar.zst"));
        took(|| {
            tree.kiln(all).success();
            Ok(())
        })
    };
    let tar = || {
        let _ = std::fs::remove_file(world.at("theirs.tar.zst"));
        by_hand(&world, &tree.path, "tar cf - . | zstd -1 -T2 -q -o ../theirs.tar.zst")
    };
    let (ours, theirs) = in_turns(1, N_TURNS, pack, tar)?;
    let packing = figure("pack", ours, "tar | zstd -1 -T2", theirs);
    let (ours_in, theirs_in) = (world.at("ours"), world.at("theirs"));
    let unpack = || {
        let _ = std::fs::remove_dir_all(&ours_in);
        took(|| {
            world.kiln(world.path(), ["workspace", "unpack", "ours.tar.zst", "ours"]).success();
            Ok(())
        })
    };
    let untar = || {
        let _ = std::fs::remove_dir_all(&theirs_in);
        std::fs::create_dir(&theirs_in)?;
        by_hand(&world, &theirs_in, "zstd -d -q -c ../theirs.tar.zst | tar xf -")
    };
    let (ours, theirs) = in_turns(1, N_TURNS, unpack, untar)?;
    Ok(vec![packing, figure("unpack", ours, "zstd -d | tar x", theirs)])
}

fn figure(
    name: &'static str,
    samples: super::figure::Samples,
    what: &'static str,
    theirs: super::figure::Samples,
) -> Figure {
    let limit = match machine::found("zstd") {
        true => Limit::Measured { what, samples: theirs },
        false => Limit::Absent { why: "zstd is not installed" },
    };
    Figure { name, unit: "ms", samples, limit, goal: GOAL }
}

fn by_hand(world: &World, folder: &Path, line: &str) -> Result<f64> {
    if !machine::found("zstd") {
        return Ok(f64::NAN);
    }
    took(|| {
        ran(world.command("sh").args(["-c", line]).current_dir(folder)).success();
        Ok(())
    })
}

/// Lines of words, as sources are.
fn text(world: &World) -> Result<WorkTree> {
    let tree = world.repository_with(
        "text",
        &[(".kiln.yml", "jobs: { one: { steps: ['echo made > made'] } }\n")],
    );
    let mut random = fastrand::Rng::with_seed(3);
    let words: Vec<String> =
        (0..4_000).map(|_| (0..random.usize(2..9)).map(|_| random.lowercase()).collect()).collect();
    for n in 0..N_FILES {
        let mut content = String::with_capacity(FILE_WORDS * 7);
        for at in 0..FILE_WORDS {
            content += &words[random.usize(..words.len())];
            content.push(if at % 12 == 11 { '\n' } else { ' ' });
        }
        tree.write(&format!("d{:03}/f{:02}", n / 100, n % 100), content);
    }
    tree.git(["config", "core.compression", "0"]).success();
    tree.git(["config", "gc.auto", "0"]).success();
    tree.commit("text");
    Ok(tree)
}
