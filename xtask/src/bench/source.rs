//! A large repository: 100,000 files, 1 GB. A local run, a full checkout, a push, the workspace of a job.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use kiln_git::{Location, Mirror};
use kiln_it::world::ran;
use kiln_it::{Bare, Server, WorkTree, World};
use kiln_stdx::clock::Stopwatch;
use kiln_stdx::overlay::{self, Mount};

use super::figure::{Figure, Goal, Limit, Samples, in_turns, ms, time, took};
use super::push;
use super::workspace::at_ms;

const N_FOLDERS: usize = 1_000;
const N_FILES: usize = 100;
const FILE_BYTES: usize = 10_400;

const N_PUSHES: i64 = 15;
const N_WARM: i64 = 2;
const N_RUNS: usize = 15;
/// Seconds each.
const N_CHECKOUTS: usize = 3;
const N_JOBS: usize = 40;
const N_CHAINS: usize = 7;

const MANIFEST: &str = "jobs: { one: { steps: [echo hello, 'git status --porcelain'] } }\n";

/// The repository. Making it takes longer than most of the figures, so that all have the same.
pub struct Large {
    world: World,
    tree: WorkTree,
    bare: Bare,
}

impl Large {
    pub fn made() -> Result<Self> {
        let world = World::new();
        let tree = tree(&world)?;
        let bare = world.bare("big.git");
        let mut push = world.command("git");
        push.args(["push", "--quiet"]).arg(&bare.path).arg("main");
        ran(push.current_dir(&tree.path)).success();
        Ok(Self { world, tree, bare })
    }
}

/// Content that does not compress and differs from file to file.
fn tree(world: &World) -> Result<WorkTree> {
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
    // Packed below, once.
    tree.git(["config", "gc.auto", "0"]).success();
    tree.commit("large");
    // Nothing of it resembles anything else.
    tree.git(["repack", "-adq", "--window=0"]).success();
    Ok(tree)
}

fn edit(tree: &WorkTree, n: usize) {
    tree.write(&format!("m00/d00/f{:03}", n % N_FILES), format!("edit {n}\n"));
}

