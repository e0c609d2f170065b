//! What layers cost a job: a first write to a lower file, a boundary between two steps, its own layer.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use kiln_it::world::ran;
use kiln_it::{WorkTree, World};
use kiln_stdx::Timestamp;
use kiln_stdx::overlay::{self, Mount};
use serde_json::Value;

use super::figure::{Figure, Goal, Limit, Samples, in_turns, took};

const N_SMALL: usize = 400;
const SMALL_BYTES: usize = 10_000;
const N_BIG: usize = 3;
const BIG_BYTES: usize = 100_000_000;
const N_WRITES: usize = 7;

/// Bash's own clock and its own `echo`, so that no process is counted: microseconds, `small` and `big`.
const WRITE: &str = r#"
now() { now=${EPOCHREALTIME/[.,]/}; }
for kind in small big; do
    now; began=$now
    for file in $kind/*; do echo more >> "$file"; done
    now; echo "$kind $((now - began))"
done
"#;

/// As many as a long job has; each finds the layers of all before it.
const N_STEPS: usize = 20;
const N_RUNS: usize = 15;

const N_FEW: usize = 10;
const N_MANY: usize = 50_000;

/// The first write to files of a lower layer, in a job and on an overlay made by hand.
pub fn first_write() -> Result<Vec<Figure>> {
    let world = World::new();
    let tree = lowers(&world)?;
    let (mut ours, mut kernel) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..=N_WRITES {
        let in_job = written(&texts(&events(&tree, &["run", "--json"])?))?;
        let by_hand = by_hand(&world, &tree.path)?;
        for at in 0..2 {
            // The first reads what the disk has.
            if round > 0 {
                ours[at].push(in_job[at]);
                kernel[at].extend(by_hand.map(|by_hand| by_hand[at]));
            }
        }
    }
    let figure = |name, at: usize| Figure {
        name,
        unit: "ms",
        samples: Samples::new(ours[at].clone()),
        limit: match kernel[at].is_empty() {
            true => Limit::Absent { why: "only root mounts by hand" },
            false => Limit::Measured {
                what: "overlay made by hand",
                samples: Samples::new(kernel[at].clone()),
            },
        },
        goal: Goal::AtMostAbove(1.0),
    };
    Ok(vec![figure("first-write-10kb", 0), figure("first-write-100mb", 1)])
}

fn lowers(world: &World) -> Result<WorkTree> {
    let tree = world.repository("lowers");
    tree.git(["config", "core.compression", "0"]).success();
    tree.write(".kiln.yml", "jobs: { write: { steps: ['bash write.sh'] } }\n");
    tree.write("write.sh", WRITE);
    let mut random = fastrand::Rng::with_seed(2);
    let mut bytes = vec![0; BIG_BYTES];
    for n in 0..N_SMALL {
        random.fill(&mut bytes[..SMALL_BYTES]);
        tree.write(&format!("small/{n:03}"), &bytes[..SMALL_BYTES]);
    }
    for n in 0..N_BIG {
        random.fill(&mut bytes);
        tree.write(&format!("big/{n}"), &bytes);
    }
    tree.commit("files");
    Ok(tree)
}

/// `None` where this user may not mount.
fn by_hand(world: &World, tree: &Path) -> Result<Option<[f64; 2]>> {
    let [upper, work, at] = ["upper", "work", "at"].map(|name| world.at(name));
    for folder in [&upper, &work, &at] {
        std::fs::create_dir_all(folder)?;
    }
    let spec = Mount {
        lowers: vec![tree.to_owned()],
        upper: upper.clone(),
        work: work.clone(),
        at: at.clone(),
        user: false,
    };
    if overlay::mount(&spec).is_err() {
        return Ok(None);
    }
    let done = ran(world.command("bash").arg("write.sh").current_dir(&at));
    overlay::unmount(&at)?;
    for folder in [upper, work] {
        std::fs::remove_dir_all(folder)?;
    }
    written(&done.success().stdout).map(Some)
}

/// Milliseconds a file, of small ones and big ones.
fn written(said: &str) -> Result<[f64; 2]> {
    let of = |kind: &str, n: usize| -> Result<f64> {
        let line = said.lines().find_map(|line| line.strip_prefix(kind));
        Ok(line.with_context(|| format!("no `{kind}` in {said}"))?.trim().parse::<f64>()?
            / 1e3
            / n as f64)
    };
    Ok([of("small", N_SMALL)?, of("big", N_BIG)?])
}

/// What keeping the files between two steps that write adds to a step.
pub fn boundary() -> Result<Vec<Figure>> {
    let world = World::new();
    let steps = vec!["'echo more >> file'"; N_STEPS].join(", ");
    let manifest = format!(
        "jobs:\n  kept: {{ steps: [{steps}] }}\n  not: {{ snapshots: off, steps: [{steps}] }}\n"
    );
    let tree = world.repository_with("steps", &[(".kiln.yml", &manifest)]);
    let run = |job: &str| {
        took(|| {
            tree.kiln(["run", job]).success();
            Ok(())
        })
    };
    let (kept, not) = in_turns(1, N_RUNS, || run("kept"), || run("not"))?;
    let a_step = |samples: &Samples| samples.map(|took_ms| took_ms / N_STEPS as f64);
    Ok(vec![Figure {
        name: "step-boundary",
        unit: "ms",
        samples: a_step(&kept),
        limit: Limit::Measured { what: "a step, nothing kept", samples: a_step(&not) },
        goal: Goal::AtMostAbove(1.0),
    }])
}

/// From the end of the last step to the end of the job, which has written few files or many.
pub fn seal() -> Result<Vec<Figure>> {
    let world = World::new();
    let job = |n: usize| format!("'mkdir out', 'seq {n} | (cd out && split -l 1 -a 5)'");
    let manifest = format!(
        "jobs:\n  few: {{ steps: [{}] }}\n  many: {{ steps: [{}] }}\n",
        job(N_FEW),
        job(N_MANY)
    );
    let tree = world.repository_with("files", &[(".kiln.yml", &manifest)]);
    let (many, few) = in_turns(1, N_RUNS, || ending(&tree, "many"), || ending(&tree, "few"))?;
    Ok(vec![Figure {
        name: "seal-50k-files",
        unit: "ms",
        samples: many,
        limit: Limit::Measured { what: "the same with 10 files", samples: few },
        goal: Goal::AtMostAbove(1.0),
    }])
}

fn ending(tree: &WorkTree, job: &str) -> Result<f64> {
    let events = events(tree, &["run", "--json", job])?;
    let at = |kind: &str| {
        let all = events.iter().filter(|event| event["type"] == kind);
        let last = all.filter_map(|event| at_ms(&event["finished_at"])).next_back();
        last.with_context(|| format!("no {kind} has ended"))
    };
    Ok((at("job")? - at("step")?) as f64)
}

/// An instant of an answer, in milliseconds.
pub fn at_ms(instant: &Value) -> Option<i64> {
    let at: Timestamp = serde_json::from_value(instant.clone()).ok()?;
    Some(at.as_millis())
}

/// What `kiln run --json` tells of a run that succeeds.
pub fn events(tree: &WorkTree, args: &[&str]) -> Result<Vec<Value>> {
    let done = tree.kiln(args);
    ensure!(done.code == Some(0), "`kiln` failed: {}", done.said());
    done.stdout.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// What its jobs have printed.
pub fn texts(events: &[Value]) -> String {
    let logs = events.iter().filter(|event| event["type"] == "log");
    logs.filter_map(|event| event["text"].as_str()).collect()
}
