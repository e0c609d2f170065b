//! The figures, each beside what the machine itself can do at that moment.
//!
//! A *limit* is the least that the same work costs without kiln (the same commands under `ninja`,
//! the same bytes through a pipe), measured in the same run, because a figure alone says more about
//! the machine than about the program. Every figure is a median with its smallest and largest
//! sample. All of it uses the release binary, the loopback address and temporary folders.

mod figure;
mod idle;
mod local;
mod log;
mod old;
mod page;
mod push;
mod size;
mod source;

use anyhow::{Context, Result, bail};
use kiln_it::binary;

use crate::check::cargo;
use figure::Figure;

/// A workload: the names of the figures it gives, and how to get them.
struct Workload {
    names: &'static [&'static str],
    measure: fn() -> Result<Vec<Figure>>,
    /// Only when asked for, because it takes minutes.
    cold: bool,
}

/// In the order of the table.
const WORKLOADS: &[Workload] = &[
    Workload { names: &["one-job"], measure: local::one_job, cold: false },
    Workload { names: &["thousand-jobs"], measure: local::thousand_jobs, cold: false },
    Workload { names: &["chain-of-200"], measure: local::chain, cold: false },
    Workload { names: &["hook-to-output"], measure: push::hook_to_output, cold: false },
    Workload {
        names: &["log-200mb", "log-memory", "log-whole", "log-window"],
        measure: log::big,
        cold: false,
    },
    Workload {
        names: &["idle-memory", "idle-processor", "idle-wakeups"],
        measure: idle::rest,
        cold: false,
    },
    Workload { names: &["start-100k-runs"], measure: old::start, cold: false },
    Workload { names: &["page-1000-jobs"], measure: page::thousand_jobs, cold: false },
    Workload {
        names: &["large-local-run", "large-checkout", "large-push"],
        measure: source::large_tree,
        cold: true,
    },
    Workload { names: &["binary-size"], measure: size::binary, cold: false },
    Workload { names: &["cold-build"], measure: size::cold_build, cold: true },
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
        println!("{}", Figure::HEADING);
    }
    for work in chosen {
        let figures = (work.measure)().with_context(|| work.names.join(", "))?;
        for figure in figures.iter().filter(|figure| wanted(figure.name)) {
            match json {
                true => println!("{}", figure.json()),
                false => println!("{}", figure.line()),
            }
        }
    }
    Ok(true)
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
