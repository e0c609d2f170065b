//! Containers that kiln makes, beside `crun` and beside the machine itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use kiln_it::world::ran;
use kiln_it::{WorkTree, World, binary, wait};
use kiln_stdx::process;

use super::bundle;
use super::figure::{Figure, Goal, Limit, Samples, in_turns, time, took};
use super::idle::memory;
use crate::check::cargo;
use crate::machine;

const N_SESSIONS: usize = 60;
const N_STEPS: usize = 200;
/// They settle caches of the kernel's and of the processor's.
const N_WARM: usize = 3;
/// Nobody's: an ordinary user whom every machine has.
const USER: u32 = 65_534;

const N_JOBS: usize = 200;
const N_RUNS: usize = 7;

/// `seq` up to here prints so many bytes.
const LAST: &str = "23500000";
const N_BYTES: u64 = 200_388_897;
const N_PRINTS: usize = 5;

const N_AT_ONCE: usize = 50;

/// A session from open to close, as root and as an ordinary user; a step in an open one.
pub fn sessions() -> Result<Vec<Figure>> {
    let program = program()?;
    let as_root = session(&program, None)?;
    let as_user = session(&program, Some(USER))?;
    Ok(vec![
        figure("oci-true", as_root, Goal::AtMostTimes(1.0)),
        figure("oci-true-user", as_user, Goal::AtMostTimes(1.5)),
        step(&program)?,
    ])
}

fn figure(name: &'static str, (ours, limit): (Samples, Samples), goal: Goal) -> Figure {
    let limit = match machine::found("crun") {
        true => Limit::Measured { what: "crun run", samples: limit },
        false => Limit::Absent { why: "`crun` is not installed" },
    };
    Figure { name, unit: "ms", samples: ours, limit, goal }
}

/// The figures come from the executor itself, built as it ships: a run's plan and rows are no part of them.
fn program() -> Result<PathBuf> {
    // Another build has its own beside it.
    let given = std::env::var_os("KILN_BIN").map(PathBuf::from);
    let beside = given.and_then(|kiln| Some(kiln.parent()?.join("examples/containers")));
    if let Some(beside) = beside.filter(|beside| beside.exists()) {
        return Ok(beside);
    }
    let mut build = cargo(&["build", "--release", "--quiet", "--package", "kiln-executor"]);
    let built = build.args(["--example", "containers"]).status()?;
    ensure!(built.success(), "the example does not build");
    Ok(binary::target().join("release/examples/containers"))
}

fn session(program: &Path, user: Option<u32>) -> Result<(Samples, Samples)> {
    let world = World::new();
    let root = bundle::root(&world)?;
    let mut command = as_user(&world, program, user)?;
    command.arg("session").arg(world.at("sessions")).arg(&root);
    command.arg((N_WARM + N_SESSIONS).to_string());
    if machine::found("crun") {
        let bundle = bundle::for_crun(&world, user)?;
        let manager = if user.is_some() { "disabled" } else { "cgroupfs" };
        command.args(["crun", &format!("--cgroup-manager={manager}")]);
        command.arg("--root").arg(world.at("crun")).arg("run").arg("--bundle").arg(bundle);
        // Its name; it is gone when the next one comes.
        command.arg("kiln-bench");
    } else {
        command.arg("true");
    }
    pairs(&mut command)
}

/// The program as that user, whose folders the world's are then.
///
/// Older versions of `crun` refuse a machine with control groups of both versions, so that nobody sees those of
/// the second here.
fn as_user(world: &World, program: &Path, user: Option<u32>) -> Result<Command> {
    for folder in ["sessions", "crun"] {
        std::fs::create_dir_all(world.at(folder))?;
    }
    let copy = world.at("containers");
    std::fs::copy(program, &copy)?;
    let mut command = world.command("unshare");
    let hide = "umount /sys/fs/cgroup/unified 2> /dev/null; exec \"$@\"";
    command.args(["--mount", "sh", "-c", hide, "sh"]);
    if let Some(user) = user {
        let (id, at) = (user.to_string(), world.path().to_string_lossy().into_owned());
        ran(world.command("chown").args(["-R", &format!("{id}:{id}"), &at])).success();
        command.args(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"]);
        command.env("XDG_RUNTIME_DIR", world.path());
    }
    command.arg(copy);
    Ok(command)
}

/// A further step in an open session, beside a process of the machine's.
fn step(program: &Path) -> Result<Figure> {
    let world = World::new();
    let root = bundle::root(&world)?;
    let mut command = as_user(&world, program, None)?;
    command.arg("step").arg(world.at("sessions")).arg(&root);
    command.arg((N_WARM + N_STEPS).to_string()).arg(root.join("bin/true"));
    let (ours, limit) = pairs(&mut command)?;
    Ok(Figure {
        name: "oci-step",
        unit: "ms",
        samples: ours,
        limit: Limit::Measured { what: "fork and exec", samples: limit },
        goal: Goal::AtMostTimes(1.5),
    })
}

/// Ours and the limit's, a line each round.
fn pairs(command: &mut Command) -> Result<(Samples, Samples)> {
    let done = process::any_output(command)?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stdout)?;
    let rounds = text.lines().skip(N_WARM).map(|line| {
        let (ours, limit) = line.split_once(' ').context("two numbers")?;
        Ok((ours.parse()?, limit.parse()?))
    });
    let (ours, limit) = rounds.collect::<Result<Vec<(f64, f64)>>>()?.into_iter().unzip();
    Ok((Samples::new(ours), Samples::new(limit)))
}

