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
mod attempt;
mod reuse;
mod key;
mod named;
mod input;
mod digests;
mod covered;
mod trouble;
mod past;
mod base;
mod flatten;
mod place;
mod remote;
mod network;
mod service;
mod cache;
mod collide;
mod boundary;
mod explain;
pub mod environment;
mod step;
mod visit;
mod output;
mod layers;
mod image;
mod history;
mod sandbox;
mod pull;

pub use agent::{Agent, AgentOptions};
pub use base::Bases;
pub use environment::MACHINE;
pub use image::ImageLayers;
pub use layers::MachineLayers;
pub use network::{INSTALL, STACKS, stack};
pub use past::{Begun, Keeping, Looked};
pub use visit::{VisitError, Visiting};
