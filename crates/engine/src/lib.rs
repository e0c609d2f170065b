//! The scheduler: what follows from what has happened. No clock, no database, no network.
//!
//! A [`run::Run`] is the fold of its events; each event gives actions. A [`queue::Queue`] holds what
//! the runs offer and chooses what an agent gets. Whoever drives them keeps events and does actions.

pub mod run;
mod graph;
mod job;
mod attempt;
mod action;
mod condition;
mod retry;
mod cancel;
mod rerun;
mod boundary;
mod layers;
pub mod queue;
pub mod explain;
#[cfg(test)]
mod tests;