/// Jobs a second, through `kiln run`: planned, recorded, sealed.
pub fn many() -> Result<Vec<Figure>> {
    let per_second = |network: &str| -> Result<Samples> {
        let world = World::new();
        let job = |n: usize| {
            format!("  j{n}: {{ image: 'docker-archive:tiny.tar'{network}, steps: ['true'] }}\n")
        };
        let jobs: String = (0..N_JOBS).map(job).collect();
        let tree = world.repository_with("many", &[(".kiln.yml", &format!("jobs:\n{jobs}"))]);
        bundle::archive(&world, &tree.path.join("tiny.tar"))?;
        let samples = time(1, N_RUNS, || {
            let done = tree.kiln(["run", "--jobs", "2"]);
            ensure!(done.code == Some(0), "`kiln run` failed: {}", done.said());
            Ok(())
        })?;
        Ok(samples.map(|took_ms| N_JOBS as f64 / took_ms * 1e3))
    };
    let figure = |samples, why, goal| Figure {
        name: "oci-200-jobs",
        unit: "jobs/s",
        samples,
        limit: Limit::Absent { why },
        goal,
    };
    Ok(vec![
        figure(per_second("")?, "network as by default", Goal::AtLeast(200.0)),
        figure(per_second(", network: none")?, "network: none", Goal::AtLeast(200.0)),
    ])
}

/// A push of 200 MB of output to its end, from the same program on the machine and in a container.
pub fn output() -> Result<Vec<Figure>> {
    let world = World::new();
    let server = world.serve();
    let inside = format!("{{ image: 'docker-archive:tiny.tar', steps: ['seq {LAST}'] }}");
    let outside = format!("{{ steps: ['{} seq {LAST}'] }}", bundle::busybox()?.display());
    let project = |name: &str, job: &str| -> Result<WorkTree> {
        let bare = world.bare(&format!("{name}.git"));
        let clone = world.clone_of(&bare, name);
        clone.write(".kiln.yml", format!("jobs: {{ print: {job} }}\n"));
        bundle::archive(&world, &clone.path.join("tiny.tar"))?;
        world.watch(name, &bare);
        Ok(clone)
    };
    let (inside, outside) = (project("inside", &inside)?, project("outside", &outside)?);
    let push = |clone: &WorkTree, name: &str, number: &mut i64| {
        *number += 1;
        clone.commit("again");
        took(|| {
            clone.push(["main"]);
            let run = server.over(name, *number);
            ensure!(run["jobs"][0]["log_bytes"] == N_BYTES, "the run is {}", run["state"]);
            Ok(())
        })
    };
    let mut n = (0, 0);
    let (inside, outside) = in_turns(
        1,
        N_PRINTS,
        || push(&inside, "inside", &mut n.0),
        || push(&outside, "outside", &mut n.1),
    )?;
    Ok(vec![Figure {
        name: "oci-200mb",
        unit: "ms",
        samples: inside,
        limit: Limit::Measured { what: "the same on the host", samples: outside },
        goal: Goal::AtMostTimes(1.3),
    }])
}

/// What the server needs while many containers run.
pub fn at_once() -> Result<Vec<Figure>> {
    let world = World::new();
    let bare = world.bare("wide.git");
    let clone = world.clone_of(&bare, "wide");
    let job = |n: usize| {
        format!(
            "  j{n}: {{ image: 'docker-archive:tiny.tar', network: none, steps: ['sleep 600'] }}\n"
        )
    };
    let jobs: String = (0..N_AT_ONCE).map(job).collect();
    clone.write(".kiln.yml", format!("jobs:\n{jobs}"));
    bundle::archive(&world, &clone.path.join("tiny.tar"))?;
    clone.commit("pipeline");
    let n_jobs = N_AT_ONCE.to_string();
    let server = world.serve_with(&["--listen", "127.0.0.1:0", "--jobs", &n_jobs]);
    world.watch("wide", &bare);
    clone.push(["main"]);
    wait::until("all containers run", || {
        let run = server.json("/projects/wide/runs/1");
        let jobs = run["jobs"].as_array()?;
        (jobs.iter().filter(|job| job["state"] == "running").count() == N_AT_ONCE).then_some(())
    });
    let resident = memory(server.pid())?;
    let mut cancel = world.kiln_command(["cancel", "wide#1"]);
    ran(cancel.stdin(Stdio::null())).success();
    server.over("wide", 1);
    Ok(vec![Figure {
        name: "oci-50-at-once",
        unit: "MB",
        samples: Samples::one(resident as f64 / 1e6),
        limit: Limit::Absent { why: "server, 50 containers run" },
        goal: Goal::AtMost(60.0),
    }])
}
