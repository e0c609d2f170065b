//! A process that takes jobs and runs them.
//!
//! It asks a [`kiln_api::agent::JobSource`] and does not know whether that is the server in the same
//! process or one far away.
//!
//! Modules stand in the order in which a job meets them.

pub mod agent;
mod leftover;
mod slot;
mod lease;
mod job;
mod trouble;
mod base;
mod place;
pub mod environment;
mod step;
mod output;

pub use agent::{Agent, AgentOptions};
pub use environment::MACHINE;
