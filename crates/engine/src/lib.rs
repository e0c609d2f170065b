//! The scheduler: what follows from what has happened. No clock, no database, no network.
//!
//! A [`run::Run`] is the fold of its events; each event gives actions. A [`queue::Queue`] holds what
//! the runs offer and chooses what an agent gets. Whoever drives them keeps events and does actions.

mod action;
mod attempt;
mod cancel;
mod condition;
pub mod explain;
mod graph;
mod job;
mod layers;
pub mod queue;
mod rerun;
mod retry;
pub mod run;

#[cfg(test)]
mod tests;
