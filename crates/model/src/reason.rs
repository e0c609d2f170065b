//! Why something is as it is. Every skip, wait, cancel and failure carries one.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Exit;

/// Why a job or a run is in its state. Shown as one sentence; `kiln why` adds the trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum Reason {
    /// Waits for these jobs.
    Needs {
        jobs: Vec<String>,
    },
    /// All needs are met; no agent has taken it yet.
    NoAgent,
    /// Waits for a lock that others hold.
    Lock {
        lock: String,
        held_by: String,
    },
    /// Another run does the same at the moment; it waits for that result.
    SameJob {
        run: i64,
        job: String,
    },
    /// It did not run: an earlier run had done the same.
    Reused {
        run: i64,
        /// How long that took, in milliseconds.
        took_ms: u64,
    },
    /// Waits for a person.
    Approval,
    /// Its `if` is false. `trace` shows the value of each part.
    Condition {
        condition: String,
        trace: String,
    },
    /// A need did not succeed.
    NeedNotMet {
        job: String,
        state: String,
    },
    CancelAsked {
        by: String,
    },
    /// A step failed.
    Step {
        step: u32,
        name: String,
        exit: Exit,
    },
    JobTimedOut {
        after_ms: u64,
    },
    /// kiln's own trouble.
    Error {
        message: String,
    },
    AgentLost {
        message: String,
    },
    /// The run has no plan: its manifest is missing or wrong.
    NoPlan {
        message: String,
    },
    /// Nothing in the run had to be done.
    AllSkipped,
    /// The run's jobs that decided its state.
    Jobs {
        jobs: Vec<String>,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Needs { jobs } => write!(f, "waits for {}", list(jobs)),
            Self::NoAgent => f.write_str("waits for a free agent"),
            Self::Lock { lock, held_by } => {
                write!(f, "waits for the lock `{lock}`, held by {held_by}")
            }
            Self::SameJob { run, job } => {
                write!(f, "waits for `#{run}/{job}`, which does the same")
            }
            Self::Reused { run, took_ms } => {
                let took = std::time::Duration::from_millis(*took_ms);
                write!(f, "reused from run #{run}, saved {}", kiln_stdx::duration::show(took))
            }
            Self::Approval => f.write_str("waits for approval"),
            Self::Condition { condition, .. } => write!(f, "its condition `{condition}` is false"),
            Self::NeedNotMet { job, state } if state == "failed" => {
                write!(f, "its need `{job}` failed")
            }
            Self::NeedNotMet { job, state } => write!(f, "its need `{job}` was {state}"),
            Self::CancelAsked { by } => write!(f, "cancelled by {by}"),
            Self::Step { step, name, exit } => {
                write!(f, "step {} `{name}` {}", step + 1, exit.ended())
            }
            Self::JobTimedOut { after_ms } => {
                let after = std::time::Duration::from_millis(*after_ms);
                write!(f, "the job timed out after {}", kiln_stdx::duration::show(after))
            }
            Self::Error { message } => write!(f, "could not be completed: {message}"),
            Self::AgentLost { message } => write!(f, "it was lost: {message}"),
            Self::NoPlan { message } => write!(f, "no plan: {message}"),
            Self::AllSkipped => f.write_str("every job was skipped"),
            Self::Jobs { jobs } => f.write_str(&list(jobs)),
        }
    }
}

/// `` `a` ``, `` `a` and `b` ``, `` `a`, `b` and 3 more ``.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let quoted: Vec<String> = names.iter().take(SHOWN).map(|n| format!("`{n}`")).collect();
    match (quoted.split_last(), names.len()) {
        (None, _) => "nothing".to_owned(),
        (Some((last, [])), _) => last.clone(),
        (Some(_), n) if n > SHOWN => format!("{} and {} more", quoted.join(", "), n - SHOWN),
        (Some((last, rest)), _) => format!("{} and {last}", rest.join(", ")),
    }
}
