//! How a step and an attempt ended.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a step's process ended. The five ways to die besides an exit code are told apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "how")]
pub enum Exit {
    /// 0–255.
    Code {
        code: u8,
    },
    /// By a signal that kiln did not send.
    Killed {
        signal: i32,
    },
    TimedOut {
        after_ms: u64,
    },
    Cancelled,
    OutOfMemory {
        limit_bytes: Option<u64>,
    },
    /// The machine or the process that ran it went away.
    HostGone {
        detail: String,
    },
}

impl Exit {
    pub const SUCCESS: Self = Self::Code { code: 0 };

    pub fn is_success(&self) -> bool {
        *self == Self::SUCCESS
    }

    /// What a step did that ended so: `ended with exit code 3`, `was killed by SIGSEGV`.
    pub fn ended(&self) -> String {
        match self {
            Self::Code { .. } if self.is_success() => "succeeded".to_owned(),
            Self::Code { .. } => format!("ended with {self}"),
            Self::Killed { .. } | Self::Cancelled => format!("was {self}"),
            Self::TimedOut { .. } => self.to_string(),
            Self::OutOfMemory { .. } => format!("ran {self}"),
            Self::HostGone { .. } => format!("ended: {self}"),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code { code: 126 } => f.write_str("exit code 126 (command is not executable)"),
            Self::Code { code: 127 } => f.write_str("exit code 127 (command not found)"),
            Self::Code { code } => write!(f, "exit code {code}"),
            Self::Killed { signal } => write!(f, "killed by {}", signal_name(*signal)),
            Self::TimedOut { after_ms } => {
                let after = std::time::Duration::from_millis(*after_ms);
                write!(f, "timed out after {}", kiln_stdx::duration::show(after))
            }
            Self::Cancelled => f.write_str("cancelled"),
            Self::OutOfMemory { limit_bytes: Some(limit) } => {
                let limit = kiln_stdx::bytes::show(*limit);
                write!(f, "out of memory: the limit is {limit} (`limits.memory`)")
            }
            Self::OutOfMemory { limit_bytes: None } => f.write_str("out of memory"),
            Self::HostGone { detail } => write!(f, "the host is gone: {detail}"),
        }
    }
}

/// `SIGTERM`, or `signal 40` for those without a common name. Numbers as on Linux.
pub fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

/// How an attempt ended, as its agent tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    Success,
    /// A step ended otherwise than with 0. `step` is its position.
    StepFailed {
        step: u32,
        exit: Exit,
    },
    /// The job as a whole ran longer than its `timeout`.
    TimedOut {
        after_ms: u64,
    },
    Cancelled,
    /// kiln's own trouble: no workspace, no shell, a full disk, an artifact that is not there.
    Error {
        message: String,
    },
    /// The agent or its machine went away.
    Lost {
        message: String,
    },
}

impl Outcome {
    pub fn is_success(&self) -> bool {
        *self == Self::Success
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_step_ended_reads_as_a_sentence() {
        let cases = [
            (Exit::SUCCESS, "succeeded"),
            (Exit::Code { code: 3 }, "ended with exit code 3"),
            (Exit::Killed { signal: 9 }, "was killed by SIGKILL"),
            (Exit::TimedOut { after_ms: 2_000 }, "timed out after 2.0s"),
            (Exit::Cancelled, "was cancelled"),
            (Exit::OutOfMemory { limit_bytes: None }, "ran out of memory"),
        ];
        for (exit, sentence) in cases {
            assert_eq!(exit.ended(), sentence);
        }
    }
}
