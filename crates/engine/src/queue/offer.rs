//! What stands in a queue.

use kiln_model::AttemptId;
use kiln_model::plan::Lock;

/// An attempt that may be taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    pub attempt: AttemptId,
    /// All of these an agent must have.
    pub labels: Vec<String>,
    /// Higher goes first.
    pub priority: i32,
    pub lock: Option<Lock>,
}

/// Why an offer is not taken yet.
#[derive(Clone, Debug, PartialEq)]
pub enum Blocked {
    /// No agent that may take it has asked. `position` is its place, from 1, among the offers of its
    /// project with the same labels and lock; 1,000 stands for every place from there on.
    NoAgent { position: usize },
    /// Every place of its lock is held, by these.
    Lock { lock: String, held_by: Vec<AttemptId> },
}
