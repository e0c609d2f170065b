//! A large repository: 100,000 files, 1 GB. A push, a full checkout, a local run, `git status` in a job.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use kiln_git::{Location, Mirror};
use kiln_it::world::ran;
use kiln_it::{Bare, WorkTree, World};
use kiln_stdx::clock::Stopwatch;

use super::figure::{Figure, Goal, Limit, Samples, ms, time};
use super::push;

const N_FOLDERS: usize = 1_000;
const N_FILES: usize = 100;
const FILE_BYTES: usize = 10_400;

const N_PUSHES: i64 = 15;
const N_WARM: i64 = 2;
const N_RUNS: usize = 15;
/// Seconds each.
const N_CHECKOUTS: usize = 3;

const MANIFEST: &str = "jobs: { one: { steps: [echo hello, 'git status --porcelain'] } }\n";

/// Everything on one repository: making it takes longer than most of the figures.
pub fn large_tree() -> Result<Vec<Figure>> {
    let world = World::new();
    let tree = made(&world)?;
    let mut figures = vec![local_run(&tree)?];
    let bare = world.bare("big.git");
    let mut push = world.command("git");
    push.args(["push", "--quiet"]).arg(&bare.path).arg("main");
    ran(push.current_dir(&tree.path)).success();
    figures.push(checkout(&world, &bare, &tree.head())?);
    figures.extend(pushes(&world, &tree, &bare)?);
    Ok(figures)
}

/// Content that does not compress and differs from file to file.
fn made(world: &World) -> Result<WorkTree> {
    let tree = world.repository_with("big", &[(".kiln.yml", MANIFEST)]);
    let mut random = fastrand::Rng::with_seed(1);
    let mut bytes = vec![0; FILE_BYTES];
    for folder in 0..N_FOLDERS {
        let folder = tree.path.join(format!("m{:02}/d{:02}", folder / 50, folder % 50));
        std::fs::create_dir_all(&folder)?;
        for file in 0..N_FILES {
            random.fill(&mut bytes);
            std::fs::write(folder.join(format!("f{file:03}")), &bytes)?;
        }
    }
    tree.git(["config", "core.compression", "0"]).success();
    tree.commit("large");
    tree.git(["repack", "-adq"]).success();
    Ok(tree)
}

fn edit(tree: &WorkTree, n: usize) {
    tree.write(&format!("m00/d00/f{:03}", n % N_FILES), format!("edit {n}\n"));
}

/// From the start of `kiln run` to the first output of the first step, after one edit each.
fn local_run(tree: &WorkTree) -> Result<Figure> {
    tree.git(["status", "--porcelain"]).success();
    let (mut runs, mut statuses) = (Vec::new(), Vec::new());
    for round in 0..=N_RUNS {
        edit(tree, round);
        let took = first_output(tree)?;
        edit(tree, round + 1);
        let status = time(0, 1, || {
            tree.git(["--no-optional-locks", "status", "--porcelain"]).success();
            Ok(())
        })?;
        // The first makes the project and its folders.
        if round > 0 {
            runs.push(took);
            statuses.push(status.median());
        }
    }
    tree.git(["checkout", "--quiet", "."]).success();
    Ok(Figure {
        name: "large-local-run",
        unit: "ms",
        samples: Samples::new(runs),
        limit: Limit::Measured { what: "git status", samples: Samples::new(statuses) },
        goal: Goal::AtMostTimes(1.5),
    })
}

fn first_output(tree: &WorkTree) -> Result<f64> {
    let mut run = tree.kiln_command(["run"]);
    let since = Stopwatch::start();
    let mut run = run.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut lines = BufReader::new(run.stdout.take().context("is piped")?).lines();
    let found = lines.by_ref().find(|line| line.as_ref().is_ok_and(|line| line.ends_with("hello")));
    let took = ms(since.elapsed());
    ensure!(found.is_some(), "the job printed nothing");
    lines.for_each(drop);
    ensure!(run.wait()?.success(), "the run failed");
    Ok(took)
}

/// The library's own checkout, as an agent calls it, beside git's.
fn checkout(world: &World, bare: &Bare, head: &str) -> Result<Figure> {
    let mirror = Mirror::open(&world.at("mirror"), &Location::Path(bare.path.clone()))?;
    let tree = mirror.commit(head)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..N_CHECKOUTS {
        let into = world.at(&format!("ours-{round}"));
        std::fs::create_dir_all(&into)?;
        ours.push(
            time(0, 1, || Ok(mirror.checkout(&tree.tree, &into, &world.at("index"))?))?.median(),
        );
        std::fs::remove_dir_all(&into)?;
        let clone = world.at(&format!("theirs-{round}"));
        let mut git = world.command("git");
        git.args(["clone", "--quiet", "--shared", "--no-checkout"]).arg(&bare.path).arg(&clone);
        ran(&mut git).success();
        theirs.push(time(0, 1, || by_git(world, &clone))?.median());
        std::fs::remove_dir_all(&clone)?;
    }
    Ok(Figure {
        name: "large-checkout",
        unit: "ms",
        samples: Samples::new(ours),
        limit: Limit::Measured { what: "git checkout", samples: Samples::new(theirs) },
        goal: Goal::AtMostTimes(1.2),
    })
}

fn by_git(world: &World, clone: &Path) -> Result<()> {
    let mut git = world.command("git");
    git.current_dir(clone).args(["-c", "checkout.workers=0", "checkout", "--quiet", "main"]);
    ran(&mut git).success();
    Ok(())
}

/// A push of one changed line, on a warm mirror; and the first `git status` of its job.
fn pushes(world: &World, tree: &WorkTree, bare: &Bare) -> Result<Vec<Figure>> {
    let server = world.serve();
    world.watch("site", bare);
    let mut values = Vec::new();
    for number in 1..=N_PUSHES + N_WARM {
        let old = tree.head();
        edit(tree, usize::try_from(number)?);
        let new = tree.commit("next");
        let mut fetch = world.command("git");
        fetch.args(["fetch", "--quiet"]).arg(&tree.path).arg("+main:refs/heads/main");
        ran(fetch.current_dir(&bare.path)).success();
        let refs = format!("{old} {new} refs/heads/main\n");
        let took = push::one(world, &server, bare, &refs, (number, "one"))?;
        if number > N_WARM {
            values.push(took);
        }
        server.over("site", number);
    }
    Ok(vec![Figure {
        name: "large-push",
        unit: "ms",
        samples: Samples::new(values),
        limit: Limit::Absent { why: "fetch and checkout in a kept clone: 200 ms" },
        goal: Goal::AtMost(60.0),
    }])
}
