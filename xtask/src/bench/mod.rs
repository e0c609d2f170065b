//! The figures, each beside what the machine itself can do at that moment.
//!
//! A *limit* is the least that the same work costs without kiln (the same commands under `ninja`,
//! the same bytes through a pipe), measured in the same run, because a figure alone says more about
//! the machine than about the program. Every figure is a median with its smallest and largest
//! sample. All of it uses the release binary, the loopback address and temporary folders.

mod bundle;
mod docker;
mod figure;
mod idle;
mod local;
mod log;
mod oci;
mod old;
mod pack;
mod page;
mod push;
mod reuse;
mod shell;
mod size;
mod source;
mod workspace;

use anyhow::{Context, Result, bail};
use kiln_it::binary;

use crate::check::cargo;
use figure::Figure;
use source::Large;

/// A workload: the names of the figures it gives, and how to get them.
struct Workload {
    names: &'static [&'static str],
    measure: Measure,
    /// Only when asked for, because it takes minutes.
    cold: bool,
}

enum Measure {
    Alone(fn() -> Result<Vec<Figure>>),
    OnLarge(fn(&Large) -> Result<Vec<Figure>>),
}
use Measure::{Alone, OnLarge};

/// In the order of the table.
const WORKLOADS: &[Workload] = &[
    Workload { names: &["one-job"], measure: Alone(local::one_job), cold: false },
    Workload { names: &["thousand-jobs"], measure: Alone(local::thousand_jobs), cold: false },
    Workload { names: &["chain-of-200"], measure: Alone(local::chain), cold: false },
    Workload { names: &["hook-to-output"], measure: Alone(push::hook_to_output), cold: false },
    Workload {
        names: &["log-200mb", "log-memory", "log-whole", "log-window"],
        measure: Alone(log::big),
        cold: false,
    },
    Workload {
        names: &["idle-memory", "idle-processor", "idle-wakeups"],
        measure: Alone(idle::rest),
        cold: false,
    },
    Workload { names: &["start-100k-runs"], measure: Alone(old::start), cold: false },
    Workload { names: &["page-1000-jobs"], measure: Alone(page::thousand_jobs), cold: false },
    Workload {
        names: &["first-write-10kb", "first-write-100mb"],
        measure: Alone(workspace::first_write),
        cold: false,
    },
    Workload { names: &["step-boundary"], measure: Alone(workspace::boundary), cold: false },
    Workload { names: &["seal-50k-files"], measure: Alone(workspace::seal), cold: false },
    Workload { names: &["hit-10k-inputs"], measure: Alone(reuse::hit), cold: false },
    Workload { names: &["cache-850mb"], measure: Alone(reuse::cache), cold: false },
    Workload { names: &["pack", "unpack"], measure: Alone(pack::both_ways), cold: false },
    Workload { names: &["shell"], measure: Alone(shell::start), cold: false },
    Workload {
        names: &["oci-true", "oci-true-user", "oci-step"],
        measure: Alone(oci::sessions),
        cold: false,
    },
    Workload { names: &["oci-200-jobs"], measure: Alone(oci::many), cold: false },
    Workload { names: &["oci-200mb"], measure: Alone(oci::output), cold: false },
    Workload { names: &["oci-50-at-once"], measure: Alone(oci::at_once), cold: false },
    Workload { names: &["docker-job"], measure: Alone(docker::one_job), cold: false },
    Workload { names: &["image-pull"], measure: Alone(docker::pull), cold: false },
    Workload { names: &["large-local-run"], measure: OnLarge(source::local_run), cold: true },
    Workload { names: &["large-checkout"], measure: OnLarge(source::checkout), cold: true },
    Workload {
        names: &["large-push", "large-workspace"],
        measure: OnLarge(source::pushes),
        cold: true,
    },
    Workload { names: &["binary-size"], measure: Alone(size::binary), cold: false },
    Workload { names: &["cold-build"], measure: Alone(size::cold_build), cold: true },
];

/// Measures what the arguments choose and prints it.
pub fn run(args: &[String]) -> Result<bool> {
    let (mut only, mut json, mut cold) = (None, false, false);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--only" => only = Some(args.next().context("`--only` needs a name")?.as_str()),
            "--json" => json = true,
            "--cold" => cold = true,
            other => bail!("`{other}` is no option of bench; `cargo xtask help` lists them"),
        }
    }
    let wanted = |name: &str| only.is_none_or(|only| name.contains(only));
    let chosen: Vec<_> = WORKLOADS
        .iter()
        .filter(|work| !work.cold || cold)
        .filter(|work| work.names.iter().any(|name| wanted(name)))
        .collect();
    if chosen.is_empty() {
        let names: Vec<_> = WORKLOADS.iter().flat_map(|w| w.names).copied().collect();
        bail!("no figure has that name; they are {}", names.join(", "));
    }
    binary::choose(release()?);
    if !json {
        println!("{}\n{}", load()?, Figure::HEADING);
    }
    let mut large = None;
    for work in chosen {
        let figures = match work.measure {
            Alone(measure) => measure(),
            OnLarge(measure) => {
                if large.is_none() {
                    large = Some(Large::made()?);
                }
                large.as_ref().map_or(Ok(Vec::new()), measure)
            }
        };
        let figures = figures.with_context(|| work.names.join(", "))?;
        for figure in figures.iter().filter(|figure| wanted(figure.name)) {
            match json {
                true => println!("{}", figure.json()),
                false => println!("{}", figure.line()),
            }
        }
    }
    if !json {
        println!("{}", load()?);
    }
    Ok(true)
}

/// What else the machine does, without which a figure says little.
fn load() -> Result<String> {
    let average = std::fs::read_to_string("/proc/loadavg")?;
    let n_cores = std::thread::available_parallelism()?;
    let minute = average.split(' ').next().unwrap_or_default();
    Ok(format!("load average {minute} on {n_cores} cores"))
}

/// Builds the release binary and gives its path; `KILN_BIN` names another one.
fn release() -> Result<std::path::PathBuf> {
    if let Some(given) = std::env::var_os("KILN_BIN") {
        return Ok(given.into());
    }
    let built = cargo(&["build", "--release", "--quiet", "--package", "kiln"]).status()?;
    if !built.success() {
        bail!("the release binary does not build");
    }
    Ok(binary::target().join("release/kiln"))
}