/// From the start of `kiln run` to the first output of the first step, after one edit each.
pub fn local_run(large: &Large) -> Result<Vec<Figure>> {
    let tree = &large.tree;
    tree.git(["status", "--porcelain"]).success();
    let n_edits = std::cell::Cell::new(0);
    let edit_next = || edit(tree, n_edits.replace(n_edits.get() + 1));
    let run = || {
        edit_next();
        first_output(tree)
    };
    let status = || {
        edit_next();
        took(|| {
            tree.git(["--no-optional-locks", "status", "--porcelain"]).success();
            Ok(())
        })
    };
    // The first makes the project and its folders.
    let (samples, limit) = in_turns(1, N_RUNS, run, status)?;
    tree.git(["checkout", "--quiet", "."]).success();
    Ok(vec![Figure {
        name: "large-local-run",
        unit: "ms",
        samples,
        limit: Limit::Measured { what: "git status", samples: limit },
        goal: Goal::AtMostTimes(1.5),
    }])
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
pub fn checkout(large: &Large) -> Result<Vec<Figure>> {
    let Large { world, bare, tree } = large;
    let mirror = Mirror::open(&world.at("mirror"), &Location::Path(bare.path.clone()))?;
    let commit = mirror.commit(&tree.head())?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..N_CHECKOUTS {
        let into = world.at(&format!("ours-{round}"));
        std::fs::create_dir_all(&into)?;
        ours.push(
            time(0, 1, || Ok(mirror.checkout(&commit.tree, &into, &world.at("index"))?))?.median(),
        );
        std::fs::remove_dir_all(&into)?;
        let clone = world.at(&format!("theirs-{round}"));
        let mut git = world.command("git");
        git.args(["clone", "--quiet", "--shared", "--no-checkout"]).arg(&bare.path).arg(&clone);
        ran(&mut git).success();
        theirs.push(time(0, 1, || by_git(world, &clone))?.median());
        std::fs::remove_dir_all(&clone)?;
    }
    Ok(vec![Figure {
        name: "large-checkout",
        unit: "ms",
        samples: Samples::new(ours),
        limit: Limit::Measured { what: "git checkout", samples: Samples::new(theirs) },
        goal: Goal::AtMostTimes(1.2),
    }])
}

fn by_git(world: &World, clone: &Path) -> Result<()> {
    let mut git = world.command("git");
    git.current_dir(clone).args(["-c", "checkout.workers=0", "checkout", "--quiet", "main"]);
    ran(&mut git).success();
    Ok(())
}

/// A push of one changed line, on a warm mirror; then jobs of that repository.
pub fn pushes(large: &Large) -> Result<Vec<Figure>> {
    let Large { world, tree, bare } = large;
    let server = world.serve();
    world.watch("site", bare);
    let mut values = Vec::new();
    for number in 1..=N_PUSHES + N_WARM {
        edit(tree, usize::try_from(number)?);
        let refs = arrives(world, tree, bare)?;
        let took = push::one(world, &server, bare, &refs, (number, "one"))?;
        if number > N_WARM {
            values.push(took);
        }
        server.over("site", number);
    }
    let mut figures = vec![Figure {
        name: "large-push",
        unit: "ms",
        samples: Samples::new(values),
        limit: Limit::Absent { why: "kept clone: 200 ms" },
        goal: Goal::AtMost(60.0),
    }];
    figures.extend(workspaces(large, &server, N_PUSHES + N_WARM)?);
    Ok(figures)
}

/// A commit of the tree as it is, with objects and ref in the bare repository; what git says to the hook.
fn arrives(world: &World, tree: &WorkTree, bare: &Bare) -> Result<String> {
    let old = tree.git(["rev-parse", "--quiet", "--verify", "HEAD"]).stdout;
    let new = tree.commit("next");
    let mut fetch = world.command("git");
    fetch.args(["fetch", "--quiet"]).arg(&tree.path).arg("+main:refs/heads/main");
    ran(fetch.current_dir(&bare.path)).success();
    Ok(format!("{} {new} refs/heads/main\n", old.trim()))
}

/// A job that writes one file, over the whole tree and over next to nothing; each waits for the one
/// before, so that the time of one is the time of all by their number. All of it counts: the lease, the
/// workspace, the shell, sealing, the result.
fn workspaces(large: &Large, server: &Server, n_before: i64) -> Result<Vec<Figure>> {
    let Large { world, tree, bare } = large;
    let job = |n: usize| {
        let needs = if n == 0 { String::new() } else { format!("needs: j{}, ", n - 1) };
        format!("  j{n}: {{ {needs}workspace: fresh, steps: ['echo wrote > it'] }}\n")
    };
    let manifest = format!("jobs:\n{}", (0..N_JOBS).map(job).collect::<String>());
    tree.write(".kiln.yml", &manifest);
    tree.commit("chain");
    let (bare_small, small) = (world.bare("small.git"), world.repository("small"));
    small.write(".kiln.yml", &manifest);
    small.commit("chain");
    world.watch("small", &bare_small);
    let of = |tree: &WorkTree, bare: &Bare, project: &str, number: &std::cell::Cell<i64>| {
        number.set(number.get() + 1);
        tree.commit("again");
        let mut push = world.command("git");
        push.args(["push", "--quiet"]).arg(&bare.path).arg("main");
        ran(push.current_dir(&tree.path)).success();
        let run = server.over(project, number.get());
        ensure!(run["state"] == "success", "the run is {}", run["state"]);
        let jobs = run["jobs"].as_array().context("a run has jobs")?;
        let ends: Vec<_> = jobs.iter().filter_map(|job| at_ms(&job["finished_at"])).collect();
        let span = ends.iter().max().zip(ends.iter().min()).map(|(last, first)| last - first);
        Ok(span.context("a job has an end")? as f64 / (N_JOBS - 1) as f64)
    };
    let (n_large, n_small) = (std::cell::Cell::new(n_before), std::cell::Cell::new(0));
    let (samples, empty) = in_turns(
        1,
        N_CHAINS,
        || of(tree, bare, "site", &n_large),
        || of(&small, &bare_small, "small", &n_small),
    )?;
    let figure = |limit, goal| Figure {
        name: "large-workspace",
        unit: "ms",
        samples: samples.clone(),
        limit,
        goal,
    };
    Ok(vec![
        figure(mounts(world, &tree.path)?, Goal::AtMost(3.0)),
        figure(
            Limit::Measured { what: "a job on one file", samples: empty },
            Goal::AtMostAbove(0.5),
        ),
        figure(
            Limit::Measured { what: "cp -a", samples: Samples::one(copied(world, &tree.path)?) },
            Goal::None,
        ),
    ])
}

/// An overlay over the tree, mounted and unmounted, and the job's shell; nothing else.
fn mounts(world: &World, tree: &Path) -> Result<Limit> {
    let folders = ["upper", "work", "at"].map(|name| world.at(name));
    let make = || folders.iter().try_for_each(std::fs::create_dir_all);
    make()?;
    let [upper, work, at]: [PathBuf; 3] = folders.clone();
    let spec = Mount { lowers: vec![tree.to_owned()], upper, work, at: at.clone(), user: false };
    if overlay::mount(&spec).is_err() {
        return Ok(Limit::Absent { why: "only root mounts by hand" });
    }
    overlay::unmount(&at)?;
    // Folders that were used without syncing are refused a second time.
    let clear = || folders.iter().try_for_each(std::fs::remove_dir_all);
    clear()?;
    let samples = time(3, 50, || {
        make()?;
        overlay::mount(&spec)?;
        let done = ran(world.command("sh").args(["-c", "echo wrote > it"]).current_dir(&at));
        overlay::unmount(&at)?;
        done.success();
        Ok(clear()?)
    })?;
    Ok(Limit::Measured { what: "sh on a bare overlay", samples })
}

fn copied(world: &World, tree: &Path) -> Result<f64> {
    let to = world.at("copied");
    let took = took(|| {
        ran(world.command("cp").arg("-a").arg(tree).arg(&to)).success();
        Ok(())
    })?;
    std::fs::remove_dir_all(to)?;
    Ok(took)
}
