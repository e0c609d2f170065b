//! What a step used of its machine.

use serde::{Deserialize, Serialize};

/// What a step and all that it started have used. What is not known is absent, and never 0.
///
/// Source: the kernel's account of the ended processes, and of the job's control group where it has
/// one. What a step leaves running in the background counts for the step during which it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time in the programs themselves, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_us: Option<u64>,
    /// Processor time in the kernel on their behalf, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_us: Option<u64>,
    /// The most memory that all processes had together, as the job's limit counts it: with the files
    /// that the kernel keeps in memory for them. In bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// The most memory that one process alone had, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_bytes: Option<u64>,
    /// Bytes that were fetched from storage. What was in memory already was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bytes: Option<u64>,
    /// Bytes that were sent, or are to be sent, to storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_bytes: Option<u64>,
    /// The most processes and threads at one time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_processes: Option<u64>,
}

impl Usage {
    /// Nothing is known.
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }

    /// Processor time in all, in microseconds.
    pub fn cpu_us(&self) -> Option<u64> {
        Some(self.user_us?.saturating_add(self.system_us?))
    }

    /// What is known, in few words, the most asked for first: `cpu 1.2s`, `memory 512.0 MB`.
    pub fn words(&self) -> Vec<String> {
        use kiln_stdx::{bytes, duration};
        let time = |us: u64| duration::show(std::time::Duration::from_micros(us));
        let memory = match (self.memory_bytes, self.process_bytes) {
            (Some(all), _) => Some(format!("memory {}", bytes::show(all))),
            (None, one) => one.map(|one| format!("largest process {}", bytes::show(one))),
        };
        let moved = |n_bytes: Option<u64>, what: &str| {
            n_bytes.filter(|n| *n > 0).map(|n| format!("{what} {}", bytes::show(n)))
        };
        [
            self.cpu_us().map(|us| format!("cpu {}", time(us))),
            memory,
            moved(self.read_bytes, "read"),
            moved(self.written_bytes, "wrote"),
            self.n_processes.map(|n| match n {
                1 => "1 process".to_owned(),
                n => format!("{n} processes"),
            }),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_said() {
        assert!(Usage::default().words().is_empty());
        assert_eq!(serde_json::to_string(&Usage::default()).unwrap(), "{}");
        let known = Usage {
            user_us: Some(1_100_000),
            system_us: Some(150_000),
            process_bytes: Some(85_000_000),
            read_bytes: Some(0),
            written_bytes: Some(1_500_000),
            n_processes: Some(12),
            ..Usage::default()
        };
        assert_eq!(
            known.words(),
            ["cpu 1.2s", "largest process 85.0 MB", "wrote 1.5 MB", "12 processes"]
        );
        let together = Usage { memory_bytes: Some(512_000_000), ..known };
        assert_eq!(together.words()[1], "memory 512.0 MB");
    }
}
