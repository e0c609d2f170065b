//! What agents, users and pages say to a server and what it answers.
pub mod agent;
pub mod layers;
pub mod scene;
pub mod user;
