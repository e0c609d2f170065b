//! A server at rest.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;

use anyhow::{Context, Result};
use kiln_it::World;

use super::figure::{Figure, Goal, Limit, Samples};

/// Long enough to see a timer of a few seconds, short enough to wait for.
const REST: std::time::Duration = std::time::Duration::from_secs(10);

/// Memory, processor time and wake-ups of a server with its embedded agent and nothing to do.
pub fn rest() -> Result<Vec<Figure>> {
    let world = World::new();
    let bare = world.bare("still.git");
    let clone = world.clone_of(&bare, "still");
    clone.write(".kiln.yml", "jobs: { one: { steps: ['true'] } }\n");
    clone.commit("pipeline");
    let server = world.serve();
    world.watch("still", &bare);
    clone.push(["main"]);
    server.over("still", 1);
    // What follows a run is to be over, too: its log is packed, its commit pinned, a child idles, and
    // threads without work end. The first collection comes 20 s after the start.
    std::thread::sleep(REST * 7 / 10);
    let before = (ticks(server.pid())?, wakeups(server.pid())?);
    std::thread::sleep(REST);
    let after = (ticks(server.pid())?, wakeups(server.pid())?);
    let figure = |name, unit, value: u64, why, goal| Figure {
        name,
        unit,
        samples: Samples::one(value as f64),
        limit: Limit::Absent { why },
        goal,
    };
    let resident = memory(server.pid())?;
    let mut figures = vec![Figure {
        samples: Samples::one(resident as f64 / 1e6),
        ..figure("idle-memory", "MB", 0, "resident, one run done", Goal::AtMost(15.0))
    }];
    let processor = (after.0 - before.0) * 10;
    figures.push(figure("idle-processor", "ms", processor, "in 10 s", Goal::AtMost(0.0)));
    let woken = woken(&before.1, &after.1);
    figures.push(figure("idle-wakeups", "times", woken, "in 10 s, all threads", Goal::None));
    Ok(figures)
}

/// Resident memory of a process in bytes.
pub fn memory(pid: u32) -> Result<u64> {
    status(pid, "VmRSS:")
}

/// The most that it ever was.
pub fn peak(pid: u32) -> Result<u64> {
    status(pid, "VmHWM:")
}

fn status(pid: u32, field: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

/// Processor time of a process in the kernel's ticks of 10 ms.
fn ticks(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The program's name stands in parentheses and may hold anything.
    let (_, fields) = text.rsplit_once(')').context("a stat line has a name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

/// How often each thread has slept and been woken.
fn wakeups(pid: u32) -> Result<BTreeMap<OsString, u64>> {
    let mut threads = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?;
        // A thread may end between being listed and being read.
        let Ok(text) = fs::read_to_string(thread.path().join("status")) else { continue };
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        threads.insert(thread.file_name(), line.context("no such field")?.trim().parse()?);
    }
    Ok(threads)
}

/// Wake-ups in between. One that has ended takes its count with it, and was woken once to end; the
/// plain difference of two sums would come out too small, or below zero.
fn woken(before: &BTreeMap<OsString, u64>, after: &BTreeMap<OsString, u64>) -> u64 {
    let lived = after.iter().map(|(thread, n)| n - before.get(thread).copied().unwrap_or(0));
    let ended = before.keys().filter(|thread| !after.contains_key(*thread)).count();
    lived.sum::<u64>() + ended as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_ends_does_not_hide_the_others() {
        let threads = |list: &[(&str, u64)]| {
            list.iter().map(|(thread, n)| (OsString::from(thread), *n)).collect::<BTreeMap<_, _>>()
        };
        let before = threads(&[("1", 10), ("2", 500)]);
        assert_eq!(woken(&before, &threads(&[("1", 13)])), 4);
        assert_eq!(woken(&before, &threads(&[("1", 10), ("2", 500), ("3", 2)])), 2);
    }
}
