//! What a group's files say.

use std::path::Path;

use super::Kind;

/// A group at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::host) struct Reading {
    /// Processor time since it was made, in microseconds: in programs, and in the kernel for them.
    pub cpu_us: Option<(u64, u64)>,
    /// The most memory since it was made, or since that was forgotten.
    pub memory_peak: Option<u64>,
    /// How often a process was killed for want of memory.
    pub n_oom_kills: Option<u64>,
    /// The most processes since it was made.
    pub pids_peak: Option<u64>,
    /// How often a process was refused.
    pub n_pids_refused: Option<u64>,
}

impl Reading {
    pub fn add(&mut self, group: &Path, two: bool, kinds: &[Kind]) {
        let text = |file: &str| std::fs::read_to_string(group.join(file)).unwrap_or_default();
        let number = |file: &str| text(file).trim().parse::<u64>().ok();
        if two {
            let stat = text("cpu.stat");
            self.cpu_us = value(&stat, "user_usec").zip(value(&stat, "system_usec"));
        }
        if kinds.contains(&Kind::Memory) {
            let (peak, events) = match two {
                true => ("memory.peak", "memory.events"),
                false => ("memory.max_usage_in_bytes", "memory.oom_control"),
            };
            self.memory_peak = number(peak);
            self.n_oom_kills = value(&text(events), "oom_kill");
        }
        if kinds.contains(&Kind::Pids) {
            self.pids_peak = number("pids.peak");
            self.n_pids_refused = value(&text("pids.events"), "max");
        }
    }
}

/// Of a line `name value`.
fn value(text: &str, name: &str) -> Option<u64> {
    let of_name = |line: &&str| line.split(' ').next() == Some(name);
    text.lines().find(of_name)?.split(' ').nth(1)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files of version 2 as a kernel writes them; this machine may have the other version.
    #[test]
    fn a_group_of_version_2_is_read() {
        let group = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("cpu.stat", "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 0\n"),
            ("memory.peak", "4096\n"),
            ("memory.events", "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n"),
            ("pids.peak", "5\n"),
            ("pids.events", "max 7\n"),
        ] {
            std::fs::write(group.path().join(file), text).unwrap();
        }
        let mut reading = Reading::default();
        reading.add(group.path(), true, &Kind::ALL);
        let expected = Reading {
            cpu_us: Some((20, 10)),
            memory_peak: Some(4096),
            n_oom_kills: Some(2),
            pids_peak: Some(5),
            n_pids_refused: Some(7),
        };
        assert_eq!(reading, expected);
    }

    #[test]
    fn what_a_group_does_not_say_is_not_known() {
        let group = tempfile::tempdir().unwrap();
        let mut reading = Reading::default();
        reading.add(group.path(), false, &Kind::ALL);
        assert_eq!(reading, Reading::default());
    }
}
