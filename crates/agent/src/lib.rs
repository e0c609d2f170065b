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
mod reuse;
mod key;
mod input;
mod digests;
mod covered;
mod trouble;
mod past;
mod base;
mod flatten;
mod place;
mod cache;
mod collide;
mod boundary;
pub mod environment;
mod step;
mod visit;
mod output;
mod layers;
mod image;

pub use agent::{Agent, AgentOptions};
pub use base::Bases;
pub use environment::MACHINE;
pub use image::ImageLayers;
pub use layers::MachineLayers;
pub use past::{Begun, Keeping, Looked};
pub use visit::{VisitError, Visiting};
